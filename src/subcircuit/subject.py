"""The model under study: its activations recorded and edited in place, by forward hooks only.

A subject never converts, copies or rewrites the model it wraps. Whatever the family, an activation is seen as
`(batch, position, unit, channel)`; `editing` hands such views to functions and puts what they return in their place.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from subcircuit.errors import UnknownName, UnsupportedModel, UsageError
from subcircuit.families._base import Family, Tap, find_family
from subcircuit.sites import ONE_UNIT, Kind, Site

__all__ = ["Edit", "Prompts", "Subject"]

Edit = Callable[[Float[Tensor, "batch pos unit channel"]], Float[Tensor, "batch pos unit channel"]]


@dataclass(frozen=True)
class Prompts:
    """Token ids, padded on the right, and the position whose logits are judged."""

    ids: Int[Tensor, "prompt pos"]
    mask: Bool[Tensor, "prompt pos"]  # False at padding
    at: Int[Tensor, " prompt"]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Sequence[int] | slice | Tensor) -> "Prompts":
        """Some rows, cut to the longest of them."""
        mask = self.mask[rows]
        longest = int(mask.sum(1).max()) if len(mask) else 0
        return Prompts(self.ids[rows][:, :longest], mask[:, :longest], self.at[rows])

    def to(self, device: torch.device | str) -> "Prompts":
        return replace(self, ids=self.ids.to(device), mask=self.mask.to(device), at=self.at.to(device))

    @cached_property
    def lengths(self) -> Int[Tensor, " prompt"]:
        return self.mask.sum(1)


class Subject:
    """A stock Hugging Face model, ready to be recorded and edited.

    Args:
        model: any `PreTrainedModel` of a known family; put into eval mode, its weights frozen.
        tokenizer: its tokenizer; may be left out where prompts are given as token ids.
        name, revision: what the model is called and which exact weights it has; both go into a circuit's origin.

    Raises:
        UnsupportedModel: a family that is not known, or a model whose parts are not where its family says.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        name: str = "",
        revision: str = "",
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.name = name or model.config._name_or_path or type(model).__name__
        self.revision = revision
        self._tokenizer = tokenizer
        self.family = _family(model)
        self._layers = _submodule(model.base_model, self.family.layers, self.family_name)
        self._unembedding = model.get_output_embeddings()
        self._check_shapes()

    def __repr__(self) -> str:
        return f"Subject({self.name}, {self.family_name}, {len(self)} layers)"

    def __len__(self) -> int:
        """How many layers there are."""
        return len(self._layers)

    @property
    def family_name(self) -> str:
        return str(self.model.config.model_type)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        if self._tokenizer is None:
            raise UnsupportedModel(f"{self.name} has no tokenizer", "give one: Subject(model, tokenizer)")
        return self._tokenizer

    @property
    def device(self) -> torch.device:
        """Where token ids go in. Activations may live elsewhere (`device_map`)."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return torch.device("cpu") if device.type == "meta" else device  # meta: offloaded, fetched at each pass

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.dtype
        return dtype

    def units(self, kind: Kind) -> int:
        """How many units a site of this kind has; 1 for whole branches and blocks."""
        if kind in ONE_UNIT:
            return 1
        return int(self._units[kind])

    def width(self, kind: Kind) -> int:
        """Numbers per position at a site: units times channels."""
        if kind in (Kind.HEAD, Kind.CHANNEL):
            return self.units(Kind.CHANNEL)
        if kind in (Kind.Q, Kind.K, Kind.V):
            return self.units(kind) * (self.units(Kind.CHANNEL) // self.units(Kind.HEAD))
        return self.units(Kind.NEURON) if kind is Kind.NEURON else self.units(Kind.MLP_OUT)

    def sites(self, *kinds: Kind) -> list[Site]:
        """The sites of these kinds, layer by layer."""
        return [Site(layer, kind) for layer in range(len(self)) for kind in kinds]

    def module(self, layer: int, path: str) -> nn.Module:
        """A module of a layer by its path in the family's words."""
        module: nn.Module = self._layers[layer].get_submodule(path)
        return module

    def logits(self, prompts: Prompts) -> Float[Tensor, "prompt vocab"]:
        """The logits at each prompt's judged position, in float32; no other position is unembedded."""
        prompts = prompts.to(self.device)
        with self.judged_only(prompts.at):
            out = self.model(**self._inputs(prompts))
        logits: Tensor = out.logits
        return logits[:, 0].float()

    def all_logits(self, prompts: Prompts) -> Float[Tensor, "prompt pos vocab"]:
        """The logits everywhere, exactly as the model gives them."""
        logits: Tensor = self.model(**self._inputs(prompts.to(self.device))).logits
        return logits

    @torch.no_grad()
    def record(
        self, prompts: Prompts, sites: Sequence[Site]
    ) -> tuple[Float[Tensor, "prompt vocab"], dict[Site, Float[Tensor, "prompt pos unit channel"]]]:
        """One plain pass: the judged logits and the activations at `sites`."""
        seen: dict[Site, Tensor] = {}

        def keep(site: Site) -> Edit:
            def edit(act: Tensor) -> Tensor:
                seen[site] = act.detach()
                return act

            return edit

        with self.editing({site: keep(site) for site in sites}):
            logits = self.logits(prompts)
        return logits, seen

    @contextmanager
    def editing(self, edits: Mapping[Site, Edit]) -> Iterator[None]:
        """Within the block, what passes each site is replaced by what its edit returns for it.

        Edits of one module are applied in the order given. An edit that returns its argument itself changes nothing,
        not even a copy is made. No hook outlives the block, however it ends.

        Raises UnsupportedModel for a site whose kind the family has no tap for, UnknownName for a layer that is not;
        a pass within the block raises UsageError for an edit that returns another shape.
        """
        grouped: dict[tuple[int, str, str], list[tuple[Tap, Edit]]] = defaultdict(list)
        for site, edit in edits.items():
            tap = self._tap(site)
            grouped[site.layer, tap.module, tap.side].append((tap, edit))
        with ExitStack() as stack:
            for (layer, path, side), chain in grouped.items():
                module = self.module(layer, path)
                hook = _in_hook(self, chain) if side == "in" else _out_hook(self, chain)
                register = module.register_forward_pre_hook if side == "in" else module.register_forward_hook
                handle = register(hook, with_kwargs=True) if side == "in" else register(hook)
                stack.callback(handle.remove)
            yield

    # -- below: how a tap's tensor is cut into units -------------------------------------------------------------

    def _inputs(self, prompts: Prompts) -> dict[str, Any]:
        inputs: dict[str, Any] = {"input_ids": prompts.ids}
        if not bool(prompts.mask.all()):  # without padding the attention's own causal path is faster and exact
            inputs["attention_mask"] = prompts.mask.long()
        if self.family.causal:
            inputs["use_cache"] = False
        return inputs

    @contextmanager
    def judged_only(self, at: Tensor) -> Iterator[None]:
        """Within the block the model unembeds one position per prompt: logits are `(prompt, 1, vocab)`."""

        def gather(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            (hidden,) = args
            rows = torch.arange(len(hidden), device=hidden.device)
            return (hidden[rows, at.to(hidden.device)][:, None],)

        handle = self._unembedding.register_forward_pre_hook(gather)
        try:
            yield
        finally:
            handle.remove()

    def _tap(self, site: Site) -> Tap:
        if not 0 <= site.layer < len(self):
            raise UnknownName("layer", str(site.layer), [str(layer) for layer in range(len(self))])
        if site.kind not in self.family.taps:
            known = ", ".join(self.family.taps)
            raise UnsupportedModel(f"{self.family_name} has no tap for '{site.kind}'", f"it has: {known}")
        return self.family.taps[site.kind]

    def _view(self, tensor: Tensor, tap: Tap) -> Tensor:
        if tap.split:
            tensor = tensor[..., self._span(tap)]
        sizes = {"p": 3} if "p" in tap.layout else {}
        if "u" in tap.layout and "c" in tap.layout:
            sizes["c"] = self._channels
        if tap.layout == "c":
            return tensor[:, :, None, :]
        if tap.layout == "u":
            return tensor[..., None]
        target = "b t p u c" if "p" in tap.layout else "b t u c"
        view = rearrange(tensor, f"b t {tap.layout} -> {target}", **sizes)
        return view[:, :, tap.part] if "p" in tap.layout else view

    def _put(self, tensor: Tensor, tap: Tap, new: Tensor) -> Tensor:
        """`tensor` with the tap's units replaced; fused tensors are copied so that the other parts stay."""
        new = new.to(tensor.dtype)
        if tap.part is None:
            return new.reshape(tensor.shape)
        whole = tensor.clone()
        self._view(whole, tap).copy_(new)
        return whole

    def _span(self, tap: Tap) -> slice:
        sizes = [self._units[_SPLIT[name]] * self._channels for name in tap.split]
        start = sum(sizes[: tap.part])
        return slice(start, start + sizes[tap.part or 0])

    @cached_property
    def _channels(self) -> int:
        return self._units[Kind.CHANNEL] // self._units[Kind.HEAD]

    @cached_property
    def _units(self) -> dict[Kind, int]:
        config, taps = self.model.config, self.family.taps
        heads = int(config.num_attention_heads)
        groups = int(getattr(config, "num_key_value_heads", None) or heads)
        width = _in_features(self.module(0, taps[Kind.HEAD].module))
        hidden = int(config.hidden_size)
        return {
            Kind.HEAD: heads,
            Kind.Q: heads,
            Kind.K: groups,
            Kind.V: groups,
            Kind.KV: groups,
            Kind.CHANNEL: width,
            Kind.NEURON: _in_features(self.module(0, taps[Kind.NEURON].module)),
            Kind.MLP_OUT: hidden,
        }

    def _check_shapes(self) -> None:
        for tap in self.family.taps.values():
            for layer in range(len(self)):
                _submodule(self._layers[layer], tap.module, self.family_name)
        for kind in (Kind.CHANNEL, Kind.NEURON):
            path = self.family.taps[kind].module
            sizes = [_in_features(self.module(layer, path)) for layer in range(len(self))]
            if len(set(sizes)) > 1:
                raise UnsupportedModel(f"{self.name}: '{path}' differs in width from layer to layer: {sizes}")
        heads, groups, width = (self._units[kind] for kind in (Kind.HEAD, Kind.K, Kind.CHANNEL))
        if width % heads or heads % groups:
            raise UnsupportedModel(
                f"{self.name}: {heads} heads and {groups} key/value heads do not divide a width of {width}",
                "check num_attention_heads, num_key_value_heads and head_dim in its config",
            )


_SPLIT = {"heads": Kind.HEAD, "kv_heads": Kind.K}


def _family(model: PreTrainedModel) -> Family:
    family = find_family(str(model.config.model_type))
    if model.get_output_embeddings() is None:
        raise UnsupportedModel(
            f"{type(model).__name__} has no unembedding, so nothing predicts a token",
            "load it with AutoModelForCausalLM or AutoModelForMaskedLM",
        )
    return family


def _submodule(parent: nn.Module, path: str, family: str) -> Any:
    try:
        return parent.get_submodule(path)
    except AttributeError as error:
        raise UnsupportedModel(f"this {family} model has no '{path}': {error}") from error


def _in_features(module: nn.Module) -> int:
    """Of a Linear, or of GPT-2's Conv1D, whose weight is transposed."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return int(getattr(module, "in_features", weight.shape[0]))


def _chain(subject: Subject, tensor: Tensor, chain: list[tuple[Tap, Edit]]) -> Tensor:
    for tap, edit in chain:
        view = subject._view(tensor, tap)
        new = edit(view)
        if new.shape != view.shape:
            raise UsageError(
                f"an edit at '{tap.module}' was given {tuple(view.shape)} and returned {tuple(new.shape)}",
                "an edit keeps the shape it is given: (batch, position, unit, channel)",
            )
        if new is not view:
            tensor = subject._put(tensor, tap, new)
    return tensor


def _in_hook(subject: Subject, chain: list[tuple[Tap, Edit]]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if args:
            return (_chain(subject, args[0], chain), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": _chain(subject, kwargs["hidden_states"], chain)}

    return hook


def _out_hook(subject: Subject, chain: list[tuple[Tap, Edit]]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):  # attention modules return (output, weights)
            return (_chain(subject, output[0], chain), *output[1:])
        return _chain(subject, output, chain)

    return hook
