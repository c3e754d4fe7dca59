"""The truth itself: run edge by edge, against tracr's own activations, and against what the programs mean."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

import subcircuit
from subcircuit.compiled import CompiledModel
from subcircuit.edges import rewired, writer_sites
from subcircuit.errors import DataError, UnknownName
from subcircuit.ground_truth.cases import Case, case_names, cases
from subcircuit.ground_truth.programs import BOS, PAD, Program, ProgramTask, programs
from subcircuit.sites import Kind, Site
from subcircuit.tasks._base import SPLITS, Pairs

CLEAR = 1e-4  # no less than this is what a true edge does
NODES = {
    "reverse": "0.head.0 0.mlp 1.mlp 2.mlp 3.head.0",
    "sort": "0.mlp 1.head.0 1.mlp 2.head.0",
    "frac-prevs": "0.mlp 1.head.0",
    "detect-pattern": "0.mlp 1.head.0 1.head.1 1.mlp 2.mlp",
}
POSSIBLE = {"reverse": 77, "frac-prevs": 23, "sort": 46, "detect-pattern": 100}

compiled = pytest.mark.parametrize("name", sorted(NODES))


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@cache
def case_of(name: str) -> Case:
    (case,) = cases([name])
    return case


# -- edges and nodes, by running them -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", case_names())
def test_another_prompts_value_in_one_edge_shows_what_carries_tokens_and_nothing_else(name: str) -> None:
    case = case_of(name)
    pairs = case.task.pairs(case.subject.tokenizer, 48, seed=3, split="test")
    _, other = case.subject.record(pairs.corrupt, writer_sites(case.subject))
    seen = _moved_by(case, pairs, other)
    assert seen == {edge for edge, carries in case.edges.items() if carries == "token"}


@compiled
def test_a_zero_in_one_edge_shows_every_true_edge_and_nothing_else(name: str) -> None:
    case = case_of(f"compiled-{name}")
    pairs = case.task.pairs(case.subject.tokenizer, 48, seed=3)
    zeros = {site: torch.zeros(1, 1, 1, 1) for site in writer_sites(case.subject)}
    assert _moved_by(case, pairs, zeros) == set(case.edges)


@compiled
def test_another_positions_value_shows_positions_but_no_constant(name: str) -> None:
    case = case_of(f"compiled-{name}")
    pairs = case.task.pairs(case.subject.tokenizer, 48, seed=3)
    _, own = case.subject.record(pairs.clean, writer_sites(case.subject))
    steps = range(1, pairs.clean.ids.shape[1])
    seen = set().union(*(_moved_by(case, pairs, {at: act.roll(by, dims=1) for at, act in own.items()}) for by in steps))
    fixed = {edge for edge, carries in case.edges.items() if carries != "token"}
    assert fixed & seen == {edge for edge in fixed if case.edges[edge] == "position"}


@compiled
def test_nodes_are_those_of_the_program(name: str) -> None:
    case = case_of(f"compiled-{name}")
    assert {str(node) for node in case.nodes} == set(NODES[name].split())
    assert int(case.wiring.allowed.sum()) == POSSIBLE[name]
    pairs = case.task.pairs(case.subject.tokenizer, 48, seed=3)
    clean = case.subject.logits(pairs.clean)
    for site in case.subject.sites(Kind.HEAD, Kind.MLP):
        _, other = case.subject.record(pairs.corrupt, [site])
        for unit in range(case.subject.units(site.kind)):
            with case.subject.editing({site: lambda act, unit=unit, value=other[site]: _put(act, value, unit)}):
                moved = (case.subject.logits(pairs.clean) - clean).abs().max() > CLEAR
            assert bool(moved) == (f"{site}.{unit}" in NODES[name] or str(site) in NODES[name].split())


def test_the_edges_of_reverse_are_those_of_its_source() -> None:
    """`reverse` in four steps: count the tokens, subtract the index, subtract one, fetch the token at that index."""
    source = {
        "input->0.q.0 input->0.k.0": "token",  # every token selects every token, and padding none
        "input->0.v.0": "position",  # 1 at the start token: its share of the attention is 1 / (n + 1)
        "0.head.0->0.mlp": "token",  # that share, as a number, to the length as one of five variables
        "input->0.mlp": "constant",  # the share's inverse is compared with constants
        "0.mlp->1.mlp": "token",  # length - index
        "input->1.mlp": "position",
        "1.mlp->2.mlp": "token",  # - 1
        "2.mlp->3.q.0": "token",  # the index to look at
        "input->3.k.0": "position",
        "input->3.v.0": "token",
        "3.head.0->logits": "token",
    }
    assert case_of("compiled-reverse").edges == {edge: tag for edges, tag in source.items() for edge in edges.split()}
    assert Program("reverse").file.idle == ["input->3.q.0"]  # the start token, should there be no such index


# -- programs -------------------------------------------------------------------------------------------------------


@compiled
def test_the_stream_is_tracrs_own(name: str) -> None:
    program = Program(name)
    subject, streams = program.subject(), []
    assert isinstance(subject.model, CompiledModel)
    handle = subject.model.model.norm.register_forward_hook(lambda _, args, stream: streams.append(stream))
    logits = subject.model(program.tensors["examples.ids"].long()).logits
    handle.remove()
    torch.testing.assert_close(streams[0], program.tensors["examples.stream"], rtol=0, atol=1e-5)
    assert torch.equal(logits, subject.model.lm_head(streams[0]))


@compiled
def test_what_tracr_decodes_is_what_the_program_means(name: str) -> None:
    program, seen = Program(name), 0
    words = program.file.vocabulary
    for ids, decoded in zip(program.tensors["examples.ids"].tolist(), program.file.decoded, strict=True):
        prompt = [words[token] for token in ids if words[token] not in (BOS, PAD)]
        for at, answer in enumerate(program.run(prompt), 1):
            if at >= program.file.first:
                value = decoded[at - 1]
                assert (
                    float(_number(answer)) == pytest.approx(float(value)) if name == "frac-prevs" else answer == value
                )
                seen += 1
    assert seen > 30


@compiled
def test_the_top_token_is_the_programs_answer_in_every_split(name: str) -> None:
    subject, task = Program(name).subject(), ProgramTask(name)
    for split in SPLITS:
        pairs = task.pairs(subject.tokenizer, 40, split=split)
        outputs = subject.logits(pairs.clean)
        assert torch.equal(outputs.argmax(-1, keepdim=True), pairs.right)


def test_a_number_is_read_out_by_its_distance_to_each_value() -> None:
    program = Program("frac-prevs")
    subject, words = program.subject(), program.file.vocabulary
    pairs = ProgramTask("frac-prevs").pairs(subject.tokenizer, 30)
    logits = subject.logits(pairs.clean)
    values = [word for word in words if word not in (BOS, PAD, *program.file.alphabet)]
    for row, right in zip(logits, pairs.right[:, 0].tolist(), strict=True):
        y = float(_number(words[right]))
        expected = torch.tensor([-50 * (y - float(_number(value))) ** 2 for value in values])
        found = torch.stack([row[words.index(value)] for value in values])
        torch.testing.assert_close(found - found.max(), expected - expected.max(), rtol=0, atol=1e-3)


@compiled
def test_pairs_are_judged_where_the_answers_differ(name: str) -> None:
    program = Program(name)
    pairs = ProgramTask(name).pairs(program.subject().tokenizer, 64)
    words, judged = program.file.vocabulary, set()
    for clean, corrupt, at, right, wrong in zip(
        pairs.clean.ids, pairs.corrupt.ids, pairs.clean.at.tolist(), pairs.right, pairs.wrong, strict=True
    ):
        prompts = [[words[token] for token in ids if words[token] not in (BOS, PAD)] for ids in (clean, corrupt)]
        assert program.run(prompts[0])[at - 1] == words[right]
        assert at > len(prompts[1]) or program.run(prompts[1])[at - 1] == words[wrong]
        assert not torch.equal(right, wrong)
        judged.add(at)
    assert judged == set(range(program.file.first, program.file.length + 1))
    lengths = {int((ids != words.index(PAD)).sum()) for ids in pairs.clean.ids}
    assert len(lengths) == (program.file.length if program.file.varied else 1)


@compiled
def test_splits_share_no_prompt_and_same_arguments_give_same_pairs(name: str) -> None:
    tokenizer, task = Program(name).subject().tokenizer, ProgramTask(name)
    made = {split: task.pairs(tokenizer, 40, split=split) for split in SPLITS}
    prompts = {split: set(map(tuple, pairs.clean.ids.tolist())) for split, pairs in made.items()}
    assert not prompts["train"] & prompts["validation"]
    assert not prompts["train"] & prompts["test"]
    assert not prompts["validation"] & prompts["test"]
    assert torch.equal(task.pairs(tokenizer, 40, split="test").clean.ids, made["test"].clean.ids)
    assert not torch.equal(task.pairs(tokenizer, 40, split="test", seed=1).clean.ids, made["test"].clean.ids)


def test_a_compiled_program_is_saved_and_loaded_like_any_model(tmp_path: Path) -> None:
    subject = Program("reverse").subject()
    subject.model.save_pretrained(tmp_path)
    subject.tokenizer.save_pretrained(tmp_path)
    again = subcircuit.load(tmp_path, device="cpu")
    pairs = ProgramTask("reverse").pairs(again.tokenizer, 8)
    assert torch.equal(again.logits(pairs.clean), subject.logits(pairs.clean))
    assert again.tokenizer.convert_tokens_to_ids(PAD) == subject.tokenizer.convert_tokens_to_ids(PAD)


def test_names_that_are_none_and_pairs_that_are_too_many_are_refused() -> None:
    with pytest.raises(UnknownName, match="no program 'revers'; did you mean 'reverse'"):
        Program("revers")
    with pytest.raises(UnknownName, match="no case 'planted-lama'; did you mean 'planted-llama'"):
        cases(["planted-lama"])
    with pytest.raises(DataError, match=r"frac-prevs has no 4000 pairs .* only \d+ were found") as refusal:
        ProgramTask("frac-prevs").pairs(Program("frac-prevs").subject().tokenizer, 4000, split="test")
    assert "ask for at most" in refusal.value.cure
    assert programs() == sorted(NODES)


# -- the words of these tests ---------------------------------------------------------------------------------------


def _moved_by(case: Case, pairs: Pairs, other: Mapping[Site, Tensor]) -> set[str]:
    """The edges that change the judged logits when they carry what their writer adds in `other`."""
    wiring, subject = case.wiring, case.subject
    own, found = subject.logits(pairs.clean), set()
    for reader, writer in wiring.allowed.nonzero().tolist():
        stands = torch.ones(len(wiring.readers), len(wiring.writers))
        stands[reader, writer] = 0
        with rewired(subject, wiring, stands, dict(other)):
            if (subject.logits(pairs.clean) - own).abs().max() > CLEAR:
                found.add(wiring.name(reader, writer))
    return found


def _put(act: Tensor, value: Tensor, unit: int) -> Tensor:
    act = act.clone()
    act[:, :, unit] = value[:, :, unit]
    return act


def _number(text: str) -> float:
    above, _, below = text.partition("/")
    return int(above) / int(below or 1)
