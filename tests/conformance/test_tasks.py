"""What every file of the tasks folder owes to every kind of tokenizer."""

from collections.abc import Mapping
from importlib import import_module
from itertools import combinations
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from subcircuit import plugins
from subcircuit.tasks._base import SPLITS, Pairs, Row, Split
from subcircuit.tasks._fillers import Pool
from subcircuit.tasks._resolve import task
from subcircuit.tasks._templated import Templated
from tiny_tokenizers import KINDS

N = 40


@pytest.fixture(params=plugins.names("tasks"), scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=KINDS, scope="module")
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return KINDS[request.param]()


@pytest.fixture(scope="module")
def made(name: str, tokenizer: PreTrainedTokenizerBase) -> dict[Split, tuple[list[Row], Pairs]]:
    """The same rows twice: as text and as tensors."""
    source = built_in(name)
    return {
        split: (source.rows(tokenizer, N, seed=3, split=split), source.pairs(tokenizer, N, seed=3, split=split))
        for split in SPLITS
    }


def built_in(name: str, **options: Any) -> Templated:
    made = task(name, **options)
    assert isinstance(made, Templated)
    return made


Made = dict[Split, tuple[list[Row], Pairs]]


def test_clean_and_corrupt_line_up_token_by_token(made: Made) -> None:
    for _, pairs in made.values():
        assert len(pairs) == N
        assert torch.equal(pairs.clean.mask, pairs.corrupt.mask)
        assert torch.equal(pairs.clean.at, pairs.corrupt.at)
        assert (pairs.clean.ids != pairs.corrupt.ids).any(1).all()


def test_prompts_are_what_the_tokenizer_makes_of_the_text(made: Made, tokenizer: PreTrainedTokenizerBase) -> None:
    for rows, pairs in made.values():
        for side, prompts in (("clean", pairs.clean), ("corrupt", pairs.corrupt)):
            for row, ids, mask in zip(rows, prompts.ids, prompts.mask, strict=True):
                assert ids[mask].tolist() == tokenizer(getattr(row, side)).input_ids


def test_the_judged_position_predicts_the_answer(made: Made, tokenizer: PreTrainedTokenizerBase) -> None:
    for rows, pairs in made.values():
        for i, row in enumerate(rows):
            at, length = int(pairs.clean.at[i]), int(pairs.clean.lengths[i])
            prompt = pairs.clean.ids[i, :length].tolist()
            for answers, ids in ((row.answers, pairs.right[i]), (row.wrong_answers, pairs.wrong[i])):
                want = []
                for answer in answers:
                    if tokenizer.mask_token:
                        full = tokenizer(row.clean.replace(tokenizer.mask_token, answer.strip())).input_ids
                        assert prompt[at] == tokenizer.mask_token_id
                        assert [*prompt[:at], full[at], *prompt[at + 1 :]] == full
                    else:
                        full = tokenizer(row.clean + answer).input_ids
                        assert full == [*prompt[: at + 1], full[at + 1]] and at == length - 1
                    want.append(full[at] if tokenizer.mask_token else full[at + 1])
                assert ids[ids >= 0].tolist() == want


def test_right_and_wrong_answers_share_nothing(made: Made) -> None:
    for _, pairs in made.values():
        for right, wrong in zip(pairs.right, pairs.wrong, strict=True):
            right, wrong = right[right >= 0], wrong[wrong >= 0]
            assert len(right) and len(wrong)
            assert not set(right.tolist()) & set(wrong.tolist())


def test_nothing_unknown_is_in_the_prompts(made: Made, tokenizer: PreTrainedTokenizerBase) -> None:
    for _, pairs in made.values():
        for prompts in (pairs.clean, pairs.corrupt):
            assert tokenizer.unk_token_id not in prompts.ids[prompts.mask].tolist()


def test_the_first_word_never_tells_clean_from_corrupt(made: Made, tokenizer: PreTrainedTokenizerBase) -> None:
    first = 1 if tokenizer.bos_token_id == tokenizer("a").input_ids[0] or tokenizer.mask_token else 0
    for _, pairs in made.values():
        assert torch.equal(pairs.clean.ids[:, : first + 1], pairs.corrupt.ids[:, : first + 1])


def test_rows_of_a_split_are_different_and_no_two_splits_share_one(made: Made) -> None:
    clean = {split: {row.clean for row in rows} for split, (rows, _) in made.items()}
    assert all(len(texts) == N for texts in clean.values())
    assert not any(clean[a] & clean[b] for a, b in combinations(SPLITS, 2))


def test_splits_share_no_template_and_no_filler(name: str) -> None:
    module = import_module(f"subcircuit.tasks.{name.replace('-', '_')}")
    tables = [v for v in vars(module).values() if isinstance(v, Mapping) and v.keys() == set(SPLITS)]
    pools = [value for value in vars(module).values() if isinstance(value, Pool)]
    assert pools
    for shares in [{split: pool.share(split) for split in SPLITS} for pool in pools] + tables:
        assert all(len(set(shares[split])) == len(shares[split]) > 0 for split in SPLITS)
        assert not any(set(shares[a]) & set(shares[b]) for a, b in combinations(SPLITS, 2))


def test_same_arguments_same_pairs(name: str) -> None:
    tokenizer, source = KINDS["byte-level"](), built_in(name)
    pairs = [source.pairs(tokenizer, N, seed=seed, split="test") for seed in (0, 0, 1)]
    ids = [each.clean.ids.tolist() for each in pairs]
    assert ids[0] == ids[1] != ids[2]
    assert pairs[0].right.tolist() == pairs[1].right.tolist()
    assert pairs[0].corrupt.ids.tolist() == pairs[1].corrupt.ids.tolist()


def test_every_value_of_every_option_gives_pairs(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    for option in plugins.options("tasks", name):
        assert option.help
        built_in(name, **{option.name: option.default}).pairs(tokenizer, 4)


def test_coverage_counts_what_is_kept(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    coverage = built_in(name).coverage(tokenizer)
    assert coverage
    assert all(0 < kept <= total for kept, total in coverage.values())


def test_the_name_is_the_key(name: str) -> None:
    assert built_in(name).name == name
    assert plugins.summary("tasks", name)
