"""Where transcoders read and write in a stock model, and which of its norms are held."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject

__all__ = ["Change", "Place", "changing", "norm_places", "read_places", "write_places"]

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Place:
    """The input or the output of a module."""

    module: nn.Module
    side: Literal["in", "out"]


def read_places(subject: Subject, reads: str) -> list[Place]:
    """What the transcoder of each layer takes in, by its hook's name."""
    normed = reads == "mlp.hook_in" and subject.family.pre_norms
    return [Place(_module(subject, layer, Kind.MLP_IN), "out" if normed else "in") for layer in range(len(subject))]


def write_places(subject: Subject, writes: str) -> list[Place]:
    """What the transcoder of each layer stands for. Raises UnsupportedModel where the family has no such place."""
    inner = writes == "mlp.hook_out" and subject.family.post_norms
    kind = Kind.NEURON if inner else Kind.MLP  # the neurons' projection ends the MLP before the branch's norm
    return [Place(_module(subject, layer, kind), "out") for layer in range(len(subject))]


def norm_places(subject: Subject, writes: str) -> list[Place]:
    """The norms that the stream or a branch passes on its way, but for those within attention."""
    family, kinds = subject.family, [Kind.ATTN_IN, Kind.MLP_IN] if subject.family.pre_norms else []
    if family.post_norms:
        kinds = [*kinds, Kind.ATTN, *([Kind.MLP] if writes == "mlp.hook_out" else [])]
    modules = [_module(subject, layer, kind) for layer in range(len(subject)) for kind in kinds]
    last = [subject.layout.tap(Site(len(subject), Kind.RESID))[0]] if family.final else []
    return [Place(module, "out") for module in (*modules, *last)]


@contextmanager
def changing(changes: "list[tuple[Place, Change]]") -> Iterator[None]:
    """Within the block what passes each place is what its function returns for it, in the order given."""
    with ExitStack() as stack:
        for place, change in changes:
            if place.side == "in":
                handle = place.module.register_forward_pre_hook(_entering(change), with_kwargs=True)
            else:
                handle = place.module.register_forward_hook(_leaving(change))
            stack.callback(handle.remove)
        yield


def _module(subject: Subject, layer: int, kind: Kind) -> nn.Module:
    return subject.layout.tap(Site(layer, kind))[0]


def _entering(change: Change) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    return hook


def _leaving(change: Change) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)

    return hook
