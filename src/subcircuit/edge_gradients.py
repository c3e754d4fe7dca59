"""Edge attribution: what closing each edge would change, to first order, for every edge at once.

The score of an edge is `(own - reference) of its writer . gradient at its reader's input` (Syed et al. 2023, EAP;
Hanna et al. 2024, EAP-IG). The model is not split into per-head streams: the gradient at a head's query, key or value
input is its projection's gradient led back through the projection's weights and the branch's norm, by products for all
heads of a layer together. Signs depart from the papers': positive = the edge helps.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from subcircuit.edges import contributions, writer_sites
from subcircuit.errors import NumericalError, UnknownName
from subcircuit.gradients import Objective, benefit
from subcircuit.intervention import Reference
from subcircuit.layout import Edit
from subcircuit.parallel.group import count
from subcircuit.parallel.rows import shared
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs
from subcircuit.wiring import PROJECTIONS, Wiring

__all__ = ["Path", "edge_attribution", "passes"]

Path = Literal["clean", "inputs", "activations", "clean-corrupt"]
Values = Mapping[Site, Tensor]
ROOM = (1 << 30, 1 << 25)  # bytes, on a device and on a CPU, whose allocator hands out anew what is larger


def edge_attribution(
    subject: Subject,
    wiring: Wiring,
    pairs: Pairs,
    reference: Reference,
    *,
    objective: Objective = "logit-difference",
    path: Path = "clean",
    steps: int = 5,
    batch_size: int = 32,
    on_step: Callable[[int], None] = lambda done: None,
) -> Float[Tensor, "reader writer"]:
    """Mean over prompts of each edge's share in the objective, summed over positions; 0 where there is no edge.

    Args:
        reference: of `writer_sites`; what edges are switched to.
        objective: "logit-difference", or "kl" (whose gradient is 0 at the clean run: take a path).
        path: where gradients are taken. "clean": at the clean run (EAP). "inputs": averaged over `steps` midpoints
            between the reference's and the clean embeddings (EAP-IG inputs). "activations": the same for one layer's
            writers at a time, from the clean run (EAP-IG activations). "clean-corrupt": the mean of both ends.
        on_step: told the prompts whose gradients at one point are done; there are `passes` of them per prompt.

    Raises UnknownName for another path or objective, NumericalError when a score is not finite.
    """
    for what, value, known in (("path", path, Path), ("objective", objective, Objective)):
        if value not in get_args(known):
            raise UnknownName(what, value, get_args(known))
    total = torch.zeros(wiring.allowed.shape)

    def add(rows: Tensor) -> None:
        batch, other = pairs[rows], reference(rows)
        clean = _passed(subject, batch, {}, grad=path in ("clean", "clean-corrupt"))
        found = torch.zeros_like(total)
        if clean.logits.requires_grad:
            gradients = clean.gradients(objective, clean.logits, batch)
            found += _table(subject, wiring, clean.seen, other, clean.seen, gradients, writer_sites(subject))
            on_step(len(rows) * count())
        for edits, sites in _points(subject, path, steps, clean.seen, other):
            run = _passed(subject, batch, edits, grad=True)
            gradients = run.gradients(objective, clean.logits.detach(), batch)
            found += _table(subject, wiring, clean.seen, other, run.seen, gradients, sites) / shares
            on_step(len(rows) * count())
        total.add_(found)

    shares = {"inputs": steps, "activations": steps}.get(path, 1)
    shared(add, pairs.clean.lengths, batch_size, total)
    total /= len(pairs) * (2 if path == "clean-corrupt" else 1)
    if not total.isfinite().all():
        reader, writer = (~total.isfinite()).nonzero()[0].tolist()
        name = wiring.name(reader, writer)
        raise NumericalError(f"the score of {name} is not finite", "use float32 weights, or check the prompts")
    return total.masked_fill(~wiring.allowed, 0.0)


def passes(subject: Subject, path: Path, steps: int) -> int:
    """Forward and backward passes that a path takes."""
    return {"clean": 1, "clean-corrupt": 2, "inputs": steps}.get(path, steps * len(writer_sites(subject)))


@dataclass(frozen=True)
class _Pass:
    """One forward pass: what writers and streams held, and what readers took in, ready for gradients."""

    logits: Float[Tensor, "prompt vocab"]
    seen: Mapping[Site, Tensor]
    inputs: Mapping[Site, Tensor]  # Q, K, V: a projection's output; MLP_IN and the last RESID: the stream as read

    def gradients(self, objective: Objective, full: Tensor, pairs: Pairs) -> dict[Site, Tensor]:
        """Of the summed benefit, by what each reader took in; frees the pass's graph."""
        with torch.enable_grad():
            value = benefit(objective, full.detach(), self.logits, pairs).sum()
        # readers of heads that an edit has replaced do nothing: their gradients are zeros
        found = torch.autograd.grad(value, list(self.inputs.values()), materialize_grads=True)
        return dict(zip(self.inputs, found, strict=True))


