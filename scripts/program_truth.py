"""Which parts of a compiled program do something, read off its weights, and what its edges carry, found by running it.

An edge carries tokens if its writer's value in another prompt changes an answer. Else it is idle if a zero changes
none: the compiler provides for selections that are empty, which no judged position has. What remains carries a position
if the value at another position changes an answer, or a constant.
"""

from typing import Any, Protocol

import numpy as np

__all__ = ["truth"]

INPUTS = 400  # prompts
TINY = 1e-4  # of a logit

Array = np.ndarray[Any, np.dtype[np.float32]]


class Matrices(Protocol):
    """A compiled program as plain matrices, (in, out)."""

    config: dict[str, Any]
    vocabulary: list[str]
    unembedding: Array
    bias: Array
    first: int  # the first position that is judged

    def weights(self) -> dict[str, Array]: ...
    def head(self, layer: int, head: int) -> tuple[Array, Array]: ...
    def mlp(self, layer: int) -> tuple[Array, Array]: ...
    def prompts(self, n: int) -> list[list[Any]]: ...


class Prompts:
    """Prompts run through the program's matrices, as a whole or with one edge carrying something else."""

    def __init__(self, compiled: Matrices) -> None:
        self.compiled = compiled
        vocabulary = compiled.vocabulary
        self.ids = np.array([[vocabulary.index(str(token)) for token in each] for each in compiled.prompts(INPUTS)])
        places = np.arange(self.ids.shape[1])
        self.judged = (self.ids != vocabulary.index("<pad>")) & (places >= compiled.first)
        self.mask = np.where(places[:, None] >= places, 0, -np.inf) if compiled.config["causal"] else 0
        self.logits, self.added = self.run()

    def run(self, reader: str = "", shift: Array | float = 0) -> tuple[Array, dict[str, Array]]:
        """Logits and what each writer adds to the stream, with `shift` added to what one reader takes in."""
        compiled, config = self.compiled, self.compiled.config
        weights = compiled.weights()
        stream = weights["model.embed_tokens.weight"][self.ids] + weights["model.embed_positions.weight"]
        added = {"input": stream}
        for layer in range(config["num_hidden_layers"]):
            for head in range(config["num_attention_heads"]):
                q, k, v = (stream + shift * (reader == f"{layer}.{part}.{head}") for part in "qkv")
                qk, ov = compiled.head(layer, head)
                scores = q @ qk @ k.transpose(0, 2, 1) / np.sqrt(config["head_dim"]) + self.mask
                added[f"{layer}.head.{head}"] = _softmax(scores) @ v @ ov
            stream = stream + sum(value for name, value in added.items() if name.startswith(f"{layer}.head."))
            inward, outward = compiled.mlp(layer)
            added[f"{layer}.mlp"] = np.maximum((stream + shift * (reader == f"{layer}.mlp")) @ inward, 0) @ outward
            stream = stream + added[f"{layer}.mlp"]
        return (stream + shift * (reader == "logits")) @ compiled.unembedding.T + compiled.bias, added

    def carried(self, writer: str, reader: str) -> str:
        """What an edge carries, by what in its place changes an answer."""
        own = self.added[writer]
        rng = np.random.default_rng(0)

        def noticed(*values: Array) -> bool:
            moved = [np.abs(self.run(reader, value - own)[0] - self.logits).max(-1) for value in values]
            return bool(np.max(moved, 0)[self.judged].max() > TINY)

        if noticed(*(own[rng.permutation(len(own))] for _ in range(3))):
            return "token"
        if not noticed(np.zeros_like(own)):
            return "idle"
        return "position" if noticed(*(np.roll(own, step, 1) for step in range(1, own.shape[1]))) else "constant"


def truth(compiled: Matrices) -> tuple[list[str], dict[str, str]]:
    """Nodes that do something, and the edges between them with what they carry."""
    reads, writes, prompts = _readers(compiled), _writers(compiled), Prompts(compiled)
    edges = {}
    useful = {"logits"}
    for reader in reversed(list(reads)):  # from the output back: what nobody reads does nothing
        for writer, written in writes.items() if _node(reader) in useful else []:
            if _before(writer, reader) and (written & reads[reader].any(1)).any():
                edges[f"{writer}->{reader}"] = prompts.carried(writer, reader)
                useful.add(writer)
    return sorted(useful - {"input", "logits"}), dict(sorted(edges.items()))


def _readers(compiled: Matrices) -> dict[str, Array]:
    """What each reader takes in, in the order of computation: (hidden, anything)."""
    found = {}
    for layer in range(compiled.config["num_hidden_layers"]):
        for head in range(compiled.config["num_attention_heads"]):
            qk, ov = compiled.head(layer, head)
            found |= {f"{layer}.q.{head}": qk, f"{layer}.k.{head}": qk.T, f"{layer}.v.{head}": ov}
        found[f"{layer}.mlp"] = compiled.mlp(layer)[0]
    return {**found, "logits": compiled.unembedding.T}


def _writers(compiled: Matrices) -> dict[str, Any]:
    """The dimensions of the residual stream that each writer reaches."""
    weights = compiled.weights()
    found = {"input": np.any([weights[f"model.embed_{part}.weight"].any(0) for part in ("tokens", "positions")], 0)}
    for layer in range(compiled.config["num_hidden_layers"]):
        for head in range(compiled.config["num_attention_heads"]):
            found[f"{layer}.head.{head}"] = compiled.head(layer, head)[1].any(0)
        found[f"{layer}.mlp"] = compiled.mlp(layer)[1].any(0)
    return found


def _softmax(scores: Array) -> Array:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _node(reader: str) -> str:
    """The node that a reader belongs to: a head by its query, key or value."""
    layer, _, rest = reader.partition(".")
    return f"{layer}.head.{rest[2:]}" if rest[:1] in "qkv" and rest else reader


def _before(writer: str, reader: str) -> bool:
    """Whether the writer is computed before the reader."""
    if writer == "input" or reader == "logits":
        return True
    first, second = (int(name.partition(".")[0]) for name in (writer, reader))
    return first < second or (first == second and "head" in writer and "mlp" in reader)
