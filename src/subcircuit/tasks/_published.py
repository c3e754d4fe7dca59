"""Published sets that a user has, as rows: WinoBias, WinoGender and CounterFact, in the files of their authors.

**WinoBias** (Zhao et al. 2018): `pro_stereotyped_*` or `anti_stereotyped_*`, two lines a row that share all up to the
pronoun; the mentions and the pronoun stand in brackets, and what follows either pronoun is a continuation.
**WinoGender** (Rudinger et al. 2018): `templates.tsv`, two lines a row again, with `occupations-stats.tsv` beside it.
Both as in Vig et al. 2020: the clean prompt says "she" and the corrupted one "he"; right is what follows where the
stereotype is female. Departs from it: "her" and "his" stay what they are, and a pair whose pronouns are of two cases is
a finding.
**CounterFact** (Meng et al. 2022): `counterfact.json`; the corrupted prompt has another subject of the same relation,
of as many tokens, so that the reference `noise` finds the subject.
"""

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from subcircuit.errors import DataError, UsageError
from subcircuit.tasks._base import Row
from subcircuit.tasks._reading import Reading
from subcircuit.tasks._records import share
from subcircuit.tasks._report import Finding

__all__ = ["READERS"]

Rows = list[Row | Finding]
CASES = (("she", "he"), ("her", "him"), ("her", "his"))  # hers, his
VARIABLES = {"$NOM_PRONOUN": CASES[0], "$ACC_PRONOUN": CASES[1], "$POSS_PRONOUN": CASES[2]}
PRONOUN = re.compile(r"\[(she|he|her|him|his)\]")
PEERS = 64  # subjects of a relation that are tried


def winobias(path: Path, tokenizer: PreTrainedTokenizerBase | None = None) -> Rows:
    """Pairs of lines. Raises DataError for a file whose name does not say which stereotype its pronouns follow."""
    sorts = [sort for sort in ("anti", "pro") if f"{sort}_stereotyped" in path.name]
    if not sorts:
        raise DataError(
            f"{path.name} does not say whether its pronouns follow the stereotype",
            "name it as published: pro_stereotyped_type1.txt.dev, anti_stereotyped_type1.txt.test, ...",
        )
    lines = [line.strip() for line in _text(path).splitlines()]
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line]
    return [_winobias_row(one, other, path.name, sorts[0] == "anti") for one, other in _twos(numbered)]


def winogender(path: Path, tokenizer: PreTrainedTokenizerBase | None = None) -> Rows:
    """Templates in pairs. Raises DataError where the statistics are not beside the file, or a column is missing."""
    stats = path.with_name("occupations-stats.tsv")
    if not stats.is_file():
        raise DataError(f"{stats} is missing", "WinoGender's templates need its occupations-stats.tsv beside them")
    women = {each["occupation"]: float(each["bergsma_pct_female"]) for each in _table(stats, "bergsma_pct_female")}
    records = _table(path, "sentence")
    by_people: defaultdict[tuple[str, str], list[tuple[int, Mapping[str, str]]]] = defaultdict(list)
    for number, record in enumerate(records, start=2):
        by_people[record["occupation(0)"], record["other-participant(1)"]].append((number, record))
    return [_winogender_row(people, found, path.name, women) for people, found in by_people.items()]


def counterfact(path: Path, tokenizer: PreTrainedTokenizerBase | None = None) -> Rows:
    """One row a record. Raises DataError for a file of another form, UsageError without a tokenizer."""
    if tokenizer is None:
        raise UsageError("CounterFact's counterfactuals depend on the tokenizer", "give one")
    try:
        records = [_fact(record) for record in json.loads(_text(path))]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(
            f"{path.name} is not CounterFact: {type(error).__name__} {error}",
            "give its counterfact.json: a list of records with case_id and requested_rewrite",
        ) from error
    by_relation: defaultdict[str, list[Mapping[str, str]]] = defaultdict(list)
    for record in records:
        by_relation[record["relation"]].append(record)
    reading = Reading(tokenizer)
    reading.read(_asked(record, record) for record in records)
    return [_fact_row(record, by_relation[record["relation"]], reading, path.name) for record in records]


READERS: Mapping[str, Callable[[Path, PreTrainedTokenizerBase | None], Rows]] = {
    "winobias": winobias,
    "winogender": winogender,
    "counterfact": counterfact,
}


