"""The graph of a decoder, counted and drawn by hand."""

from typing import Any

import pytest
import torch

from subcircuit.errors import UnknownName, UsageError
from subcircuit.sites import Kind, Site
from subcircuit.wiring import Wiring
from tiny import tiny

SMALL = Wiring(layers=2, heads=2, groups=1)
ORDERED = ["input", "0.head.0", "0.head.1", "0.mlp", "1.head.0", "1.head.1", "1.mlp"]


def test_writers_and_readers_are_in_the_order_of_computation() -> None:
    assert list(SMALL.writers) == ORDERED
    first = ["0.q.0", "0.q.1", "0.k.0", "0.v.0", "0.mlp"]
    assert list(SMALL.readers) == [*first, *(name.replace("0.", "1.", 1) for name in first), "logits"]


@pytest.mark.parametrize(
    ("reader", "sources"),
    [
        ("0.q.1", ORDERED[:1]),
        ("0.v.0", ORDERED[:1]),
        ("0.mlp", ORDERED[:3]),
        ("1.q.0", ORDERED[:4]),
        ("1.k.0", ORDERED[:4]),
        ("1.mlp", ORDERED[:6]),
        ("logits", ORDERED),
    ],
)
def test_a_reader_takes_from_all_that_is_computed_before_it(reader: str, sources: list[str]) -> None:
    row = SMALL.allowed[SMALL.readers.index(reader)]
    assert [SMALL.writers[writer] for writer in row.nonzero()[:, 0]] == sources


def test_in_parallel_blocks_the_mlp_reads_none_of_its_own_layers_heads() -> None:
    parallel = Wiring(layers=2, heads=2, groups=2, parallel=True)
    for layer, sources in ((0, ORDERED[:1]), (1, ORDERED[:4])):
        row = parallel.allowed[parallel.readers.index(f"{layer}.mlp")]
        assert [parallel.writers[writer] for writer in row.nonzero()[:, 0]] == sources


@pytest.mark.parametrize(
    ("wiring", "nodes", "edges"),
    [
        (Wiring(12, 12, 12), 158, 32_491),  # GPT-2 small
        (Wiring(30, 9, 9), 302, 123_211),  # SmolLM2-135M with a key and a value for every head, as MIB counts
        (Wiring(24, 14, 14), 362, 179_749),  # Qwen2.5-0.5B, likewise
        (Wiring(26, 8, 8), 236, 74_218),  # Gemma-2-2B
        (Wiring(32, 32, 32), 1_058, 1_592_881),  # Llama-3.1-8B
        (Wiring(6, 4, 4), 32, 1_108),  # InterpBench's
    ],
)
def test_graphs_have_as_many_nodes_and_edges_as_published(wiring: Wiring, nodes: int, edges: int) -> None:
    assert len(wiring.writers) + 1 == nodes  # the logits write nothing
    assert int(wiring.allowed.sum()) == edges


def test_grouped_keys_and_values_are_counted_once() -> None:
    """SmolLM2 as it is: 9 queries, 3 keys and 3 values, each of which reads from 1 + 10 layers' writers."""
    own = sum((9 + 3 + 3) * (1 + 10 * layer) + (1 + 10 * layer + 9) for layer in range(30)) + 301
    assert int(Wiring(30, 9, 3).allowed.sum()) == own == 70_651


@pytest.mark.parametrize("name", ["input->0.q.1", "0.head.1->0.mlp", "0.mlp->1.v.0", "1.mlp->logits"])
def test_names_are_read_back(name: str) -> None:
    reader, writer = SMALL.parse(name)
    assert SMALL.name(reader, writer) == name
    assert f"{SMALL.writers[writer]}->{SMALL.readers[reader]}" == name


def test_every_edge_has_a_name_of_its_own() -> None:
    names = [SMALL.name(reader, writer) for reader, writer in SMALL.allowed.nonzero().tolist()]
    assert len(set(names)) == len(names) == 36
    assert all(SMALL.allowed[SMALL.parse(name)] for name in names)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("0.head.1", "'0.head.1' is not an edge"),
        ("0.haed.1->1.q.0", "no writer '0.haed.1'; did you mean '0.head.1'"),
        ("0.head.2->1.q.0", "no writer '0.head.2'"),
        ("0.head.1->1.k.1", "no reader '1.k.1'; did you mean '1"),
        ("0.head.1->0.q.0", "there is no edge '0.head.1->0.q.0': 0.q.0 is computed before 0.head.1"),
        ("1.mlp->0.mlp", "0.mlp is computed before 1.mlp"),
        ("logits->0.mlp", "no writer 'logits'"),
    ],
)
def test_names_of_no_edge_are_refused(name: str, words: str) -> None:
    with pytest.raises(UsageError) as refusal:
        SMALL.parse(name)
    assert words in refusal.value.message
    assert isinstance(refusal.value, UnknownName) == words.startswith("no ")


def test_rows_and_columns_hold_the_sites_own_units() -> None:
    for layer in range(2):
        for kind in (Kind.Q, Kind.K, Kind.V, Kind.MLP):
            names = SMALL.readers[SMALL.rows(Site(layer, kind))]
            assert names and all(name.startswith(f"{layer}.{kind}") for name in names)
        for kind in (Kind.HEAD, Kind.MLP):
            names = SMALL.writers[SMALL.columns(Site(layer, kind))]
            assert names and all(name.startswith(f"{layer}.{kind}") for name in names)
    assert SMALL.writers[SMALL.columns(Site(0, Kind.RESID))] == ("input",)
    assert SMALL.readers[SMALL.last] == ("logits",)


@pytest.mark.parametrize(
    ("family", "overrides", "expected"),
    [
        ("gpt2", {}, Wiring(2, 4, 4)),
        ("llama", {}, Wiring(2, 4, 2)),
        ("gpt_neox", {}, Wiring(2, 4, 4, parallel=True)),
        ("olmo2", {}, Wiring(2, 4, 2, joined=True)),
        ("gpt_neox", {"use_parallel_residual": False}, Wiring(2, 4, 4)),
        ("gemma2", {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}, Wiring(3, 4, 2)),
    ],
)
def test_a_models_own_graph(family: str, overrides: dict[str, Any], expected: Wiring) -> None:
    assert Wiring.of(tiny(family, **overrides).layout) == expected


def test_nothing_is_allowed_that_runs_backwards() -> None:
    """In the order of computation every reader's writers are a prefix of all writers."""
    for row in Wiring(3, 2, 1).allowed:
        assert torch.equal(row, torch.arange(len(row)) < row.sum())
