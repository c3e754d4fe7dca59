"""The prompt doctor: every row, whoever wrote it, is examined here before it becomes tensors.

A finding names the row, shows the tokens of both prompts side by side, and says what is wrong and what to do about it.
"""

from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from subcircuit.tasks._base import Row
from subcircuit.tasks._reading import NotAPosition, Reading
from subcircuit.tasks._report import Checked, Finding, Report

__all__ = ["examine"]

Fault = tuple[str, str, str]  # code, cause, cure


def examine(rows: Sequence[Row | Finding], tokenizer: PreTrainedTokenizerBase) -> Report:
    """Look at every row as this tokenizer reads it. A row that could not even be read comes as its finding."""
    reading = _read(rows, tokenizer)
    seen: dict[str, Row] = {}
    findings: list[Finding] = []
    kept: list[Checked] = []
    dropped = 0
    for row in rows:
        found = [row] if isinstance(row, Finding) else [*_alone(row, reading), *_repeats(row, seen)]
        findings += found
        if any(finding.level == "error" for finding in found):
            dropped += 1
        elif isinstance(row, Row):
            seen.setdefault(row.clean, row)
            kept.append(_checked(row, reading))
    return Report(len(rows), len(kept), dropped, tuple(findings), tuple(kept))


def _read(rows: Sequence[Row | Finding], tokenizer: PreTrainedTokenizerBase) -> Reading:
    reading = Reading(tokenizer)
    readable = [row for row in rows if isinstance(row, Row)]
    reading.read(text for row in readable for text in (row.clean, row.corrupt))
    reading.read(reading.filled(row.clean, word) for row in readable for word in (*row.answers, *row.wrong_answers))
    return reading


def _checked(row: Row, reading: Reading) -> Checked:
    at = _judged(row, reading)
    context = reading.context(row.clean, at)
    right, wrong = (
        tuple(dict.fromkeys(reading.follow(context, answer) or () for answer in answers))
        for answers in (row.answers, row.wrong_answers)
    )
    prompts = reading.ids(row.clean), reading.ids(row.corrupt)
    if row.continued:
        return Checked(row, *prompts, at, (), (), (right, wrong))
    one, other = (tuple(token for answer in side for token in answer) for side in (right, wrong))
    return Checked(row, *prompts, at, one, other)


def _alone(row: Row, reading: Reading) -> Iterator[Finding]:
    """What is wrong with a row by itself. What is asked later makes no sense before."""
    clean, corrupt = (reading.tokens(reading.ids(text)) for text in (row.clean, row.corrupt))
    faults = list(_empty(row)) or [*_prompts(row, reading), *_answers(row, reading)]
    for code, cause, cure in faults:
        yield Finding(row.source, code, cause, cure, clean, corrupt)


def _empty(row: Row) -> Iterator[Fault]:
    for name in ("clean", "corrupt"):
        if not getattr(row, name).strip():
            yield "empty-prompt", f"the {name} prompt is empty", "write a prompt or delete the row"
    for name in ("answers", "wrong_answers"):
        if not getattr(row, name) or not all(getattr(row, name)):
            yield (
                "empty-answers",
                f"{name} is empty or holds an empty one",
                "give at least one right and one wrong answer",
            )


def _prompts(row: Row, reading: Reading) -> Iterator[Fault]:
    clean, corrupt = reading.ids(row.clean), reading.ids(row.corrupt)
    bos, limit = reading.tokenizer.bos_token_id, reading.tokenizer.model_max_length
    if bos is not None and any(ids[:2] == (bos, bos) for ids in (clean, corrupt)):
        cause = f"a double BOS: the text begins with {reading.tokenizer.bos_token} and the tokenizer adds another"
        yield "double-bos", cause, f"take {reading.tokenizer.bos_token} out of the text"
    if len(clean) != len(corrupt):
        cause = f"the clean prompt has {len(clean)} tokens, the corrupted one {len(corrupt)}"
        yield "token-counts", cause, "replace words by words of as many tokens, so that positions line up"
    elif clean == corrupt:
        cause = "the clean and the corrupted prompt are the same tokens"
        yield "same-prompts", cause, "change the word that decides the answer"
    if len(clean) > limit:
        yield "too-long", f"{len(clean)} tokens, and this model reads at most {limit}", "shorten the prompt"


