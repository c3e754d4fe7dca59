"""Circuits among the features of large dictionaries: 16,384 per site, on SmolLM2's activations; time and peak memory.

    python benchmarks/features.py              two sites (some minutes on two cores)
    python benchmarks/features.py --quick      1,024 features; writes nothing

Dictionaries are trained briefly, on the texts that are regressed on afterwards; their unexplained variance is reported.
The peak is of this process: model, dictionaries, codes, Gram matrices and answers together.
"""

import argparse
import resource
from time import perf_counter
from typing import Any

from _record import write as record

from subcircuit import load
from subcircuit.features.biographies import write_biographies
from subcircuit.features.circuits import Screen, links
from subcircuit.features.codes import codes
from subcircuit.features.documents import windows
from subcircuit.features.harvest import Harvest
from subcircuit.features.placing import Placed
from subcircuit.features.training import Training
from subcircuit.sites import Site
from subcircuit.subject import Subject

SITES = ("9.resid", "10.resid")


def placed(subject: Subject, site: str, training: Training, texts: tuple[str, ...]) -> Placed:
    """A dictionary at a site, trained on the texts."""
    source = Harvest(subject, windows(texts, subject.tokenizer), Site.parse(site))
    return Placed.of(training.train(source).dictionary, subject)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=16_384)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--texts", type=int, default=100, help="of each of the four kinds")
    parser.add_argument("--most", type=int, default=1024, help="features of a site that are regressed: the most used")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.features, args.steps, args.texts = 1024, 20, 20
    print(figures := measured(args))
    if not args.quick:
        record("features", {"settings": vars(args), **figures})


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Training, codes and links, each with its seconds."""
    subject, texts = load("smollm2-135m"), write_biographies(args.texts).texts
    clock, seconds = perf_counter(), {}
    training = Training(features=args.features, k=32, steps=args.steps, batch=1024)
    dictionaries = [placed(subject, site, training, texts) for site in SITES]
    seconds["training"] = perf_counter() - clock
    clock = perf_counter()
    found = codes(subject, windows(texts, subject.tokenizer).prompts(), dictionaries)
    seconds["codes"] = perf_counter() - clock
    clock = perf_counter()
    screen = Screen(most=args.most)
    edges = links(found, screen)
    seconds["links"] = perf_counter() - clock
    rows = next(iter(found.values())).rows
    return {
        "rows": rows,
        "unexplained by the dictionaries": [(each.dictionary.expected or {})["fvu"] for each in dictionaries],
        "taking part": [len(each.alive(screen.share, screen.most)) for each in found.values()],
        "links": len(edges),
        "seconds": seconds,
        "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


if __name__ == "__main__":
    main()
