"""Running a subject with nodes switched off: a mask says how much of each node is left, a reference fills the rest.

A node's value becomes `mask * clean + (1 - mask) * reference`. Gates of nested kinds compose by product down to the
places where they act: the inputs of a layer's two output projections. Since what follows there is linear up to the
branch's own norm, closing every channel of a head, branch or block is the same as swapping its whole output, and a
closed block still hands on the residual stream that entered it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import reduce
from operator import mul
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.batching import batched
from subcircuit.errors import DataError, UnknownName
from subcircuit.layout import spread
from subcircuit.noise import Noise
from subcircuit.parallel.group import count
from subcircuit.parallel.rows import gathered
from subcircuit.sites import Kind, Site
from subcircuit.subject import Edit, Prompts, Subject

__all__ = ["ACTING", "NOISY", "Fill", "Filling", "Mask", "Reference", "acting", "effective", "masked_logits", "masking"]

Fill = Literal["corrupt", "mean", "zero", "resample", "noise", "noise-all"]
NOISY = ("noise", "noise-all")
Filling = Callable[[Tensor], dict[Site, Tensor]]  # rows -> fresh values at the sites where masks act
# 1 = the node's own value, 0 = its reference's; for all prompts, for each of them, or for each position of each
Mask = Mapping[Site, Float[Tensor, "*batch unit"]]

# Where gates act, in the order of computation, and the gates whose product acts there. What closes a whole branch acts
# on its inner units, so MLP_OUT and the projections carry only what concerns them alone.
ACTING: Mapping[Kind, tuple[Kind, ...]] = {
    Kind.Q: (Kind.Q,),
    Kind.K: (Kind.KV, Kind.K),
    Kind.V: (Kind.KV, Kind.V),
    Kind.CHANNEL: (Kind.BLOCK, Kind.ATTN, Kind.HEAD, Kind.CHANNEL),
    Kind.NEURON: (Kind.BLOCK, Kind.MLP, Kind.NEURON),
    Kind.MLP_OUT: (Kind.MLP_OUT,),
}


def effective(subject: Subject, mask: Mask) -> dict[Site, Float[Tensor, "*batch unit"]]:
    """Gates of any kinds as the masks that act: each is the product of its own gate and its ancestors'."""
    composed = {}
    for site in acting(mask):
        gates = [mask[Site(site.layer, kind)] for kind in ACTING[site.kind] if Site(site.layer, kind) in mask]
        composed[site] = reduce(mul, (spread(gate, subject.units(site.kind)) for gate in gates))
    return composed


def acting(sites: Iterable[Site]) -> list[Site]:
    """The sites at which gates of these sites act, layer by layer in the order of computation."""
    kinds: dict[int, set[Kind]] = {}
    for site in sites:
        kinds.setdefault(site.layer, set()).add(site.kind)
    return [
        Site(layer, kind) for layer in sorted(kinds) for kind, line in ACTING.items() if kinds[layer].intersection(line)
    ]


@contextmanager
def masking(subject: Subject, mask: Mask, reference: dict[Site, Tensor]) -> Iterator[None]:
    """Within the block every node keeps `mask` of its own value. `reference` is consumed site by site, to save memory,
    but by a pass whose layers are run again for its gradient.

    Args:
        mask: gates of any kinds, hard or soft; gradients flow to them.
        reference: values at `acting(mask)`, broadcastable to `(batch, pos, unit, channel)`; see `Reference`.
    """
    edits = {site: _mixer(subject, reference, site, gate) for site, gate in effective(subject, mask).items()}
    with subject.editing(edits):
        yield


@torch.no_grad()
def masked_logits(
    subject: Subject, prompts: Prompts, mask: Mask, reference: Filling, *, batch_size: int = 32
) -> Float[Tensor, "prompt vocab"]:
    """The judged logits of all prompts under one mask."""

    def run(rows: Tensor) -> Tensor:
        with masking(subject, mask, reference(rows) if mask else {}):
            return subject.logits(prompts[rows])

    return gathered(run, prompts.lengths, batch_size)