def _judged(row: Row, reading: Reading) -> int:
    at = reading.judged(row.clean, row.position)
    if reading.masked(row.clean) and reading.judged(row.corrupt, None) != at:
        raise NotAPosition("the mask token is not at the same place in both prompts")
    return at


def _answers(row: Row, reading: Reading) -> Iterator[Fault]:
    try:
        context = reading.context(row.clean, _judged(row, reading))
    except NotAPosition as error:
        yield "position", str(error), _position_cure(row, reading)
        return
    if row.continued and (reading.masked(row.clean) or row.position is not None):
        cause = "answers of several tokens follow the whole prompt, and this one is judged inside"
        yield "position", cause, "leave out the position, and use a decoder"
        return
    found: dict[str, set[tuple[int, ...]]] = {"answers": set(), "wrong_answers": set()}
    for name, ids in found.items():
        for answer in getattr(row, name):
            tokens = reading.follow(context, answer)
            fault = _answer(reading, context, answer, tokens, several=row.continued)
            if fault or (fault := _spacing(reading, context, answer)):
                yield fault
            if tokens and (len(tokens) == 1 or row.continued):
                ids.add(tokens)
    if both := found["answers"] & found["wrong_answers"]:
        shared = ", ".join(repr(" | ".join(reading.tokens(ids))) for ids in sorted(both))
        yield "shared-answers", f"{shared} is both a right and a wrong answer", "keep it on one side"


def _answer(
    reading: Reading, context: str, answer: str, tokens: tuple[int, ...] | None, *, several: bool
) -> Fault | None:
    if tokens is None:
        code, cause = "answer-merges", f"the answer {answer!r} merges with the prompt's last token"
    elif not reading.known(tokens):
        return "answer-unknown", f"the tokenizer does not know the answer {answer!r}", "use a word it knows"
    elif len(tokens) == 1 or (tokens and several):
        return None
    else:
        parts = " | ".join(reading.tokens(tokens)) or "none"
        code, cause = "answer-tokens", f"the answer {answer!r} is {len(tokens)} tokens here: {parts}"
    return code, cause, _answer_cure(reading, context, answer)


def _spacing(reading: Reading, context: str, answer: str) -> Fault | None:
    """One token, but not the one that was meant? Digits and the rest of a word rightly follow without a space."""
    if reading.masked(context):
        return None
    if context[-1].isspace() and answer[0].isspace():
        return "answer-space", f"two spaces meet before the answer {answer!r}", "take one of them out"
    if context[-1].isalnum() and answer[0].isalpha() and reading.single(answer):
        cause = f"the answer {answer!r} goes on without a space: the prompt becomes '...{context[-8:]}{answer}'"
        return "answer-space", cause, f"if a new word was meant, begin it with a space: {f' {answer}'!r}"
    return None


def _answer_cure(reading: Reading, context: str, answer: str) -> str:
    spaced = f" {answer.strip()}"
    if len(reading.follow(context.rstrip(), spaced) or ()) != 1:
        return "use an answer of one token, or end the prompt just before the token that decides"
    if context != context.rstrip():
        return f"end the prompt before its last space, and begin the answer with it: {spaced!r} is one token"
    return f"begin it with a space: {spaced!r} is one token"


def _repeats(row: Row, seen: dict[str, Row]) -> Iterator[Finding]:
    if (first := seen.get(row.clean)) is None:
        return
    if first.split != row.split:
        cause = f"the same clean prompt as {first.source}: it is in both {first.split} and {row.split}"
        cure = "keep it in one split: what is tested must not be trained on"
        yield Finding(row.source, "leak", cause, cure)
    else:
        cause = f"the same clean prompt as {first.source}"
        yield Finding(row.source, "duplicate", cause, "it counts twice; delete one of them")


def _position_cure(row: Row, reading: Reading) -> str:
    if reading.masked(row.clean):
        return f"put {reading.mask} once into both prompts, at the same token"
    return "give a token index, a substring of the clean prompt, or nothing for the last token"
