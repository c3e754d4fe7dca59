"""Extraction and distillation: what a circuit's own model saves, and what teaches it best.

    python benchmarks/distillation.py                        the parts on models that are trained here (minutes)
    python benchmarks/distillation.py --part compact --run runs/demo    size and speed of a SmolLM2 circuit
    python benchmarks/distillation.py --part smollm2        a student of SmolLM2's (an hour; goes on where it stopped)

`compact`: the extracted model against the whole one. `arms`: a student of at most 60% of the parameters taught in four
ways with equal numbers of tokens, on a text of sure and unsure tokens. `sums`: addition modulo 59.
`smollm2`: the arms again, on a student of at most 60% of SmolLM2's parameters and SmolLM2's own text.
"""

import argparse
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from _record import write as record
from _small_worlds import Chain, PromptTask, Sums, named
from _smollm2_student import Settings, taught
from _study import saved

from subcircuit import AttributionPatching, Circuit, NodePruning, load, task
from subcircuit.distillation import Distillation, Loss
from subcircuit.distillation.measures import closeness, diversity
from subcircuit.distillation.writing import write
from subcircuit.extraction import extract
from subcircuit.subject import Subject

USED = ("seeds", "steps", "batch", "lr", "prompts", "size", "train")
ARMS: dict[str, tuple[Loss, float]] = {  # the loss, and the share of batches that the student writes
    "entropy-aware on-policy": (Loss(), 1.0),
    "entropy-aware on-policy, paper's target": (Loss(target="topk"), 1.0),
    "plain on-policy": (Loss(tau=math.inf), 1.0),
    "forward KL, teacher's text": (Loss(objective="forward-kl"), 0.0),
    "supervised, teacher's text": (Loss(objective="supervised"), 0.0),
}


def compact(run: Path) -> dict[str, Any]:
    """Size and speed of a circuit of a run folder."""
    circuit = Circuit.load(run)
    origin = circuit.origin
    with tempfile.TemporaryDirectory() as folder:
        found = extract(load(origin.model), circuit, task(origin.task), Path(folder) / "model", n=32)
    print(f"{found.speedup:.2f} times as fast, {found.fewer_flops:.2f} times fewer FLOPs", flush=True)
    return saved(found)


def arms(args: argparse.Namespace) -> dict[str, Any]:
    """One student, taught in every way with every seed."""
    chain = Chain()
    teacher = named(chain.teacher(args.train), chain.vocab, "chain")
    prompts = chain(args.prompts, torch.Generator().manual_seed(2), 8).tolist()
    unseen = chain(96, torch.Generator().manual_seed(3), 8).tolist()
    texts = write(teacher.model, unseen, (), new_tokens=24, seed=4)
    study = PromptTask(teacher, lambda n, draws: chain(n, draws, 12))
    circuit = AttributionPatching(size=args.size, reference="mean", objective="kl", steps=5).find(teacher, study)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "student"
        found = extract(teacher, circuit, study, place)
        share = found.after.parameters / found.before.parameters
        before = closeness(load(place).model, teacher.model, texts)
        print(f"student: {share:.2f} of the parameters, KL {before.kl.mean:.3f}", flush=True)
        rows = {
            name: [_taught(name, place, teacher, prompts, texts, seed, args) for seed in range(args.seeds)]
            for name in ARMS
        }
    for name, each in rows.items():
        kls = [row["closeness"]["kl"]["mean"] for row in each]
        each.append({"mean KL": statistics.mean(kls), "recovered": 1 - statistics.mean(kls) / before.kl.mean})
        print(f"{name}: KL {[round(kl, 3) for kl in kls]}, recovered {each[-1]['recovered']:.2f}", flush=True)
    return {
        "settings": {name: vars(args)[name] for name in USED} | {"teacher entropy": before.teacher_entropy},
        "student": saved(found) | {"parameters share": share, "closeness": before.model_dump()},
        "taught": rows,
    }


def _taught(
    name: str, place: Path, teacher: Subject, prompts: list[list[int]], texts: Any, seed: int, args: argparse.Namespace
) -> dict[str, Any]:
    loss, on_policy = ARMS[name]
    size = {"steps": args.steps, "batch": args.batch, "micro": args.batch, "new_tokens": 24}
    run = Distillation(loss=loss, on_policy=on_policy, lr=args.lr, seed=seed, **size)
    student = load(place)
    history = run.distil(student, teacher, prompts)
    own = write(student.model, [text[:8] for text in texts.ids.tolist()], (), new_tokens=24, seed=5)
    return {
        "seed": seed,
        "tokens": history.tokens,
        "closeness": closeness(student.model, teacher.model, texts).model_dump(),
        "on its own text": closeness(student.model, teacher.model, own).model_dump(),
        "diversity": diversity(own),
        "teacher diversity": diversity(texts),
    }


def sums(args: argparse.Namespace) -> dict[str, Any]:
    """Accuracy on pairs kept from training: the whole model, its circuit, and the circuit taught."""
    world = Sums()
    model = world.model(args.sum_steps)
    teacher = named(model, world.p + 1, "sums")
    accuracy = {"whole": world.accuracy(model)}
    print(accuracy, flush=True)
    rows = world.prompts[world.held :]
    study = PromptTask(teacher, lambda n, draws: rows[torch.randint(len(rows), (n,), generator=draws)])
    circuit = NodePruning(kl=0.1, reference="mean", steps=60, pairs=512, batch=64).find(teacher, study)
    with tempfile.TemporaryDirectory() as folder:
        found = extract(teacher, circuit, study, Path(folder) / "student")
        student = load(Path(folder) / "student")
    accuracy["extracted"] = world.accuracy(student.model)
    run = Distillation(loss=Loss(reverse="full"), steps=60, batch=256, micro=256, new_tokens=1, lr=3e-4)
    run.distil(student, teacher, rows.tolist())
    accuracy["taught"] = world.accuracy(student.model)
    print(accuracy, flush=True)
    return {"accuracy": accuracy, "student": saved(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["arms", "sums", "compact", "smollm2"], action="append")
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="of compact: a run folder")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30, help="batches of texts of 24 tokens")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--size", type=float, default=0.35, help="share of each granularity that the student keeps")
    parser.add_argument("--train", type=int, default=300, help="steps of the teacher's own training")
    parser.add_argument("--sum-steps", type=int, default=1000)
    args = parser.parse_args()
    for part in args.part or ["arms", "sums"]:
        if part == "smollm2":
            taught(Settings(), args.seeds)  # writes every arm as it ends
            continue
        figures = compact(args.run) if part == "compact" else arms(args) if part == "arms" else sums(args)
        record("distillation", {part: figures})


if __name__ == "__main__":
    main()
