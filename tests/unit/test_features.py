"""Dictionaries in the formats of their makers, written by hand; what they compute, by each maker's formula."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from subcircuit.errors import DataError, UnsupportedModel, UsageError
from subcircuit.features.dictionary import Dictionary
from subcircuit.features.folders import read_dictionary

WIDTH, FEATURES = 6, 20


def weights(seed: int = 0) -> dict[str, Tensor]:
    """Encoder and decoder a row per feature, and their biases."""
    torch.manual_seed(seed)
    shapes = {"enc": (FEATURES, WIDTH), "dec": (FEATURES, WIDTH), "b_enc": (FEATURES,), "b_dec": (WIDTH,)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def saelens(folder: Path, config: dict[str, object], **more: Tensor) -> Path:
    own = weights()
    tensors = {"W_enc": own["enc"].T, "W_dec": own["dec"], "b_enc": own["b_enc"], "b_dec": own["b_dec"], **more}
    return written(folder, "sae_weights.safetensors", tensors, config)


def sparsify(folder: Path, config: dict[str, object], **more: Tensor) -> Path:
    own = weights()
    tensors = {"encoder.weight": own["enc"], "encoder.bias": own["b_enc"], "W_dec": own["dec"], "b_dec": own["b_dec"]}
    return written(folder, "sae.safetensors", {**tensors, **more}, config)


def tracer(folder: Path, layer: int, **more: Tensor) -> Path:
    own = weights()
    tensors = {"W_enc": own["enc"], "W_dec": own["dec"], "b_enc": own["b_enc"], "b_dec": own["b_dec"], **more}
    return written(folder, f"layer_{layer}.safetensors", tensors, None)


def written(folder: Path, name: str, tensors: dict[str, Tensor], config: dict[str, object] | None) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / name)
    if config is not None:
        (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def inputs() -> Tensor:
    return torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(1))


# -- each format ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("centred", [True, False])
def test_saelens_standard(centred: bool, tmp_path: Path) -> None:
    config = {"architecture": "standard", "apply_b_dec_to_input": centred, "model_name": "gpt2"}
    found = read_dictionary(saelens(tmp_path, {**config, "hook_name": "blocks.8.hook_resid_pre"}))
    own, x = weights(), inputs()
    features = ((x - own["b_dec"] * centred) @ own["enc"].T + own["b_enc"]).relu()
    torch.testing.assert_close(found.encode(x), features)
    torch.testing.assert_close(found.decode(found.encode(x)), features @ own["dec"] + own["b_dec"])
    assert (found.model, found.reads, found.layer) == ("gpt2", "blocks.8.hook_resid_pre", 8)


def test_saelens_jumprelu_and_its_newer_metadata(tmp_path: Path) -> None:
    threshold = torch.rand(FEATURES)
    config = {
        "architecture": "jumprelu",
        "apply_b_dec_to_input": False,
        "metadata": {"hook_name": "blocks.3.hook_mlp_out"},
    }
    found = read_dictionary(saelens(tmp_path, config, threshold=threshold))
    own = weights()
    before = inputs() @ own["enc"].T + own["b_enc"]
    torch.testing.assert_close(found.encode(inputs()), before * (before > threshold))
    assert (found.layer, found.reads) == (3, "blocks.3.hook_mlp_out")


@pytest.mark.parametrize(
    "config", [{"architecture": "topk", "k": 3}, {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}}]
)
def test_saelens_topk(config: dict[str, object], tmp_path: Path) -> None:
    found = read_dictionary(saelens(tmp_path, config))
    features = found.encode(inputs())
    own = weights()
    every = ((inputs() - own["b_dec"]) @ own["enc"].T + own["b_enc"]).relu()
    assert ((features > 0).sum(-1) <= 3).all()
    torch.testing.assert_close(features.sum(-1), every.sort(-1, descending=True).values[:, :3].sum(-1))


def test_sparsify_autoencoder_takes_its_bias_off_the_input(tmp_path: Path) -> None:
    folder = sparsify(tmp_path / "layers.6", {"d_in": WIDTH, "k": 4, "activation": "topk"})
    found, own = read_dictionary(folder), weights()
    every = ((inputs() - own["b_dec"]) @ own["enc"].T + own["b_enc"]).relu()
    torch.testing.assert_close(found.encode(inputs()).sum(-1), every.topk(4).values.sum(-1))
    assert (found.layer, found.k, len(found), found.width) == (6, 4, FEATURES, WIDTH)


def test_sparsify_skip_transcoder(tmp_path: Path) -> None:
    skip = torch.randn(WIDTH, WIDTH)
    found = read_dictionary(sparsify(tmp_path / "layers.2.mlp", {"k": FEATURES, "transcode": True}, W_skip=skip))
    own, x = weights(), inputs()
    features = (x @ own["enc"].T + own["b_enc"]).relu()
    torch.testing.assert_close(found.decode(found.encode(x), x), features @ own["dec"] + own["b_dec"] + x @ skip.T)
    with pytest.raises(DataError, match="skip path, and no input"):
        found.decode(features)


def test_circuit_tracer_transcoders_layer_by_layer(tmp_path: Path) -> None:
    tracer(tmp_path, 0)
    tracer(tmp_path, 1, **{"activation_function.threshold": torch.full((FEATURES,), 0.5)})
    tracer(tmp_path, 2, k=torch.tensor(5))
    hooks = "feature_input_hook: mlp.hook_in\nfeature_output_hook: mlp.hook_out\n"
    (tmp_path / "config.yaml").write_text(f"model_name: google/gemma-2-2b\n{hooks}")
    found, own = [read_dictionary(tmp_path, layer) for layer in range(3)], weights()
    before = inputs() @ own["enc"].T + own["b_enc"]
    torch.testing.assert_close(found[0].encode(inputs()), before.relu())
    torch.testing.assert_close(found[1].encode(inputs()), before * (before > 0.5))
    assert [each.activation for each in found] == ["relu", "jumprelu", "topk"] and found[2].k == 5
    assert (found[2].layer, found[2].reads, found[2].writes) == (2, "mlp.hook_in", "mlp.hook_out")
    with pytest.raises(UsageError, match="layers 0, 1, 2, and layer 7 was asked for"):
        read_dictionary(tmp_path, 7)


def test_half_precision_is_read_as_single(tmp_path: Path) -> None:
    folder = tracer(tmp_path, 0, W_skip=torch.eye(WIDTH, dtype=torch.bfloat16))
    found = read_dictionary(folder, 0)
    assert found.skip is not None and found.skip.dtype == torch.float32


# -- how much it explains -------------------------------------------------------------------------------------------


def test_fvu_is_0_for_an_exact_dictionary_and_1_for_the_mean() -> None:
    x = torch.randn(50, 4)
    both = torch.cat([torch.eye(4), -torch.eye(4)])  # the positive and the negative part of each coordinate
    exact = Dictionary(both, both, torch.zeros(8), torch.zeros(4), "relu")
    assert exact.fvu(x) == pytest.approx(0, abs=1e-10)
    mean = Dictionary(both, torch.zeros(8, 4), torch.zeros(8), x.mean(0), "relu")
    assert mean.fvu(x) == pytest.approx(1)


# -- what is refused ------------------------------------------------------------------------------------------------


def test_activations_of_another_width_are_refused_with_both_widths(tmp_path: Path) -> None:
    config = {"model_name": "gpt2", "hook_name": "blocks.8.hook_resid_pre"}
    with pytest.raises(DataError, match=r"width 6; these are 7 wide") as refusal:
        read_dictionary(saelens(tmp_path, config)).encode(torch.zeros(2, 7))
    assert "'gpt2' at 'blocks.8.hook_resid_pre'" in refusal.value.cure


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"architecture": "gated"}, "architecture gated"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations layer_norm"),
        ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor"),
        ({"architecture": "topk", "k": 3, "rescale_acts_by_decoder_norm": True}, "rescale_acts_by_decoder_norm"),
    ],
)
def test_what_is_not_computed_as_its_maker_does_is_refused(
    config: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModel, match=said):
        read_dictionary(saelens(tmp_path, config))


def test_sparsify_with_another_activation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="groupmax"):
        read_dictionary(sparsify(tmp_path, {"k": 4, "activation": "groupmax"}))


def test_broken_folders_are_refused_with_their_fault(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no dictionary"):
        read_dictionary(tmp_path)
    (tmp_path / "sae.safetensors").write_bytes(b"no tensors")
    (tmp_path / "cfg.json").write_text("{}")
    with pytest.raises(DataError, match="is not a safetensors file"):
        read_dictionary(tmp_path)
    (tmp_path / "cfg.json").write_text("{")
    with pytest.raises(DataError, match=r"cfg\.json cannot be read"):
        read_dictionary(tmp_path)


def test_weights_that_do_not_fit_or_are_not_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"decoder is \(19, 6\)"):
        read_dictionary(sparsify(tmp_path, {"k": 4}, W_dec=torch.zeros(19, WIDTH)))
    with pytest.raises(DataError, match="'b_dec' holds numbers that are not finite"):
        read_dictionary(sparsify(tmp_path, {"k": 4}, b_dec=torch.full((WIDTH,), torch.nan)))
    with pytest.raises(DataError, match="keeps 21"):
        read_dictionary(sparsify(tmp_path, {"k": 21}))
    with pytest.raises(DataError, match="there is no threshold"):
        read_dictionary(saelens(tmp_path / "jump", {"architecture": "jumprelu"}))
