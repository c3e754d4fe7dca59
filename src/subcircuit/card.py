"""The card of a shared circuit, its README.md: what the circuit is, where it comes from, and what was measured."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import yaml
from jinja2 import Environment, StrictUndefined

from subcircuit.records import CircuitFile

__all__ = ["COLUMNS", "EvidenceLike", "card", "evidence_rows", "is_local", "rendered"]

TEMPLATE = Path(__file__).with_name("card.md.jinja")
TAGS = ["circuit", "mechanistic-interpretability", "subcircuit"]
SUFFIXES = (".gguf", ".jsonl", ".csv")
COLUMNS = {
    "kl": "KL (nats)",
    "faithfulness": "faithfulness",
    "logit_difference": "logit difference",
    "accuracy": "accuracy",
    "exact_match": "exact match",
}


class EvidenceLike(Protocol):
    """What the card needs of `Evidence`, which lives above circuits. Scores have the fields of COLUMNS."""

    split: str
    pairs: int
    reference: str
    full: Any
    circuit: Any
    empty: Any
    attribution: Any
    integrated: Any
    random: Any

    @property
    def verdict(self) -> str: ...

    def save(self, folder: str | Path) -> None: ...


def card(file: CircuitFile, evidence: EvidenceLike | None, repo: str) -> str:
    """The card as Markdown, with the hub's header."""
    origin = file.origin
    header: dict[str, Any] = {"library_name": "subcircuit", "tags": TAGS}
    if "/" in origin.model and not is_local(origin.model):
        header["base_model"] = origin.model
    return rendered(
        TEMPLATE,
        header,
        file=file,
        origin=origin,
        repo=repo,
        evidence=evidence,
        columns=list(COLUMNS.values()),
        rows=list(evidence_rows(evidence)) if evidence else [],
    )


def rendered(template: Path, header: dict[str, Any], **values: Any) -> str:
    """A template of a card with its values; the header is the hub's."""
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["cell"] = _cell
    written = yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip()
    return environment.from_string(template.read_text(encoding="utf-8")).render(header=written, **values)


def is_local(name: str) -> bool:
    """Whether a model or task is a file or a folder, which others cannot load by this name."""
    path = Path(name)
    written_out = name.startswith((".", "~")) or path.is_absolute() or path.suffix in SUFFIXES
    return written_out or (len(path.parts) > 1 and path.exists())


def evidence_rows(evidence: EvidenceLike) -> Iterator[tuple[str, Sequence[str]]]:
    """The circuit beside its controls, each number with its interval."""
    draws = sorted(evidence.random, key=lambda scores: scores.kl.mean)
    named = {
        "full model": evidence.full,
        "**circuit**": evidence.circuit,
        "attribution, same size": evidence.attribution,
        "integrated gradients, same size": evidence.integrated,
        f"random, best of {len(draws)}": next(iter(draws), None),
        "empty circuit": evidence.empty,
    }
    for name, scores in named.items():
        if scores is not None:
            yield name, [_with_interval(getattr(scores, column)) for column in COLUMNS]


def _with_interval(estimate: Any) -> str:
    return "-" if estimate is None else f"{estimate.mean:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"


def _cell(value: object) -> str:
    """Text that stays within its cell of a Markdown table."""
    return str(value).replace("|", "\\|").replace("\n", " ")
