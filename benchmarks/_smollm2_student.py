"""A student cut out of SmolLM2 by attribution on its own text, and what each way of teaching it gives back.

What is cut out writes no text worth judging, so all arms begin where forward KL on the teacher's text has led it. Every
arm of every seed is written as it ends; what is there already, under the same settings, is not run again.
"""

import math
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from _record import read
from _record import write as record
from _small_worlds import PromptTask
from _study import saved

from subcircuit import AttributionPatching, load, task
from subcircuit.distillation import Distillation, Loss
from subcircuit.distillation.measures import by_text, closeness, diversity, paired
from subcircuit.distillation.speaking import Ending, Written
from subcircuit.distillation.standing import at_task
from subcircuit.distillation.state import RECORD
from subcircuit.distillation.writing import write
from subcircuit.extraction import Extraction, extract
from subcircuit.subject import Subject

__all__ = ["Settings", "taught"]

PART = "smollm2"
FOLDER = Path("runs/distillation-smollm2")
ARMS: dict[str, tuple[Loss, float]] = {  # the loss, and the share of batches that the student writes
    "entropy-aware on-policy": (Loss(), 1.0),
    "plain on-policy": (Loss(tau=math.inf), 1.0),
    "forward KL, teacher's text": (Loss(objective="forward-kl"), 0.0),
    "supervised, teacher's text": (Loss(objective="supervised"), 0.0),
}
TASKS = ("ioi", "gendered-pronoun")
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"  # as the teacher was taught to be asked
OPENINGS = (
    "Tell me about {}.",
    "Write a short story about {}.",
    "Explain {} to a child.",
    "What is the history of {}?",
    "Give me three facts about {}.",
    "Why do people care about {}?",
    "Write a poem about {}.",
    "Describe {} in one paragraph.",
    "What should everyone know about {}?",
    "Write a letter to a friend about {}.",
    "What is surprising about {}?",
    "How would you teach a class about {}?",
)
WORDS = (
    "the sea, bread, trains, the moon, chess, rivers, winter, bees, music, old maps, rice, bridges, the stars, cats, "
    "coffee, clocks, gardens, mountains, wool, the post, glass, elephants, paper, football, rain, lighthouses, sugar, "
    "the theatre, horses, deserts, tea, volcanoes, ships, painting, salt, owls, cheese, radio, forests, bicycles"
)
THINGS = WORDS.split(", ")
LENGTH = 32  # tokens of a text, of which attribution judges the last
UNSEEN = (8, 28)  # openings and things from here on are in no prompt that is learned from


@dataclass(frozen=True)
class Settings:
    """What the figures depend on; other settings begin anew."""

    model: str = "smollm2-135m"
    size: float = 0.44  # share of heads and of neurons that the student keeps
    warm: int = 25  # batches of the teacher's text, which all arms begin with
    warm_lr: float = 1e-3
    steps: int = 10
    batch: int = 16
    updates: int = 4  # of each batch, as in the paper
    new_tokens: int = 32
    lr: float = 3e-4  # not tuned for any arm
    pairs: int = 64  # prompts of each task


def prompts(unseen: bool) -> list[str]:
    """Openings of a text; the two sets share no opening and no thing."""
    openings, things = (each[at:] if unseen else each[:at] for each, at in zip((OPENINGS, THINGS), UNSEEN, strict=True))
    return [CHAT.format(opening.format(thing)) for opening in openings for thing in things]


