"""Edge attribution: what closing each edge would change, to first order, for every edge at once.

The score of an edge is `(own - reference) of its writer . gradient at its reader's input` (Syed et al. 2023, EAP;
Hanna et al. 2024, EAP-IG). The model is not split into per-head streams: the gradient at a head's query, key or value
input is its projection's gradient led back through the projection's weights and the branch's norm, by products for all
heads of a layer together. Signs depart from the papers': positive = the edge helps.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from subcircuit.batching import batched
from subcircuit.edges import contributions, writer_sites
from subcircuit.errors import NumericalError, UnknownName
from subcircuit.gradients import Objective, benefit
from subcircuit.intervention import Reference
from subcircuit.layout import Edit
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs
from subcircuit.wiring import PROJECTIONS, Wiring

__all__ = ["Path", "edge_attribution", "passes"]

Path = Literal["clean", "inputs", "activations", "clean-corrupt"]
Values = Mapping[Site, Tensor]


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
        gradients = clean.gradients(objective, clean.logits, batch) if clean.logits.requires_grad else {}
        deltas = _deltas(subject, wiring, clean.seen, other)
        found = torch.zeros_like(total)
        if gradients:
            found += _table(subject, wiring, clean.seen, gradients, deltas)
            on_step(len(rows))
        points = _points(subject, wiring, path, steps, clean.seen, other)
        for edits, columns in points:
            run = _passed(subject, batch, edits, grad=True)
            gradients = run.gradients(objective, clean.logits.detach(), batch)
            found[:, columns] += _table(subject, wiring, run.seen, gradients, deltas)[:, columns] / shares
            on_step(len(rows))
        total.add_(found)

    shares = {"inputs": steps, "activations": steps}.get(path, 1)
    batched(add, pairs.clean.lengths, batch_size)
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
    subject: Subject, wiring: Wiring, path: Path, steps: int, clean: Values, other: Values
) -> Iterator[tuple[dict[Site, Edit], slice]]:
    """Where a path takes gradients besides the clean run, and the writers whose edges those are for."""
    everything, start = slice(0, len(wiring.writers)), Site(0, Kind.RESID)
    middle = [(step + 0.5) / steps for step in range(steps)]
    ends = {"clean": [], "inputs": middle, "clean-corrupt": [0.0]}
    if path in ends:
        for share in ends[path]:
            yield {start: _between(clean[start], other[start], share)}, everything
        return
    for site in writer_sites(subject):
        for share in middle:
            yield {site: _between(clean[site], other[site], share)}, wiring.columns(site)


def _between(own: Tensor, other: Tensor, share: float) -> Edit:
    return lambda act: torch.lerp(other.to(act.device, act.dtype).expand_as(own), own, share)


def _deltas(subject: Subject, wiring: Wiring, clean: Values, other: Values) -> Float[Tensor, "writer flat"]:
    """What every writer adds to the stream more than in the reference, prompts and positions in one."""
    rows = []
    for site in writer_sites(subject):
        added = contributions(subject, site, clean[site], other[site])
        if site.kind is Kind.HEAD and subject.family.post_norms:
            projection, _ = subject.layout.tap(site)
            norm, _ = subject.layout.tap(Site(site.layer, Kind.ATTN))
            added = _through(norm, projection.forward(clean[site].flatten(2)), added)
        rows.append((wiring.columns(site), added.flatten(1)))
    table = rows[0][1].new_empty(len(wiring.writers), rows[0][1].shape[1])
    for columns, flat in rows:
        table[columns] = flat
    return table


def _table(
    subject: Subject, wiring: Wiring, seen: Values, gradients: Values, deltas: Float[Tensor, "writer flat"]
) -> Float[Tensor, "reader writer"]:
    """Every edge's first-order effect: what its writer adds, along the gradient at its reader's input."""
    table = torch.zeros(wiring.allowed.shape)

    def score(rows: slice, before: int, at: Float[Tensor, "reader batch pos hidden"]) -> None:
        table[rows, :before] = (at.flatten(1) @ deltas[:before].mT).cpu()

    for layer in range(len(subject)):
        sites = [Site(layer, kind) for kind in PROJECTIONS]
        rows = slice(wiring.rows(sites[0]).start, wiring.rows(sites[-1]).stop)
        score(rows, wiring.before(sites[0]), _heads(subject, sites, seen, gradients))
        mlp = Site(layer, Kind.MLP)
        score(wiring.rows(mlp), wiring.before(mlp), gradients[Site(layer, Kind.MLP_IN)].movedim(2, 0))
    score(wiring.last, len(wiring.writers), gradients[Site(len(subject), Kind.RESID)].movedim(2, 0))
    return table


def _heads(
    subject: Subject, sites: list[Site], seen: Values, gradients: Values
) -> Float[Tensor, "reader batch pos hidden"]:
    """The gradients at the inputs of a layer's queries, keys and values, each as if it alone read the stream."""
    parts = []
    for site in sites:
        by_unit = rearrange(gradients[site], "batch pos unit channel -> unit (batch pos) channel")
        parts.append(torch.bmm(by_unit, subject.layout.weight(site)))
    entry = Site(sites[0].layer, Kind.ATTN_IN)
    stream = seen[entry][:, :, 0]
    at_projection = torch.cat(parts).view(-1, *stream.shape)
    if not subject.family.pre_norms:
        return at_projection
    return _back(subject.layout.tap(entry)[0], stream, at_projection)


def _back(norm: nn.Module, x: Tensor, gradients: Float[Tensor, "reader *x"]) -> Float[Tensor, "reader *x"]:
    """Gradients at a norm's output as gradients at its input `x`."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (found,) = torch.autograd.grad(norm.forward(leaf), leaf, gradients, is_grads_batched=True)
    return found


def _through(norm: nn.Module, x: Tensor, changes: Float[Tensor, "writer *x"]) -> Float[Tensor, "writer *x"]:
    """Small changes of a norm's input `x` as changes of its output."""
    found: Tensor = torch.vmap(lambda change: torch.func.jvp(norm.forward, (x,), (change,))[1])(changes)
    return found
