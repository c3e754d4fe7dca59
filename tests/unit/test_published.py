"""Published sets in their authors' files: tiny ones, written by hand in those formats."""

import json
from pathlib import Path

import pytest

from subcircuit.errors import DataError, UsageError
from subcircuit.tasks._base import SPLITS, Row
from subcircuit.tasks._file import FileTask
from subcircuit.tasks._report import Finding
from subcircuit.tasks._resolve import task
from tiny_tokenizers import byte_level

WINOBIAS = """\
1 [The farmer] met the nurse because [he] had seen the house.
2 The farmer met [the nurse] because [she] was in the garden.
3 [The driver] told the clerk that [his] car was new.
4 The driver told [the clerk] that [she] was late.

5 [The guard] asked the cook to give [him] a book.
6 The guard asked [the cook] to give [her] a cup.
"""
TEMPLATES = """\
occupation(0)\tother-participant(1)\tanswer\tsentence
nurse\tpatient\t0\tThe $OCCUPATION told the $PARTICIPANT that $POSS_PRONOUN shift was over.
nurse\tpatient\t1\tThe $OCCUPATION told the $PARTICIPANT that $POSS_PRONOUN blood was good.
miner\tfriend\t1\tThe $OCCUPATION met the $PARTICIPANT because $NOM_PRONOUN was near.
miner\tfriend\t0\tThe $OCCUPATION met the $PARTICIPANT because $NOM_PRONOUN was far.
clerk\tguest\t1\tThe $OCCUPATION met the $PARTICIPANT who saw $ACC_PRONOUN there.
clerk\tguest\t0\tThe $OCCUPATION met the $PARTICIPANT since $NOM_PRONOUN was there.
"""
STATISTICS = """\
occupation\tbergsma_pct_female\tbls_pct_female\tbls_year
nurse\t85.2\t90.0\t2015
miner\t2.5\t3.0\t2015
clerk\t60.0\t70.0\t2015
"""


def fact(case: int, subject: str, true: str, relation: str = "P36") -> dict[str, object]:
    target = {"target_true": {"str": true, "id": "Q1"}, "target_new": {"str": "Old Town", "id": "Q2"}}
    rewrite = {"prompt": "The capital of {} is", "relation_id": relation, "subject": subject, **target}
    return {"case_id": case, "pararel_idx": 7, "requested_rewrite": rewrite, "paraphrase_prompts": []}


def rows_of(task: FileTask) -> list[Row | Finding]:
    return task.rows(byte_level())


# -- WinoBias ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sort", "hers", "his"), [("pro", 1, 0), ("anti", 0, 1)])
def test_winobias_lines_are_pairs_of_continuations(tmp_path: Path, sort: str, hers: int, his: int) -> None:
    path = tmp_path / f"{sort}_stereotyped_type1.txt.dev"
    path.write_text(WINOBIAS)
    first, second, third = rows_of(FileTask(f"winobias:{path}"))
    assert isinstance(first, Row) and first.continued
    assert (first.clean, first.corrupt) == (
        "The farmer met the nurse because she",
        "The farmer met the nurse because he",
    )
    follow = (" had seen the house.", " was in the garden.")
    assert (first.answers, first.wrong_answers) == ((follow[hers],), (follow[his],))
    assert isinstance(second, Finding) and "(his, she)" in second.cause and "lines 3 and 4" in second.row
    assert isinstance(third, Row) and third.clean.endswith("to give her") and third.corrupt.endswith("to give him")


def test_a_winobias_file_says_by_its_name_which_stereotype_it_follows(tmp_path: Path) -> None:
    (tmp_path / "dev.txt").write_text(WINOBIAS)
    with pytest.raises(DataError, match="does not say whether its pronouns follow the stereotype"):
        rows_of(FileTask(f"winobias:{tmp_path / 'dev.txt'}"))


def test_a_published_set_is_a_task_and_bad_pairs_are_never_silent(tmp_path: Path) -> None:
    path = tmp_path / "pro_stereotyped_type1.txt.test"
    path.write_text(WINOBIAS)
    with pytest.raises(DataError, match=r"1 of 3 rows of winobias:.* cannot be used \(kept 2\)"):
        task(f"winobias:{path}").pairs(byte_level(), 8)
    source = task(f"winobias:{path}", drop_bad=True)
    kept = [row.split for row in rows_of(FileTask(f"winobias:{path}")) if isinstance(row, Row)]
    for split in {*SPLITS} & {*kept}:
        pairs = source.pairs(byte_level(), 8, split=split)
        assert len(pairs) == kept.count(split) and pairs.continued is not None and pairs.right.shape[1] == 0
        ids = pairs.continued.right[0, 0]
        assert byte_level().decode(ids[ids >= 0]).endswith(".")
    assert source.name == f"winobias:{path}"


