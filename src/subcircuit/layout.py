"""How the activations of a model are laid out: how many units each kind has, and how a tensor is cut into them."""

from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from transformers import PreTrainedModel

from subcircuit.errors import UnknownName, UnsupportedModel, UsageError
from subcircuit.families._base import Family, Tap, find_family
from subcircuit.sites import ONE_UNIT, Kind, Site

__all__ = ["Edit", "Layout", "spread"]

Edit = Callable[[Float[Tensor, "batch pos unit channel"]], Float[Tensor, "batch pos unit channel"]]
SPLIT = {"heads": Kind.HEAD, "kv_heads": Kind.K}


class Layout:
    """The layers of a model in its family's words.

    Raises UnsupportedModel when the family is unknown, when the model's parts are not where its family says, or when
    they do not divide into whole units.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.family: Family = find_family(str(model.config.model_type))
        self.config = model.config
        self.name = f"this {model.config.model_type} model"
        self._base = model.base_model
        self.layers = self._submodule(self._base, self.family.layers)
        self._check_modules()
        self._check_heads()

    def module(self, layer: int, path: str) -> nn.Module:
        """A module of a layer by its path in the family's words."""
        return self._submodule(self.layers[layer], path)

    def tap(self, site: Site) -> tuple[nn.Module, Tap]:
        """Where a site passes. The stream that leaves the last layer is read by the final norm.

        Raises UnknownName for a layer that is not, UnsupportedModel for a kind that the family has no tap for.
        """
        end = len(self.layers)
        if site == Site(end, Kind.RESID) and self.family.final:
            return self._submodule(self._base, self.family.final), Tap("", "in", "c")
        if not 0 <= site.layer < end:
            raise UnknownName("layer", str(site.layer), [str(layer) for layer in range(end)])
        if site.kind not in self.family.taps:
            known = ", ".join(self.family.taps)
            raise UnsupportedModel(f"{self.name} has no tap for '{site.kind}'", f"it has: {known}")
        tap = self.family.taps[site.kind]
        return self.module(site.layer, tap.module), tap

    def weight(self, site: Site) -> Float[Tensor, "unit channel hidden"]:
        """What each unit at a projection reads from (Q, K, V) or writes to (HEAD, NEURON) the residual stream."""
        module, tap = self.tap(site)
        weight = module.weight
        assert isinstance(weight, Tensor)
        inward = weight if isinstance(module, nn.Linear) else weight.T  # (out, in); GPT-2's Conv1D is (in, out)
        view = self.view((inward if tap.side == "in" else inward.T)[None], tap)
        return rearrange(view[0], "hidden unit channel -> unit channel hidden")

    def bias(self, site: Site) -> Float[Tensor, "unit channel"]:
        """What a projection adds to each unit at its output."""
        module, tap = self.tap(site)
        if module.bias is None:
            return torch.zeros(self.units[site.kind], self.channels, dtype=module.weight.dtype)
        bias = module.bias
        assert isinstance(bias, Tensor)
        return self.view(bias[None, None], tap)[0, 0]

    @cached_property
    def units(self) -> Mapping[Kind, int]:
        """Units of a site, by kind; of heads and neurons only where all layers have the same number."""
        branches = dict.fromkeys(ONE_UNIT, 1) | {Kind.MLP_OUT: int(self.config.hidden_size)}
        if Kind.CHANNEL not in self.family.taps:
            return branches
        heads = int(self.config.num_attention_heads)
        groups = int(getattr(self.config, "num_key_value_heads", None) or heads)
        inner = {
            Kind.HEAD: heads,
            Kind.Q: heads,
            Kind.K: groups,
            Kind.V: groups,
            Kind.KV: groups,
            Kind.CHANNEL: self._width(0, Kind.CHANNEL),
            Kind.NEURON: self._width(0, Kind.NEURON),
        }
        return inner | branches

    @property
    def channels(self) -> int:
        """Width of a head."""
        return self.units[Kind.CHANNEL] // self.units[Kind.HEAD]

    def view(self, tensor: Float[Tensor, "batch pos width"], tap: Tap) -> Float[Tensor, "batch pos unit channel"]:
        """What a tap's tensor holds, unit by unit; a view wherever strides allow it."""
        if tap.split:
            tensor = tensor[..., self._span(tap)]
        if tap.layout == "c":
            return tensor[:, :, None, :]
        if tap.layout == "u":
            return tensor[..., None]
        fused = "p" in tap.layout
        sizes = {"p": 3, "c": self.channels} if fused else {"c": self.channels}
        view = rearrange(tensor, f"b t {tap.layout} -> b t {'p ' if fused else ''}u c", **sizes)
        return view[:, :, tap.part] if fused else view

    def put(
        self, tensor: Float[Tensor, "batch pos width"], tap: Tap, new: Float[Tensor, "batch pos unit channel"]
    ) -> Float[Tensor, "batch pos width"]:
        """The tensor with the tap's units replaced; fused tensors are copied, so that their other parts stay."""
        new = new.to(tensor.dtype)
        if tap.part is None:
            return new.reshape(tensor.shape)
        whole = tensor.clone()
        self.view(whole, tap).copy_(new)
        return whole

    def edited(self, tensor: Float[Tensor, "batch pos width"], edits: list[tuple[Tap, Edit]]) -> Tensor:
        """The tensor after a chain of edits. Raises UsageError when one of them changes a shape."""
        for tap, edit in edits:
            view = self.view(tensor, tap)
            new = edit(view)
            if new.shape != view.shape:
                raise UsageError(
                    f"an edit at '{tap.module}' was given {tuple(view.shape)} and returned {tuple(new.shape)}",
                    "an edit keeps the shape it is given: (batch, position, unit, channel)",
                )
            if new is not view:
                tensor = self.put(tensor, tap, new)
        return tensor

    def _span(self, tap: Tap) -> slice:
        sizes = [self.units[SPLIT[name]] * self.channels for name in tap.split]
        start = sum(sizes[: tap.part])
        return slice(start, start + sizes[tap.part or 0])

    def _width(self, layer: int, kind: Kind) -> int:
        """Inputs of the projection at a tap: a Linear's, or those of GPT-2's Conv1D, whose weight is transposed."""
        module = self.module(layer, self.family.taps[kind].module)
        assert isinstance(module.weight, Tensor)
        return int(getattr(module, "in_features", module.weight.shape[0]))

    def _check_modules(self) -> None:
        for tap in self.family.taps.values():
            for layer in range(len(self.layers)):
                self.module(layer, tap.module)
        for kind in self.family.taps.keys() & {Kind.CHANNEL, Kind.NEURON}:
            sizes = [self._width(layer, kind) for layer in range(len(self.layers))]
            if len(set(sizes)) > 1:
                path = self.family.taps[kind].module
                raise UnsupportedModel(f"{self.name}: '{path}' differs in width from layer to layer: {sizes}")

    def _check_heads(self) -> None:
        if Kind.CHANNEL not in self.family.taps:
            return
        heads, groups, width = (self.units[kind] for kind in (Kind.HEAD, Kind.K, Kind.CHANNEL))
        if width % heads or heads % groups:
            raise UnsupportedModel(
                f"{self.name}: {heads} heads and {groups} key/value heads do not divide a width of {width}",
                "check num_attention_heads, num_key_value_heads and head_dim in its config",
            )

    def _submodule(self, parent: nn.Module, path: str) -> nn.ModuleList:
        try:
            return parent.get_submodule(path)  # type: ignore[return-value]  # a list where the caller counts on one
        except AttributeError as error:
            raise UnsupportedModel(f"{self.name} has no '{path}': {error}") from error


def spread(parents: Shaped[Tensor, "*batch unit"], units: int) -> Shaped[Tensor, "*batch child"]:
    """One value per parent as one per child, of which there are `units`; children lie side by side."""
    return parents.repeat_interleave(units // parents.shape[-1], -1) if parents.shape[-1] != units else parents
