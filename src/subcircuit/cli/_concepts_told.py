"""What `subcircuit concepts` prints: models for `--json`, tables for people."""

from pydantic import Field, RootModel
from rich.markup import escape
from rich.table import Table

from subcircuit.cli._outputs import Output
from subcircuit.cli._shell import Screen
from subcircuit.concepts.catalogue import Catalogue
from subcircuit.concepts.codebook import About
from subcircuit.concepts.effects import Effect, FaithfulnessReport, SeedEffect
from subcircuit.concepts.explaining import Explained
from subcircuit.concepts.verdicts import Judged
from subcircuit.scores import Estimate

__all__ = [
    "Concepts",
    "Explanations",
    "Fitted",
    "Judging",
    "Labelled",
    "Scored",
    "tell_explained",
    "tell_fit",
    "tell_judged",
    "tell_score",
]

LARGEST = 12  # concepts in the table


class Fitted(Output):
    """Printed by `concepts fit`."""

    folder: str
    about: About
    threshold: float = Field(description="distance beyond which a state is no member of its nearest code")
    codes: int = Field(description="codes with members")


class Explanations(Output):
    """Printed by `concepts explain`."""

    folder: str
    texts: list[Explained]


class Scored(Output):
    """Printed by `concepts score`."""

    folder: str
    faithfulness: FaithfulnessReport
    stability: list[float] | None = Field(description="adjusted Rand index of every two seeds; null unless asked for")
    seeds: list[SeedEffect] | None = Field(description="what the concepts of each seed's codebook do")


class Judging(Output):
    """Printed by `concepts judge`."""

    folder: str
    questions: int
    sheet: str = Field(description="for people to fill in")
    judged: Judged | None = Field(description="null until somebody was asked")


class Labelled(Output):
    """Printed by `concepts label`."""

    folder: str
    id: str
    code: int
    label: str = Field(description="empty where it was taken away")
    labels: int = Field(description="in the file")


class Concepts(RootModel[Fitted | Explanations | Scored | Judging | Labelled]):
    """What `concepts` prints: each of its verbs its own."""


def tell_fit(fitted: Fitted, catalogue: Catalogue, screen: Screen) -> None:
    about = fitted.about
    table = Table(box=None, pad_edge=False)
    for column, side in (("concept", "right"), ("states", "right"), ("words", "left"), ("of label", "left")):
        table.add_column(column, justify=side)  # type: ignore[arg-type]
    for concept in sorted(catalogue.concepts, key=lambda each: -each.size)[:LARGEST]:
        share = f"{concept.label} {concept.labels[concept.label]:.0%}" if concept.labels else ""
        table.add_row(str(concept.code), str(concept.size), escape(" ".join(concept.words)), escape(share))
    screen.out.print(table)
    screen.out.print(
        f"\n{fitted.codes} of {about.asked} codes are in use, perplexity {about.perplexity:.0f}; {about.states} states "
        f"of layer {about.layer}, {about.seconds:.1f} s"
    )
    screen.out.print(escape(fitted.folder), soft_wrap=True)


def tell_explained(found: list[Explained], screen: Screen) -> None:
    for each in found:
        screen.out.print(f"[bold]{escape(each.answer)}[/] {each.probability:.2f}  {escape(each.text)}", soft_wrap=True)
        table = Table(box=None, pad_edge=False)
        for column in ("word", "score", "concept", "its words", "written by"):
            table.add_column(column, justify="right" if column in ("score", "concept") else "left")
        for word in each.words:
            nodes = {**word.heads, **word.neurons}
            written = "  ".join(f"{node} {share:+.2f}" for node, share in nodes.items())
            code = f"{word.code}" if word.assigned else f"({word.code})"
            table.add_row(escape(word.word), f"{word.score:+.2f}", code, escape(" ".join(word.words)), written)
        screen.out.print(table)
        for line in (sentence for word in each.words[:1] for sentence in word.sentences[:3]):
            screen.out.print(f"  {escape(line)}", style="dim", soft_wrap=True)
        if each.note:
            screen.out.print(escape(each.note), style="dim", soft_wrap=True)


def tell_score(scored: Scored, screen: Screen) -> None:
    report = scored.faithfulness
    table = Table(box=None, pad_edge=False)
    for column in ("removed", "|dP|", "concept ahead by", "flipped", "accuracy", "energy", "probe (anew)"):
        table.add_column(column, justify="left" if column == "removed" else "right")
    for name, effect in {f"{report.method}'s concept": report.concept, **report.controls}.items():
        table.add_row(name, *_cells(effect))
    screen.out.print(table)
    whole = "" if report.accuracy is None else f"accuracy of the whole model {_text(report.accuracy)}; "
    screen.out.print(
        f"\n{report.texts} texts, layer {report.layer}; {whole}{report.concepts} concepts, "
        f"{report.unassigned:.1%} of the salient words have none"
    )
    screen.out.print(f"[bold]{report.verdict}[/]: {report.reason}", soft_wrap=True)
    for name, reason in report.absent.items():
        screen.out.print(f"no control '{name}': {reason}", style="dim", soft_wrap=True)
    _tell_exchange(report, screen)
    for each in scored.seeds or []:
        screen.out.print(
            f"seed {each.seed}: |dP| {_text(each.change)}, ahead of a random direction by {_text(each.ahead)}"
        )
    if scored.stability:
        mean = sum(scored.stability) / len(scored.stability)
        screen.out.print(f"two seeds agree with an adjusted Rand index of {mean:.2f} (mean of {len(scored.stability)})")


def _tell_exchange(report: FaithfulnessReport, screen: Screen) -> None:
    if report.probe is not None:
        screen.out.print(f"a probe of whole states reads {_text(report.probe)} of the labels")
    if report.exchange:
        raised = ", ".join(f"{name} {_text(each)}" for name, each in report.exchange.items())
        screen.out.print(
            f"put into texts answered otherwise, P of the donor's answer rises by: {raised}", soft_wrap=True
        )


def tell_judged(judging: Judging, screen: Screen) -> None:
    found = judging.judged
    if found is None:
        screen.out.print(f"{judging.questions} questions: {escape(judging.sheet)}", soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("codebook", "rating, 1 to 3", "intruders found", "unread"):
        table.add_column(column, justify="left" if column == "codebook" else "right")
    for name, verdict in found.codebooks.items():
        numbers = ("-" if each is None else _text(each) for each in (verdict.rating, verdict.intruders))
        table.add_row(escape(name), *numbers, str(verdict.unread))
    screen.out.print(table)
    screen.out.print(f"\n{escape(', '.join(found.judges))}; guessing finds {found.chance:.0%} of the intruders")
    if len(found.judges) > 1:
        alpha, w, chance = ("undefined" if v is None else f"{v:.2f}" for v in (found.alpha, found.w, found.w_chance))
        screen.out.print(f"Krippendorff's alpha of ratings {alpha}; Kendall's W of the order {w}, by chance {chance}")


def _cells(effect: Effect) -> tuple[str, ...]:
    accuracy = "-" if effect.accuracy is None else f"{effect.accuracy.mean:.2f}"
    if effect.either is not None:
        accuracy += f" ({effect.either:.2f} either way)"
    ahead = "" if effect.ahead is None else _text(effect.ahead)
    probe = f"{effect.probe.mean:.2f} ({effect.retrained.mean:.2f})" if effect.probe and effect.retrained else "-"
    return _text(effect.change), ahead, f"{effect.flipped.mean:.2f}", accuracy, f"{effect.removed:.3f}", probe


def _text(estimate: Estimate) -> str:
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
