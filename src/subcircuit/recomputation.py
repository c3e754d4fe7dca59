"""Gradient checkpointing: a layer keeps its input alone, and runs again when the backward pass comes to it.

After Chen et al. 2016 (arXiv 1604.06174), by `torch.utils.checkpoint`. Departs from the checkpointing of transformers,
which asks for training mode and leaves hooks as the backward pass finds them: here a layer runs again under the hooks
that its forward pass had, for an edit's block may have ended by then.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

__all__ = ["recomputing"]

HOOKS = (  # of a module; torch has no public name for them
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)
Hooks = Mapping[nn.Module, Mapping[str, Any]]


@contextmanager
def recomputing(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Within the block these layers keep nothing of their insides; gradients are the same, also to what hooks use.

    The backward pass may follow after the block. Hooks inside a layer run twice, in the forward pass and in its
    repetition, so they must do the same both times; a layer's own hooks run once.
    """
    layers = list(layers)
    before = {layer: vars(layer).get("forward") for layer in layers}  # one of its own where a layer is offloaded
    for layer in layers:
        vars(layer)["forward"] = partial(_checkpointed, layer, layer.forward)
    try:
        yield
    finally:
        for layer, forward in before.items():
            del vars(layer)["forward"]
            if forward is not None:
                vars(layer)["forward"] = forward


def _checkpointed(layer: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    hooks = _hooks(layer)
    run = partial(forward, **kwargs)  # else checkpoint takes options of its own from among them
    return checkpoint(run, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), _under(hooks)))


def _hooks(layer: nn.Module) -> Hooks:
    """The hooks of all modules inside a layer, as they are now."""
    inside = (module for module in layer.modules() if module is not layer)
    return {module: {name: vars(module)[name].copy() for name in HOOKS} for module in inside}


@contextmanager
def _under(hooks: Hooks) -> Iterator[None]:
    """Within the block modules have these hooks and no others."""
    now = {module: {name: vars(module)[name] for name in HOOKS} for module in hooks}
    for module, earlier in hooks.items():
        vars(module).update(earlier)
    try:
        yield
    finally:
        for module, own in now.items():
            vars(module).update(own)
