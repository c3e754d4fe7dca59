"""The grid of activation patching, nodes by prompts, cut by layers: each layer is a shard that needs no other."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol, cast

from subcircuit.methods._patching import Patching
from subcircuit.methods._study import Settings, Study
from subcircuit.progress import Progress
from subcircuit.shards.launcher import Launcher
from subcircuit.shards.models import loaded, named, require_same
from subcircuit.shards.work import Inputs, Result, Work, digest
from subcircuit.sites import Site
from subcircuit.tasks._base import Pairs, Task

__all__ = ["PatchSettings", "by_layers", "effects_name"]

NUMBERS = ("kinds", "direction", "metric", "reference", "seed")  # the settings that effects depend on


class PatchSettings(Settings, Protocol):
    """Settings of a grid."""

    @property
    def direction(self) -> str: ...
    @property
    def metric(self) -> str: ...


@dataclass(frozen=True)
class Grid:
    """What a job needs to patch a layer, besides the model."""

    settings: PatchSettings
    task: Task
    pairs: Pairs
    length: int
    device: str


def by_layers(
    study: Study, patching: Patching, settings: PatchSettings, length: int, launcher: Launcher, progress: Progress
) -> None:
    """Have all effects in the study's memory; those at each of `length` positions too, where there are some.

    Raises ResourceError when a job fails; the layers that are done are kept.
    """
    if all(effects_name(site, at) in study.memory.tensors for site in study.sites for at in _ways(length)):
        return
    study.keep({})  # a run that has begun: an earlier one in its folder does not come back
    layers, done = sorted({site.layer for site in study.sites}), 0

    def tell() -> None:
        nonlocal done
        done += 1
        progress("patching", done, len(layers))

    def here(piece: Inputs) -> Result:
        found = _layer(study, patching, length, piece["layer"])
        tell()
        return found

    grid = Grid(settings, study.task, study.pairs, length, launcher.device)
    work = Work("patching", _begin, _depends(study, length), [{"layer": layer} for layer in layers], grid)
    for found in launcher.run(work, here, tell):
        study.keep(found)


def effects_name(site: Site, length: int) -> str:
    """Under which name a site's effects are remembered, over all positions (0) or at each of them."""
    return f"{site} positions" if length else str(site)


def _begin(shared: Inputs, grid: Grid) -> Callable[[Inputs], Result]:
    subject = loaded(shared, grid.device)
    study = Study("activation-patching", grid.settings, subject, grid.task, grid.pairs)
    require_same(shared, _depends(study, grid.length))
    patching = Patching(study, grid.settings.direction, grid.settings.metric)
    return lambda piece: _layer(study, patching, grid.length, piece["layer"])


def _layer(study: Study, patching: Patching, length: int, layer: int) -> Result:
    sites = [site for site in study.sites if site.layer == layer]
    return {effects_name(site, at): patching.effects(site, at) for site in sites for at in _ways(length)}


def _ways(length: int) -> list[int]:
    """Over all positions, and where a map is asked for at each of them."""
    return [0, length] if length else [0]


def _depends(study: Study, length: int) -> dict[str, Any]:
    """What the effects depend on."""
    settings, pairs = asdict(cast(Any, study.settings)), study.pairs
    return {
        **{name: value for name, value in study.memory.settings.items() if name not in settings},
        **{name: settings[name] for name in NUMBERS},
        **named(study.subject),
        "answers": digest(pairs.right, pairs.wrong),
        "masks": digest(pairs.clean.mask, pairs.clean.at, pairs.corrupt.mask, pairs.corrupt.at),
        "positions": length,
    }
