"""The model under study: its activations recorded and edited in place, by forward hooks only.

A subject never converts, copies or rewrites the model it wraps. Whatever the family, an activation is seen as
`(batch, position, unit, channel)`; `editing` hands such views to functions and puts what they return in their place.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from subcircuit.errors import UnsupportedModel
from subcircuit.families._base import Family, Tap
from subcircuit.layout import Edit, Layout
from subcircuit.prompts import Prompts
from subcircuit.recomputation import recomputing
from subcircuit.sites import Kind, Site

__all__ = ["Edit", "Prompts", "Subject"]


class Subject:
    """A stock Hugging Face model, ready to be recorded and edited.

    Args:
        model: any `PreTrainedModel` of a known family; put into eval mode, its weights frozen.
        tokenizer: its tokenizer; may be left out where prompts are given as token ids.
        name, revision: what the model is called and which exact weights it has; both go into a circuit's origin.
        checkpointing: passes that gradients are taken of keep each layer's input alone and run the layer again on the
            way back: less memory, more time, the same gradients. Edits inside layers then run twice.

    Raises:
        UnsupportedModel: a family that is not known, a model whose parts are not where its family says, or weights of
            which each process holds a part.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        name: str = "",
        revision: str = "",
        checkpointing: bool = False,
    ) -> None:
        _require_whole(model)
        self.model = model.eval().requires_grad_(False)
        self.name = name or model.config._name_or_path or type(model).__name__
        self.revision = revision
        self.checkpointing = checkpointing
        self._tokenizer = tokenizer
        self.layout = Layout(model)
        self._unembedding = model.get_output_embeddings()
        if self._unembedding is None:
            raise UnsupportedModel(
                f"{type(model).__name__} has no unembedding, so nothing predicts a token",
                "load it with AutoModelForCausalLM or AutoModelForMaskedLM",
            )

    def __repr__(self) -> str:
        return f"Subject({self.name}, {self.family_name}, {len(self)} layers)"

    def __len__(self) -> int:
        """How many layers there are."""
        return len(self.layout.layers)

    @property
    def family(self) -> Family:
        return self.layout.family

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
        """How many units a site of this kind has; 1 for whole branches and blocks. Raises UnsupportedModel."""
        if kind not in self.layout.units:
            raise UnsupportedModel(
                f"the layers of {self.name} differ in size, so '{kind}' has no number of units",
                "study the model that it was cut from",
            )
        return self.layout.units[kind]

    def width(self, kind: Kind) -> int:
        """Numbers per position at a site: units times channels."""
        if kind in (Kind.HEAD, Kind.CHANNEL):
            return self.units(Kind.CHANNEL)
        if kind in (Kind.Q, Kind.K, Kind.V):
            return self.units(kind) * self.layout.channels
        return self.units(Kind.NEURON) if kind is Kind.NEURON else self.units(Kind.MLP_OUT)

    def sites(self, *kinds: Kind) -> list[Site]:
        """The sites of these kinds, layer by layer."""
        return [Site(layer, kind) for layer in range(len(self)) for kind in kinds]

    def module(self, layer: int, path: str) -> nn.Module:
        """A module of a layer by its path in the family's words."""
        return self.layout.module(layer, path)

    def logits(self, prompts: Prompts) -> Float[Tensor, "prompt vocab"]:
        """The logits at each prompt's judged position, in float32; no other position is unembedded."""
        prompts = prompts.to(self.device)
        with self.judged_only(prompts.at):
            logits = self._run(prompts)
        return logits[:, 0].float()

    def logits_at(self, prompts: Prompts, at: Int[Tensor, "prompt judged"]) -> Float[Tensor, "prompt judged vocab"]:
        """The same at several positions of each prompt."""
        prompts = prompts.to(self.device)
        with self.judged_only(at):
            return self._run(prompts).float()

    def all_logits(self, prompts: Prompts) -> Float[Tensor, "prompt pos vocab"]:
        """The logits everywhere, exactly as the model gives them."""
        return self._run(prompts.to(self.device))

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
        grouped: dict[tuple[nn.Module, str], list[tuple[Tap, Edit]]] = defaultdict(list)
        for site, edit in edits.items():
            module, tap = self.layout.tap(site)
            grouped[module, tap.side].append((tap, edit))
        with ExitStack() as stack:
            for (module, side), chain in grouped.items():
                hook = _in_hook(self.layout, chain) if side == "in" else _out_hook(self.layout, chain)
                register = module.register_forward_pre_hook if side == "in" else module.register_forward_hook
                handle = register(hook, with_kwargs=True) if side == "in" else register(hook)
                stack.callback(handle.remove)
            yield

    @contextmanager
    def judged_only(self, at: Tensor) -> Iterator[None]:
        """Within the block the model unembeds one position per prompt: logits are `(prompt, 1, vocab)`.

        Or several, of `(prompt, judged)`: logits are `(prompt, judged, vocab)`.
        """
        at = at if at.dim() == 2 else at[:, None]

        def gather(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            (hidden,) = args
            rows = torch.arange(len(hidden), device=hidden.device)[:, None]
            return (hidden[rows, at.to(hidden.device)],)

        handle = self._unembedding.register_forward_pre_hook(gather)
        try:
            yield
        finally:
            handle.remove()

    def _run(self, prompts: Prompts) -> Tensor:
        again = self.checkpointing and torch.is_grad_enabled()
        with recomputing(self.layout.layers) if again else nullcontext():
            logits: Tensor = self.model(**self._inputs(prompts)).logits
        return logits

    def _inputs(self, prompts: Prompts) -> dict[str, Any]:
        inputs: dict[str, Any] = {"input_ids": prompts.ids}
        if not bool(prompts.mask.all()):  # without padding the attention's own causal path is faster and exact
            inputs["attention_mask"] = prompts.mask.long()
        if self.family.causal:
            inputs["use_cache"] = False
        return inputs


def _require_whole(model: PreTrainedModel) -> None:
    """Raises UnsupportedModel for a model that several processes hold together."""
    parts = [name for name, weight in model.named_parameters() if isinstance(weight, DTensor)]
    if parts or (getattr(model, "tp_size", None) or 1) > 1:
        where = f"{parts[0]} and {len(parts) - 1} more weights are" if parts else "its layers are"
        raise UnsupportedModel(
            f"{type(model).__name__} is in parts: {where} shared out between processes (fully_shard or a tp_plan), "
            "whose passes would have to be the same",
            "give each process the whole model, or lay one over the cards of a machine: device 'spread'",
        )


def _in_hook(layout: Layout, chain: list[tuple[Tap, Edit]]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if args:
            return (layout.edited(args[0], chain), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": layout.edited(kwargs["hidden_states"], chain)}

    return hook


def _out_hook(layout: Layout, chain: list[tuple[Tap, Edit]]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):  # attention modules return (output, weights)
            return (layout.edited(output[0], chain), *output[1:])
        return layout.edited(output, chain)

    return hook