# -- WinoGender -------------------------------------------------------------------------------------------------------


def test_winogender_gives_the_occupations_sentence_to_its_stereotype(tmp_path: Path) -> None:
    path = tmp_path / "templates.tsv"
    path.write_text(TEMPLATES)
    with pytest.raises(DataError, match=r"occupations-stats\.tsv is missing"):
        rows_of(FileTask(f"winogender:{path}"))
    (tmp_path / "occupations-stats.tsv").write_text(STATISTICS)
    nurse, miner, clerk = rows_of(FileTask(f"winogender:{path}"))
    assert isinstance(nurse, Row) and isinstance(miner, Row)
    assert (nurse.clean, nurse.corrupt) == (
        "The nurse told the patient that her",
        "The nurse told the patient that his",
    )
    assert (nurse.answers, nurse.wrong_answers) == ((" shift was over.",), (" blood was good.",))
    assert (miner.clean, miner.answers) == ("The miner met the friend because she", (" was near.",))
    assert isinstance(clerk, Finding) and "differ before the pronoun" in clerk.cause


def test_a_winogender_file_without_its_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "templates.tsv").write_text("a\tb\n1\t2\n")
    (tmp_path / "occupations-stats.tsv").write_text(STATISTICS)
    with pytest.raises(DataError, match=r"templates\.tsv has no column 'sentence'"):
        rows_of(FileTask(f"winogender:{tmp_path / 'templates.tsv'}"))


# -- CounterFact ------------------------------------------------------------------------------------------------------


def test_counterfact_asks_for_another_subject_of_the_relation(tmp_path: Path) -> None:
    path = tmp_path / "counterfact.json"
    facts = [fact(1, "Qzj", "Paris"), fact(2, "Zjq", "Paris"), fact(3, "Jqz", "New Madrid")]
    path.write_text(json.dumps([*facts, fact(4, "Rome", "Latin", "P37")]))
    source = FileTask(f"counterfact:{path}")
    first, _, third, rome = source.rows(byte_level())
    assert isinstance(first, Row) and isinstance(third, Row)
    assert (first.clean, first.corrupt) == ("The capital of Qzj is", "The capital of Jqz is")
    assert (third.answers, third.wrong_answers) == ((" New Madrid",), (" Old Town",))
    assert third.corrupt == "The capital of Qzj is"
    assert isinstance(rome, Finding) and "no other subject of relation P37" in rome.cause
    with pytest.raises(UsageError, match="depend on the tokenizer"):
        source.rows()


@pytest.mark.parametrize("text", ["{", "[1]", '[{"case_id": 1}]', '{"a": 1}'])
def test_what_is_no_counterfact_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "counterfact.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"counterfact\.json is not CounterFact"):
        rows_of(FileTask(f"counterfact:{path}"))


# -- prompts files with long answers ----------------------------------------------------------------------------------


def test_a_prompts_file_may_have_answers_of_several_tokens(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    row = {"clean": "Mary saw", "corrupt": "John saw", "answers": [" the house", " coffee"], "wrong_answers": [" it"]}
    path.write_text(json.dumps(row | {"split": "train"}))
    with pytest.raises(DataError, match="the answer ' the house' is"):
        FileTask(str(path)).pairs(byte_level(), 1)
    pairs = FileTask(f"continuations:{path}").pairs(byte_level(), 1)
    assert pairs.continued is not None
    shown = [byte_level().decode([t for t in ids if t >= 0]) for ids in pairs.continued.right[0].tolist()]
    assert shown == [" the house", " coffee"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"wrong_answers": [" the house"]}, "shared-answers"),
        ({"position": -2}, "position"),
        ({"answers": [""]}, "empty-answers"),
    ],
)
def test_long_answers_have_faults_of_their_own(tmp_path: Path, change: dict[str, object], code: str) -> None:
    path = tmp_path / "prompts.jsonl"
    row = {"clean": "Mary saw", "corrupt": "John saw", "answers": [" the house"], "wrong_answers": [" it"]}
    path.write_text(json.dumps(row | change))
    report = FileTask(f"continuations:{path}").examine(byte_level())
    assert [finding.code for finding in report.findings] == [code]


def test_a_file_that_is_not_there_is_told_without_its_format(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"there is no file {tmp_path}/none.json"):
        task(f"counterfact:{tmp_path}/none.json")
    (tmp_path / "a.txt").touch()
    with pytest.raises(UsageError, match=r"neither a \.jsonl nor a \.csv"):
        task(f"continuations:{tmp_path}/a.txt")
