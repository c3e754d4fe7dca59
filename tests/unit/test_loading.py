"""Loading from folders and GGUF files: the weights that were saved come back, and everything else is refused."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from subcircuit.conversion import MARKER, _cure
from subcircuit.errors import DataError, MissingExtra, ResourceError, UnknownName, UnsupportedModel, UsageError
from subcircuit.loading import load
from tiny import random_prompts, tiny
from tiny_files import Told, save, write_gguf


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBCIRCUIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return save(tiny("llama"), tmp_path / "llama")


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_folder_gives_the_saved_model_and_its_tokenizer(family: str, tmp_path: Path) -> None:
    saved = tiny(family)
    loaded = load(save(saved, tmp_path / family), device="cpu")
    prompts = random_prompts(saved)
    assert torch.equal(loaded.all_logits(prompts), saved.all_logits(prompts))
    assert loaded.family_name == family
    assert loaded.family.causal == (family != "bert")
    assert loaded.tokenizer.encode("a b") == [4, 5]  # after the four special tokens
    assert loaded.name == str(tmp_path / family)


def test_revision_of_a_folder_is_its_content(llama: Path, tmp_path: Path) -> None:
    before = load(llama, device="cpu").revision
    assert before == load(save(tiny("llama"), tmp_path / "again"), device="cpu").revision
    weights = load_file(llama / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, llama / "model.safetensors", metadata={"format": "pt"})
    after = load(llama, device="cpu").revision
    assert before.startswith("sha256:") and len(before) == 71
    assert after != before


def test_dtype_is_that_of_the_weights(llama: Path) -> None:
    assert load(llama, device="cpu").dtype is torch.float32
    assert load(llama, device="cpu", dtype="bfloat16").dtype is torch.bfloat16


def test_attention_that_caps_its_logits_is_not_given_to_sdpa(llama: Path, tmp_path: Path) -> None:
    gemma2 = load(save(tiny("gemma2"), tmp_path / "gemma2"), device="cpu")
    assert gemma2.model.config._attn_implementation == "eager"
    assert load(llama, device="cpu").model.config._attn_implementation == "sdpa"
    assert load(llama, device="cpu", attn="eager").model.config._attn_implementation == "eager"


def test_unknown_family_is_refused_before_its_weights_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')  # no weights beside it
    with pytest.raises(UnsupportedModel, match=r"no family 'mamba'.* there are: bert, .*llama"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"dtype": "float23"}, "no dtype 'float23'; did you mean 'float32'.*bfloat16, float16, float32"),
        ({"device": "cdua"}, "no device 'cdua'; did you mean 'cuda'"),
        ({"attn": "flash"}, "no attention 'flash'; there are: eager, sdpa"),
    ],
)
def test_unknown_option_names_the_choices(llama: Path, option: dict[str, str], message: str) -> None:
    with pytest.raises(UnknownName, match=message):
        load(llama, **option)  # type: ignore[arg-type]


def test_device_that_is_not_there(llama: Path) -> None:
    absent = [
        name
        for name, there in {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}.items()
        if not there
    ]
    for device in absent:
        with pytest.raises(ResourceError, match=rf"finds no device '{device}'\nthere are: .*cpu"):
            load(llama, device=device)


def test_spread_needs_accelerate(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"subcircuit\[accelerate\]"):
        load(llama, device="spread")


def test_spread_gives_the_same_logits(llama: Path) -> None:
    pytest.importorskip("accelerate")
    prompts = random_prompts(tiny("llama"))
    spread, plain = load(llama, device="spread"), load(llama, device="cpu")
    assert torch.allclose(spread.all_logits(prompts).cpu(), plain.all_logits(prompts), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "'./nowhere' is not there"),
        ("nowhere.gguf", "'nowhere.gguf' is not there"),
        ("/no/such/folder", "'/no/such/folder' is not there"),
    ],
)
def test_path_that_is_not_there_is_not_looked_up_on_the_hub(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(name)


def test_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no model: it has no config\.json"):
        load(tmp_path)


def test_revision_of_something_local_is_refused(llama: Path) -> None:
    with pytest.raises(UsageError, match="has no revisions"):
        load(llama, revision="main")


def test_config_that_is_not_json(llama: Path) -> None:
    (llama / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config\.json is not JSON"):
        load(llama)


def test_folder_without_a_tokenizer(tmp_path: Path) -> None:
    tiny("llama").model.save_pretrained(tmp_path)
    with pytest.raises(DataError, match="no tokenizer that can be read"):
        load(tmp_path)


def test_lacking_weights_are_not_filled_with_noise(llama: Path) -> None:
    weights = load_file(llama / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "layers.1.mlp" not in name}
    save_file(kept, llama / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedModel, match=r"lacks 3 weights of a LlamaForCausalLM: model\.layers\.1\.mlp\.down"):
        load(llama)


def test_encoder_without_its_masked_language_head_is_refused(tmp_path: Path) -> None:
    folder = save(tiny("bert"), tmp_path / "bert")
    weights = load_file(folder / "model.safetensors")
    body = {name: tensor for name, tensor in weights.items() if not name.startswith("cls.")}
    save_file(body, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedModel, match="trained with its language-model head"):
        load(folder)


@pytest.mark.parametrize("damage", ["cut", "gone", "other shape"])
def test_weights_that_cannot_be_read(llama: Path, damage: str) -> None:
    file = llama / "model.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:1000])
    elif damage == "gone":
        file.unlink()
    else:
        config = json.loads((llama / "config.json").read_text())
        (llama / "config.json").write_text(json.dumps({**config, "intermediate_size": 20}))
    with pytest.raises(DataError, match="could not be read"):
        load(llama)


def test_gguf_file_is_converted_once(tmp_path: Path) -> None:
    tensors = write_gguf(tmp_path / "small.gguf")
    told = Told()
    first = load(tmp_path / "small.gguf", device="cpu", progress=told)
    second = load(tmp_path / "small.gguf", device="cpu", progress=told)
    assert told == [("converting small.gguf", 0, 1), ("converting small.gguf", 1, 1)]
    for subject in (first, second):
        layer = subject.model.base_model.layers[0]
        assert np.array_equal(layer.mlp.down_proj.weight.numpy(), tensors["blk.0.ffn_down.weight"])
        assert np.array_equal(layer.self_attn.v_proj.weight.numpy(), tensors["blk.0.attn_v.weight"])
        assert np.array_equal(subject.model.lm_head.weight.numpy(), tensors["output.weight"])
        assert subject.tokenizer.encode("ab", add_special_tokens=False) == [29]  # merged: the last token
    assert first.revision == second.revision and first.revision.startswith("sha256:")


def test_gguf_of_the_same_name_and_other_content_is_another_model(tmp_path: Path) -> None:
    write_gguf(tmp_path / "small.gguf")
    first = load(tmp_path / "small.gguf", device="cpu")
    content = bytearray((tmp_path / "small.gguf").read_bytes())
    content[-1] ^= 1
    (tmp_path / "small.gguf").write_bytes(content)
    second = load(tmp_path / "small.gguf", device="cpu")
    assert first.revision != second.revision
    assert len([path for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()]) == 2


@pytest.mark.parametrize("content", [b"", b"not a model at all"])
def test_file_that_is_not_gguf(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(DataError, match="is not a GGUF file"):
        load(tmp_path / "x.gguf")


@pytest.mark.parametrize("size", [10, 200, 3000])
def test_cut_gguf_file_leaves_nothing_in_the_cache(tmp_path: Path, size: int) -> None:
    write_gguf(tmp_path / "x.gguf")
    (tmp_path / "x.gguf").write_bytes((tmp_path / "x.gguf").read_bytes()[:size])
    with pytest.raises(DataError, match="cannot read this GGUF file"):
        load(tmp_path / "x.gguf")
    assert not [path for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()]


def test_a_conversion_that_fails_says_why_and_asks_for_room_only_where_there_is_none(tmp_path: Path) -> None:
    write_gguf(tmp_path / "x.gguf")
    load(tmp_path / "x.gguf", device="cpu")
    (home,) = (path for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir())
    (home / MARKER).unlink()
    home.with_name(f"{home.name}.partial").touch()  # in the way
    with pytest.raises(ResourceError, match="File exists") as refused:
        load(tmp_path / "x.gguf")
    assert refused.value.cure == ""
    full = "Error while serializing: I/O error: No space left on device (os error 28)"
    for error in (OSError(errno.ENOSPC, "No space left on device"), SafetensorError(full)):
        assert _cure(error).startswith("make room there")


def test_gguf_of_an_unknown_family_is_refused_before_it_is_converted(tmp_path: Path) -> None:
    write_gguf(tmp_path / "x.gguf", architecture="mamba")
    with pytest.raises(UnsupportedModel, match="no family 'mamba'"):
        load(tmp_path / "x.gguf")
