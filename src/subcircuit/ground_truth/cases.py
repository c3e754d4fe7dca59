"""Models whose circuits are known: planted ones in every decoder family, and compiled programs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from subcircuit import plugins
from subcircuit.errors import UnknownName
from subcircuit.ground_truth.planted import RandomTask, planted, planted_edges, planted_nodes
from subcircuit.ground_truth.programs import Carries, Program, ProgramTask, programs
from subcircuit.sites import Kind, Node
from subcircuit.subject import Subject
from subcircuit.tasks._base import Task
from subcircuit.wiring import Wiring

__all__ = ["Case", "case_names", "cases"]


@dataclass(frozen=True)
class Case:
    """A model, a task over it, and everything in it that does something."""

    name: str
    subject: Subject
    task: Task
    kinds: tuple[Kind, ...]  # granularities whose truth is known
    nodes: frozenset[Node]  # that do something, of these granularities
    edges: Mapping[str, Carries]  # that carry something, by name: "0.head.1->1.q.2"

    @property
    def wiring(self) -> Wiring:
        return Wiring.of(self.subject.layout)


def case_names() -> list[str]:
    """What `cases` takes."""
    return list(_makers())


def cases(names: Sequence[str] = ()) -> list[Case]:
    """The cases of these names, or all of them. Raises UnknownName."""
    makers = _makers()
    for name in names:
        if name not in makers:
            raise UnknownName("case", name, makers)
    return [makers[name]() for name in names or makers]


def _makers() -> dict[str, Callable[[], Case]]:
    families = [name for name in plugins.names("families") if plugins.load("families", name).causal]
    found: dict[str, Callable[[], Case]] = {f"planted-{family}": partial(_planted, family) for family in families}
    return found | {f"compiled-{name}": partial(_compiled, name) for name in programs()}


def _planted(family: str) -> Case:
    subject = planted(family)
    return Case(
        name=subject.name,
        subject=subject,
        task=RandomTask(subject),
        kinds=(Kind.HEAD, Kind.MLP, Kind.NEURON),
        nodes=planted_nodes(),
        edges=dict.fromkeys(sorted(planted_edges(subject)), "token"),
    )


def _compiled(name: str) -> Case:
    program = Program(name)
    subject = program.subject()
    return Case(
        name=subject.name,
        subject=subject,
        task=ProgramTask(name),
        kinds=(Kind.HEAD, Kind.MLP),
        nodes=frozenset(Node.parse(node) for node in program.file.nodes),
        edges=program.file.edges,
    )
