"""Codebooks of hidden states: what they cost as states grow, and what answers owe to their concepts.

    python benchmarks/concepts.py                 both parts (three hours of one core)
    python benchmarks/concepts.py --quick         a few minutes: 10^4 states; 100 reviews, 16 texts, one seed
    python benchmarks/concepts.py scaling         time and memory alone
    python benchmarks/concepts.py faithfulness    what answers owe alone; --data and --models choose among studies

Scaling: synthetic states of width 768 about 400 centres, n = 10^4, 10^5, 10^6, each method with 400 codes in a process
of its own; states lie on disk in half precision. Ward's clusters all of them as far as 10^4 and is left out beyond.

Faithfulness: SmolLM2, and MiniLM's encoder with a head that is trained here, on film reviews, news and mails. States of
some texts are harvested at one layer; others are then classified with each text's concept removed, beside controls that
take out as much. What the answers rest on is read once (8 steps of integrated gradients) for all methods. Figures are
means over texts with their intervals, of the first seed; of k-means, VQLC and CLVQ-VAE also of 5 seeds, with their
agreement. What is written already for a study, a method or a size stays until it is measured again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
from _encoder import encoder
from _measure import own_peak
from _record import read, write
from _texts import DATA, Texts

from subcircuit import Subject, load
from subcircuit.concepts.faithfulness import Faithfulness
from subcircuit.concepts.harvest import Harvest
from subcircuit.concepts.study import fit, method_named, refit
from subcircuit.concepts.vectors import Vectors

METHODS = ("kmeans", "vqlc", "clvq", "sae", "ward")
SEEDED = ("kmeans", "vqlc", "clvq")  # what is fitted again by other seeds
SEEDS, STEPS, DRAWS, CODES = 5, 8, 2, 100
WIDTH, CENTRES = 768, 400
SIZES = (10_000, 100_000, 1_000_000)
WARD_LIMIT = 10_000
FITTED = {"reviews": 400, "news": 180, "mails": 400}  # texts whose states the codes are of
TESTED = 96  # texts that are classified, after those
TRAINED = 1000  # texts of the encoder's head, after those
LAYERS = {"smollm2": (15, 22), "minilm": (3, 5)}  # of the codes, and of what CLVQ-VAE explains by them


def scaling(name: str, sizes: tuple[int, ...], methods: list[str]) -> None:
    """Seconds and peak memory of each method at each size, each in a process of its own.

    `cpu` is what all threads took together: on a machine with other work it says more than the clock.
    """
    with tempfile.TemporaryDirectory() as folder:
        for n in sizes:
            path = synthetic(Path(folder) / f"{n}.npy", n)
            for method in methods:
                if method == "ward" and n > WARD_LIMIT:
                    continue
                command = [sys.executable, __file__, "one", "--method", method, "--states", str(path)]
                printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                found = read(name).get("scaling", {}) | {f"{method} {n}": json.loads(printed.strip().splitlines()[-1])}
                base = found.get(f"kmeans {n}", {}).get("cpu")
                for key in [key for key in found if base and key.endswith(f" {n}")]:
                    found[key]["over_kmeans"] = found[key]["cpu"] / base
                print(method, n, found[f"{method} {n}"], write(name, {"scaling": found}), flush=True)


def synthetic(path: Path, n: int) -> Path:
    """States about random centres, in half precision, written a piece at a time."""
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(CENTRES, WIDTH)).astype(np.float32)
    states = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(n, WIDTH))
    for start in range(0, n, 10_000):
        mine = draw.integers(CENTRES, size=min(10_000, n - start))
        states[start : start + len(mine)] = centres[mine] + draw.normal(size=(len(mine), WIDTH)).astype(np.float32)
    states.flush()
    return path


def one(method: str, path: Path) -> dict[str, Any]:
    """Fit one codebook of 400 codes, and what that took."""
    rows = np.load(path, mmap_mode="r")
    n = len(rows)
    states = Vectors([rows], texts=np.arange(n) // 8, places=np.arange(n) % 8)
    settings = {"codes": CENTRES} | ({"rows": WARD_LIMIT} if method == "ward" else {})
    start, before = perf_counter(), process_time()
    book, _ = method_named(method, None, settings).fit(states, states if method == "clvq" else None)
    seconds, cpu = perf_counter() - start, process_time() - before
    return {
        "seconds": seconds,
        "cpu": cpu,
        "peak": own_peak(),
        "active": len(book),
        "perplexity": book.about.perplexity,
    }


def faithfulness(name: str, data: list[str], models: list[str], quick: bool) -> None:
    """Every method on every pair of a model and a data set."""
    for model in models:
        for each in data:
            study = f"{model} {each}"
            fitted = 100 if quick else FITTED[each]
            with tempfile.TemporaryDirectory() as folder:
                subject = _subject(model, DATA[each], fitted, Path(folder))
                found = _study(subject, DATA[each], model, fitted, 16 if quick else TESTED, 1 if quick else SEEDS)
            known = read(name).get("faithfulness", {}) | {study: found}
            print(study, write(name, {"faithfulness": known}), flush=True)


def _subject(model: str, texts: Texts, fitted: int, folder: Path) -> Subject:
    if model == "smollm2":
        return load("smollm2-135m")
    train = min(TRAINED, texts.size() - fitted - TESTED)
    return encoder(texts, texts.corpus(train, skip=fitted + TESTED), folder)


def _study(subject: Subject, texts: Texts, model: str, fitted: int, tested: int, seeds: int) -> dict[str, Any]:
    frame = texts.frame(mask=not subject.family.causal)
    measure = Faithfulness(steps=STEPS, draws=DRAWS, seed=0)
    fitting, scoring = texts.corpus(fitted), texts.corpus(tested, skip=fitted)
    layer, upper = LAYERS[model]
    found: dict[str, Any] = {"layer": layer, "upper": upper, "codes": CODES, "fitted on": fitted, "tested on": tested}
    with tempfile.TemporaryDirectory() as folder:
        states = Harvest().run(subject, fitting, frame, [layer, upper], Path(folder))
        found["states"] = len(states.vectors(layer))
        rival, reading = None, None
        for method in METHODS:
            study = fit(method_named(method, None, {"codes": CODES, "seed": 0}), states, layer, upper)
            rival = rival or study.book
            reading = reading or measure.read(subject, study.book, frame, scoring)
            report = measure.run(subject, study.book, frame, scoring, rival=rival, reading=reading)
            found[method] = {
                "active": len(study.book),
                "perplexity": study.book.about.perplexity,
                "seconds": study.book.about.seconds,
                "verdict": report.verdict,
                **report.model_dump(exclude={"rows"}),
            }
            if seeds > 1 and method in SEEDED:
                again = refit(study.book.about, states, range(seeds))
                across = measure.across(subject, again.books, reading)
                found[method] |= {"stability": again.agreement, "seeds": [each.model_dump() for each in across]}
            print(subject.name, method, json.dumps(found[method]["concept"]), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=["all", "scaling", "faithfulness", "one"], default="all")
    parser.add_argument("--quick", action="store_true", help="writes results/concepts_quick.json")
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="of scaling")
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    parser.add_argument("--models", nargs="+", choices=list(LAYERS), default=list(LAYERS))
    parser.add_argument("--method", help=argparse.SUPPRESS)
    parser.add_argument("--states", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part == "one":
        print(json.dumps(one(given.method, given.states)))
        return
    name = "concepts_quick" if given.quick else "concepts"
    if given.part in ("all", "scaling"):
        scaling(name, tuple(given.sizes or (SIZES[:1] if given.quick else SIZES)), given.methods)
    if given.part in ("all", "faithfulness"):
        data, models = (["reviews"], ["smollm2"]) if given.quick else (given.data, given.models)
        faithfulness(name, data, models, given.quick)


if __name__ == "__main__":
    main()
