"""Circuits of tiny random models with something of every size closed, and the model with the rest at its reference."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from subcircuit.circuit import tidy
from subcircuit.extraction.forms import Checkpoint
from subcircuit.extraction.writing import write_model
from subcircuit.intervention import Reference, acting, effective, masked_logits
from subcircuit.sites import Kind, Site
from subcircuit.subject import Prompts, Subject
from tiny import CONFIGS, random_prompts, tiny
from tiny_files import tokenizer

__all__ = ["DECODERS", "LAYERS", "Ablated", "deep", "written"]

LAYERS = 4
DECODERS = sorted(set(CONFIGS) - {"bert", "distilbert", "tracr"})
KINDS = (Kind.BLOCK, Kind.ATTN, Kind.MLP, Kind.HEAD, Kind.CHANNEL, Kind.NEURON)


def deep(family: str) -> Subject:
    """A tiny model of four layers, with a tokenizer."""
    more: dict[str, Any] = {"n_layer": LAYERS} if family == "gpt2" else {"num_hidden_layers": LAYERS}
    if "layer_types" in CONFIGS[family]:
        more["layer_types"] = ["sliding_attention", "full_attention"] * 2
    return Subject(tiny(family, **more).model, tokenizer(), name=f"deep-{family}")


class Ablated:
    """A random half of a deep model: no attention in layer 1, no MLP in layer 2, nothing of layer `without`."""

    def __init__(self, subject: Subject, fill: Any, *extra: Kind, without: int = 3) -> None:
        generator = torch.Generator().manual_seed(1)
        kept: dict[Site, Tensor] = {}
        for site in subject.sites(*KINDS, *extra):
            lots = torch.rand(subject.units(site.kind), generator=generator)
            kept[site] = lots < (0.5 if site.kind in (Kind.HEAD, Kind.CHANNEL, Kind.NEURON, *extra) else 2)
        kept[Site(1, Kind.ATTN)][:] = kept[Site(2, Kind.MLP)][:] = kept[Site(without, Kind.BLOCK)][:] = False
        self.subject, self.kept = subject, tidy(kept)
        mask = {site: truth.float() for site, truth in self.kept.items()}
        self.prompts = random_prompts(subject, 6)
        source = random_prompts(subject, 12, seed=5)
        reference = Reference(subject, fill, self.prompts, self.prompts, acting(mask), source=source)
        self.logits = masked_logits(subject, self.prompts, mask, reference)
        self.gates, self.values = effective(subject, mask), reference(torch.arange(1))

    def difference(self, model: PreTrainedModel) -> float:
        return float((last_logits(model, self.prompts) - self.logits).abs().max())


def written(checkpoint: Checkpoint, subject: Subject, folder: Path) -> PreTrainedModel:
    """Saved, and read as anyone reads it."""
    write_model(checkpoint, subject, folder)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    return model.eval()


@torch.no_grad()
def last_logits(model: PreTrainedModel, prompts: Prompts) -> Tensor:
    logits: Tensor = model(prompts.ids).logits[torch.arange(len(prompts)), prompts.at]
    return logits