class World:
    """The teacher, its own text, and the student that was cut out of it."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.teacher = settings, load(settings.model)
        self.learned, self.unseen = (
            [list(self.teacher.tokenizer(each)["input_ids"]) for each in prompts(unseen)] for unseen in (False, True)
        )
        self.stops = Ending.of(self.teacher.model, self.teacher.model).stops
        self.texts = self.written(self.teacher, seed=4)
        self.place = FOLDER / f"student-{settings.size:g}"
        self.warm = FOLDER / f"warm-{settings.size:g}-{settings.warm}-{settings.warm_lr:g}"
        if not (self.place / "extraction.json").is_file():
            self._extract()
        if not (self.warm / RECORD).is_file():
            self._warm()
        self.extraction = Extraction.model_validate_json((self.place / "extraction.json").read_text())

    def written(self, subject: Subject, seed: int) -> Written:
        """What a model makes of the openings that nothing learned from."""
        return write(subject.model, self.unseen, self.stops, new_tokens=self.settings.new_tokens, seed=seed)

    def student(self) -> Subject:
        """What every arm begins with."""
        return load(self.warm)

    def measured(self, subject: Subject) -> dict[str, Any]:
        """On the teacher's text, on its own, and at tasks."""
        own = self.written(subject, seed=5)
        pairs = {name: task(name).pairs(subject.tokenizer, self.settings.pairs, split="test") for name in TASKS}
        return {
            "closeness": closeness(subject.model, self.teacher.model, self.texts).model_dump(),
            "by text": [round(kl, 5) for kl in by_text(subject.model, self.teacher.model, self.texts).tolist()],
            "on its own text": closeness(subject.model, self.teacher.model, own).model_dump(),
            "diversity": diversity(own),
            "tasks": {name: at_task(subject, each).model_dump() for name, each in pairs.items()},
        }

    def _warm(self) -> None:
        """Forward KL on the teacher's text."""
        student, settings = endless(load(self.place)), self.settings
        run = Distillation(
            loss=Loss(objective="forward-kl"),
            on_policy=0.0,
            lr=settings.warm_lr,
            steps=settings.warm,
            batch=settings.batch,
            updates=settings.updates,
            new_tokens=settings.new_tokens,
            seed=99,
        )
        run.distil(student, endless(load(settings.model)), self.learned, folder=self.warm)

    def _extract(self) -> None:
        """The nodes with the largest attributions in texts of the teacher's, all of one length."""
        said = write(self.teacher.model, self.learned, self.stops, new_tokens=24, seed=2)
        found = said.ids[said.mask[:, :LENGTH].all(1), :LENGTH]

        def sampler(n: int, draws: torch.Generator) -> torch.Tensor:
            return found[torch.randint(len(found), (n,), generator=draws)]

        study = PromptTask(self.teacher, sampler)
        search = AttributionPatching(
            size=self.settings.size, kinds="head,neuron", reference="mean", objective="kl", steps=4, pairs=64, batch=16
        )
        extract(self.teacher, search.find(self.teacher, study), study, self.place, n=32)


def taught(settings: Settings, seeds: int) -> None:
    """Every arm with every seed that is not in the results yet."""
    known = read("distillation").get(PART, {})
    figures = known if known.get("settings") == asdict(settings) else {"settings": asdict(settings), "taught": {}}
    world: World | None = None
    for seed in range(seeds):  # seed by seed, so that a run that is stopped has all arms of some seeds
        for name in ARMS:
            rows = figures["taught"].setdefault(name, [])
            if any(row["seed"] == seed for row in rows):
                continue
            world = world or World(settings)
            if "student" not in figures:
                figures |= _first(world)
                record("distillation", {PART: figures})
            rows.append(_taught(world, name, seed))
            figures["table"] = _table(figures)
            record("distillation", {PART: figures})
            print(f"{name}, seed {seed}: {figures['table'][name]}", flush=True)


def endless(subject: Subject) -> Subject:
    """Without a token that ends what is written to learn from, so that every arm has equally many."""
    subject.model.generation_config.eos_token_id = None
    return subject


def _first(world: World) -> dict[str, Any]:
    share = world.extraction.after.parameters / world.extraction.before.parameters
    models = {"teacher": world.teacher, "extracted": load(world.place), "begun with": world.student()}
    found = {name: world.measured(model) for name, model in models.items()}
    kls = {name: each["closeness"]["kl"]["mean"] for name, each in found.items()}
    print(f"student: {share:.3f} of the parameters, KL {kls}", flush=True)
    return {"student": saved(world.extraction) | {"parameters share": share}, **found}


def _taught(world: World, name: str, seed: int) -> dict[str, Any]:
    settings, (loss, on_policy) = world.settings, ARMS[name]
    names = ("steps", "batch", "updates", "new_tokens")
    size = {name: getattr(settings, name) for name in names}
    student, teacher = endless(world.student()), endless(world.teacher)
    start = perf_counter()
    run = Distillation(loss=loss, on_policy=on_policy, lr=settings.lr, seed=seed, **size)
    history = run.distil(student, teacher, world.learned)
    seconds = perf_counter() - start
    return {"seed": seed, "tokens": history.tokens, "seconds": seconds, **world.measured(student)}


def _table(figures: dict[str, Any]) -> dict[str, Any]:
    """Means over the seeds that are there; intervals over texts, their KL averaged over seeds."""
    before = torch.tensor(figures["extracted"]["by text"])
    means = {
        name: torch.tensor([row["by text"] for row in rows]).mean(0) for name, rows in figures["taught"].items() if rows
    }
    first = next(iter(means))
    return {
        name: {
            "seeds": len(figures["taught"][name]),
            "KL": statistics.mean(row["closeness"]["kl"]["mean"] for row in figures["taught"][name]),
            "recovered": 1 - float(mean.mean() / before.mean()),
            "KL above the first arm's": paired(mean, means[first]).model_dump(),
        }
        for name, mean in means.items()
    }