def _winobias_row(one: tuple[int, str], other: tuple[int, str], name: str, anti: bool) -> Row | Finding:
    """`anti`: the pronoun is not the one that the stereotype expects of the person it stands for."""
    source = f"lines {one[0]} and {other[0]} of {name}"
    parts = [PRONOUN.split(line) for _, line in (one, other)]
    if any(len(each) != 3 for each in parts):
        return Finding(source, "pronoun", "a line has not exactly one pronoun in brackets", "give it as published")
    (before, first, after), (before_too, second, after_too) = parts
    contexts = [re.sub(r"^\d+\s+|[\[\]]", "", text).strip() for text in (before, before_too)]
    follows = {first: after.strip(), second: after_too.strip()}
    case = next((each for each in CASES if {*each} == {first, second}), None)
    if contexts[0] != contexts[1] or case is None:
        return Finding(
            source,
            "unlike-lines",
            f"the lines differ before the pronoun, or their pronouns ({first}, {second}) are not hers and his",
            "only lines that share a context make a pair; leave the others out",
        )
    hers, his = reversed(case) if anti else case
    return _gendered(contexts[0], case, follows[hers], follows[his], source)


def _winogender_row(
    people: tuple[str, str], found: Sequence[tuple[int, Mapping[str, str]]], name: str, women: Mapping[str, float]
) -> Row | Finding:
    occupation, participant = people
    source = f"{occupation} and {participant}, line {found[0][0]} of {name}"
    follows: dict[str, str] = {}
    contexts = set()
    for _, record in found:
        text = record["sentence"].replace("$OCCUPATION", occupation).replace("$PARTICIPANT", participant)
        variable = next((each for each in VARIABLES if each in text), "")
        before, _, after = text.partition(variable) if variable else (text, "", "")
        contexts.add((before.strip(), variable))
        follows[record["answer"]] = after.strip()
    ((context, variable), *more) = sorted(contexts)
    if more or variable not in VARIABLES or {*follows} != {"0", "1"}:
        cause = "the two sentences differ before the pronoun, or in its case"
        return Finding(source, "unlike-lines", cause, "only sentences that share a context make a pair")
    if occupation not in women:
        return Finding(source, "occupation", f"no statistics of {occupation}", "add it to occupations-stats.tsv")
    hers, his = ("0", "1") if women[occupation] > 50 else ("1", "0")
    return _gendered(context, VARIABLES[variable], follows[hers], follows[his], source)


def _gendered(context: str, case: tuple[str, str], hers: str, his: str, source: str) -> Row:
    clean, corrupt = (f"{context} {pronoun}" for pronoun in case)
    return Row(clean, corrupt, (f" {hers}",), (f" {his}",), share(clean), source=source)


def _fact(record: Mapping[str, Any]) -> dict[str, str]:
    """What a row needs of a record, as text."""
    asked = record["requested_rewrite"]
    return {
        "case": str(record["case_id"]),
        "prompt": str(asked["prompt"]),
        "relation": str(asked["relation_id"]),
        "subject": str(asked["subject"]),
        "true": str(asked["target_true"]["str"]),
        "new": str(asked["target_new"]["str"]),
    }


def _fact_row(
    record: Mapping[str, str], peers: Sequence[Mapping[str, str]], reading: Reading, name: str
) -> Row | Finding:
    source = f"case {record['case']} of {name}"
    clean = _asked(record, record)
    at = next(i for i, peer in enumerate(peers) if peer is record)
    others = [peer for peer in (*peers[at + 1 :], *peers[:at]) if peer["true"] != record["true"]][:PEERS]
    texts = [_asked(record, peer) for peer in others if peer["subject"] != record["subject"]]
    reading.read(texts)
    corrupt = next((text for text in texts if len(reading.ids(text)) == len(reading.ids(clean))), None)
    if corrupt is None:
        cause = f"no other subject of relation {record['relation']} has as many tokens as {record['subject']}"
        return Finding(source, "no-counterfactual", cause, "leave the record out")
    return Row(clean, corrupt, (f" {record['true']}",), (f" {record['new']}",), share(clean), source=source)


def _asked(record: Mapping[str, str], of: Mapping[str, str]) -> str:
    """A record's prompt about the subject of another."""
    return record["prompt"].replace("{}", of["subject"])


def _twos(lines: Sequence[tuple[int, str]]) -> Iterator[tuple[tuple[int, str], tuple[int, str]]]:
    """Lines 1 and 2, 3 and 4, ..."""
    yield from list(pairwise(lines))[::2]


def _table(path: Path, column: str) -> list[dict[str, str]]:
    records = list(csv.DictReader(io.StringIO(_text(path)), delimiter="\t"))
    if not records or column not in records[0]:
        raise DataError(f"{path.name} has no column '{column}'", "give the file as published, with tabs and its header")
    return records


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 at byte {error.start + 1}", "save the file as UTF-8") from error
