"""The health check: seeded faults of every kind are flagged, each by its part, and a sound dictionary passes."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch

from subcircuit.errors import DataError, UsageError
from subcircuit.features.dictionary import Dictionary
from subcircuit.features.documents import Documents
from subcircuit.features.harvest import Harvest
from subcircuit.features.health import Health, check
from subcircuit.features.training import Training
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from tiny import random_prompts, tiny

SITE = Site(1, Kind.RESID)
SETTINGS = Training(features=96, k=6, steps=300, batch=256, revive=50)


@cache
def subject(seed: int = 0) -> Subject:
    """With activations about a mean far from 0 after the first layer, as real models have them."""
    found = tiny("gpt2", n_layer=3, seed=seed)
    with torch.no_grad():
        found.model.transformer.h[0].mlp.c_proj.bias += 8 * torch.randn(32, generator=torch.Generator().manual_seed(1))
    return found


@cache
def trained(site: Site = SITE, writes: Site | None = None) -> Dictionary:
    documents = Documents(random_prompts(subject(), 200, length=20, seed=3).ids.int())
    return SETTINGS.train(Harvest(subject(), documents, site, writes)).dictionary


def looked(dictionary: Dictionary, model: Subject | None = None) -> Health:
    documents = Documents(random_prompts(subject(), 60, length=20, seed=9).ids.int())
    return check(dictionary, model or subject(), documents)


def parts(health: Health) -> set[str]:
    return {each.part for each in health.findings if each.level == "error"}


@pytest.mark.parametrize("site", [SITE, Site(2, Kind.MLP_OUT), Site(0, Kind.HEAD), Site(3, Kind.RESID)], ids=str)
@pytest.mark.parametrize("told", [True, False])
def test_a_sound_dictionary_passes(site: Site, told: bool) -> None:
    made = trained(site) if told else replace(trained(site), expected={})
    health = looked(made)
    assert health.healthy and not health.findings, (health.findings, health.measured, made.expected)
    assert health.measured["fvu"] == pytest.approx(trained(site).expected["fvu"], abs=0.03)
    assert health.measured["l0"] == 6


def wrong_layer(made: Dictionary) -> Dictionary:
    return replace(made, reads="blocks.2.hook_resid_pre", writes="blocks.2.hook_resid_pre", layer=2)


def wrong_hook(made: Dictionary) -> Dictionary:
    return replace(made, reads="blocks.1.hook_mlp_out", writes="blocks.1.hook_mlp_out")


def wrong_k(made: Dictionary) -> Dictionary:
    return replace(made, k=1)


def larger_k(made: Dictionary) -> Dictionary:
    return replace(made, k=48)


def no_topk(made: Dictionary) -> Dictionary:
    return replace(made, activation="relu", k=0)


def wrong_threshold(made: Dictionary) -> Dictionary:
    return replace(made, activation="jumprelu", k=0, threshold=torch.full((len(made),), 1e-3))


def not_centred(made: Dictionary) -> Dictionary:
    return replace(made, centred=False)


def not_normalised(made: Dictionary) -> Dictionary:
    """As of a maker that scales its inputs to a norm of sqrt(width), in a folder that does not say so."""
    norm = subject().width(SITE.kind) ** 0.5
    scale = norm / made.expected["norm"]
    biases = {"encoder_bias": made.encoder_bias * scale, "decoder_bias": made.decoder_bias * scale}
    return replace(made, **biases, expected={**made.expected, "norm": norm})


def permuted_decoder(made: Dictionary) -> Dictionary:
    order = torch.randperm(len(made), generator=torch.Generator().manual_seed(0))
    return replace(made, decoder=made.decoder[order])


def reshaped_decoder(made: Dictionary) -> Dictionary:
    """A transposed file, read in the order of its bytes."""
    return replace(made, decoder=made.decoder.T.reshape(made.decoder.shape))


def perturbed_decoder(made: Dictionary) -> Dictionary:
    noise = torch.randn(made.decoder.shape, generator=torch.Generator().manual_seed(0))
    return replace(made, decoder=made.decoder + 0.15 * noise)


FAULTS: dict[Callable[[Dictionary], Dictionary], str] = {
    wrong_layer: "layer",
    wrong_hook: "hook",
    wrong_k: "activation",
    larger_k: "activation",
    no_topk: "activation",
    wrong_threshold: "activation",
    not_centred: "normalisation",
    not_normalised: "normalisation",
    permuted_decoder: "decoder",
    reshaped_decoder: "decoder",
    perturbed_decoder: "fit",
}


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_every_fault_is_flagged_by_its_part(fault: Callable[[Dictionary], Dictionary], told: bool) -> None:
    broken = fault(trained())
    health = looked(broken if told else replace(broken, expected={}))
    assert not health.healthy
    if told or fault is not perturbed_decoder:
        assert FAULTS[fault] in parts(health), health.findings


@pytest.mark.parametrize("told", [True, False])
def test_another_model_is_flagged(told: bool) -> None:
    other = subject(seed=7)
    made = trained() if told else replace(trained(), model="", expected={})
    health = looked(made, other)
    assert not health.healthy and "fit" in parts(health)
    other = Subject(other.model, name="another")
    named = [each for each in looked(trained(), other).findings if each.part == "model"]
    assert named and "'tiny-gpt2', and this is 'another'" in named[0].cause


def test_a_transcoder_is_checked_between_its_two_places() -> None:
    made = trained(Site(1, Kind.MLP_IN), Site(1, Kind.MLP_OUT))
    health = looked(made)
    assert health.measured["fvu"] == pytest.approx(made.expected["fvu"], rel=0.1)
    assert health.healthy, health.findings
    moved = replace(made, reads="blocks.2.hook_resid_mid", writes="blocks.2.hook_mlp_out", layer=2)
    assert not looked(moved).healthy


def test_what_cannot_be_placed_is_refused() -> None:
    with pytest.raises(UsageError, match="no sites known here") as refusal:
        looked(replace(trained(), reads="somewhere", writes="somewhere"))
    assert "--site" in refusal.value.cure
    with pytest.raises(DataError, match=r"32 wide, and 1\.neuron of tiny-gpt2 is 48"):
        looked(replace(trained(), reads="blocks.1.mlp.hook_post", writes="blocks.1.mlp.hook_post"))
