"""Cross-layer transcoders: circuit-tracer's files, and planted features that write to several layers found again."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from commands import Ask
from subcircuit.errors import DataError, NumericalError, UnsupportedModel, UsageError
from subcircuit.features.branches import Branches
from subcircuit.features.crosslayer import CrossLayerTraining, measured_layers, size_of
from subcircuit.features.documents import Documents
from subcircuit.features.folders import read_dictionary
from subcircuit.features.harvest import Held, Rows
from subcircuit.features.joint import JointLearner
from subcircuit.features.transcoders import Decoding, Transcoders, read_transcoders, write_transcoders
from subcircuit.graphs.replacement import LocalReplacement
from subcircuit.prompts import Prompts
from tiny import random_prompts, tiny
from tiny_folder import Study
from tiny_transcoders import random_transcoders

LAYERS, WIDTH, PLANTED = 3, 16, 12


def decoded(transcoders: Transcoders, x: Tensor) -> Tensor:
    """What stands for each layer's output, (row, layer, width)."""
    decoding = Decoding(transcoders)
    with torch.no_grad():
        return torch.stack(
            [decoding(layer, own.encode(x[:, layer]), x[:, layer]) for layer, own in enumerate(transcoders.layers)], 1
        )


# -- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "jumprelu"])
def test_a_folder_comes_back_as_it_was(activation: str, tmp_path: Path) -> None:
    subject = tiny("llama", num_hidden_layers=3)
    made = random_transcoders(subject, activation=activation, skip=True, crossing=True)  # type: ignore[arg-type]
    write_transcoders(replace(made, scan="tiny-1"), tmp_path / "set")
    found = read_transcoders(tmp_path / "set")
    assert (found.reads, found.writes, found.model, found.scan) == ("hook_resid_mid", "hook_mlp_out", "tiny", "tiny-1")
    x = torch.randn(5, 3, 32)
    torch.testing.assert_close(decoded(found, x), decoded(made, x))
    with pytest.raises(UsageError, match="no layer of them is a dictionary by itself"):
        read_dictionary(tmp_path / "set", 1)


