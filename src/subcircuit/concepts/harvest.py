"""Harvesting hidden states: which are kept the tokens alone decide, before the model runs over the texts, once each."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from subcircuit.batching import batched
from subcircuit.concepts.framing import Frame
from subcircuit.concepts.index import Index
from subcircuit.concepts.reservoir import Reservoir
from subcircuit.concepts.states import HarvestRecord, Precision, States, begin, save, shard_path
from subcircuit.concepts.texts import Corpus
from subcircuit.errors import NumericalError, UsageError
from subcircuit.files import atomically
from subcircuit.progress import Progress, silent
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject

__all__ = ["Harvest"]

LOT = 256  # texts tokenized together


@dataclass(frozen=True)
class Harvest:
    """The states of a corpus at some layers.

    Raises, when run, UsageError for a folder with other states or a layer that is not there, NumericalError for states
    that are no numbers or too large for half precision, ResourceError when the disk is full, MissingExtra.
    """

    per_word: Annotated[int, "states kept of each word, drawn over all its occurrences; 0 = all"] = 20
    least: Annotated[int, "occurrences below which a word is left out"] = 1
    precision: Annotated[Precision, "of the states on disk"] = "float16"
    rows: Annotated[int, "states of a shard, about"] = 2048
    batch: Annotated[int, "texts in a pass"] = 16
    seed: Annotated[int, "of the draw"] = 0

    def run(
        self,
        subject: Subject,
        corpus: Corpus,
        frame: Frame,
        layers: Sequence[int],
        folder: Path,
        *,
        progress: Progress = silent,
    ) -> "States":
        """The states, harvested or found in the folder."""
        sites = [_site(subject, layer) for layer in layers]
        index = self._index(subject, corpus, frame, progress)
        cuts = _cuts(index, len(corpus), self.rows)
        record = self._record(subject, corpus, frame, layers, index, cuts)
        begin(folder, record, corpus, index)
        for number, (start, end) in enumerate(cuts):
            progress("harvest", start, len(corpus))
            if not all(shard_path(folder, site.layer, number).exists() for site in sites):
                self._write(subject, corpus, frame, sites, folder, index, (start, end), number, progress)
        progress("harvest", len(corpus), len(corpus))
        return States.load(folder)

    def _index(self, subject: Subject, corpus: Corpus, frame: Frame, progress: Progress) -> Index:
        reservoir = Reservoir(self.per_word, self.least, self.seed)
        for start in range(0, len(corpus), LOT):
            framed = frame.around(corpus.texts[start : start + LOT], subject.tokenizer)
            for row, words in enumerate(framed.words):
                reservoir.add(start + row, words, int(framed.prompts.at[row]))
            progress("words", min(start + LOT, len(corpus)), len(corpus))
        return reservoir.index()

    def _record(
        self,
        subject: Subject,
        corpus: Corpus,
        frame: Frame,
        layers: Sequence[int],
        index: Index,
        cuts: Sequence[tuple[int, int]],
    ) -> HarvestRecord:
        said = json.dumps([corpus.texts, corpus.labels]).encode()
        shards = [int(((index.text >= start) & (index.text < end)).sum()) for start, end in cuts]
        return HarvestRecord(
            model=subject.name,
            revision=subject.revision,
            dtype=str(subject.dtype).removeprefix("torch."),
            layers=list(layers),
            width=subject.width(Kind.RESID),
            frame=frame,
            texts=len(corpus),
            labels=sorted(set(corpus.labels)) if corpus.labels else None,
            digest=hashlib.sha256(said).hexdigest(),
            per_word=self.per_word,
            least=self.least,
            precision=self.precision,
            seed=self.seed,
            shards=shards,
        )

    def _write(
        self,
        subject: Subject,
        corpus: Corpus,
        frame: Frame,
        sites: Sequence[Site],
        folder: Path,
        index: Index,
        span: tuple[int, int],
        number: int,
        progress: Progress,
    ) -> None:
        """One shard of every layer: passes over the texts of `span`, of which only the kept states stay."""
        start, end = span
        mine = (index.text >= start) & (index.text < end)
        texts, positions = index.text[mine] - start, index.position[mine]
        framed = frame.around(corpus.texts[start:end], subject.tokenizer)
        found = {site: np.empty((len(texts), subject.width(Kind.RESID)), dtype=self.precision) for site in sites}

        done: set[int] = set()

        def record(rows: torch.Tensor) -> None:
            _, seen = subject.record(framed.prompts[rows], sites)
            for site, act in seen.items():
                states = act[:, :, 0].float().cpu().numpy()
                for row, text in enumerate(rows.tolist()):
                    here = texts == text
                    with np.errstate(over="ignore"):
                        found[site][here] = states[row, positions[here]]
            done.update(rows.tolist())
            progress("harvest", start + len(done), len(corpus))

        batched(record, framed.prompts.lengths, self.batch)
        for site, states in found.items():
            bad = np.flatnonzero(~np.isfinite(states).all(1))
            if len(bad):
                where = (
                    f"the state of text {start + texts[bad[0]] + 1}, token {positions[bad[0]]}, entering {site.layer}"
                )
                raise NumericalError(f"{where} is no number in {self.precision}", "try --precision float32")
            atomically(shard_path(folder, site.layer, number), partial(save, states))


def _site(subject: Subject, layer: int) -> Site:
    last = len(subject) if subject.family.final else len(subject) - 1
    if not 0 <= layer <= last:
        raise UsageError(f"{subject.name} has no layer {layer}", f"its residual stream is read at layers 0 to {last}")
    return Site(layer, Kind.RESID)


def _cuts(index: Index, texts: int, rows: int) -> list[tuple[int, int]]:
    """Ranges of texts with about so many states each."""
    counts = np.bincount(index.text, minlength=texts)
    cuts, start, held = [], 0, 0
    for text, count in enumerate(counts):
        held += int(count)
        if held >= rows or text == texts - 1:
            cuts.append((start, text + 1))
            start, held = text + 1, 0
    return cuts
