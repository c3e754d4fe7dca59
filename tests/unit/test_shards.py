"""Shards on work whose results are known: what names them, what is kept, what is run again, where they are run."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from subcircuit.errors import DataError, MissingExtra, ResourceError, SubcircuitError, UnknownName, UsageError
from subcircuit.evaluation.lots import Lots
from subcircuit.shards.launcher import Launcher
from subcircuit.shards.models import require_same
from subcircuit.shards.store import Manifest
from subcircuit.shards.work import Inputs, Result, Work, digest
from tiny_shards import HERE, made, slurm, squares


@pytest.fixture
def diary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which shards write what they do; jobs can import them."""
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (found := tmp_path / "diary").mkdir()
    return found


def values(launcher: Launcher, work: Work, told: list[None] | None = None) -> list[float]:
    """What the launcher gives; `told` grows by one for each shard that is not run here."""
    run = work.begin(work.shared, work.given)

    def here(piece: Inputs) -> Result:
        assert launcher.place == "here"
        return run(piece)

    results = launcher.run(work, here, lambda: told.append(None) if told is not None else None)
    return [each["power"].item() for each in results]


def test_a_key_is_the_hash_of_all_inputs_and_of_nothing_else(diary: Path, tmp_path: Path) -> None:
    work = squares(diary)
    keys = [shard.key for shard in work.shards]
    assert len({*keys}) == 4
    assert [shard.key for shard in squares(tmp_path / "elsewhere").shards] == keys
    assert not {shard.key for shard in squares(diary, power=3).shards} & {*keys}
    turned = replace(work, pieces=list(reversed(work.pieces)))
    assert [shard.key for shard in turned.shards] == keys[::-1]


def test_a_digest_tells_shapes_types_and_values_apart() -> None:
    ones = torch.ones(2, 3)
    others = [ones.view(3, 2), ones.int(), ones.bool(), ones.index_fill(0, torch.tensor([1]), 2), ones.double()]
    assert len({digest(each) for each in (ones, *others)}) == 6
    assert digest(ones) == digest(torch.ones(3, 2).T) and digest(torch.zeros(0)) != digest()


def test_results_are_kept_and_only_what_lacks_one_is_run_again(diary: Path, tmp_path: Path) -> None:
    launcher, folder = Launcher(tmp_path / "kept"), tmp_path / "kept" / "squares"
    told: list[None] = []
    assert values(launcher, squares(diary), told) == [4, 9, 25, 49] and made(diary) == [2, 3, 5, 7] and not told
    manifest = Manifest.model_validate_json((folder / "manifest.json").read_text())
    assert [(each.key, each.inputs) for each in manifest.shards] == [
        (shard.key, shard.inputs) for shard in squares(diary).shards
    ]
    files = {f"{entry.key}.safetensors" for entry in manifest.shards}
    assert {path.name for path in folder.iterdir()} == {"manifest.json", *files}

    (folder / f"{manifest.shards[1].key}.safetensors").unlink()
    (folder / f"{manifest.shards[2].key}.safetensors").write_bytes(b"half")
    assert values(launcher, squares(diary), told) == [4, 9, 25, 49]
    assert made(diary) == [3, 5] and len(told) == 2
    assert values(launcher, squares(diary, power=3)) == [8, 27, 125, 343]
    assert {path.stem for path in folder.glob("*.safetensors")}.isdisjoint(each.key for each in manifest.shards)


def test_what_was_done_before_a_failure_is_kept(diary: Path, tmp_path: Path) -> None:
    (diary / "fail-5").touch()
    with pytest.raises(DataError, match="5 is no number today"):
        values(Launcher(tmp_path / "kept"), squares(diary))
    (diary / "fail-5").unlink()
    assert made(diary) == [2, 3]
    assert values(Launcher(tmp_path / "kept"), squares(diary)) == [4, 9, 25, 49] and made(diary) == [5, 7]


def test_a_failed_and_a_killed_job_lose_only_their_own_shards(diary: Path, tmp_path: Path) -> None:
    """Two jobs: one has 2 and 5, the other 3 and 7."""
    launcher, told = Launcher(tmp_path / "kept", "local", jobs=2), []
    (diary / "fail-5").touch()
    with pytest.raises(ResourceError) as failed:
        values(launcher, squares(diary), told)
    assert failed.value.message.startswith("1 of 4 shards have no result: job ")
    assert failed.value.message.endswith("failed: subcircuit.errors.DataError: 5 is no number today")
    log = Path(failed.value.cure.rpartition(" ")[2])
    assert "the same command again" in failed.value.cure and "ask tomorrow" in log.read_text()
    assert made(diary) == [2, 3, 7] and len(told) == 3
    (diary / "fail-5").unlink()
    assert values(launcher, squares(diary), told) == [4, 9, 25, 49]
    assert made(diary) == [5] and len(told) == 3 + 4
    assert not (tmp_path / "kept" / "squares" / "jobs").exists()