def test_the_files_are_those_of_circuit_tracer_and_say_what_it_computes(tmp_path: Path) -> None:
    """Each feature's decoders, (feature, layer, width), begin with its own layer; a skip path is x W_skip there."""
    made = random_transcoders(tiny("gpt2", n_layer=3), activation="jumprelu", skip=True, crossing=True)
    write_transcoders(made, tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["model_kind"] == "cross_layer_transcoder" and "transcoders" not in config
    files = {f"W_{part}_{layer}.safetensors" for part in ("enc", "dec") for layer in range(3)}
    assert {path.name for path in tmp_path.iterdir()} == files | {"config.yaml"}
    weights = {name: tensor for file in files for name, tensor in load_file(tmp_path / file).items()}
    assert [tuple(weights[f"W_dec_{layer}"].shape) for layer in range(3)] == [(24, 3, 32), (24, 2, 32), (24, 1, 32)]
    x = torch.randn(5, 3, 32)
    expected = torch.stack([weights[f"b_dec_{at}"] + x[:, at] @ weights[f"W_skip_{at}"] for at in range(3)], 1)
    for layer in range(3):
        before = x[:, layer] @ weights[f"W_enc_{layer}"].T + weights[f"b_enc_{layer}"]
        features = before * (before > weights[f"threshold_{layer}"])
        for into in range(layer, 3):
            expected[:, into] += features @ weights[f"W_dec_{layer}"][:, into - layer]
    torch.testing.assert_close(decoded(made, x), expected, rtol=1e-4, atol=1e-4)


def test_folders_that_lack_decoders_or_have_others_are_refused(tmp_path: Path) -> None:
    write_transcoders(random_transcoders(tiny("llama"), crossing=True), tmp_path)
    own = load_file(tmp_path / "W_dec_0.safetensors")["W_dec_0"]
    save_file({"W_dec_0": own[:, :1].contiguous()}, tmp_path / "W_dec_0.safetensors")
    with pytest.raises(DataError, match=r"later layers are \[\(24, 0, 32\), \(24, 0, 32\)\]; \[\(24, 1, 32\)"):
        read_transcoders(tmp_path)
    save_file({"W_dec_0": own[:, 0].contiguous()}, tmp_path / "W_dec_0.safetensors")
    with pytest.raises(DataError, match=r"W_dec_0 is \(24, 32\)"):
        read_transcoders(tmp_path)
    (tmp_path / "W_dec_0.safetensors").unlink()
    with pytest.raises(DataError, match="layer 0 has an encoder and no decoders"):
        read_transcoders(tmp_path)
    (tmp_path / "W_enc_0.safetensors").unlink()
    with pytest.raises(DataError, match=r"are of layers \[1\]"):
        read_transcoders(tmp_path)
    with pytest.raises(UnsupportedModel, match="keep the k largest"):
        write_transcoders(random_transcoders(tiny("llama"), activation="topk", crossing=True), tmp_path / "other")


# -- training -------------------------------------------------------------------------------------------------------


def planted_rows(n: int = 4000) -> tuple[Rows, list[Tensor]]:
    """Features of three layers, about one of each on at a time, and what each writes to its layer and later ones."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.nn.functional.normalize(torch.randn(shape, generator=generator), dim=-1)  # noqa: E731
    encoders, decoders = draw(LAYERS, PLANTED, WIDTH), [draw(PLANTED, LAYERS - at, WIDTH) for at in range(LAYERS)]
    on = torch.rand(n, LAYERS, PLANTED, generator=generator) < 1 / PLANTED
    codes = on * (1 + torch.rand(n, LAYERS, PLANTED, generator=generator))
    x = torch.einsum("blf,lfw->blw", codes, encoders) + 2
    y = torch.full((n, LAYERS, WIDTH), -1.0)
    for layer in range(LAYERS):
        y[:, layer:] += torch.einsum("bf,flw->blw", codes[:, layer], decoders[layer])
    return Rows(x, y), decoders


SETTINGS = CrossLayerTraining(features=24, sparsity=0.1, steps=500, batch=256, revive=40)


def test_planted_features_are_found_with_all_that_they_write() -> None:
    rows, decoders = planted_rows()
    found = SETTINGS.train(Held(rows.x, rows.y))
    told = [each.expected for each in found.transcoders.layers]
    assert all(each["fvu"] < 0.06 and 0.7 < each["l0"] < 2 for each in told), told
    assert found.history[-1]["FVU"] < 0.1 < 0.5 < found.history[0]["FVU"]
    for layer, planted in enumerate(decoders):
        learned = torch.stack([found.transcoders.decoder(layer, into) for into in range(layer, LAYERS)], 1)
        ours, theirs = (torch.nn.functional.normalize(each.flatten(1), dim=1) for each in (learned, planted))
        assert ((theirs @ ours.T).amax(1) > 0.9).float().mean() > 0.7
    alone = replace(found.transcoders, onward=())  # what the last layer lacks when no layer writes to a later one
    last = measured_layers(alone, rows)[-1]["fvu"]
    assert last > 0.5


def test_the_price_of_a_feature_rules_how_many_are_on_and_rises_from_nothing() -> None:
    rows, _ = planted_rows(1500)
    short = replace(SETTINGS, steps=120)
    cheap, dear = (replace(short, sparsity=price).train(Held(rows.x, rows.y)) for price in (0.001, 0.3))
    few, many = (sum(each.expected["l0"] for each in one.transcoders.layers) for one in (dear, cheap))
    assert few < 0.5 * many
    assert cheap.history[0] == dear.history[0]


def test_what_is_measured_is_what_the_definition_says() -> None:
    made, rows = (
        random_transcoders(tiny("llama"), crossing=True),
        Rows(torch.randn(600, 2, 32), torch.randn(600, 2, 32)),
    )
    left = (rows.y - decoded(made, rows.x)).square().sum((0, 2))
    total = (rows.y - rows.y.mean(0)).square().sum((0, 2))
    found = measured_layers(made, rows)
    torch.testing.assert_close(torch.tensor([each["fvu"] for each in found]), left / total)
    assert found[1]["l0"] == pytest.approx(float((made[1].encode(rows.x[:, 1]) > 0).sum(1).float().mean()))
    assert size_of(24, 2, 32) == 4 * sum(
        tensor.numel()
        for each, later in zip(made.layers, made.onward, strict=True)
        for tensor in (each.encoder, each.decoder, each.encoder_bias, each.decoder_bias, each.encoder_bias, later)
    )


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gpt_neox"])
def test_rows_are_what_graphs_read_and_write(family: str) -> None:
    subject = tiny(family)
    ids = random_prompts(subject, 1, length=7).ids
    rows = Branches(subject, Documents(ids.repeat(2, 1).int())).held()
    prompt = Prompts(ids, torch.ones_like(ids, dtype=torch.bool), torch.tensor([6]))
    local = LocalReplacement(subject, random_transcoders(subject), prompt)
    torch.testing.assert_close(rows.x, torch.stack(local.reads, 1)[1:])
    torch.testing.assert_close(rows.y, torch.stack(local.outputs, 1)[1:])


def test_a_resumed_run_is_the_uninterrupted_one_bit_by_bit(tmp_path: Path) -> None:
    subject = tiny("llama")
    source = Branches(subject, Documents(random_prompts(subject, 60, length=16).ids.int()), rows=200, batch=8)
    settings = CrossLayerTraining(features=20, steps=40, batch=64, revive=8, save_every=7, sparsity=20.0, lr=0.02)
    assert source.chunks > 2
    whole = settings.train(source)
    assert max(each["dead"] for each in whole.history) > 0  # some start again, so that this is looked at too

    def stop(phase: str, done: int, total: int, **facts: float) -> None:
        if done == 25:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        settings.train(source, tmp_path / "set", progress=stop)
    with pytest.raises(UsageError, match=r"sparsity: 20\.0 -> 0\.1"):
        replace(settings, sparsity=0.1).train(source, tmp_path / "set", resume=True)
    settings.train(source, tmp_path / "set", resume=True)
    resumed = read_transcoders(tmp_path / "set")
    for one, other in zip(whole.transcoders.layers, resumed.layers, strict=True):
        assert one.encoder.equal(other.encoder) and one.decoder.equal(other.decoder)
        assert one.expected == other.expected and one.threshold is not None and one.threshold.equal(other.threshold)
    assert all(one.equal(other) for one, other in zip(whole.transcoders.onward, resumed.onward, strict=True))
    assert resumed.model == "tiny-llama" and not (tmp_path / "set" / "training.safetensors").exists()
    with pytest.raises(UsageError, match="is finished"):
        settings.train(source, tmp_path / "set", resume=True)


def test_what_cannot_be_learned_is_refused() -> None:
    with pytest.raises(UsageError, match=r"sparsity is -0\.1"):
        CrossLayerTraining(sparsity=-0.1)
    x = torch.randn(300, 2, 8)
    with pytest.raises(DataError, match="do not vary"):
        SETTINGS.train(Held(x, torch.stack([x[:, 0], torch.ones(300, 8)], 1)))
    with pytest.raises(NumericalError, match="loss of the transcoders is not finite"):
        JointLearner(Rows(x, x), 4, seed=0).step(Rows(x * torch.nan, x), 1e-3, 0.1)


# -- the command line -----------------------------------------------------------------------------------------------


def test_train_then_a_graph(files: Study, tmp_path: Path, ask: Ask) -> None:
    texts, out = tmp_path / "texts.txt", tmp_path / "set"
    texts.write_text("".join(f"{row['clean']} {row['corrupt']}\n" for row in files.rows()))
    train = ("features", "train", "--cross-layer", "--model", files.model, "--text", texts, "--features", 32)
    trained = ask(*train, "--steps", 60, "--batch", 64, "--revive", 20, "--out", out, "--json")
    assert trained.code == 0, trained.err
    layers = read_transcoders(out).layers
    assert trained.json["fvu"] == [pytest.approx(each.expected["fvu"]) for each in layers]
    assert trained.json["reads"] == "hook_resid_mid" and len(trained.json["l0"]) == len(layers)
    prompt = files.rows()[0]["clean"]
    drawn = ask("graph", "--model", files.model, "--transcoders", out, "--prompt", prompt, "--out", tmp_path / "g")
    assert drawn.code == 0, drawn.err
    assert json.loads((tmp_path / "g" / "graph.json").read_text())["transcoders"]["folder"] == str(out)
    told = ask(*train, "--steps", 20, "--batch", 64, "--out", tmp_path / "again")
    assert told.code == 0 and "layer 1: FVU" in told.out and "in all layers together" in told.out


def test_options_that_do_not_go_together_are_told_before_a_model_is_loaded(tmp_path: Path, ask: Ask) -> None:
    train = ("features", "train", "--model", "nowhere", "--out", tmp_path / "set")
    assert "--site 12.resid, or --cross-layer" in ask(*train).err
    assert "--site and --cross-layer were both given" in ask(*train, "--cross-layer", "--site", "1.resid").err
    assert "--k and --cross-layer were both given" in ask(*train, "--cross-layer", "--k", 3).err
    assert "--sparsity was given without --cross-layer" in ask(*train, "--site", "1.resid", "--sparsity", 0.1).err
    assert "sparsity is -1" in ask(*train, "--cross-layer", "--sparsity", -1).err


def test_more_than_fits_in_memory_is_refused(files: Study, tmp_path: Path, ask: Ask) -> None:
    huge = ("--features", 10**10, "--task", files.prompts)
    answer = ask("features", "train", "--cross-layer", "--model", files.model, *huge, "--out", tmp_path / "set")
    assert answer.code == 4 and "GiB while they learn" in answer.err
