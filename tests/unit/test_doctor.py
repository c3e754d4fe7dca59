"""The prompt doctor, fault by fault, on tokenizers whose tokens are known."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from subcircuit.errors import DataError
from subcircuit.tasks._base import Row
from subcircuit.tasks._doctor import examine
from subcircuit.tasks._pairs import to_pairs
from subcircuit.tasks._report import Finding, Report, side_by_side
from tiny_tokenizers import byte_level, from_words, with_bos, word_pieces

GOOD = Row("Then Mary and John met. John gave it to", "Then Mary and John met. Mary gave it to", (" Mary",), (" John",))


def look(*rows: Row | Finding, tokenizer: Any = None) -> Report:
    named = [replace(row, source=f"row {i}") if isinstance(row, Row) else row for i, row in enumerate(rows, start=1)]
    return examine(named, tokenizer or byte_level())


def codes(*rows: Row, tokenizer: Any = None) -> list[str]:
    return [finding.code for finding in look(*rows, tokenizer=tokenizer).findings]


def test_a_good_row_is_kept_with_its_tokens() -> None:
    report = look(GOOD)
    tokenizer = byte_level()
    (row,) = report.rows
    assert (report.read, report.kept, report.dropped, report.findings) == (1, 1, 0, ())
    assert list(row.clean) == tokenizer(GOOD.clean).input_ids
    assert row.at == len(row.clean) - 1
    assert tokenizer.convert_ids_to_tokens([*row.right, *row.wrong]) == ["ĠMary", "ĠJohn"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"corrupt": "Then Mary and John met. Mary and John gave it to"}, "token-counts"),
        ({"corrupt": GOOD.clean}, "same-prompts"),
        ({"clean": "  "}, "empty-prompt"),
        ({"corrupt": ""}, "empty-prompt"),
        ({"answers": ()}, "empty-answers"),
        ({"wrong_answers": ("",)}, "empty-answers"),
        ({"answers": (" Mary", " John")}, "shared-answers"),
        ({"answers": (" Mary and",)}, "answer-tokens"),
        ({"position": 99}, "position"),
        ({"position": -99}, "position"),
        ({"position": "Susan"}, "position"),
        ({"position": ""}, "position"),
    ],
)
def test_every_fault_of_a_row_is_found(change: dict[str, Any], code: str) -> None:
    report = look(GOOD, replace(GOOD, **change))
    assert code in [finding.code for finding in report.findings]
    assert {finding.row for finding in report.errors} == {"row 2"}
    assert (report.read, report.kept, report.dropped) == (2, 1, 1)


def test_a_finding_shows_the_tokens_the_cause_and_the_cure() -> None:
    row = Row("Then Mary and John met", "Then Mary and then John met", (" he",), (" she",))
    (finding,) = look(row).findings
    assert finding.clean_tokens == ("Then", "·Mary", "·and", "·John", "·met")
    assert str(finding).splitlines() == [
        "row 1: the clean prompt has 5 tokens, the corrupted one 6",
        "  clean   Then|·Mary|·and|     |·John|·met",
        "  corrupt Then|·Mary|·and|·then|·John|·met",
        "                          ^^^^^",
        "  replace words by words of as many tokens, so that positions line up",
    ]


def test_long_prompts_are_folded() -> None:
    lines = side_by_side(["same"] * 30 + ["one"], ["same"] * 30 + ["two"], width=50)
    assert max(map(len, lines)) <= 10 + 50
    assert sum(line.count("same") for line in lines) == 2 * 30
    assert lines[-1].strip() == "^^^"


def test_an_answer_without_its_space_is_told_to_take_it() -> None:
    (finding,) = look(replace(GOOD, answers=("Mary",))).findings
    assert (finding.code, finding.level) == ("answer-space", "warning")
    assert "to" + "Mary" in finding.cause and "' Mary'" in finding.cure
    dotted = replace(GOOD, clean=f"{GOOD.clean} a.", corrupt=f"{GOOD.corrupt} a.", answers=("Johnny",))
    assert look(dotted).findings[0].code == "answer-tokens"


def test_two_spaces_that_meet() -> None:
    report = look(replace(GOOD, clean=f"{GOOD.clean} ", corrupt=f"{GOOD.corrupt} "))
    assert [finding.code for finding in report.findings] == ["answer-space"] * 2
    assert report.kept == 1


def test_digits_go_on_without_a_space() -> None:
    assert codes(Row("from 1766 to 176", "from 1760 to 176", ("7", "8"), ("0", "6"))) == []


def test_a_space_at_the_end_of_the_prompt_belongs_to_the_answer() -> None:
    row = replace(GOOD, clean=f"{GOOD.clean} ", corrupt=f"{GOOD.corrupt} ", answers=("Mary",), wrong_answers=("John",))
    finding, _ = look(row).findings
    assert finding.cure == "end the prompt before its last space, and begin the answer with it: ' Mary' is one token"


def test_an_answer_of_several_tokens_shows_them() -> None:
    row = replace(GOOD, answers=(" Quentin",))
    (finding,) = look(row).findings
    shown = finding.cause.partition("tokens here: ")[2].split(" | ")
    assert "".join(shown) == "·Quentin" and len(shown) > 1
    assert finding.cause.startswith(f"the answer ' Quentin' is {len(shown)} tokens")
    assert finding.cure.startswith("use an answer of one token")


def test_an_answer_that_merges_with_the_prompt() -> None:
    row = Row("Mary had a gard", "John had a gard", ("en",), (" and",))
    assert byte_level().tokenize(row.clean + "en")[-1] == "Ġgarden"
    assert codes(row) == ["answer-merges"]


def test_a_word_the_tokenizer_does_not_know() -> None:
    tokenizer = from_words("a", "b", "c")
    row = Row("a b", "b b", (" c",), (" zebra",))
    (finding,) = look(row, tokenizer=tokenizer).findings
    assert finding.code == "answer-unknown"
    assert "zebra" in finding.cause
    # the two prompts differ as text, but both words are unknown
    assert codes(Row("x b", "y b", (" c",), (" a",)), tokenizer=tokenizer) == ["same-prompts"]


def test_a_double_bos() -> None:
    row = replace(GOOD, clean=f"<s>{GOOD.clean}", corrupt=f"<s>{GOOD.corrupt}")
    report = look(GOOD, row, tokenizer=with_bos())
    assert [finding.code for finding in report.findings] == ["double-bos"]
    assert "take <s> out" in report.findings[0].cure
    assert report.kept == 1


def test_a_prompt_longer_than_the_model_reads() -> None:
    tokenizer = from_words("a", "b", "c")
    tokenizer.model_max_length = 3
    assert codes(Row("a b a b", "b b a b", (" c",), (" a",)), tokenizer=tokenizer) == ["too-long"]


def test_the_same_prompt_in_two_splits_is_an_error_in_one_a_warning() -> None:
    report = look(GOOD, replace(GOOD, split="test"), GOOD)
    assert [(finding.row, finding.code, finding.level) for finding in report.findings] == [
        ("row 2", "leak", "error"),
        ("row 3", "duplicate", "warning"),
    ]
    assert "row 1" in report.findings[0].cause
    assert (report.read, report.kept, report.dropped) == (3, 2, 1)


def test_the_judged_token_is_where_the_row_says() -> None:
    ids = byte_level()(GOOD.clean).input_ids
    tokens = byte_level().convert_ids_to_tokens(ids)
    at = tokens.index("ĠMary")
    followed = replace(GOOD, answers=(" and",), wrong_answers=(" or",))
    for position in (at, at - len(ids), "Mary", "en Mary"):
        (row,) = look(replace(followed, position=position)).rows
        assert row.at == at
        assert byte_level().convert_ids_to_tokens(list(row.right)) == ["Ġand"]


@pytest.mark.parametrize("position", [0, -99])
def test_a_position_before_the_text_is_no_position(position: int) -> None:
    at = position if position == 0 else -len(with_bos()(GOOD.clean).input_ids)
    (finding,) = look(replace(GOOD, position=at), tokenizer=with_bos()).findings
    assert (finding.code, finding.cause) == ("position", "position 0 is a special token, before any text")


def test_a_position_after_the_text_is_no_position() -> None:
    tokenizer = from_words("a", "b", "c", "</s>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 4)]
    )
    rows = [Row("a b", "b b", (" c",), (" a",), position=position) for position in (-1, -2)]
    (finding,) = look(rows[0], tokenizer=tokenizer).findings
    assert (finding.code, finding.cause) == ("position", "position 2 is a special token, after the text")
    assert look(rows[1], tokenizer=tokenizer).rows[0].at == 1


def test_a_substring_means_its_last_occurrence() -> None:
    (row,) = look(replace(GOOD, position="John", answers=(" gave",), wrong_answers=(" met",))).rows
    tokens = byte_level().convert_ids_to_tokens(list(row.clean))
    assert [i for i, token in enumerate(tokens) if token == "ĠJohn"][-1] == row.at


def test_an_encoder_is_judged_at_its_mask() -> None:
    tokenizer = word_pieces()
    words = ("the war lasted [MASK] years .", "the war ended [MASK] years .")
    (row,) = look(Row(*words, ("letter",), (" school",)), tokenizer=tokenizer).rows
    assert tokenizer.convert_ids_to_tokens(list(row.clean))[row.at] == "[MASK]"
    assert tokenizer.convert_ids_to_tokens([*row.right, *row.wrong]) == ["letter", "school"]


@pytest.mark.parametrize(
    ("clean", "corrupt"),
    [
        ("the war lasted", "the war ended"),
        ("the [MASK] war [MASK]", "the [MASK] year [MASK]"),
        ("the war [MASK]", "the [MASK] war"),
    ],
)
def test_an_encoder_needs_one_mask_at_one_place(clean: str, corrupt: str) -> None:
    report = look(Row(clean, corrupt, ("letter",), ("school",)), tokenizer=word_pieces())
    assert [finding.code for finding in report.findings] == ["position"]
    assert "[MASK]" in report.findings[0].cure


def test_a_report_refuses_with_numbers_the_first_findings_and_the_cure() -> None:
    report = look(
        GOOD, *[replace(GOOD, clean=f"{GOOD.clean} {word} me") for word in ("the", "a", "an", "this", "that")]
    )
    with pytest.raises(DataError) as refused:
        report.require("prompts.jsonl")
    message = str(refused.value)
    assert "5 of 6 rows of prompts.jsonl cannot be used (kept 1)" in message
    assert message.count("clean   ") == 3 and "and 2 more" in message
    assert "--drop-bad" in refused.value.cure


def test_kept_rows_become_padded_tensors() -> None:
    tokenizer = from_words("a", "b", "c", "d")  # ids 1 to 4
    report = look(
        Row("a b", "b b", (" c",), (" d",)), Row("a b c", "b b c", (" d", " a"), (" b",)), tokenizer=tokenizer
    )
    pairs = to_pairs(report.rows, tokenizer)
    assert pairs.clean.ids.tolist() == [[1, 2, 0], [1, 2, 3]]
    assert pairs.corrupt.ids.tolist() == [[2, 2, 0], [2, 2, 3]]
    assert pairs.clean.mask.tolist() == [[True, True, False], [True, True, True]]
    assert pairs.clean.at.tolist() == pairs.corrupt.at.tolist() == [1, 2]
    assert pairs.right.tolist() == [[3, -1], [4, 1]]
    assert pairs.wrong.tolist() == [[4], [2]]
    assert pairs[[1]].clean.ids.tolist() == [[1, 2, 3]]


@given(st.lists(st.tuples(*[st.text("ab [MASK]<s>\n7é", max_size=12)] * 4), max_size=8))
def test_whatever_the_rows_are_the_numbers_add_up(texts: list[tuple[str, str, str, str]]) -> None:
    rows = [Row(clean, corrupt, (right,), (wrong,)) for clean, corrupt, right, wrong in texts]
    for tokenizer in (byte_level(), with_bos(), word_pieces()):
        report = look(*rows, tokenizer=tokenizer)
        assert report.read == len(rows) == report.kept + report.dropped
        assert report.dropped == len({finding.row for finding in report.errors})
        assert len(report.rows) == report.kept