def _passed(subject: Subject, batch: Pairs, start: Mapping[Site, Edit], *, grad: bool) -> _Pass:
    """Run the clean prompts with some writers' values edited. Only the embeddings carry gradients in."""
    seen: dict[Site, Tensor] = {}
    inputs: dict[Site, Tensor] = {}

    def watched(site: Site) -> Edit:
        def edit(act: Tensor) -> Tensor:
            seen[site] = act.detach()
            act = start[site](act) if site in start else act
            return act.detach().requires_grad_(grad) if site == Site(0, Kind.RESID) else act

        return edit

    def read(site: Site) -> Edit:
        def edit(act: Tensor) -> Tensor:
            inputs[site] = act.view_as(act)  # another name for it, which this reader alone uses
            return inputs[site]

        return edit

    last = Site(len(subject), Kind.RESID)
    edits = {site: watched(site) for site in (*writer_sites(subject), *subject.sites(Kind.ATTN_IN))}
    edits |= {site: read(site) for site in (*subject.sites(*PROJECTIONS, Kind.MLP_IN), last)}
    with torch.set_grad_enabled(grad), subject.editing(edits):
        logits = subject.logits(batch.clean)
    return _Pass(logits, seen, inputs)


def _points(
    subject: Subject, path: Path, steps: int, clean: Values, other: Values
) -> Iterator[tuple[dict[Site, Edit], list[Site]]]:
    """Where a path takes gradients besides the clean run, and the writers whose edges those are for."""
    start = Site(0, Kind.RESID)
    middle = [(step + 0.5) / steps for step in range(steps)]
    ends = {"clean": [], "inputs": middle, "clean-corrupt": [0.0]}
    if path in ends:
        for share in ends[path]:
            yield {start: _between(clean[start], other[start], share)}, writer_sites(subject)
        return
    for site in writer_sites(subject):
        for share in middle:
            yield {site: _between(clean[site], other[site], share)}, [site]


def _between(own: Tensor, other: Tensor, share: float) -> Edit:
    return lambda act: torch.lerp(other.to(act.device, act.dtype).expand_as(own), own, share)


def _table(
    subject: Subject,
    wiring: Wiring,
    own: Values,
    other: Values,
    seen: Values,
    gradients: Values,
    sites: list[Site],
) -> Float[Tensor, "reader writer"]:
    """The first-order effect of every edge from the writers of `sites`: what a writer adds (`own` - `other`), along the
    gradient at its reader's input. A few prompts at a time: what all writers add at once is the largest thing there is.
    """
    table = torch.zeros(wiring.allowed.shape)
    columns = torch.cat([torch.arange(len(wiring.writers))[wiring.columns(site)] for site in sites])
    stream = seen[Site(len(subject) - 1, Kind.ATTN_IN)]
    for rows in torch.arange(len(stream)).split(_prompts_at_once(stream, len(columns))):
        added = _added(subject, _cut(own, sites, rows), _cut(other, sites, rows), sites)
        for readers, before, at in _read(subject, wiring, _cut(seen, seen, rows), _cut(gradients, gradients, rows)):
            earlier = columns[columns < before]
            table[readers, earlier] += (at @ added[: len(earlier)].mT).cpu()
    return table


