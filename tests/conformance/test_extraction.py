"""Every decoder family: an extracted model is the ablated circuit, in both forms, under both references."""

from pathlib import Path

import pytest
import torch

import subcircuit
from cut_models import DECODERS, LAYERS, Ablated, deep, written
from subcircuit.errors import UnsupportedModel
from subcircuit.extraction.forms import as_compact, as_dense
from subcircuit.sites import Kind

NO_BIAS = sorted(set(DECODERS) - {"gpt2", "gpt_neox", "llama"})  # families whose MLP has no place for a mean
TOLERANCE = 1e-5


@pytest.mark.parametrize("fill", ["mean", "zero"])
@pytest.mark.parametrize("extra", [(), (Kind.KV,)], ids=["plain", "kv"])
@pytest.mark.parametrize("name", DECODERS)
def test_compact_is_the_circuit(name: str, fill: str, extra: tuple[Kind, ...], tmp_path: Path) -> None:
    ablated = Ablated(deep(name), fill, *extra)
    model = written(as_compact(ablated.subject, ablated.gates, ablated.values), ablated.subject, tmp_path / "model")
    assert ablated.difference(model) < TOLERANCE
    assert model.num_parameters() < 0.55 * ablated.subject.model.num_parameters()
    again = subcircuit.load(tmp_path / "model")
    with torch.no_grad():
        assert (again.logits(ablated.prompts) - ablated.logits).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", DECODERS)
def test_compact_generates_with_its_cache_what_it_says_without(name: str, tmp_path: Path) -> None:
    ablated = Ablated(deep(name), "mean", without=0)  # a cache counts tokens in the first layer
    model = written(as_compact(ablated.subject, ablated.gates, ablated.values), ablated.subject, tmp_path / "model")
    prompts = ablated.prompts.ids
    made = model.generate(prompts, max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=None)
    plain = prompts
    for _ in range(4):
        with torch.no_grad():
            plain = torch.cat([plain, model(plain, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    assert made.equal(plain)


@pytest.mark.parametrize("without", [0, 3])
@pytest.mark.parametrize("name", DECODERS)
def test_dense_is_the_circuit_where_nothing_has_to_be_added(name: str, without: int, tmp_path: Path) -> None:
    ablated = Ablated(deep(name), "zero", without=without)
    model = written(as_dense(ablated.subject, ablated.gates, ablated.values), ablated.subject, tmp_path / "model")
    assert type(model) is type(ablated.subject.model)
    assert ablated.difference(model) < TOLERANCE
    assert model.num_parameters() < 0.95 * ablated.subject.model.num_parameters()


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama"])
@pytest.mark.parametrize("without", [0, 3])
def test_dense_adds_means_where_there_are_biases(name: str, without: int, tmp_path: Path) -> None:
    ablated = Ablated(deep(name), "mean", without=without)
    model = written(as_dense(ablated.subject, ablated.gates, ablated.values), ablated.subject, tmp_path / "model")
    assert ablated.difference(model) < TOLERANCE
    # a first layer that adds something has no bias before it; a last one has
    assert model.config.num_hidden_layers == (LAYERS if without == 0 else LAYERS - 1)


@pytest.mark.parametrize("name", NO_BIAS)
def test_dense_names_the_bias_that_is_not_there(name: str) -> None:
    ablated = Ablated(deep(name), "mean")
    with pytest.raises(UnsupportedModel, match=rf"{name} has no model.layers.0.*bias") as refused:
        as_dense(ablated.subject, ablated.gates, ablated.values)
    assert "--form compact, or --reference zero" in refused.value.cure