class Reference:
    """What a switched-off node is filled with, for the rows of one set of prompts.

    Args:
        fill: "corrupt", the same node in the corrupted prompt at the same position; "mean", its mean over the clean
            prompts of `source` and their positions; "zero"; "resample", its value in another clean prompt of the same
            length, drawn by `seed`; "noise", its value in the clean prompt with noise on the embeddings of those tokens
            that are others in the corrupted one, or "noise-all", of all tokens.
        clean, corrupt: the prompts that will be run.
        source: the prompts a mean is taken over; the clean ones when left out.
        cache_bytes: corrupted activations are kept for all rows if they fit, else recomputed at every call. Where
            several processes share the rows, each records those that it is asked for.

    Raises UnknownName for another fill; DataError when resampling finds no second prompt of some length.
    """

    def __init__(
        self,
        subject: Subject,
        fill: Fill,
        clean: Prompts,
        corrupt: Prompts,
        sites: Sequence[Site],
        *,
        source: Prompts | None = None,
        seed: int = 0,
        cache_bytes: int = 0,
        batch_size: int = 32,
    ) -> None:
        if fill not in get_args(Fill):
            raise UnknownName("reference", fill, get_args(Fill))
        self.subject, self.fill, self.sites = subject, fill, list(sites)
        self.donors = corrupt if fill == "corrupt" else clean[_same_length(clean, seed)] if fill == "resample" else None
        self.noise: Noise | None = None
        if fill in NOISY:
            self.donors = clean
            self.noise = Noise(subject, clean, corrupt, everywhere=fill == "noise-all", seed=seed)
        self.batch_size = batch_size
        self.cache: dict[Site, Tensor] | None = None
        if fill == "mean":
            self.means = self._mean(source or clean, batch_size)
        if self.donors is not None and self.bytes <= cache_bytes:
            self.cache, self.known = {}, torch.zeros(len(self.donors), dtype=torch.bool)
            if count() == 1:
                self._remember(torch.arange(len(self.donors)))

    @property
    def bytes(self) -> int:
        """What a full cache takes."""
        if self.donors is None:
            return 0
        width = sum(self.subject.width(site.kind) for site in self.sites)
        return self.donors.ids.numel() * width * self.subject.dtype.itemsize

    @property
    def cached(self) -> int:
        """Bytes that the cache holds."""
        return self.bytes if self.cache is not None else 0

    def __call__(self, rows: Tensor) -> dict[Site, Float[Tensor, "batch pos unit channel"]]:
        """Fresh values for these rows, cut to the longest of them."""
        if self.fill == "zero":
            return {site: torch.zeros(1, 1, 1, 1) for site in self.sites}
        if self.donors is None:
            return dict(self.means)
        donors = self.donors[rows]
        if self.cache is None:
            return self._recorded(rows)
        self._remember(rows)
        return {site: values[rows, : donors.ids.shape[1]] for site, values in self.cache.items()}

    def _recorded(self, rows: Tensor) -> dict[Site, Tensor]:
        assert self.donors is not None
        with self.noise.added(rows) if self.noise else nullcontext():
            return self.subject.record(self.donors[rows], self.sites)[1]

    def _remember(self, rows: Tensor) -> None:
        """Record those of these rows that the cache lacks."""
        assert self.donors is not None and self.cache is not None
        missing, cache, donors = rows[~self.known[rows]].unique(), self.cache, self.donors

        def add(chosen: Tensor) -> None:
            some = missing[chosen]
            for site, values in self._recorded(some).items():
                if site not in cache:
                    cache[site] = values.new_zeros(*donors.ids.shape, *values.shape[2:])
                cache[site][some, : values.shape[1]] = values

        if len(missing):
            batched(add, donors.lengths[missing], self.batch_size)
            self.known[missing] = True

    def _mean(self, source: Prompts, batch_size: int) -> dict[Site, Tensor]:
        total: dict[Site, Tensor] = {}

        def add(rows: Tensor) -> None:
            batch = source[rows]
            for site, values in self.subject.record(batch, self.sites)[1].items():
                real = batch.mask.to(values.device)[:, :, None, None]  # padding is no data
                summed = (values.float() * real).sum((0, 1), keepdim=True)
                total[site] = total[site] + summed if site in total else summed

        batched(add, source.lengths, batch_size)
        return {site: summed / source.mask.sum().item() for site, summed in total.items()}


class _Mix(torch.autograd.Function):
    """`lerp(reference, clean, mask)`, keeping one tensor for the backward pass where autograd would keep two."""

    @staticmethod
    def forward(ctx: Any, clean: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
        if ctx.needs_input_grad[2]:
            ctx.save_for_backward(clean - reference, mask)
        else:
            ctx.save_for_backward(None, mask)
        return torch.lerp(reference.expand_as(clean), clean, mask.to(clean.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        delta, mask = ctx.saved_tensors
        to_clean = grad * mask.to(grad.dtype) if ctx.needs_input_grad[0] else None
        to_mask = (grad * delta).to(mask.dtype).sum_to_size(mask.shape) if delta is not None else None
        return to_clean, None, to_mask


def _mixer(subject: Subject, reference: dict[Site, Tensor], site: Site, gate: Tensor) -> Edit:
    def edit(act: Tensor) -> Tensor:
        again = subject.checkpointing and torch.is_grad_enabled()  # then the backward pass comes here once more
        value = (reference[site] if again else reference.pop(site)).to(act.device, act.dtype)
        mask = gate.to(act.device)[..., None]  # over channels, and over positions where it names none
        mask = mask if mask.dim() == 4 else mask[..., None, :, :]
        mixed: Tensor = _Mix.apply(act, value, mask if mask.dim() == 4 else mask[None])  # type: ignore[no-untyped-call]
        return mixed

    return edit


def _same_length(prompts: Prompts, seed: int) -> Tensor:
    """For every row another row of the same length, at random."""
    generator = torch.Generator().manual_seed(seed)
    donors = torch.arange(len(prompts))
    for length in prompts.lengths.unique():
        rows = (prompts.lengths == length).nonzero()[:, 0]
        if len(rows) < 2:
            raise DataError(
                f"row {int(rows[0])} is the only prompt of {int(length)} tokens, so there is none to resample from",
                "use more prompts, or another reference: corrupt, mean, zero",
            )
        rows = rows[torch.randperm(len(rows), generator=generator)]
        donors[rows] = rows.roll(1)
    return donors
