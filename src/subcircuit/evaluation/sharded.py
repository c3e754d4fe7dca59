"""The parts of evidence that need nothing of each other, as shards: random circuits, and searches with other seeds.

Shards carry what is measured prompt by prompt, or chosen; means and intervals are made of it in one place. A job draws
the prompts itself, and refuses when they are not those of the command that started it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from subcircuit.circuit import Circuit
from subcircuit.evaluation.edge_panel import panel_of
from subcircuit.evaluation.panel import Panel
from subcircuit.evaluation.stability import Members, again, members
from subcircuit.parallel.group import count
from subcircuit.parallel.group import require_same as require_same_work
from subcircuit.scores import Scores
from subcircuit.shards.launcher import Launcher
from subcircuit.shards.models import loaded, named, require_same
from subcircuit.shards.work import Inputs, Result, Work, digest
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs, Split, Task

__all__ = ["Scoring", "other_seeds", "random_circuits"]


@dataclass(frozen=True)
class Scoring:
    """How a circuit is scored, as far as jobs must know it that score a part of it."""

    circuit: Circuit
    task: Task
    n: int
    split: Split
    seed: int
    batch_size: int
    cache_bytes: int
    launcher: Launcher | None = None  # None: everything in this process, and nothing kept

    def panel(self, subject: Subject, on_step: Callable[[str], None] = lambda name: None) -> Panel:
        """The prompts and the masks on them.

        Raises DataError when the task cannot give the prompts, UsageError when another process would score others.
        """
        panel = panel_of(self.circuit).draw(
            subject,
            self.circuit,
            self.task,
            n=self.n,
            split=self.split,
            seed=self.seed,
            batch_size=self.batch_size,
            cache_bytes=self.cache_bytes,
            on_step=on_step,
        )
        if count() > 1:
            require_same_work(_on_panel(panel))
        return panel

    def subject(self, shared: Inputs) -> Subject:
        """The model, in a job."""
        assert self.launcher is not None  # there are no jobs without
        return loaded(shared, self.launcher.device)


def random_circuits(panel: Panel, draws: int, scoring: Scoring) -> list[Scores]:
    """Circuits of the panel's size drawn at random. Raises ResourceError where a job fails."""
    if scoring.launcher is None:
        return [panel.scores(panel.drawn(number, draws)) for number in range(draws)]

    def elsewhere() -> None:
        panel.on_step("random circuits")
        panel.passes += 1

    work = Work("random", _random, _on_panel(panel), [{"draw": number} for number in range(draws)], scoring)
    found = scoring.launcher.run(work, lambda piece: dict(panel.drawn(piece["draw"], draws)), elsewhere)
    return [panel.scores(each) for each in found]


def other_seeds(panel: Panel, seeds: Sequence[int], scoring: Scoring) -> list[Members]:
    """What the panel's circuit's search finds with each of these seeds. Raises ResourceError where a job fails."""
    subject, circuit = panel.subject, panel.circuit
    find = again(circuit, subject, scoring.task)

    def here(piece: Inputs) -> Result:
        panel.on_step(f"searching again with seed {piece['seed']}")
        return _members(find(piece["seed"]))

    pieces = [{"seed": seed} for seed in seeds]
    if scoring.launcher is None:
        return [here(piece) for piece in pieces]
    work = Work("seeds", _seeds, _of_search(subject, circuit, scoring.task), pieces, scoring)
    return [*scoring.launcher.run(work, here, lambda: panel.on_step("searches with other seeds"))]


def _random(shared: Inputs, scoring: Scoring) -> Callable[[Inputs], Result]:
    panel = scoring.panel(scoring.subject(shared))
    require_same(shared, _on_panel(panel))
    return lambda piece: dict(panel.drawn(piece["draw"], piece["draw"] + 1))


def _seeds(shared: Inputs, scoring: Scoring) -> Callable[[Inputs], Result]:
    subject = scoring.subject(shared)
    require_same(shared, _of_search(subject, scoring.circuit, scoring.task))
    find = again(scoring.circuit, subject, scoring.task)
    return lambda piece: _members(find(piece["seed"]))


def _members(circuit: Circuit) -> Result:
    return dict(members(circuit.kept, circuit.edges))


def _on_panel(panel: Panel) -> dict[str, Any]:
    """What the numbers of a panel depend on."""
    circuit, origin = panel.circuit, panel.circuit.origin
    masks = [circuit.kept[site] for site in sorted(circuit.kept)]
    masks += [circuit.edges.kept] if circuit.edges else []
    masks += [kept[site] for kept in (circuit.positions or {}).values() for site in sorted(kept)]
    return named(panel.subject) | {
        "method": origin.method,
        "settings": origin.settings,
        "reference": origin.reference,
        "kinds": sorted({str(site.kind) for site in circuit.kept}),
        "positions": list(circuit.positions or ()),
        "circuit": digest(*masks),
        "discovery": _prompts(panel.discovery),
        "prompts": _prompts(panel.pairs),
        "seed": panel.seed,
    }


def _of_search(subject: Subject, circuit: Circuit, task: Task) -> dict[str, Any]:
    """What a search with another seed depends on; its prompts by those of the circuit's own seed."""
    origin = circuit.origin
    discovery = task.pairs(subject.tokenizer, origin.pairs["train"], seed=origin.seed, split="train")
    return named(subject) | {
        "method": origin.method,
        "settings": origin.settings,
        "task": task.name,
        "task_options": origin.task_options,
        "discovery": _prompts(discovery),
    }


def _prompts(pairs: Pairs) -> str:
    continued = (pairs.continued.right, pairs.continued.wrong) if pairs.continued else ()
    both = (each for prompts in (pairs.clean, pairs.corrupt) for each in (prompts.ids, prompts.mask, prompts.at))
    return digest(*both, pairs.right, pairs.wrong, *continued)
