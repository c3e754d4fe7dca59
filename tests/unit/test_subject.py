"""What a subject refuses, with the words it refuses it in."""

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, OPTConfig, OPTForCausalLM

from subcircuit import plugins
from subcircuit.errors import UnsupportedModel, UsageError
from subcircuit.sites import Kind, Site
from subcircuit.subject import Edit, Prompts, Subject
from tiny import random_prompts, tiny


def test_an_unknown_family_is_refused_and_the_known_ones_listed() -> None:
    config = OPTConfig(hidden_size=32, ffn_dim=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=64)
    with pytest.raises(UnsupportedModel, match="no family 'opt'") as refusal:
        Subject(OPTForCausalLM(config))
    assert all(name in refusal.value.message for name in plugins.names("families"))


@pytest.mark.parametrize("family", plugins.names("families"))
def test_a_model_without_unembedding_is_refused(family: str) -> None:
    body = AutoModel.from_config(tiny(family).model.config)
    with pytest.raises(UnsupportedModel, match=f"{type(body).__name__} has no unembedding"):
        Subject(body)


@pytest.mark.parametrize("family", plugins.names("families"))
def test_heads_that_do_not_divide_are_refused(family: str) -> None:
    model = tiny(family).model
    model.config.num_attention_heads = 5
    with pytest.raises(UnsupportedModel, match=r"5 heads .* do not divide a width of (32|64)"):
        Subject(model)


def test_groups_that_do_not_divide_the_heads_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="4 heads and 3 key/value heads"):
        tiny("llama", num_key_value_heads=3)


def test_layers_of_different_widths_are_refused() -> None:
    model = tiny("llama").model
    model.get_submodule("model.layers.1.mlp").down_proj = nn.Linear(40, 32)
    with pytest.raises(UnsupportedModel, match=r"'mlp.down_proj' differs in width .*\[48, 40\]"):
        Subject(model)


def test_a_missing_part_is_named() -> None:
    model = tiny("llama").model
    del model.get_submodule("model.layers.1").mlp
    with pytest.raises(UnsupportedModel, match="this llama model has no 'mlp'"):
        Subject(model)


def test_a_missing_tokenizer_is_named() -> None:
    with pytest.raises(UnsupportedModel, match="tiny-llama has no tokenizer"):
        _ = tiny("llama").tokenizer


@pytest.mark.parametrize("change", [lambda act: act[:, :1], lambda act: act.transpose(2, 3)], ids=["cut", "turned"])
def test_an_edit_that_changes_the_shape_is_refused(change: Edit) -> None:
    subject = tiny("llama")
    with subject.editing({Site(0, Kind.HEAD): change}), pytest.raises(UsageError, match=r"o_proj.* was given .*4, 8"):
        subject.logits(random_prompts(subject))


def test_a_wrapped_model_is_frozen_in_eval_mode_and_otherwise_its_own() -> None:
    model = tiny("gpt2").model.train().requires_grad_(True)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    subject = Subject(model)
    with torch.no_grad():
        subject.record(random_prompts(subject), subject.sites(Kind.HEAD))
    assert subject.model is model
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_rows_of_prompts_are_cut_to_the_longest_of_them() -> None:
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 0, 0], [5, 6, 7, 0]])
    prompts = Prompts(ids, ids > 0, torch.tensor([3, 1, 2]))
    some = prompts[[1, 2]]
    assert some.ids.tolist() == [[5, 6, 0], [5, 6, 7]]
    assert some.lengths.tolist() == [2, 3]
    assert some.at.tolist() == [1, 2]
    assert len(prompts[[]]) == 0


def test_a_bfloat16_model_is_edited_in_bfloat16_and_judged_in_float32() -> None:
    subject = Subject(tiny("llama").model.to(torch.bfloat16))
    prompts = random_prompts(subject)
    seen: list[torch.dtype] = []

    def edit(act: Tensor) -> Tensor:
        seen.append(act.dtype)
        return act.float() * 0.5  # masks are float32; what goes back is the model's dtype

    with torch.no_grad(), subject.editing({Site(0, Kind.HEAD): edit}):
        logits = subject.logits(prompts)
    assert seen == [torch.bfloat16]
    assert logits.dtype == torch.float32
