"""Random transcoders that fit a tiny model: good ones are not needed where errors make up for the rest."""

import torch

from subcircuit.features.dictionary import Activation, Dictionary
from subcircuit.features.transcoders import Transcoders
from subcircuit.subject import Prompts, Subject

__all__ = ["neuron_transcoders", "one_prompt", "random_transcoders"]


def random_transcoders(
    subject: Subject,
    *,
    features: int = 24,
    activation: Activation = "relu",
    skip: bool = False,
    crossing: bool = False,
    reads: str = "hook_resid_mid",
    writes: str = "hook_mlp_out",
    seed: int = 0,
) -> Transcoders:
    """One per layer, with biases everywhere; `crossing`: every feature writes to all later layers too."""
    width = int(subject.model.config.hidden_size)
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    layers = tuple(
        Dictionary(
            draw(features, width) * 0.3,
            draw(features, width) * 0.3,
            draw(features) * 0.5,
            draw(width) * 0.2,
            activation,
            k=5 if activation == "topk" else 0,
            threshold=draw(features).abs() * 0.3 if activation == "jumprelu" else None,
            skip=draw(width, width) * 0.1 if skip else None,
            model="tiny",
            reads=reads,
            writes=writes,
            layer=layer,
        )
        for layer in range(len(subject))
    )
    onward = [draw(features, len(subject) - 1 - layer, width) * 0.3 for layer in range(len(subject))]
    return Transcoders.of(layers, onward=onward if crossing else ())


def neuron_transcoders(subject: Subject) -> Transcoders:
    """Of a model of rectified neurons without norms: its own weights."""
    hooks = {"reads": "hook_resid_mid", "writes": "hook_mlp_out"}
    layers = []
    for layer in range(len(subject)):
        mlp = subject.module(layer, "mlp")
        up, down = mlp.up_proj.weight, mlp.down_proj.weight.T.contiguous()
        layers.append(Dictionary(up, down, torch.zeros(len(up)), torch.zeros(down.shape[1]), "relu", **hooks))
    return Transcoders.of(layers)


def one_prompt(length: int = 6, seed: int = 0) -> Prompts:
    """Random tokens, the last one judged."""
    ids = torch.randint(3, 64, (1, length), generator=torch.Generator().manual_seed(seed))
    return Prompts(ids, torch.ones_like(ids, dtype=torch.bool), torch.tensor([length - 1]))
