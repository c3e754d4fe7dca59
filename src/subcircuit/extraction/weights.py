"""The weights of a layer without what its circuit leaves out.

With gates `m` where they act and the reference's values `r`, an output projection `W x + b` becomes

    W' = (W m) over the units that stay        b' = b + W ((1 - m) r)

so a unit that is off goes on adding its mean, from the bias. A branch of which nothing stays is `b'` at every position,
by way of the norm after it where the family has one. Sums are taken in float64.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from subcircuit.errors import UnsupportedModel
from subcircuit.extraction.plan import EMPTY, LayerPlan, Open
from subcircuit.layout import spread
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject

__all__ = ["CutLayer", "Projection", "cut_layer"]

Values = Mapping[Site, Float[Tensor, "*broadcast unit channel"]]


@dataclass(frozen=True)
class Projection:
    """A linear map, as torch's Linear has it, in float64."""

    weight: Float[Tensor, "out in"]
    bias: Float[Tensor, " out"] | None

    @classmethod
    def of(cls, module: nn.Module) -> "Projection":
        weight, bias = module.weight, module.bias
        assert isinstance(weight, Tensor)
        inward = weight if isinstance(module, nn.Linear) else weight.T  # GPT-2's Conv1D is (in, out)
        return cls(inward.double().cpu(), bias.double().cpu() if isinstance(bias, Tensor) else None)

    def rows(self, rows: Int[Tensor, " row"]) -> "Projection":
        """Some outputs; EMPTY ones are zero."""
        weight = torch.cat([self.weight, self.weight.new_zeros(1, self.weight.shape[1])])[rows]
        bias = None if self.bias is None else torch.cat([self.bias, self.bias.new_zeros(1)])[rows]
        return Projection(weight, bias)

    def columns(self, columns: Int[Tensor, " column"]) -> "Projection":
        """Some inputs; EMPTY ones count for nothing."""
        weight = torch.cat([self.weight, self.weight.new_zeros(len(self.weight), 1)], 1)[:, columns]
        return Projection(weight, self.bias)

    def shut(self, gates: Float[Tensor, " in"], value: Float[Tensor, " in"]) -> "Projection":
        """Each input kept by its gate, the rest of it the reference's value."""
        return self._biased(self.weight * gates, self.weight @ ((1 - gates) * value))

    def closed(self, gates: Float[Tensor, " out"], value: Float[Tensor, " out"]) -> "Projection":
        """The same for outputs."""
        bias = torch.zeros_like(value) if self.bias is None else self.bias
        added = gates * bias + (1 - gates) * value
        return Projection(self.weight * gates[:, None], added if self.bias is not None or added.any() else None)

    def _biased(self, weight: Tensor, added: Tensor) -> "Projection":
        if self.bias is None and not added.any():
            return Projection(weight, None)
        return Projection(weight, added if self.bias is None else self.bias + added)


@dataclass(frozen=True)
class CutLayer:
    """A layer's projections by their path, and of branches that have nothing left, what they add."""

    plan: LayerPlan
    projections: Mapping[str, Projection]
    constants: Mapping[str, Float[Tensor, " hidden"]]  # by the branch's path
    gone: tuple[str, ...]  # norms that only such branches read or write


def cut_layer(subject: Subject, layer: int, gates: Open, values: Values, plan: LayerPlan) -> CutLayer:
    """A layer as its plan has it.

    Raises UnsupportedModel where outputs are off behind a norm, which has no bias for their means.
    """
    taps = subject.family.taps
    attention = dict(_attention(subject, layer, gates, values, plan))
    mlp = dict(_mlp(subject, layer, gates, values, plan))
    constants, gone = {}, []
    branches = (
        (Kind.ATTN, Kind.ATTN_IN, Kind.HEAD, attention, _empty(plan.heads, gates.get(Site(layer, Kind.CHANNEL)))),
        (Kind.MLP, Kind.MLP_IN, Kind.NEURON, mlp, _empty(plan.neurons, gates.get(Site(layer, Kind.NEURON)))),
    )
    for out, into, units, projections, empty in branches:
        if not empty:
            continue
        path = taps[units].module
        constants[path.rpartition(".")[0]] = _constant(subject, layer, out, projections[path])
        gone += [taps[into].module] * subject.family.pre_norms + [taps[out].module] * subject.family.post_norms
    return CutLayer(plan, attention | mlp, constants, tuple(gone))


def _empty(units: Sequence[int], gate: Tensor | None) -> bool:
    return all(unit == EMPTY for unit in units) or (gate is not None and not gate.any())


