"""Planted circuits: random models in which only named heads and neurons write to the residual stream.

Which nodes do something, and which edges lead from one of them to another, is known before any method looks.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from subcircuit.ground_truth.tiny import VOCAB, random_pairs, tiny, word_tokenizer
from subcircuit.sites import Kind, Node, Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import SPLITS, Pairs, Split
from subcircuit.wiring import INPUT, LOGITS, Wiring

__all__ = ["HEADS", "NEURONS", "RandomTask", "planted", "planted_edges", "planted_nodes"]


Units = Sequence[tuple[int, int]]  # (layer, unit)

HEADS = [(0, 1), (1, 2)]  # what is planted when nothing else is asked for
NEURONS = [(0, 3), (1, 5), (1, 30)]

STRENGTH = {Kind.HEAD: 3.0, Kind.NEURON: 16.0}  # a neuron writes one direction, a head one for each of its channels
# A norm after a branch keeps only the branch's direction, and a branch of one neuron has but two directions; a large
# epsilon makes that norm nearly linear, so that a lone planted neuron counts by its value.
PLANTED: dict[str, dict[str, Any]] = {
    "gemma2": {"rms_norm_eps": 3.0, "final_logit_softcapping": 10.0},
    "gemma3_text": {"rms_norm_eps": 3.0},
    "olmo2": {"rms_norm_eps": 3.0},
}


def planted(
    family: str,
    heads: Units = HEADS,
    neurons: Units = NEURONS,
    *,
    seed: int = 0,
    **overrides: Any,
) -> Subject:
    """A random model whose circuit is known: of all heads and neurons only the named (layer, unit) write anything.

    What those write is multiplied by STRENGTH. Biases stay: they are the same in every prompt.
    """
    model = tiny(family, seed=seed, **{**PLANTED.get(family, {}), **overrides}).model
    subject = Subject(model, word_tokenizer([f"t{token}" for token in range(VOCAB)]), name=f"planted-{family}")
    for kind, nodes in {Kind.HEAD: heads, Kind.NEURON: neurons}.items():
        for layer in range(len(subject)):
            keep = [unit for at, unit in nodes if at == layer]
            module = subject.module(layer, subject.family.taps[kind].module)
            _keep_inputs(module, keep, units=subject.units(kind), strength=STRENGTH[kind])
    _amplify_branches(subject)
    return subject


def planted_nodes(heads: Units = HEADS, neurons: Units = NEURONS) -> frozenset[Node]:
    """What does something: the heads, the neurons, and the MLPs that these are in."""
    found = {Node(Site(layer, Kind.HEAD), unit) for layer, unit in heads}
    found |= {Node(Site(layer, Kind.NEURON), unit) for layer, unit in neurons}
    return frozenset(found | {Node(Site(layer, Kind.MLP), 0) for layer, _ in neurons})


def planted_edges(subject: Subject, heads: Units = HEADS, neurons: Units = NEURONS) -> frozenset[str]:
    """Every edge from the embeddings or a planted node to a planted node or the logits."""
    wiring, wide = Wiring.of(subject.layout), subject.family.wide_norms
    mlps = {str(Site(layer, Kind.MLP)) for layer, _ in neurons}
    writers = {INPUT, *mlps, *(str(Node(Site(layer, Kind.HEAD), head)) for layer, head in heads)}
    readers = {LOGITS, *mlps}
    for layer, head in heads:
        group = head // (wiring.heads // wiring.groups)
        queries, keys = (range(wiring.heads), range(wiring.groups)) if wide else ([head], [group])
        for kind, units in {Kind.Q: queries, Kind.K: keys, Kind.V: [group]}.items():
            readers |= {str(Node(Site(layer, kind), unit)) for unit in units}
    allowed: list[tuple[int, int]] = wiring.allowed.nonzero().tolist()
    return frozenset(
        wiring.name(reader, writer)
        for reader, writer in allowed
        if wiring.readers[reader] in readers and wiring.writers[writer] in writers
    )


class RandomTask:
    """Clean and corrupted random prompts; what it asks is what the full model says itself.

    The tokenizer is not asked, for the tokens are drawn as ids.
    """

    name = "random"

    def __init__(self, subject: Subject, length: int = 6) -> None:
        self.subject, self.length = subject, length

    def pairs(self, tokenizer: PreTrainedTokenizerBase, n: int, *, seed: int = 0, split: Split = "train") -> Pairs:
        return random_pairs(self.subject, n, self.length, 10 * seed + SPLITS.index(split))


def _keep_inputs(module: nn.Module, keep: Sequence[int], *, units: int, strength: float) -> None:
    """Zero what a projection reads from all units but some."""
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    gains = torch.zeros(units)
    gains[list(keep)] = strength
    linear = isinstance(module, nn.Linear)
    inputs = weight.shape[1] if linear else weight.shape[0]  # GPT-2's Conv1D is (in, out)
    gains = gains.repeat_interleave(inputs // units)
    with torch.no_grad():
        weight.mul_(gains if linear else gains[:, None])


def _amplify_branches(subject: Subject) -> None:
    """Where a norm follows the branches it limits what they add; let it add as much as elsewhere."""
    with torch.no_grad():
        for layer in range(len(subject)):
            for kind in (Kind.ATTN, Kind.MLP):
                gain = getattr(subject.module(layer, subject.family.taps[kind].module), "weight", None)
                if isinstance(gain, torch.Tensor) and gain.dim() == 1:
                    gain.add_(3.0)
