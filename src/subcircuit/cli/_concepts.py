"""`subcircuit concepts`: fit a codebook of hidden states, explain predictions by it, score it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from subcircuit import plugins
from subcircuit.cli._progress import shown
from subcircuit.cli._shell import Screen, stoppable
from subcircuit.errors import UnknownName, UsageError
from subcircuit.progress import Progress

if TYPE_CHECKING:
    from subcircuit.concepts.codebook import About
    from subcircuit.concepts.effects import Where
    from subcircuit.concepts.framing import Unit
    from subcircuit.concepts.states import Precision
    from subcircuit.subject import Subject

__all__ = ["CODEBOOKS", "explain", "fit", "load_model", "score"]

CODEBOOKS = "concepts/codebooks"
STATES = "states"  # below the codebook's folder, unless told otherwise


def fit(
    ctx: typer.Context,
    model: Annotated[str, typer.Option(help="built-in name (list models), folder, .gguf file or hub id")],
    texts: Annotated[Path, typer.Option(help="texts, one a line, or a .jsonl or .csv with text and label")],
    layer: Annotated[int, typer.Option(help="the residual stream that enters this layer", min=0)],
    out: Annotated[Path, typer.Option(help="folder to write")],
    upper: Annotated[int | None, typer.Option(help="of clvq: the layer to predict from the codes", min=0)] = None,
    template: Annotated[str, typer.Option(help="around each text: {text}, and {mask} for encoders")] = "{text}",
    label: Annotated[
        list[str] | None, typer.Option(help="label=word, the one token that stands for it; repeat", metavar="L=W")
    ] = None,
    tokens: Annotated[int, typer.Option(help="tokens of a text; what follows is cut", min=1)] = 128,
    unit: Annotated[str, typer.Option(help="word: the state at a word's last token; token: at each")] = "word",
    sentences: Annotated[
        bool, typer.Option("--sentences", help="cluster the states at judged positions instead of words")
    ] = False,
    limit: Annotated[int | None, typer.Option(help="read so many texts", min=1)] = None,
    per_word: Annotated[int, typer.Option(help="states kept of each word; 0 = all", min=0)] = 20,
    least: Annotated[int, typer.Option(help="occurrences below which a word is left out", min=1)] = 1,
    precision: Annotated[str, typer.Option(help="of the states on disk: float16 or float32")] = "float16",
    states: Annotated[Path | None, typer.Option(help="folder of the states; OUT/states unless given")] = None,
    writers: Annotated[
        bool, typer.Option("--writers/--no-writers", help="look up which heads and neurons write each concept")
    ] = True,
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit of a hub id")] = None,
    dtype: Annotated[str, typer.Option(help="of the weights: float32, bfloat16 or float16")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress, no notes")] = False,
    **settings: Any,
) -> None:
    """A codebook of the hidden states of a model. States that were harvested before are taken as they are."""
    screen, name = Screen(json=json, quiet=quiet), str(ctx.info_name)
    preset = settings.pop("preset", None)
    if preset is not None and preset not in plugins.presets(CODEBOOKS, name):
        raise UnknownName("preset", preset, plugins.presets(CODEBOOKS, name))
    for value, known, what in ((unit, ("word", "token"), "unit"), (precision, ("float16", "float32"), "precision")):
        if value not in known:
            raise UnknownName(what, value, known)
    given = {name: value for name, value in settings.items() if value is not None}
    with screen.logging(), stoppable(), shown(screen.err, quiet=quiet) as progress:
        from subcircuit.cli._concepts_told import Fitted, tell_fit
        from subcircuit.concepts.framing import Frame
        from subcircuit.concepts.harvest import Harvest
        from subcircuit.concepts.study import fit as fit_codebook
        from subcircuit.concepts.study import layers_of, method_named
        from subcircuit.concepts.texts import read_corpus
        from subcircuit.concepts.writing import write
        from subcircuit.loading import load

        method = method_named(name, preset, given)
        frame = Frame(template=template, labels=_labels(label or []), tokens=tokens, unit=cast("Unit", unit)).checked()
        corpus = read_corpus(texts).first(limit)
        screen.silence_transformers()
        subject = load(model, revision=revision, dtype=dtype, device=device, progress=progress)
        frame.answers(subject.tokenizer)  # a wrong word is told before the model runs
        harvest = Harvest(per_word, least, cast("Precision", precision))
        found = harvest.run(subject, corpus, frame, layers_of(layer, upper), states or out / STATES, progress=progress)
        study = fit_codebook(method, found, layer, upper, sentences=sentences, progress=progress)
        study.save(out)
        if writers:
            write(subject, study, found.corpus, progress=progress).save(out)
    fitted = Fitted(folder=str(out), about=study.book.about, threshold=study.book.threshold, codes=len(study.book))
    screen.emit(fitted) if json else tell_fit(fitted, study.catalogue, screen)


def explain(
    folder: Annotated[Path, typer.Argument(help="folder of a codebook", metavar="DIR")],
    text: Annotated[list[str], typer.Argument(help="texts to explain the answers to", metavar="TEXT ...")],
    words: Annotated[int, typer.Option(help="salient words of each text", min=1)] = 3,
    writers: Annotated[int, typer.Option(help="heads and neurons told for each concept", min=0)] = 3,
    steps: Annotated[int, typer.Option(help="of integrated gradients", min=1)] = 16,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress, no notes")] = False,
) -> None:
    """What the model answers, the words that it rests on, their concepts, and the heads and neurons that write them."""
    screen = Screen(json=json, quiet=quiet)
    with screen.logging(), stoppable(), shown(screen.err, quiet=quiet) as progress:
        from subcircuit.cli._concepts_told import Explanations, tell_explained
        from subcircuit.concepts.explaining import explain as explained
        from subcircuit.concepts.study import Study

        study = Study.load(folder)
        subject = load_model(study.book.about, device, screen, progress)
        found = explained(subject, study, text, words=words, writing=writers, steps=steps, progress=progress)
    screen.emit(Explanations(folder=str(folder), texts=found)) if json else tell_explained(found, screen)


def score(
    folder: Annotated[Path, typer.Argument(help="folder of a codebook", metavar="DIR")],
    texts: Annotated[Path, typer.Option(help="texts that it was not fitted on, with labels")],
    limit: Annotated[int, typer.Option(help="read so many texts", min=2)] = 64,
    where: Annotated[str, typer.Option(help="text, salient or judged: where the concept is removed")] = "text",
    centred: Annotated[bool, typer.Option("--centred/--uncentred", help="take the mean of all states off first")] = (
        True
    ),
    matched: Annotated[bool, typer.Option("--matched/--unmatched", help="controls take out as much")] = True,
    steps: Annotated[int, typer.Option(help="of integrated gradients", min=1)] = 16,
    draws: Annotated[int, typer.Option(help="of each random control", min=1)] = 3,
    beside: Annotated[Path | None, typer.Option(help="folder of another codebook, as a control")] = None,
    seeds: Annotated[int, typer.Option(help="fit again with so many seeds, and score each", min=0)] = 0,
    states: Annotated[Path | None, typer.Option(help="of --seeds: the states; DIR/states unless given")] = None,
    seed: Annotated[int, typer.Option(help="of random controls and intervals", min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress, no notes")] = False,
) -> None:
    """Remove each text's concept in the model itself, beside the removal of other directions."""
    screen = Screen(json=json, quiet=quiet)
    with screen.logging(), stoppable(), shown(screen.err, quiet=quiet) as progress:
        from subcircuit.cli._concepts_told import Scored, tell_score
        from subcircuit.concepts.codebook import Codebook
        from subcircuit.concepts.faithfulness import Faithfulness
        from subcircuit.concepts.scores import ScoreFile
        from subcircuit.concepts.states import States
        from subcircuit.concepts.study import Study, refit
        from subcircuit.concepts.texts import read_corpus

        study, corpus = Study.load(folder), read_corpus(texts).first(limit)
        rival = Codebook.load(beside) if beside else None
        harvested = States.load(states or folder / STATES) if seeds else None
        subject = load_model(study.book.about, device, screen, progress)
        settings = Faithfulness(cast("Where", where), centred, matched, steps, draws, seed=seed)
        frame, book = study.catalogue.frame, study.book
        reading = settings.read(subject, book, frame, corpus, progress=progress)
        report = settings.run(subject, book, frame, corpus, rival=rival, reading=reading, progress=progress)
        again = refit(book.about, harvested, range(seeds), progress=progress) if harvested else None
        across = settings.across(subject, again.books, reading, progress=progress) if again else None
        agree = again.agreement if again else None
        ScoreFile(codebook=book.digest, faithfulness=report, stability=agree, seeds=across).save(folder)
    scored = Scored(folder=str(folder), faithfulness=report, stability=agree, seeds=across)
    screen.emit(scored) if json else tell_score(scored, screen)


def _labels(given: list[str]) -> dict[str, str]:
    for text in given:
        if not text.partition("=")[2]:
            raise UsageError(f"--label '{text}' has no word", "write --label 'pos= positive', with the word's space")
    return dict(cast("tuple[str, str]", tuple(text.split("=", 1))) for text in given)


def load_model(about: "About", device: str, screen: Screen, progress: Progress) -> "Subject":
    """The model that a codebook is of."""
    from subcircuit.loading import load

    screen.silence_transformers()
    revision = None if about.revision.startswith("sha256:") else about.revision or None
    return load(about.model, revision=revision, dtype=about.dtype, device=device, progress=progress)
