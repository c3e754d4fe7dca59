"""What `features train` trains: one dictionary at a site, or cross-layer transcoders of all layers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Protocol

from subcircuit.cli._featured import DictionaryTrained, TranscodersTrained
from subcircuit.errors import ResourceError, UsageError
from subcircuit.progress import Progress
from subcircuit.sites import Site

if TYPE_CHECKING:
    from subcircuit.features.documents import Documents
    from subcircuit.subject import Subject

__all__ = ["Order", "Work", "work_of"]


@dataclass(frozen=True)
class Order:
    """What is read, and where what is made of it goes."""

    documents: "Documents"
    reading: Mapping[str, Any]  # how activations are taken: skip, batch, seed, rows
    out: Path
    resume: bool
    progress: Progress


class Work(Protocol):
    """One kind of training, with its settings."""

    def claim(self, out: Path, resume: bool) -> None:
        """Raises UsageError for a folder that is not this run's."""
        ...

    def train(self, subject: "Subject", order: Order) -> tuple[DictionaryTrained | TranscodersTrained, str]:
        """What was made, for a program and for a reader."""
        ...


def work_of(
    given: Mapping[str, Any], site: str | None, to: str | None, *, k: int | None, sparsity: float | None, cross: bool
) -> Work:
    """The training that is asked for. Raises UsageError for options that do not go together, or settings."""
    if cross:
        for option, value in {"--site": site, "--to": to, "--k": k}.items():
            if value is not None:
                raise UsageError(
                    f"{option} and --cross-layer were both given", f"leave {option} out: all MLPs are read"
                )
        return _Layers(given if sparsity is None else {**given, "sparsity": sparsity})
    if site is None:
        raise UsageError("nothing says what the dictionary reads", "give --site 12.resid, or --cross-layer")
    if sparsity is not None:
        raise UsageError("--sparsity was given without --cross-layer", "the others have --k features on at a time")
    return _One(given if k is None else {**given, "k": k}, Site.parse(site), Site.parse(to) if to else None)


class _One:
    def __init__(self, given: Mapping[str, Any], reads: Site, writes: Site | None) -> None:
        from subcircuit.features.training import Training

        self.settings, self.reads, self.writes = Training(**given), reads, writes

    def claim(self, out: Path, resume: bool) -> None:
        from subcircuit.features.running import claim
        from subcircuit.features.training import WEIGHTS

        claim(out, resume, WEIGHTS)

    def train(self, subject: "Subject", order: Order) -> tuple[DictionaryTrained, str]:
        from subcircuit.features.harvest import Harvest

        source = Harvest(subject, order.documents, self.reads, self.writes, **order.reading)
        found = self.settings.train(source, order.out, resume=order.resume, progress=order.progress)
        measured = {name: found.dictionary.expected[name] for name in ("fvu", "l0", "dead")}
        output = DictionaryTrained(
            folder=str(order.out),
            reads=str(self.reads),
            writes=str(self.writes or self.reads),
            settings=asdict(self.settings),
            tokens=found.rows,
            **measured,
        )
        where = f"{self.reads} -> {self.writes}" if self.writes else str(self.reads)
        return output, (
            f"{self.settings.features} features at {where}: FVU {output.fvu:.3f}, L0 {output.l0:.3g}, "
            f"{output.dead:.1%} dead, on held-out windows"
        )


class _Layers:
    def __init__(self, given: Mapping[str, Any]) -> None:
        from subcircuit.features.crosslayer import CrossLayerTraining

        self.settings = CrossLayerTraining(**given)

    def claim(self, out: Path, resume: bool) -> None:
        from subcircuit.features.running import claim
        from subcircuit.features.transcoders import CONFIG

        claim(out, resume, CONFIG)

    def train(self, subject: "Subject", order: Order) -> tuple[TranscodersTrained, str]:
        from subcircuit.features.branches import Branches

        self._check_memory(subject)
        source = Branches(subject, order.documents, **order.reading)
        found = self.settings.train(source, order.out, resume=order.resume, progress=order.progress)
        layers = [each.expected for each in found.transcoders.layers]
        output = TranscodersTrained(
            folder=str(order.out),
            reads=found.transcoders.reads,
            writes=found.transcoders.writes,
            settings=asdict(self.settings),
            tokens=found.rows,
            fvu=[each["fvu"] for each in layers],
            l0=[each["l0"] for each in layers],
            dead=[each["dead"] for each in layers],
        )
        by_layer = "\n".join(
            f"layer {layer}: FVU {each['fvu']:.3f}, L0 {each['l0']:.3g}, {each['dead']:.1%} dead"
            for layer, each in enumerate(layers)
        )
        return output, (
            f"{by_layer}\n{self.settings.features} features in each of {len(layers)} layers: mean FVU "
            f"{fmean(output.fvu):.3f}, L0 {sum(output.l0):.3g} in all layers together, on held-out windows"
        )

    def _check_memory(self, subject: "Subject") -> None:
        from subcircuit.features.crosslayer import TRAINED, size_of
        from subcircuit.planning.machine import Machine
        from subcircuit.sites import Kind

        width = subject.width(Kind.RESID)
        needed = TRAINED * size_of(self.settings.features, len(subject), width)
        free = Machine.here(subject.device.type).memory
        if needed > free:
            raise ResourceError(
                f"{self.settings.features} features in each of {len(subject)} layers of width {width} take "
                f"{needed / 2**30:.1f} GiB while they learn, and {free / 2**30:.1f} GiB are free",
                "give fewer --features, or a smaller model",
            )
