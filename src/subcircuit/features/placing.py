"""A dictionary at its places in a subject, and the names of its features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from subcircuit.errors import DataError, UsageError
from subcircuit.features.dictionary import Dictionary
from subcircuit.features.hooks import site_of
from subcircuit.sites import Site
from subcircuit.subject import Subject

__all__ = ["Chosen", "Feature", "Placed"]


@dataclass(frozen=True, order=True)
class Feature:
    """One feature of the dictionary that reads at a site, written "12.resid#345"."""

    site: Site
    index: int

    def __str__(self) -> str:
        return f"{self.site}#{self.index}"


Chosen = Mapping[Site, Sequence[int] | Int[Tensor, " chosen"]]  # features by the site that their dictionary reads at


@dataclass(frozen=True)
class Placed:
    """A dictionary, the site it reads at and the one it writes to; of an autoencoder the same."""

    dictionary: Dictionary
    reads: Site
    writes: Site

    @classmethod
    def of(
        cls, dictionary: Dictionary, subject: Subject, reads: Site | None = None, writes: Site | None = None
    ) -> "Placed":
        """At the sites given, or at those its hooks name.

        Raises UsageError where neither says where, DataError for a site of another width.
        """
        reads = reads or site_of(dictionary.reads, dictionary.layer)
        named = site_of(dictionary.writes, dictionary.layer) if dictionary.writes != dictionary.reads else reads
        writes = writes or named
        if reads is None or writes is None:
            raise UsageError(
                f"the hooks '{dictionary.reads or 'none'}' and '{dictionary.writes or 'none'}' are no sites known here",
                "say where it reads: --site 12.resid, and of a transcoder where it writes: --to 12.mlp_out",
            )
        for site, width in ((reads, dictionary.width), (writes, dictionary.decoder.shape[1])):
            subject.layout.tap(site)
            if subject.width(site.kind) != width:
                raise DataError(
                    f"the dictionary is {width} wide, and {site} of {subject.name} is {subject.width(site.kind)}",
                    f"it was trained on '{dictionary.model or 'some model'}' at '{dictionary.reads or 'no hook'}'",
                )
        return cls(dictionary, reads, writes)
