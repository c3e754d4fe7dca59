"""What `export`, `import`, `check-mib`, `push` and `pull` print with `--json`, as models."""

from typing import Literal

from pydantic import Field

from subcircuit.cli._outputs import Output
from subcircuit.records import Origin, Size

__all__ = ["Brought", "Exported", "Flaw", "Pushed", "SubmissionChecked"]


class Exported(Output):
    """`subcircuit export`."""

    folder: str
    format: Literal["eap-ig", "mib", "graphml", "neuronpedia"]
    file: str
    sizes: dict[str, Size]


class Brought(Output):
    """`subcircuit import` and `subcircuit pull`."""

    folder: str
    origin: Origin
    sizes: dict[str, Size]


class Flaw(Output):
    """Something the benchmark would refuse, or not count."""

    where: str
    cause: str
    cure: str = Field(description="may be empty")


class SubmissionChecked(Output):
    """`subcircuit check-mib`. Exit code 3 when there are problems."""

    folder: str
    problems: list[Flaw]


class Pushed(Output):
    """`subcircuit push`."""

    folder: str
    repository: str
    commit: str
    scored: bool = Field(description="whether the card carries evidence")
