"""Tasks by name, and what each built-in one means."""

import logging
from itertools import permutations
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from subcircuit.errors import DataError, UnknownName, UsageError
from subcircuit.tasks._base import SPLITS, Row
from subcircuit.tasks._fillers import FEMALE, MALE, Arrangements
from subcircuit.tasks._resolve import task
from subcircuit.tasks.agreement import ATTRACTORS, SUBJECTS, TEMPLATES, Agreement
from subcircuit.tasks.capital import CAPITALS, Capital
from subcircuit.tasks.docstring import Docstring
from subcircuit.tasks.gendered_pronoun import GenderedPronoun
from subcircuit.tasks.greater_than import GreaterThan
from subcircuit.tasks.induction import Induction
from subcircuit.tasks.ioi import IOI
from tiny_tokenizers import byte_level, from_words, two_digits, with_bos, word_pieces


def rows(source: Any, n: int = 40, tokenizer: Any = None) -> list[Row]:
    found: list[Row] = source.rows(tokenizer or byte_level(), n)
    return found


# -- by name ----------------------------------------------------------------------------------------------------------


def test_a_task_by_name_takes_its_options() -> None:
    assert task("ioi", order="ABBA") == IOI(order="ABBA")
    assert task("greater_than") == task("greater-than") == GreaterThan()


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="no task 'iol'; did you mean 'ioi'"):
        task("iol")


