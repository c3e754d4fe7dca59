"""Extraction as a whole: what is written, what is refused, and the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import subcircuit
from commands import Ask
from edge_circuits import random_circuit
from subcircuit.circuit import Circuit
from subcircuit.errors import BudgetNotMet, DataError, UnsupportedModel, UsageError
from subcircuit.extraction import Extraction, extract
from subcircuit.extraction.plan import EMPTY, compact_plan, dense_plan
from subcircuit.ground_truth.planted import RandomTask
from subcircuit.intervention import effective
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from subcircuit.wiring import Wiring
from tiny import planted, tiny
from tiny_circuit import by_hand, kept_nodes, planted_circuit
from tiny_files import tokenizer
from tiny_folder import Study

READ = """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
print(type(model).__name__, "subcircuit" in sys.modules)
ids = torch.tensor([[5, 9, 3, 40, 7]])
import subcircuit
again = subcircuit.load(sys.argv[1]).model
torch.save([each(ids).logits.detach() for each in (model, again)], sys.argv[2])
"""


@pytest.fixture(scope="module")
def study() -> tuple[Subject, RandomTask]:
    subject = planted("llama")
    return Subject(subject.model, tokenizer(), name="planted"), RandomTask(subject)


@pytest.fixture
def run(tmp_path: Path, files: Study) -> Path:
    """A run folder: the planted circuit of a model in files."""
    subject = subcircuit.load(files.model)
    named = {"model": str(files.model), "revision": subject.revision, "task": str(files.prompts)}
    circuit = planted_circuit(subject)
    circuit.with_origin(circuit.origin.model_copy(update=named)).save(tmp_path / "run")
    return tmp_path / "run"


def test_a_new_process_reads_the_same_logits(study: tuple[Subject, RandomTask], tmp_path: Path) -> None:
    subject, task = study
    extract(subject, planted_circuit(subject), task, tmp_path / "small", n=8)
    command = [sys.executable, "-c", READ, str(tmp_path / "small"), str(tmp_path / "logits")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "CompactLlamaForCausalLM False"
    stock, own = torch.load(tmp_path / "logits")
    ids = torch.tensor([[5, 9, 3, 40, 7]])
    assert torch.equal(stock, own) and torch.equal(stock, subcircuit.load(tmp_path / "small").model(ids).logits)
    whole = subject.model(ids).logits  # of a planted model, whose other nodes do nothing
    assert torch.allclose(stock, whole, atol=1e-5) and whole.std() > 1e-2


def test_weights_of_what_is_off_are_not_in_the_file(study: tuple[Subject, RandomTask], tmp_path: Path) -> None:
    subject, task = study
    found = extract(subject, planted_circuit(subject), task, tmp_path / "small", n=8)  # heads 0.1, 1.2; 3 neurons
    shapes = {name: tuple(value.shape) for name, value in load_file(tmp_path / "small" / "model.safetensors").items()}
    layer = {name.removeprefix("model.layers.1."): shape for name, shape in shapes.items() if "layers.1." in name}
    assert layer["self_attn.q_proj.weight"] == layer["self_attn.k_proj.weight"] == (8, 32)
    assert layer["self_attn.o_proj.weight"] == (32, 8) and layer["mlp.up_proj.weight"] == (2, 32)
    assert found.layers == [
        {"heads": 1, "kv_heads": 1, "neurons": 1},
        {"heads": 1, "kv_heads": 1, "neurons": 2},
    ]
    stored = sum(value.numel() for value in load_file(tmp_path / "small" / "model.safetensors").values())
    assert found.after.parameters == stored
    # two per weight: q, k, v, o of one head; gate, up, down of a neuron; the unembedding
    assert found.after.flops == 2 * (2 * 4 * 8 * 32 + 3 * 3 * 32 + 32 * 64)
    assert Extraction.model_validate_json((tmp_path / "small" / "extraction.json").read_text()) == found


def test_nothing_but_the_circuit_did_something_so_nothing_is_lost(
    study: tuple[Subject, RandomTask], tmp_path: Path
) -> None:
    subject, task = study
    found = extract(subject, planted_circuit(subject), task, tmp_path / "small", n=8)
    assert found.rescored.kl.mean < 1e-9 and found.test.kl.mean < 1e-9 and found.test.exact_match.mean == 1
    card = (tmp_path / "small" / "README.md").read_text()
    assert "trust_remote_code=True" in card and f"{found.after.parameters:,}" in card and "has not been scored" in card


def test_a_branch_that_is_gone_can_be_studied_but_not_its_heads(
    study: tuple[Subject, RandomTask], tmp_path: Path
) -> None:
    subject, task = study
    extract(subject, by_hand(kept_nodes(subject, [(0, 1)], [(1, 5)])), task, tmp_path / "small", n=8)
    small = subcircuit.load(tmp_path / "small")
    prompts = task.pairs(subject.tokenizer, 4).clean
    _, seen = small.record(prompts, small.sites(Kind.ATTN, Kind.MLP))
    spread = seen[Site(1, Kind.ATTN)].std((0, 1))
    assert spread.max() < 1e-6 < seen[Site(0, Kind.ATTN)].std((0, 1)).max()  # one vector everywhere, and not
    with pytest.raises(UnsupportedModel, match="differ in size, so 'head' has no number of units"):
        small.units(Kind.HEAD)


def test_uneven_groups_get_the_cheapest_layout() -> None:
    subject = tiny("llama", num_attention_heads=8, hidden_size=64)  # 2 key/value heads of 4 heads each
    kept = kept_nodes(subject, [(0, head) for head in HEADS], [])
    gates = effective(subject, {site: truth.float() for site, truth in kept.items()})
    first, second = compact_plan(subject, gates)
    # 4 heads and 1: one group of 4 and one with 3 empty places cost 10, pairs cost 6 + 3, single heads 5 + 5
    assert (first.heads, first.groups) == ((0, 1, 2, 3, 4, EMPTY), (0, 0, 1))
    assert (second.heads, second.groups) == ((), ())
    dense = dense_plan(subject, gates, cut_heads=True)
    assert {len(plan.heads) for plan in dense} == {8} and 64 % len(dense[0].heads) == 0


HEADS = (0, 1, 2, 3, 4)


def test_a_loss_beyond_the_bound_stops_with_the_numbers(study: tuple[Subject, RandomTask], tmp_path: Path) -> None:
    subject, task = study
    half = by_hand(kept_nodes(subject, [(0, 1)], [(0, 3)]), result={"kl": 0.02})
    with pytest.raises(BudgetNotMet, match=r"KL of .* above the bound of 0.01; it was found under corrupt with 0.02"):
        extract(subject, half, task, tmp_path / "small", bound=0.01, n=8)
    assert list(tmp_path.iterdir()) == []


def test_a_circuit_found_under_corruption_is_scored_under_the_mean(
    study: tuple[Subject, RandomTask], tmp_path: Path
) -> None:
    subject, task = study
    half = by_hand(kept_nodes(subject, [(0, 1)], [(0, 3)]))
    found = extract(subject, half, task, tmp_path / "small", n=8)
    assert (half.origin.reference, found.reference) == ("corrupt", "mean")
    pairs = task.pairs(subject.tokenizer, 8, seed=half.origin.seed, split="validation")
    p, q = (each.logits(pairs.clean).log_softmax(-1) for each in (subject, subcircuit.load(tmp_path / "small")))
    assert found.rescored.kl.mean == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3)
    assert found.rescored.kl.mean > 1e-3


def test_circuits_that_are_no_nodes_of_this_model(study: tuple[Subject, RandomTask], tmp_path: Path) -> None:
    subject, task = study
    out = tmp_path / "small"
    narrow = Subject(planted("llama", intermediate_size=40).model, tokenizer(), name="planted")
    edges = random_circuit(Wiring(layers=2, heads=4, groups=2))
    with pytest.raises(DataError, match="circuit of edges"):
        extract(subject, edges, task, out)
    with pytest.raises(DataError, match="has 48 neuron, and planted has 40"):
        extract(narrow, planted_circuit(subject), task, out)
    with pytest.raises(DataError, match="keeps no head and no neuron"):
        extract(subject, by_hand(kept_nodes(subject, [], [])), task, out)
    with pytest.raises(DataError, match="set of nodes to replace"):
        extract(subject, by_hand(planted_circuit(subject).kept, method="causal-tracing"), task, out)
    encoder = planted("bert")
    with pytest.raises(UnsupportedModel, match="family bert"):
        extract(encoder, planted_circuit(encoder), RandomTask(encoder), out)
    tmp_path.joinpath("notes").write_text("mine")
    with pytest.raises(UsageError, match="not an empty folder"):
        extract(subject, planted_circuit(subject), task, tmp_path)


def test_the_command(ask: Ask, run: Path, tmp_path: Path) -> None:
    assert ask("score", run, "--pairs", 8, "--quiet").code == 0
    answer = ask("extract", run, "--out", tmp_path / "small", "--pairs", 8, "--json", "--quiet")
    assert answer.code == 0, answer.err
    assert answer.json["form"] == "compact" and answer.json["reference"] == "mean"
    assert answer.json["after"]["parameters"] < answer.json["before"]["parameters"]
    names = {path.name for path in (tmp_path / "small").iterdir()}
    assert {"README.md", "extraction.json", "circuit.json", "tokenizer.json", "modeling_compact.py"} <= names
    card = (tmp_path / "small" / "README.md").read_text()
    assert "Verdict: **" in card and "| random, best of " in card
    dense = ask("extract", run, "--out", tmp_path / "dense", "--pairs", 8, "--form", "dense", "--reference", "zero")
    assert dense.code == 0 and "whole model" in dense.out
    assert json.loads((tmp_path / "dense" / "config.json").read_text())["model_type"] == "llama"
    assert not (tmp_path / "dense" / "modeling_compact.py").exists()


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--form", "denser"], 2, "no form 'denser'; did you mean 'dense'?"),
        (["--reference", "corrupt"], 2, "no reference 'corrupt'"),
        (["--bound", "-1"], 2, "--bound"),
    ],
)
def test_wrong_use(ask: Ask, run: Path, tmp_path: Path, words: list[str], code: int, told: str) -> None:
    answer = ask("extract", run, "--out", tmp_path / "small", *words)
    assert answer.code == code and told in answer.err and not (tmp_path / "small").exists()


def test_the_saved_circuit_is_the_one_that_was_taken_out(study: tuple[Subject, RandomTask], tmp_path: Path) -> None:
    subject, task = study
    circuit = planted_circuit(subject)
    extract(subject, circuit, task, tmp_path / "small", n=8)
    (tmp_path / "again").mkdir()
    circuit.save(tmp_path / "again")
    saved = (tmp_path / "small" / "circuit.json").read_text()
    assert json.loads(saved) == json.loads((tmp_path / "again" / "circuit.json").read_text())
    assert isinstance(Circuit.load(tmp_path / "again"), Circuit)
