"""A transcoder for each of SmolLM2's 30 layers, as `attribution_graphs.py --part prompt` takes them.

    python benchmarks/smollm2_transcoders.py DIR      (under an hour of one CPU core; the same command goes on)

What passes every MLP is written down in one run over film reviews, news, mails and the prompts of all tasks; then the
layers learn one after another, each resumably. They read what the MLP's norm gives, since in this model the stream of a
few tokens is ten to a hundred times as long as that of others. They are small, and their text is little: what they
leave unexplained on tokens that none saw stands in `results/attribution_graphs.json`.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from time import process_time

import numpy as np
import torch
from _record import read, write
from _texts import DATA
from torch import Tensor

from subcircuit import Subject, load, plugins, task
from subcircuit.features.dictionary import Dictionary
from subcircuit.features.documents import windows
from subcircuit.features.folders import read_dictionary
from subcircuit.features.harvest import Held, record_rows
from subcircuit.features.hooks import hook_name
from subcircuit.features.training import Training
from subcircuit.features.transcoders import Transcoders, write_transcoders
from subcircuit.files import atomically
from subcircuit.sites import Kind, Site

MODEL, WINDOW, LOT = "smollm2-135m", 64, 64
TEXTS = {"reviews": 600, "news": 300, "mails": 500}
PROMPTS = 40  # of each task
Rows = Callable[[int], tuple[Tensor, Tensor]]  # layer -> what its MLP reads, and writes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--k", type=int, default=48)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--lr", type=float, default=3e-3)
    args = parser.parse_args()
    subject = load(MODEL)
    rows = harvested(subject, args.folder / "rows")
    settings = Training(
        args.features, args.k, steps=args.steps, batch=args.batch, lr=args.lr, revive=100, save_every=100
    )
    began = process_time()
    layers = [trained(subject, layer, rows, settings, args.folder / f"layer-{layer}") for layer in range(len(subject))]
    write_transcoders(Transcoders.of(layers), args.folder / "transcoders")
    told = {
        "features": args.features,
        "k": args.k,
        "steps": args.steps,
        "batch": args.batch,
        "tokens": len(rows(0)[0]),
        "fvu": [each.expected["fvu"] for each in layers],
        "dead": [each.expected["dead"] for each in layers],
        "cpu": process_time() - began + read("attribution_graphs").get("transcoders", {}).get("cpu", 0.0),
    }
    print(write("attribution_graphs", {"transcoders": told}))


def harvested(subject: Subject, folder: Path) -> Rows:
    """What each MLP reads and writes, in float32, a file for each site and lot of windows."""
    ids = windows(texts(subject), subject.tokenizer, WINDOW)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))
    sites = [Site(layer, kind) for layer in range(len(subject)) for kind in (Kind.MLP_IN, Kind.MLP)]
    lots = order.split(LOT)
    for number, lot in enumerate(lots):
        done = folder / f"{number}.done"
        if done.exists():
            continue
        for site, act in record_rows(subject, ids[lot], sites).items():
            atomically(_file(folder, site, number), partial(_save, act))
        atomically(done, lambda to: to.touch())
        print(f"harvest {number + 1}/{len(lots)}", flush=True)

    def rows(layer: int) -> tuple[Tensor, Tensor]:
        x, y = (
            np.concatenate([np.load(_file(folder, Site(layer, kind), number)) for number in range(len(lots))])
            for kind in (Kind.MLP_IN, Kind.MLP)
        )
        norm = subject.model.get_submodule(f"model.layers.{layer}.post_attention_layernorm")
        with torch.no_grad():
            return norm(torch.from_numpy(x)), torch.from_numpy(y)

    return rows


def texts(subject: Subject) -> list[str]:
    """In a fixed order."""
    prompts = []
    for name in plugins.names("tasks"):
        pairs = task(name).pairs(subject.tokenizer, PROMPTS)
        clean = zip(pairs.clean.ids, pairs.clean.mask, strict=True)
        prompts += [str(subject.tokenizer.decode(ids[mask])) for ids, mask in clean]
    return [*chain.from_iterable(DATA[name].corpus(n).texts for name, n in TEXTS.items()), *prompts]


def trained(subject: Subject, layer: int, rows: Rows, settings: Training, folder: Path) -> Dictionary:
    """A layer's transcoder, trained here or before."""
    if not (folder / "cfg.json").exists():
        found = settings.train(Held(*rows(layer)), folder, resume=folder.exists())
        print(f"layer {layer}: {found.dictionary.expected}", flush=True)
    reads, writes = f"blocks.{layer}.mlp.hook_in", hook_name(Site(layer, Kind.MLP), len(subject))
    return replace(read_dictionary(folder), model=subject.name, reads=reads, writes=writes, layer=layer)


def _file(folder: Path, site: Site, number: int) -> Path:
    return folder / f"{site}-{number}.npy"


def _save(act: Tensor, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, act.numpy())


if __name__ == "__main__":
    main()
