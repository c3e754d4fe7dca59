"""What every verb prints with `--json`, as models: their JSON Schemas are the files of `subcircuit/schemas`.

`score` prints `Scored` (in `_scored`, which needs torch). Every failure prints `Failure`.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from subcircuit.records import Origin, Size

__all__ = [
    "Checked",
    "Distilled",
    "Failure",
    "Finding",
    "Found",
    "FoundCircuit",
    "Item",
    "Listing",
    "Output",
    "Reported",
    "Setting",
    "Shown",
    "Trouble",
    "Viewed",
]


class Output(BaseModel):
    """The root of what is printed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Trouble(Output):
    """An error in full."""

    kind: str = Field(description="UsageError, UnknownName, DataError, ResourceError, UnsupportedModel, ...")
    message: str
    cure: str = Field(description="what to do about it; may be empty")
    exit_code: int


class Failure(Output):
    """Any verb that could not do its work."""

    error: Trouble


class Setting(Output):
    """An option of a task or a method."""

    name: str
    type: str
    default: Any
    help: str


class Item(Output):
    """One entry of a list."""

    name: str
    about: str
    settings: list[Setting] = Field(default_factory=list)


class Listing(Output):
    """`subcircuit list`."""

    what: Literal["models", "tasks", "methods", "families"]
    items: list[Item]


class Finding(Output):
    """What the prompt doctor says about one row."""

    row: str
    level: Literal["error", "warning"] = Field(description="a row with an error is dropped, one with a warning kept")
    code: str
    cause: str
    cure: str
    clean_tokens: list[str]
    corrupt_tokens: list[str]


class Checked(Output):
    """`subcircuit check`."""

    file: str
    model: str
    read: int = Field(description="always kept + dropped")
    kept: int
    dropped: int
    splits: dict[str, int] = Field(description="kept rows by split")
    findings: list[Finding]


class FoundCircuit(Output):
    """One circuit of a run."""

    folder: str
    kl: float = Field(description="KL(full || circuit) in nats, on the validation prompts")
    budget: float | None = Field(description="what kl was to stay within; null where the search had another aim")
    sizes: dict[str, Size]


class Found(Output):
    """`subcircuit find`. A budget that is not met comes with its error; the circuits are saved all the same."""

    folder: str
    status: Literal["finished", "budget-not-met"]
    model: str
    revision: str
    task: str
    method: str
    seconds: float
    circuits: list[FoundCircuit] = Field(description="smallest budget first; the first one is the folder's own")
    error: Trouble | None = None


class Shown(Output):
    """`subcircuit show`."""

    folder: str
    origin: Origin
    layers: int
    units: dict[str, int] = Field(description="units of a site, by kind")
    sizes: dict[str, Size]
    nodes: dict[str, list[str]] = Field(description="kept nodes by kind, for example 9.head.6")
    family: list[str] = Field(description="folders of the circuits for other budgets, smallest budget first")
    scored: bool = Field(description="whether there is an evidence.json")


class Reported(Output):
    """`subcircuit report`."""

    file: str = Field(description="the HTML file")
    bytes: int
    runs: list[str] = Field(description="folders, as they were given")


class Viewed(Output):
    """`subcircuit view`, printed once the page can be opened."""

    url: str = Field(description="address of the page, with its token")
    port: int
    folder: str


class Distilled(Output):
    """`subcircuit distill`."""

    folder: str
    settings: dict[str, Any] = Field(description="every setting of the run")
    tokens: int = Field(description="tokens that the student learned from")
    first: dict[str, float] = Field(description="means over the tokens of the first update")
    last: dict[str, float] = Field(description="and of the last one")
