"""Killed at any moment and gone on with: every file is the one of a run that nothing disturbed.

Of `score --full` besides: what lies in the store of shards is not made again, so a kill costs the one under way.
"""

from pathlib import Path

import pytest

from commands import Ask
from killing import LONGEST, Command, Killed, Long, contents, copied, killed, undisturbed
from tiny_concepts import corpus, write_corpus
from tiny_folder import Study

SEED = 20
SEARCH = ("--steps", "30", "--pairs", "8", "--validation", "4", "--batch", "4", "--budgets", "2,9", "--yes", "--quiet")
SCORED = ("--full", "--pairs", "8", "--controls", "12", "--seeds", "3", "--exact", "4", "--quiet")
TAUGHT = {"batch": 4, "new_tokens": 6, "micro": 2, "updates": 2, "save_every": 2}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of labelled texts, and a file of prompts beside it."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "prompts").write_text("a b c\nd e\nf g h i\nj k\nl m n\n")
    return write_corpus(folder / "texts.csv", corpus(400))


@pytest.fixture
def longs(ask: Ask, files: Study, texts: Path, tmp_path: Path) -> dict[str, Long]:
    """The verbs that take long, each on a model that makes it short."""
    model, found = ("--model", str(files.model)), tmp_path / "found"
    search = ("find", "node-pruning", *model, "--task", str(files.prompts), *SEARCH)
    assert ask(*search, "--out", found).code == 0
    book = ("concepts", "fit", "vqlc", *model, "--texts", str(texts), "--layer", "1", "--codes", "12", "--steps", "60")
    models = ("--student", str(files.model), "--teacher", str(files.model))
    pupils = (*models, "--prompts", str(texts.with_name("prompts")))
    taught = [part for name, value in TAUGHT.items() for part in ("--set", f"{name}={value}")]
    return {
        "find": Long(lambda out: [*search, "--out", str(out)], ("--resume",)),
        "score": Long(lambda out: ["score", str(out), *SCORED], prepare=copied(found)),
        "concepts": Long(lambda out: [*book, "--out", str(out), "--quiet"]),
        "distill": Long(
            lambda out: ["distill", *pupils, "--out", str(out), "--steps", "20", "--lr", "1e-3", *taught, "--quiet"],
            ("--resume",),
            ended=lambda out: (out / "distillation.json").exists() and not (out / "distillation.safetensors").exists(),
        ),
    }


VERBS = ("find", "score", "concepts", "distill")


def same(found: Killed, whole: Path) -> None:
    expected = contents(whole)
    assert len(expected) > 2
    for folder in found.folders:
        left = contents(folder)
        assert left.keys() == expected.keys()
        assert [name for name in expected if left[name] != expected[name]] == []
    for before, after in zip(found.shards, found.shards[1:], strict=False):
        assert not after or before.items() <= after.items()


@pytest.mark.parametrize("verb", VERBS)
def test_a_kill_changes_nothing(longs: dict[str, Long], tmp_path: Path, verb: str) -> None:
    began, took = undisturbed(longs[verb], tmp_path / "whole" / "out")
    found = killed(longs[verb], tmp_path, kills=1, seed=SEED, between=(0.8 * began, took))
    assert found.kills == 1
    same(found, tmp_path / "whole" / "out")


def test_a_state_that_a_kill_left_behind_a_finished_run_goes(ask: Ask, longs: dict[str, Long], tmp_path: Path) -> None:
    found, state = tmp_path / "found", tmp_path / "found" / "search.safetensors"
    before = contents(found)
    state.touch()
    assert ask(*longs["find"].words(found), "--resume").code == 0
    assert contents(found) == before and not state.exists()


@pytest.mark.parametrize(
    ("verb", "changed", "told"),
    [
        ("find", ("--steps", "31"), "settings.steps: 30 -> 31"),
        ("distill", ("--steps", "21"), "steps: 20 -> 21"),
        ("concepts", ("--per-word", "3"), "per_word: 20 -> 3"),
    ],
)
def test_changed_settings_are_refused_and_shown(
    ask: Ask, longs: dict[str, Long], tmp_path: Path, verb: str, changed: tuple[str, ...], told: str
) -> None:
    """Whatever a verb goes on with: a search, a student, a harvest. `score` has shards of other settings run anew."""
    long, out = longs[verb], tmp_path / "out"
    process = Command(long.words(out))
    if verb == "distill":  # whose state goes when it ends
        while not (out / "distillation.safetensors").exists():
            assert process.ended(0.002) is None
        process.kill()
    else:
        assert process.ended(LONGEST) == 0
    answer = ask(*long.words(out), *changed, *long.again)
    assert answer.code == 2 and told in answer.err


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_five_kills_change_nothing(longs: dict[str, Long], tmp_path: Path, verb: str) -> None:
    began, took = undisturbed(longs[verb], tmp_path / "whole" / "out")
    print(f"{verb}: writes after {began:.1f} s, ends after {took:.1f} s; kills of seed {SEED}")
    found = killed(longs[verb], tmp_path, kills=5, seed=SEED, between=(0.8 * began, took))
    assert found.kills == 5
    same(found, tmp_path / "whole" / "out")
