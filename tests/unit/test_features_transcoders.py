"""Sets of transcoders: written as circuit-tracer's folders, read back, and refused where they do not fit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from subcircuit.errors import DataError, UsageError
from subcircuit.features.dictionary import Activation
from subcircuit.features.transcoders import Transcoders, read_transcoders, write_transcoders
from tiny import tiny
from tiny_transcoders import random_transcoders


@pytest.mark.parametrize(("activation", "skip"), [("relu", False), ("topk", True), ("jumprelu", False)])
def test_a_folder_comes_back_as_it_was(activation: Activation, skip: bool, tmp_path: Path) -> None:
    made = replace(random_transcoders(tiny("llama"), activation=activation, skip=skip), scan="tiny-1")
    write_transcoders(made, tmp_path / "set")
    found = read_transcoders(tmp_path / "set")
    assert (found.reads, found.writes, found.model, found.scan) == ("hook_resid_mid", "hook_mlp_out", "tiny", "tiny-1")
    x = torch.randn(5, 32)
    for own, back in zip(made.layers, found.layers, strict=True):
        assert own.encode(x).equal(back.encode(x)) and own.decode(own.encode(x), x).equal(
            back.decode(back.encode(x), x)
        )


def test_the_files_are_named_as_circuit_tracer_names_them(tmp_path: Path) -> None:
    write_transcoders(random_transcoders(tiny("gpt2"), activation="jumprelu"), tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["model_kind"] == "transcoder_set" and config["transcoders"] == [
        "layer_0.safetensors",
        "layer_1.safetensors",
    ]
    tensors = load_file(tmp_path / "layer_1.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        **{"W_enc": (24, 32), "W_dec": (24, 32), "b_enc": (24,), "b_dec": (32,)},
        "activation_function.threshold": (24,),
    }


def test_a_centred_input_is_folded_into_the_bias() -> None:
    one = replace(random_transcoders(tiny("llama"))[0], centred=True)
    (folded,) = Transcoders.of([one]).layers
    x = torch.randn(5, 32)
    assert not folded.centred
    torch.testing.assert_close(folded.encode(x), one.encode(x))


def test_hooks_are_known_with_and_without_their_layer() -> None:
    made = random_transcoders(tiny("llama"), reads="blocks.0.hook_resid_mid", writes="blocks.0.hook_mlp_out")
    assert (made.reads, made.writes) == ("hook_resid_mid", "hook_mlp_out")
    with pytest.raises(DataError, match="read hook is 'hook_attn_out'"):
        random_transcoders(tiny("llama"), reads="hook_attn_out")


def test_folders_that_are_none_or_lack_a_layer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no transcoders"):
        read_transcoders(tmp_path)
    write_transcoders(random_transcoders(tiny("llama")), tmp_path)
    (tmp_path / "layer_0.safetensors").unlink()
    with pytest.raises(DataError, match=r"are of layers \[1\]"):
        read_transcoders(tmp_path)
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(DataError, match=r"config\.yaml is missing"):
        read_transcoders(tmp_path)