def test_a_job_that_dies_without_a_word_is_told_of(diary: Path, tmp_path: Path) -> None:
    (diary / "die-2").touch()
    with pytest.raises(ResourceError, match=r"4 of 4 shards have no result: job \d+ ended without a word"):
        values(Launcher(tmp_path / "kept", "local", jobs=1), squares(diary))
    assert made(diary) == []


def test_a_cluster_gets_one_array_with_what_was_asked_for(
    diary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By commands of Slurm's names and forms: the jobs are those that Slurm would run."""
    commands = slurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    launcher = Launcher(tmp_path / "kept", "slurm", jobs=2, minutes=90, partition="long", gpus=1)
    told: list[None] = []
    assert values(launcher, squares(diary), told) == [4, 9, 25, 49], (commands / "task-0").read_text()
    assert made(diary) == [2, 3, 5, 7] and len(told) == 4
    script = (commands / "submitted").read_text()
    for line in (
        "--partition=long",
        "--gpus-per-node=1",
        "--time=90",
        "--array=0-1%2",
        "--job-name=subcircuit-squares",
    ):
        assert f"#SBATCH {line}\n" in script


def test_a_cluster_that_refuses_is_one_message(diary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = slurm(tmp_path / "slurm")
    (commands / "sbatch").write_text(
        "#!/bin/bash\necho 'sbatch: error: invalid partition specified: lnog' >&2; exit 1\n"
    )
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ResourceError, match=r"Slurm does not take the jobs: .*invalid partition specified: lnog"):
        values(Launcher(tmp_path / "kept", "slurm", partition="lnog"), squares(diary))


@pytest.mark.parametrize(
    ("asked", "error", "told"),
    [
        ({"place": "locl"}, UnknownName, "did you mean 'local'?"),
        ({"place": "slurm"}, ResourceError, "no Slurm on this machine"),
        ({"place": "local", "partition": "gpu"}, UsageError, "with launcher local"),
        ({"gpus": 1}, UsageError, "with launcher here"),
        ({"jobs": 0}, UsageError, "0 jobs"),
    ],
)
def test_a_launcher_that_cannot_be_is_refused_at_once(
    tmp_path: Path, asked: dict[str, object], error: type[SubcircuitError], told: str
) -> None:
    with pytest.raises(error, match=told.replace("?", r"\?")):
        Launcher(tmp_path, **asked)  # type: ignore[arg-type]


def test_without_the_extra_its_install_command_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    Launcher(tmp_path)
    with pytest.raises(MissingExtra, match=r'pip install "subcircuit\[cluster\]"'):
        Launcher(tmp_path, "local")


def test_processes_that_share_passes_start_no_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="2 processes that share every pass"):
        Launcher(tmp_path, "local")


def test_a_job_with_other_inputs_refuses() -> None:
    shared = {"model": "m", "prompts": "a", "seed": 1}
    require_same(shared, {"prompts": "a"})
    with pytest.raises(DataError, match="prompts: a -> b"):
        require_same(shared, {"model": "m", "prompts": "b"})


def test_lots_are_those_of_one_generator_in_any_order() -> None:
    generator = torch.Generator().manual_seed(3)
    one_by_one = [torch.rand(4, generator=generator).tolist() for _ in range(6)]
    for order in ([0, 1, 2, 3, 4, 5], [4, 5], [5, 2, 2, 0, 3]):
        lots = Lots(lambda generator: torch.rand(4, generator=generator), 3)
        assert [lots[number].tolist() for number in order] == [one_by_one[number] for number in order]


def test_the_manifest_is_plain_json(diary: Path, tmp_path: Path) -> None:
    values(Launcher(tmp_path), squares(diary))
    manifest = json.loads((tmp_path / "squares" / "manifest.json").read_text())
    assert manifest["function"] == "tiny_shards:_powers" and manifest["shared"] == {"power": 2}
    assert [each["inputs"] for each in manifest["shards"]] == [{"number": number} for number in (2, 3, 5, 7)]