def _prompts_at_once(stream: Tensor, writers: int) -> int:
    """So many that what `writers` add to them stays within ROOM."""
    per_prompt = writers * stream[0].numel() * stream.itemsize
    return max(1, ROOM[stream.device.type == "cpu"] // per_prompt)


def _cut(values: Values, sites: Iterable[Site], rows: Tensor) -> dict[Site, Tensor]:
    """These rows of the values at some sites; a value that is the same for all rows stays as it is."""
    span = slice(int(rows[0]), int(rows[-1]) + 1)
    return {site: values[site][span] if len(values[site]) > 1 else values[site] for site in sites}


def _added(subject: Subject, own: Values, other: Values, sites: list[Site]) -> Float[Tensor, "writer flat"]:
    """What every writer adds to the stream more than in the reference, prompts and positions in one."""
    tokens, width = own[sites[0]].shape[:2].numel(), subject.width(Kind.RESID)
    units = [own[site].shape[2] for site in sites]
    table = own[sites[0]].new_empty(sum(units), tokens, width)
    for site, part in zip(sites, table.split(units), strict=True):
        contributions(subject, site, own[site], other[site], out=part)
        if site.kind is Kind.HEAD and subject.family.post_norms:
            projection, _ = subject.layout.tap(site)
            norm, _ = subject.layout.tap(Site(site.layer, Kind.ATTN))
            joined = projection.forward(own[site].flatten(2))
            part.copy_(_through(norm, joined, part.view(-1, *joined.shape)).flatten(1, 2))
    return table.flatten(1)


def _read(
    subject: Subject, wiring: Wiring, seen: Values, gradients: Values
) -> Iterator[tuple[slice, int, Float[Tensor, "reader flat"]]]:
    """Readers, the writers before them, and the gradients at their inputs; a layer's heads together."""
    for layer in range(len(subject)):
        sites, mlp = [Site(layer, kind) for kind in PROJECTIONS], Site(layer, Kind.MLP)
        rows = slice(wiring.rows(sites[0]).start, wiring.rows(sites[-1]).stop)
        yield rows, wiring.before(sites[0]), _heads(subject, sites, seen, gradients)
        yield wiring.rows(mlp), wiring.before(mlp), gradients[Site(layer, Kind.MLP_IN)].flatten()[None]
    yield wiring.last, len(wiring.writers), gradients[Site(len(subject), Kind.RESID)].flatten()[None]


def _heads(subject: Subject, sites: list[Site], seen: Values, gradients: Values) -> Float[Tensor, "reader flat"]:
    """The gradients at the inputs of a layer's queries, keys and values, each as if it alone read the stream."""
    tokens = gradients[sites[0]].shape[:2].numel()
    units = [gradients[site].shape[2] for site in sites]
    at_projection = gradients[sites[0]].new_empty(sum(units), tokens, subject.width(Kind.RESID))
    for site, part in zip(sites, at_projection.split(units), strict=True):
        by_unit = rearrange(gradients[site], "batch pos unit channel -> unit (batch pos) channel")
        torch.bmm(by_unit, subject.layout.weight(site), out=part)
    if not subject.family.pre_norms:
        return at_projection.flatten(1)
    entry = Site(sites[0].layer, Kind.ATTN_IN)
    return _back(subject.layout.tap(entry)[0], seen[entry].flatten(0, 2), at_projection).flatten(1)


def _back(norm: nn.Module, x: Float[Tensor, "token hidden"], gradients: Float[Tensor, "reader token hidden"]) -> Tensor:
    """Gradients at a norm's output as gradients at its input `x`."""
    with torch.enable_grad():
        leaf = x.detach().expand_as(gradients).requires_grad_()
        (found,) = torch.autograd.grad(norm.forward(leaf), leaf, gradients)
    return found


def _through(norm: nn.Module, x: Tensor, changes: Float[Tensor, "writer *x"]) -> Float[Tensor, "writer *x"]:
    """Small changes of a norm's input `x` as changes of its output."""
    found: Tensor = torch.vmap(lambda change: torch.func.jvp(norm.forward, (x,), (change,))[1])(changes)
    return found