def _constant(subject: Subject, layer: int, branch: Kind, projection: Projection) -> Float[Tensor, " hidden"]:
    value = projection.weight.new_zeros(len(projection.weight)) if projection.bias is None else projection.bias
    if not subject.family.post_norms:
        return value
    norm = subject.module(layer, subject.family.taps[branch].module)
    normed: Tensor = norm(value.to(subject.device, subject.dtype)[None, None])[0, 0]
    return normed.detach().double().cpu()


def _attention(
    subject: Subject, layer: int, gates: Open, values: Values, plan: LayerPlan
) -> Iterator[tuple[str, Projection]]:
    taps = subject.family.taps
    path = taps[Kind.CHANNEL].module
    out = _output(subject, Site(layer, Kind.CHANNEL), gates, values)
    places = torch.arange(subject.units(Kind.CHANNEL)).view(subject.units(Kind.HEAD), -1)
    yield path, out.columns(_chosen(places, plan.heads).flatten())
    modules: dict[str, list[Kind]] = {}
    for kind in (Kind.Q, Kind.K, Kind.V):
        modules.setdefault(taps[kind].module, []).append(kind)
    for path, kinds in modules.items():
        whole = Projection.of(subject.module(layer, path))
        every = torch.arange(len(whole.weight))[None, None]
        rows = {kind: subject.layout.view(every, taps[kind])[0, 0] for kind in kinds}
        for kind in kinds:
            whole = _shut_rows(whole, rows[kind], subject, Site(layer, kind), gates, values)
        parts = [_chosen(rows[kind], plan.heads if kind is Kind.Q else plan.groups) for kind in kinds]
        woven = taps[kinds[0]].layout.startswith("(u p")  # head by head, its q, k and v side by side
        order = torch.stack(parts, 1).flatten() if woven else torch.cat([part.flatten() for part in parts])
        yield path, whole.rows(order)


def _mlp(
    subject: Subject, layer: int, gates: Open, values: Values, plan: LayerPlan
) -> Iterator[tuple[str, Projection]]:
    path = subject.family.taps[Kind.NEURON].module
    out = _output(subject, Site(layer, Kind.NEURON), gates, values)
    after = Site(layer, Kind.MLP_OUT)
    if after in gates and not bool(gates[after].all()):
        if subject.family.post_norms:
            raise UnsupportedModel(
                f"{after}: outputs of {subject.name} are off behind a norm, which has no place for their means",
                "find a circuit without the kind mlp_out",
            )
        out = out.closed(gates[after].double().cpu(), values[after].expand(1, 1, len(out.weight), 1).flatten().double())
    neurons = torch.tensor(plan.neurons, dtype=torch.long)
    yield path, out.columns(neurons)
    count, parent = subject.units(Kind.NEURON), path.rpartition(".")[0]
    for name, module in subject.module(layer, parent).named_modules(prefix=parent):
        weight = getattr(module, "weight", None)
        if name == path or not isinstance(weight, Tensor) or weight.dim() != 2:
            continue
        into = Projection.of(module)
        parts = range(0, len(into.weight), count)  # Phi-3: the gates, then the values, in one projection
        yield name, into.rows(torch.cat([torch.where(neurons == EMPTY, EMPTY, neurons + start) for start in parts]))


def _output(subject: Subject, site: Site, gates: Open, values: Values) -> Projection:
    whole = Projection.of(subject.module(site.layer, subject.family.taps[site.kind].module))
    if site not in gates:
        return whole
    value = values[site].double().cpu().expand(1, 1, subject.units(site.kind), 1).flatten()
    return whole.shut(gates[site].double().cpu(), value)


def _shut_rows(
    whole: Projection, rows: Int[Tensor, "unit channel"], subject: Subject, site: Site, gates: Open, values: Values
) -> Projection:
    if site not in gates:
        return whole
    gate, value = torch.ones(len(whole.weight)).double(), torch.zeros(len(whole.weight)).double()
    gate[rows.flatten()] = spread(gates[site].double().cpu(), rows.numel())
    value[rows.flatten()] = values[site].double().cpu().expand(1, 1, *rows.shape).flatten()
    return whole.closed(gate, value)


def _chosen(places: Int[Tensor, "unit channel"], units: Sequence[int]) -> Int[Tensor, "chosen channel"]:
    """The rows of these units; EMPTY ones are EMPTY throughout."""
    blank = torch.full((1, places.shape[1]), EMPTY)
    return torch.cat([places, blank])[torch.tensor(units, dtype=torch.long)]
