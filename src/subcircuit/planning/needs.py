"""What each method needs: its dearest moments in memory, and the passes it makes. One function a method.

Ranges are of passes: what a bisection or a polish tries is known as a number of tries at most, and at least none.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from subcircuit.planning.work import Needs, Passes, Work
from subcircuit.sites import Kind

__all__ = ["METHODS", "RUN_AGAIN", "evidence"]

RANKING = 64  # pairs that a start is ranked by
CHECK = 10  # steps of node pruning between looks at validation prompts
TRIES = 8  # of a threshold
EVIDENCE_ROWS = 6  # of an evidence table beside its random circuits: masks that are run
WRITERS = (Kind.HEAD, Kind.MLP)
RUN_AGAIN = ("attribution-patching", "causal-tracing", "node-pruning")  # need less memory by checkpointing


def _span(low: float, high: float | None = None) -> tuple[float, float]:
    return low, low if high is None else high


def _ranked(work: Work, passes: Passes, moments: dict[str, dict[str, float]], nodes: float) -> Needs:
    """From scores to a circuit, as all methods that rank nodes: bisections on validation prompts."""
    held_out = work.load.validation
    cache = work.cache(held_out, work.gated)
    tries = 1 if getattr(work.own, "size", None) is not None else work.bisections(nodes)
    again = 2 if work.again(held_out, work.gated) else 1
    found = {"references": cache, "tables": work.table(held_out), **work.running()}
    found["recorded"] = 0.0 if again == 1 else work.recording(work.gated)["recorded"]
    more = Passes(forward=_span(held_out * (2 + again), held_out * (3 + again * (tries + 1))))
    return Needs({**moments, "threshold": found}, passes + more, disk=_scores(work))


def _nodes(work: Work) -> float:
    return float(work.shape.layers * max(work.shape.width(kind) for kind in work.gated))


def _scores(work: Work) -> float:
    """Bytes of a run folder: scores and state, two moments of Adam among them, and names of nodes as text."""
    return 80.0 * work.shape.layers * sum(work.shape.width(kind) for kind in work.gated) + (1 << 20)


def _node_pruning(work: Work) -> Needs:
    own: Any = work.own
    pairs, held_out, batch = work.load.pairs, work.load.validation, min(own.batch, work.load.pairs)
    again = work.again(pairs, work.gated)
    kept = {
        "references": work.cache(pairs, work.gated) + work.cache(held_out, work.gated),
        "tables": work.table(pairs, held_out),
    }
    rounds = len(own.budgets.split(",")) if own.budgets else 1
    steps = own.steps + (rounds - 1) * max(1, own.steps // 2)
    few = min(RANKING, pairs) if own.warm_start else 0
    looks = held_out * (2 if work.again(held_out, work.gated) else 1) * rounds
    checks = steps / CHECK if own.size is None and not own.weights else 0
    before = 2 * (pairs + held_out) + few
    twice = 2 if again else 1
    warmed = work.climbing(again=work.gated if again else ())
    warmed = {name: value * min(2.0, max(1.0, few / batch)) for name, value in warmed.items()}  # its batch is twice
    moments = {
        "references": kept | work.recording(work.gated, max(1, min(own.batch, pairs))),
        "step": kept | work.climbing(again=work.gated if again else ()),
    }
    if few:
        moments["warm start"] = kept | warmed
    forward = _span(
        before + (twice - 1) * steps * batch + looks * checks / rounds,
        before + 12 * batch + (twice - 1) * steps * batch + looks * (checks / rounds + 2 * TRIES + TRIES + own.polish),
    )
    gradient = _span(few * own.warm_start + steps * batch, few * own.warm_start + steps * batch + 5 * looks)
    return Needs(moments, Passes(forward, gradient), disk=_scores(work) * (1 + rounds))


def _attribution_patching(work: Work) -> Needs:
    own: Any = work.own
    pairs, again = work.load.pairs, work.again(work.load.pairs, work.gated)
    moments = {"scores": {"references": work.cache(pairs, work.gated)} | work.climbing(again=work.gated)}
    if not again:
        moments["scores"]["recorded"] = 0.0
    passes = Passes(forward=_span(2 * pairs), gradient=_span(pairs * own.steps))
    return _ranked(work, passes, moments, _nodes(work))


def _activation_patching(work: Work) -> Needs:
    own: Any = work.own
    pairs, ways = work.load.pairs, 2 if own.direction == "both" else 1
    nodes = work.shape.layers * sum(_units(work, kind) for kind in work.kinds)
    kept = {"references": work.cache(pairs, work.gated, 0.5 / ways) * ways, "tables": work.table(pairs, pairs)}
    moments = {"patching": kept | work.running() | {"recorded": work.recording(work.gated)["recorded"] / 2}}
    maps = 1 + (work.load.longest if own.positions else 0)
    return _ranked(work, Passes(forward=_span(nodes * pairs * ways * maps + 3 * pairs)), moments, _nodes(work))


def _greedy_removal(work: Work) -> Needs:
    own: Any = work.own
    pairs, held_out = work.load.pairs, work.load.validation
    kept = {"references": work.cache(pairs, work.gated), "tables": work.table(pairs, held_out)}
    first = pairs * 5 if own.order == "attribution" else 0
    if own.edges:
        edges = work.shape.layers * (work.shape.readers + 1) * work.shape.writers / 2
        moments = {"removal": kept | _rewiring(work, gradient=False)}
        return Needs(
            moments,
            Passes(forward=_span(pairs), rewired=_span(0.2 * edges * pairs, (edges + 2) * pairs), edges=_span(first)),
        )
    nodes = work.shape.layers * sum(_units(work, kind) for kind in work.kinds)
    moments = {"removal": kept | work.running()}
    if first:
        moments["order"] = kept | work.climbing()
    passes = Passes(_span(0.2 * nodes * pairs + held_out, (nodes + 3) * pairs + 3 * held_out), _span(first))
    return Needs(moments, passes, disk=_scores(work))


def _random(work: Work) -> Needs:
    return _ranked(work, Passes(), {"lots": work.running()}, _nodes(work))


def _causal_tracing(work: Work) -> Needs:
    own: Any = work.own
    pairs, held_out = work.load.pairs, work.load.validation
    kept = {
        "references": work.cache(pairs, work.gated, 0.25) + work.cache(held_out, work.gated, 0.25),
        "tables": work.table(pairs, held_out, held_out),
    }
    rounds = len(own.budgets.split(",")) if own.budgets else 1
    looks, first = rounds * own.polish, 3 * pairs + 5 * held_out
    climbs = (2 + rounds * (own.steps + 4)) * pairs
    if own.search in ("singles", "greedy"):
        nodes = work.shape.layers * sum(_units(work, kind) for kind in work.kinds)
        looks, climbs = nodes * (own.k if own.search == "greedy" else 1), 0
    moments = {"shares": kept | work.climbing()}
    forward = _span(first + looks * pairs * (0.5 if climbs else 1), first + (looks + own.exact * bool(climbs)) * pairs)
    return Needs(moments, Passes(forward, _span(min(2.0 * pairs, climbs), climbs)), disk=_scores(work))


def _edge_attribution(work: Work) -> Needs:
    own: Any = work.own
    pairs, held_out = work.load.pairs, work.load.validation
    points = {"clean": 1, "clean-corrupt": 2, "inputs": own.steps}.get(
        own.path, own.steps * (1 + 2 * work.shape.layers)
    )
    once = replace(work, checkpointing=False)  # what edges are scored with stays, and is made twice: nothing is gained
    step = {"references": work.cache(pairs, WRITERS)} | once.climbing(gated=(Kind.HEAD, *WRITERS, Kind.MLP))
    moments = {
        "scores": step,
        "threshold": {"references": work.cache(held_out, WRITERS)} | _rewiring(work, gradient=False),
    }
    tries = 1 if own.size is not None else work.bisections(work.shape.writers**2 * work.shape.readers)
    passes = Passes(
        forward=_span(2 * pairs + held_out),
        rewired=_span(7 * held_out, (tries + 3) * held_out),
        edges=_span(pairs * points),
    )
    return Needs(moments, passes, disk=12.0 * work.shape.writers**2 * (work.shape.readers + 1))


def _edge_pruning(work: Work) -> Needs:
    own: Any = work.own
    pairs, held_out, batch = work.load.pairs, work.load.validation, min(own.batch, work.load.pairs)
    kept = {
        "references": work.cache(pairs, WRITERS) + work.cache(held_out, WRITERS),
        "tables": work.table(pairs, held_out),
    }
    few = min(RANKING, pairs) if own.warm_start else 0
    tries = work.bisections(work.shape.writers**2 * work.shape.readers)
    passes = Passes(
        forward=_span(pairs + held_out + few),
        rewired=_span(pairs + 7 * held_out, pairs + 12 * batch + (tries + 3) * held_out),
        edges=_span(few * own.warm_start + own.steps * batch + held_out),
    )
    moments = {"step": kept | _rewiring(work, gradient=True)}
    return Needs(moments, passes, disk=40.0 * work.shape.writers**2 * (work.shape.readers + 1))


def _circuit_lasso(work: Work) -> Needs:
    own: Any = work.own
    pairs, held_out, shape = work.load.pairs, work.load.validation, work.shape
    kinds = (*WRITERS, Kind.Q, Kind.K, Kind.V) if own.targets == "inputs" else WRITERS
    columns = own.channels or max(shape.hidden, shape.queries // shape.heads)
    sources, targets = shape.writers * columns, shape.layers * (shape.readers + 1) * columns
    folds = own.folds if own.select in ("cv", "stability") and own.alpha is None else 1
    both = {name: 2 * value for name, value in work.recording(kinds).items()}  # clean and corrupted, and joined
    shelf = 4.0 * 2 * pairs * work.load.longest * sum(shape.width(kind) for kind in kinds) * shape.layers
    kept = shelf / 2 if shelf <= own.cache_gb * 2**30 else 0.0
    sums = 8.0 * folds * sources * (2 * sources + targets)
    moments = {
        "gram": {"references": kept, "tables": 2 * sums, **both},
        "threshold": {"references": work.cache(held_out, WRITERS)} | _rewiring(work, gradient=False),
    }
    passes = Passes(forward=_span(2 * pairs * (1 if kept else 2)), rewired=_span(9 * held_out, 20 * held_out))
    about = ("the regressions themselves are not timed: minutes for thousands of columns",)
    return Needs(moments, passes, disk=12.0 * shape.writers**2 * (shape.readers + 1), about=about)


def _rewiring(work: Work, *, gradient: bool) -> dict[str, float]:
    from subcircuit.planning.formulas import kept_for_rewiring

    whole = kept_for_rewiring(work.shape) * work.tokens
    if gradient:
        found = work.climbing(gated=())
        return found | {"activations": found["activations"] + whole}
    layer = work.shape.writers / (2 * work.shape.writers + 2 * work.shape.layers * (work.shape.readers + 1))
    return work.running() | {"recorded": whole * layer}


def _units(work: Work, kind: Kind) -> float:
    """Nodes of a kind in a layer."""
    shape = work.shape
    counts = {
        Kind.HEAD: shape.heads,
        Kind.KV: shape.groups,
        Kind.Q: shape.heads,
        Kind.K: shape.groups,
        Kind.V: shape.groups,
    }
    return counts.get(kind, shape.width(kind) if kind in (Kind.CHANNEL, Kind.NEURON, Kind.MLP_OUT) else 1)


def evidence(work: Work, pairs: int, controls: int) -> Needs:
    """Of `score`: masks on `pairs` test prompts, and two rankings on a few discovery prompts."""
    few = min(RANKING, work.load.pairs)
    kept = {"references": work.cache(pairs, work.gated, 1.0), "tables": work.table(pairs)}
    moments = {
        "masks": kept | work.running(),
        "ranking": kept | work.climbing() | {"references": kept["references"] + work.cache(few, work.gated, 1.0)},
    }
    again = 2 if work.again(pairs, work.gated, 1.0) else 1
    tokens = 20 * (8 + 2)  # of the prompts that are told token by token, points on the way and both ends
    passes = Passes(
        _span(pairs * (1 + again * (EVIDENCE_ROWS - 2 + controls)) + 4 * few),
        _span(6 * few + tokens * 0.5, 6 * few + tokens),
    )
    return Needs(moments, passes, disk=80.0 * pairs + (1 << 20))


METHODS: Mapping[str, Callable[[Work], Needs]] = {
    "activation-patching": _activation_patching,
    "attribution-patching": _attribution_patching,
    "causal-tracing": _causal_tracing,
    "circuit-lasso": _circuit_lasso,
    "edge-attribution": _edge_attribution,
    "edge-pruning": _edge_pruning,
    "greedy-removal": _greedy_removal,
    "node-pruning": _node_pruning,
    "random": _random,
}
