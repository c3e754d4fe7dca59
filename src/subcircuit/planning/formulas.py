"""Bytes and operations as functions of sizes, and the constants that were measured.

What autograd keeps of a layer whose weights are frozen: the input of each norm; queries, keys, values and what
attention gives; of the MLP what its activation and its product need; and at each gated site the difference between the
node's own value and its reference. Projections keep nothing, for no weight has a gradient.
"""

from collections.abc import Collection

from subcircuit.planning.shape import Shape
from subcircuit.sites import Kind

__all__ = [
    "CONTEXT",
    "PROCESS",
    "kept_for_backward",
    "kept_for_recomputation",
    "kept_for_rewiring",
    "logits_at_work",
    "operations",
    "passing",
    "read_at_once",
    "weights",
    "written",
]

PROCESS = 530 << 20  # bytes of Python, torch and transformers before a model; measured, Linux, torch 2.13
CONTEXT = 600 << 20  # bytes that CUDA itself holds on a device; assumed: none was measured
GROWN = 1.12  # memory taken over memory asked for, of the allocator in a step; measured on the models of the benchmark
FLOAT = 4
LOGITS = 6  # float32 rows of the vocabulary that a KL and its gradient hold at once; counted in `metrics.kl`
MOVING = 3  # tensors that a layer's widest operation holds at once: its inputs and what it gives


def weights(shape: Shape) -> float:
    """Bytes of the weights."""
    return shape.parameters * shape.itemsize


def kept_for_backward(shape: Shape, longest: int, gated: Collection[Kind]) -> float:
    """Bytes per token that a pass keeps for its gradient, with gates at sites of these kinds in every layer.

    Args:
        longest: tokens of the longest prompt, where attention keeps its probabilities.
    """
    attention = 2 * shape.queries + 2 * shape.keys + shape.probabilities * shape.heads * longest
    attention += (shape.queries + shape.keys) * shape.normed
    layer = shape.norms * shape.hidden + attention + shape.activated * shape.neurons
    return GROWN * shape.itemsize * shape.layers * (layer + sum(shape.width(kind) for kind in gated))


def kept_for_recomputation(shape: Shape, longest: int, gated: Collection[Kind]) -> float:
    """The same of a pass whose layers run again for their gradients: their inputs, and what one layer keeps."""
    inputs = GROWN * shape.itemsize * shape.layers * shape.hidden
    return inputs + kept_for_backward(shape, longest, gated) / shape.layers


def kept_for_rewiring(shape: Shape) -> float:
    """Bytes per token of what all writers add, its gradient, and every reader's own version of the stream."""
    boxes = 2 * shape.writers * shape.hidden
    streams = 2 * shape.layers * (shape.readers + 1) * shape.hidden  # before and after the branch's norm
    return GROWN * shape.itemsize * (boxes + streams)


def passing(shape: Shape) -> float:
    """Bytes per token of a pass that keeps nothing: the widest operation of a layer."""
    widest = max(shape.neurons, shape.queries + 2 * shape.keys, shape.hidden)
    return GROWN * shape.itemsize * (MOVING * widest + 2 * shape.hidden)


def written(shape: Shape, kinds: Collection[Kind]) -> float:
    """Bytes per token of a record of these sites in every layer."""
    return shape.itemsize * shape.layers * sum(shape.width(kind) for kind in kinds)


def read_at_once(shape: Shape, prompts: int) -> float:
    """Bytes of the logits of so many prompts while they are put together."""
    return 2 * FLOAT * prompts * shape.vocab


def logits_at_work(shape: Shape, prompts: int) -> float:
    """Bytes of what judging so many prompts holds at once."""
    return LOGITS * FLOAT * prompts * shape.vocab


def operations(shape: Shape, tokens: float, longest: float) -> float:
    """Multiplications and additions of a forward pass over so many tokens, judged positions unembedded with the rest.

    Two per weight and token that is no lookup, and attention's scores and mixture.
    """
    layers = shape.parameters - shape.embedding - shape.vocab * shape.hidden
    return tokens * (2 * layers + 4 * shape.layers * shape.queries * longest) + 2 * tokens / max(longest, 1) * (
        shape.vocab * shape.hidden
    )
