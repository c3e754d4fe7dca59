"""Training dictionaries: planted directions found again, silent features brought back, runs that go on bit by bit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from subcircuit.errors import DataError, NumericalError, UsageError
from subcircuit.features.dictionary import Dictionary
from subcircuit.features.documents import Documents, read_texts, windows
from subcircuit.features.folders import read_dictionary
from subcircuit.features.harvest import Harvest, Held, Rows, record_rows
from subcircuit.features.hooks import hook_name, site_of
from subcircuit.features.learning import Learner
from subcircuit.features.training import Training
from subcircuit.features.writing import write_dictionary
from subcircuit.sites import Kind, Site
from tiny import random_prompts, tiny
from tiny_files import tokenizer

WIDTH, PLANTED = 32, 48


def directions(seed: int = 0) -> Tensor:
    found = torch.randn(PLANTED, WIDTH, generator=torch.Generator().manual_seed(seed))
    return found / found.norm(dim=1, keepdim=True)


def planted_rows(n: int = 20000, offset: float = 3.0) -> tuple[Tensor, Tensor]:
    """Codes of three planted directions each, and rows made of them about a mean far from 0."""
    generator = torch.Generator().manual_seed(1)
    codes = torch.zeros(n, PLANTED)
    on = torch.rand(n, PLANTED, generator=generator).topk(3).indices
    codes.scatter_(1, on, 1 + torch.rand(n, 3, generator=generator))
    return codes, codes @ directions() + offset


SETTINGS = Training(features=64, k=3, steps=600, batch=256, revive=60)


def best_cosines(found: Tensor) -> Tensor:
    """How near each planted direction some learned one is."""
    return (directions() @ found.T).amax(1)


class Stopped(Exception):
    """What a test stops a run with."""


# -- what is learned ------------------------------------------------------------------------------------------------


def test_planted_directions_are_found_and_fvu_falls() -> None:
    _, x = planted_rows()
    found = SETTINGS.train(Held(x))
    cosines = best_cosines(found.dictionary.decoder)
    assert (cosines > 0.95).float().mean() > 0.9
    assert found.history[-1]["FVU"] < 0.1 < found.history[0]["FVU"]
    assert found.dictionary.expected["fvu"] == pytest.approx(found.dictionary.fvu(x[-1000:]), abs=1e-5)
    assert found.dictionary.expected["l0"] == pytest.approx(3, abs=0.1)
    torch.testing.assert_close(found.dictionary.decoder.norm(dim=1), torch.ones(64))


def test_a_transcoder_learns_another_place() -> None:
    codes, x = planted_rows()
    turned = directions(seed=5)
    y = codes @ turned - 1
    found = replace(SETTINGS, steps=900).train(Held(x, y)).dictionary
    assert found.fvu(x, y) < 0.3 and not found.centred
    assert ((turned @ found.decoder.T).amax(1) > 0.95).float().mean() > 0.6


def test_the_scale_of_the_activations_does_not_matter() -> None:
    _, x = planted_rows(4000)
    small, large = (replace(SETTINGS, steps=80).train(Held(x * scale)).dictionary for scale in (1.0, 64.0))
    torch.testing.assert_close(small.encode(x) * 64, large.encode(x * 64), rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(small.decoder, large.decoder, rtol=1e-3, atol=1e-3)


def test_silent_features_are_brought_back() -> None:
    _, x = planted_rows(4000)
    rows = Rows(x, x)
    learner = Learner(rows, 64, 3, transcodes=False, seed=0)
    with torch.no_grad():
        learner.encoder_bias[:40] = -1e4  # no row can turn these on, and no gradient reaches them
    batches = [rows[torch.arange(start, start + 500)] for start in range(0, 4000, 500)]
    for batch in batches:
        learner.step(batch, 1e-3)
    assert (learner.quiet[:40] == len(batches)).all()
    generator = torch.Generator().manual_seed(0)
    silent = int((learner.quiet >= len(batches)).sum())
    assert learner.revive(batches[0], len(batches), generator) == silent >= 40
    for batch in batches * 10:
        learner.step(batch, 1e-3)
    assert (learner.quiet[:40] < len(batches)).float().mean() > 0.8


def test_revival_finds_what_silent_features_leave() -> None:
    _, x = planted_rows()
    settings = replace(SETTINGS, features=PLANTED, steps=600)  # no feature to spare
    with_it, without = (replace(settings, revive=every).train(Held(x)).dictionary for every in (60, 0))
    assert with_it.expected["dead"] <= without.expected["dead"]
    assert with_it.expected["fvu"] <= without.expected["fvu"] + 0.01


# -- going on -------------------------------------------------------------------------------------------------------


def test_a_resumed_run_is_the_uninterrupted_one_bit_by_bit(tmp_path: Path) -> None:
    subject = tiny("llama")
    documents = Documents(random_prompts(subject, 60, length=16).ids.int())
    source = Harvest(subject, documents, Site(1, Kind.RESID), rows=200, batch=8)
    assert source.chunks > 2
    settings = Training(features=48, k=4, steps=40, batch=64, revive=8, save_every=7)
    whole = settings.train(source)

    def stop(phase: str, done: int, total: int, **facts: float) -> None:
        if done == 25:
            raise Stopped

    with pytest.raises(Stopped):
        settings.train(source, tmp_path / "sae", progress=stop)
    with pytest.raises(UsageError, match="k: 4 -> 5"):
        replace(settings, k=5).train(source, tmp_path / "sae", resume=True)
    resumed = settings.train(source, tmp_path / "sae", resume=True)
    for name in ("encoder", "decoder", "encoder_bias", "decoder_bias"):
        assert torch.equal(getattr(whole.dictionary, name), getattr(resumed.dictionary, name)), name
    assert whole.history == resumed.history and whole.dictionary.expected == resumed.dictionary.expected
    with pytest.raises(UsageError, match="is finished"):
        settings.train(source, tmp_path / "sae", resume=True)
    with pytest.raises(UsageError, match="is not empty"):
        settings.train(source, tmp_path / "sae")


def test_the_folder_reads_back_as_what_was_trained(tmp_path: Path) -> None:
    subject = tiny("gpt2")
    documents = Documents(random_prompts(subject, 20, length=12).ids.int())
    source = Harvest(subject, documents, Site(0, Kind.MLP_IN), Site(0, Kind.MLP_OUT))
    found = Training(features=40, k=4, steps=10, batch=32).train(source, tmp_path / "sae").dictionary
    again = read_dictionary(tmp_path / "sae")
    assert (again.model, again.reads, again.writes) == ("tiny-gpt2", "blocks.0.hook_resid_mid", "blocks.0.hook_mlp_out")
    assert again.expected == found.expected and again.layer == 0 and not again.centred
    rows = source.held()
    torch.testing.assert_close(again.encode(rows.x), found.encode(rows.x))
    assert sorted(path.name for path in (tmp_path / "sae").iterdir()) == ["cfg.json", "sae_weights.safetensors"]


@pytest.mark.parametrize("activation", ["relu", "jumprelu"])
def test_other_activations_are_written_too(activation: str, tmp_path: Path) -> None:
    threshold = torch.rand(8) if activation == "jumprelu" else None
    made = Dictionary(
        torch.randn(8, 4),
        torch.randn(8, 4),
        torch.randn(8),
        torch.randn(4),
        activation,  # type: ignore[arg-type]
        threshold=threshold,
        centred=True,
    )
    write_dictionary(made, tmp_path)
    x = torch.randn(5, 4)
    again = read_dictionary(tmp_path)
    torch.testing.assert_close(again.decode(again.encode(x)), made.decode(made.encode(x)))


# -- where rows come from -------------------------------------------------------------------------------------------


def test_rows_are_the_models_own_activations_without_padding_and_first_tokens() -> None:
    subject = tiny("llama")
    ids = random_prompts(subject, 3, length=6).ids
    short = ids.clone()
    short[1, 4:] = -1
    found = record_rows(subject, Documents(short.int()), [Site(1, Kind.RESID)], batch=2)[Site(1, Kind.RESID)]
    with torch.no_grad():
        hidden = [
            subject.model(ids[row : row + 1, :length], output_hidden_states=True).hidden_states[1][0, 1:]
            for row, length in enumerate((6, 4, 6))
        ]
    torch.testing.assert_close(found, torch.cat(hidden))


def test_every_window_is_in_one_chunk_of_an_epoch_or_held_out() -> None:
    subject = tiny("llama")
    documents = Documents(random_prompts(subject, 30, length=8).ids.int())
    source = Harvest(subject, documents, Site(0, Kind.MLP_OUT), rows=50)
    every = record_rows(subject, documents, [source.reads])[source.reads]
    for epoch in range(2):
        parts = [source.chunk(epoch, number).x for number in range(source.chunks)] + [source.held().x]
        assert sum(map(len, parts)) == len(every) == 30 * 7
        assert float(torch.cat(parts).double().sum()) == pytest.approx(float(every.double().sum()), abs=1e-3)
    assert torch.equal(source.chunk(1, 0).x, source.chunk(1, 0).x)
    assert not torch.equal(source.chunk(1, 0).x, source.chunk(0, 0).x)


def test_texts_become_windows(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("a b c d e\n\nf g\nh\n")
    found = windows(read_texts(tmp_path / "some.txt"), tokenizer(), window=3)
    assert [(row >= 0).sum() for row in found.ids] == [3, 2, 2]
    (tmp_path / "some.jsonl").write_text('{"text": "a b c"}\n')
    assert list(read_texts(tmp_path / "some.jsonl")) == ["a b c"]
    (tmp_path / "bad.jsonl").write_text('{"text": "a b c"}\n{"body": 1}\n')
    with pytest.raises(DataError, match=r"line 2 of bad\.jsonl"):
        list(read_texts(tmp_path / "bad.jsonl"))
    with pytest.raises(UsageError, match="is not a file"):
        list(read_texts(tmp_path / "none.txt"))
    with pytest.raises(DataError, match="no window of two tokens"):
        windows(["a"], tokenizer())


def test_hooks_and_sites_name_each_other() -> None:
    for site in (
        Site(3, Kind.RESID),
        Site(3, Kind.MLP_OUT),
        Site(0, Kind.ATTN),
        Site(1, Kind.HEAD),
        Site(4, Kind.RESID),
    ):
        assert site_of(hook_name(site, 4)) == site
    assert site_of("layers.6") == Site(7, Kind.RESID) and site_of("h.2.mlp") == Site(2, Kind.MLP_OUT)
    assert site_of("hook_mlp_out", 5) == Site(5, Kind.MLP_OUT)
    assert site_of("mlp.hook_in", 5) is None and site_of("", None) is None


# -- what is refused ------------------------------------------------------------------------------------------------


def test_rows_that_do_not_vary_or_are_no_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="do not vary"):
        SETTINGS.train(Held(torch.ones(100, 8)))
    subject = tiny("llama")
    with torch.no_grad():
        subject.model.model.layers[0].mlp.down_proj.weight[0, 0] = torch.nan
    documents = Documents(random_prompts(subject, 4).ids.int())
    with pytest.raises(NumericalError, match=r"activations at 0\.mlp_out are not finite"):
        SETTINGS.train(Harvest(subject, documents, Site(0, Kind.MLP_OUT)))


@pytest.mark.parametrize(("setting", "value"), [("k", 65), ("steps", 0), ("lr", 2.0), ("revive", -1)])
def test_settings_out_of_range_are_refused_by_name(setting: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{setting} is {value}"):
        replace(SETTINGS, **{setting: value})


def test_sites_that_no_dictionary_reads_are_refused() -> None:
    subject = tiny("llama")
    documents = Documents(random_prompts(subject, 4).ids.int())
    with pytest.raises(UsageError, match="not trained at 'q'"):
        Harvest(subject, documents, Site(0, Kind.Q))
    with pytest.raises(UsageError, match="no layer '7'"):
        Harvest(subject, documents, Site(7, Kind.MLP_OUT))