def test_an_unknown_option_names_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"'ioi' has no option 'ordre'; did you mean 'order'.* order, corruption"):
        task("ioi", ordre="ABBA")
    with pytest.raises(UsageError, match="'capital' has no option 'shots'; it has: none"):
        task("capital", shots=3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ioi", {"order": "ABBB"}, "no order 'ABBB'; did you mean 'ABBA'?"),
        ("ioi", {"corruption": "abcd"}, "did you mean 'abc'?"),
        ("greater-than", {"form": "one"}, "did you mean 'ones'?"),
        ("agreement", {"attractor": "opposit"}, "did you mean 'opposite'?"),
        ("induction", {"corruption": "ansver"}, "did you mean 'answer'?"),
        ("induction", {"length": 2}, "length is 2\ngive 3 to 8"),
    ],
)
def test_a_wrong_value_names_the_choices(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        task(name, **options)
    assert message in str(refused.value)


# -- what the built-in tasks mean -------------------------------------------------------------------------------------


def names_in(text: str) -> list[str]:
    known = {*MALE.items, *FEMALE.items}
    return [word for word in text.replace(",", " ").replace(".", " ").split() if word in known]


@pytest.mark.parametrize(("order", "giver_at"), [("ABBA", 1), ("BABA", 0)])
def test_ioi_asks_for_the_name_that_is_said_once(order: str, giver_at: int) -> None:
    for row in rows(IOI(order=order)):
        clean, corrupt = names_in(row.clean), names_in(row.corrupt)
        assert clean[2] == clean[giver_at] and corrupt[:2] == clean[:2]
        assert row.answers == (f" {clean[1 - giver_at]}",) == (f" {corrupt[2]}",)
        assert row.wrong_answers == (f" {clean[2]}",)


def test_ioi_abc_has_three_other_names() -> None:
    for row in rows(IOI(corruption="abc")):
        clean, corrupt = names_in(row.clean), names_in(row.corrupt)
        assert len(set(corrupt)) == 3 and not set(clean) & set(corrupt)


def test_ioi_uses_both_orders() -> None:
    repeated_first = [names_in(row.clean)[2] == names_in(row.clean)[0] for row in rows(IOI())]
    assert 10 < sum(repeated_first) < 30


@pytest.mark.parametrize(
    ("form", "tokenizer", "shown", "judged"),
    [("ones", byte_level, 3, 1), ("tens", byte_level, 2, 1), ("pair", two_digits, 2, 2), ("whole", word_pieces, 0, 4)],
)
def test_greater_than_accepts_every_later_year(form: str, tokenizer: Any, shown: int, judged: int) -> None:
    for row in rows(GreaterThan(form=form), tokenizer=tokenizer()):
        words = row.clean.replace(",", "").split()
        first = next(word for word in words if len(word) == 4 and word.isdecimal())
        assert form == "whole" or words[-1] == first[:shown]
        value = int(first[shown : shown + judged])
        right, wrong = ([int(answer) for answer in answers] for answers in (row.answers, row.wrong_answers))
        assert min(right) > value and max(wrong) == (value if form != "tens" else value - 1)
        assert form == "whole" or len(right) + len(wrong) >= 9
        lowest = next(word for word in row.corrupt.replace(",", "").split() if len(word) == 4 and word.isdecimal())
        assert (
            int(lowest) < int(first)
            and lowest[:2] == first[:2]
            and int(lowest[shown : shown + judged]) <= min(wrong) + 1
        )


@pytest.mark.parametrize(
    ("tokenizer", "form"), [(byte_level, "ones"), (with_bos, "ones"), (two_digits, "pair"), (word_pieces, "whole")]
)
def test_greater_than_chooses_the_form_by_how_years_are_cut(tokenizer: Any, form: str) -> None:
    assert rows(GreaterThan(), tokenizer=tokenizer()) == rows(GreaterThan(form=form), tokenizer=tokenizer())


def test_greater_than_refuses_a_form_that_does_not_suit() -> None:
    with pytest.raises(
        DataError, match=r"cuts 'the year 1766' into the \| ·year \| ·17 \| 66, which suits no form of ones"
    ):
        GreaterThan(form="ones").pairs(two_digits(), 4)
    with pytest.raises(DataError, match="suits no form of ones, pair, whole, tens"):
        GreaterThan().pairs(from_words("the", "year"), 4)


def test_gendered_pronoun_goes_with_the_name() -> None:
    pronouns = {name: pronoun for pool, pronoun in ((MALE, " he"), (FEMALE, " she")) for name in pool.items}
    for row in rows(GenderedPronoun()):
        ((clean,), (corrupt,)) = names_in(row.clean), names_in(row.corrupt)
        assert row.answers == (pronouns[clean],) and row.wrong_answers == (pronouns[corrupt],)
        assert row.answers != row.wrong_answers


@pytest.mark.parametrize("attractor", ["opposite", "same"])
def test_agreement_is_with_the_subject(attractor: str) -> None:
    plural = {word: bool(i) for pair in (*SUBJECTS.items, *ATTRACTORS.items) for i, word in enumerate(pair)}
    for row in rows(Agreement(attractor=attractor)):
        subject, between = (plural[word] for word in row.clean.replace(",", "").split() if word in plural)
        other, same_between = (plural[word] for word in row.corrupt.replace(",", "").split() if word in plural)
        assert other != subject and same_between == between
        assert (between == subject) == (attractor == "same")
        assert row.answers == ((" are", " were") if subject else (" is", " was"))


def test_docstring_asks_for_the_next_parameter() -> None:
    for row in rows(Docstring()):
        signature, corrupted = (
            text.partition("(")[2].partition(")")[0].split(", ")[1:] for text in (row.clean, row.corrupt)
        )
        documented = [
            line.split()[1].rstrip(":") for line in row.clean.splitlines() if ":" in line[8:] and "param " in line
        ]
        assert documented == signature[: len(documented)] and documented
        assert row.answers == (f" {signature[len(documented)]}",)
        assert not set(signature) & set(corrupted)
        assert row.clean.partition(":\n")[2] == row.corrupt.partition(":\n")[2]


def test_capital_flips_to_another_country() -> None:
    capitals = {country[0]: country[1] for country in CAPITALS.items}
    for row in rows(Capital()):
        clean, corrupt = (
            [word for word in text.replace(",", " ").replace(".", " ").replace("?", " ").split() if word in capitals]
            for text in (row.clean, row.corrupt)
        )
        assert len(set(clean)) == 3 and clean[:2] == corrupt[:2]
        assert row.answers == (f" {capitals[clean[2]]}",) and row.wrong_answers == (f" {capitals[corrupt[2]]}",)
        assert all(f"{capitals[country]}" in row.clean for country in clean[:2])


@pytest.mark.parametrize("corruption", ["answer", "cue"])
def test_induction_repeats_its_words(corruption: str) -> None:
    for row in rows(Induction(length=5, corruption=corruption)):
        clean, corrupt = row.clean.split(), row.corrupt.split()
        first, again = clean[:5], clean[5:]
        assert again == first[: len(again)] and row.answers == (f" {first[len(again)]}",)
        (changed,) = [i for i in range(len(clean)) if clean[i] != corrupt[i]]
        assert changed == (len(again) if corruption == "answer" else len(again) - 1)
        assert (row.wrong_answers == (f" {corrupt[changed]}",)) == (corruption == "answer")


def test_induction_suits_a_tiny_vocabulary() -> None:
    tokenizer = from_words(*[f"w{i}" for i in range(60)])
    for split in SPLITS:
        pairs = Induction().pairs(tokenizer, 20, split=split)
        assert torch.equal(pairs.clean.ids[:, 0], pairs.clean.ids[:, 6])


# -- how many there are -----------------------------------------------------------------------------------------------


def test_asking_for_more_prompts_than_there_are() -> None:
    many = len(TEMPLATES["validation"]) * 2 * len(SUBJECTS.share("validation")) * len(ATTRACTORS.share("validation"))
    assert len({row.clean for row in Agreement().rows(byte_level(), many, split="validation")}) == many
    with pytest.raises(DataError, match=f"{many} different prompts in its validation split .* not {many + 1}"):
        Agreement().rows(byte_level(), many + 1, split="validation")


def test_fillers_of_several_tokens_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    missing = MALE.share("train")[:3]
    tokenizer = byte_level(without=tuple(missing))
    (kept, total), _ = IOI().coverage(tokenizer).values()
    assert total == len(MALE.items) and total - 8 <= kept <= total - 3  # words that hold such a name go with it
    assert not set(missing) & {name for row in rows(IOI(), 200, tokenizer) for name in names_in(row.clean)}
    with caplog.at_level(logging.INFO, "subcircuit"):
        IOI().pairs(tokenizer, 4)
    assert f"{kept} of {total} male names are single tokens" in caplog.text


def test_too_few_fillers_are_named() -> None:
    train = MALE.share("train")[:2]
    with pytest.raises(DataError) as refused:
        IOI().pairs(from_words(*train), 4)
    assert f"2 of the {len(MALE.share('train'))} male names of the train split" in refused.value.message
    assert all(name in refused.value.message for name in train)


@given(st.integers(1, 6), st.integers(1, 3))
def test_arrangements_are_the_permutations(n: int, k: int) -> None:
    arrangements = Arrangements(range(n), k)
    assert sorted(arrangements[i] for i in range(len(arrangements))) == sorted(permutations(range(n), k))
