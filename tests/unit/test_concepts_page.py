"""What a codebook's folder tells its page: writers that sum, labels that stay, nodes of a circuit, stale files."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from commands import Ask, asking
from concept_folders import CODES, LAYER, circuit_folder, codebook_folder
from subcircuit.concepts.catalogue import characteristic, class_means
from subcircuit.concepts.faithfulness import Faithfulness
from subcircuit.concepts.harvest import Harvest
from subcircuit.concepts.index import Index
from subcircuit.concepts.labels import Labels, concept_ids, find_concept
from subcircuit.concepts.questions import Question, read_sheet
from subcircuit.concepts.scores import ScoreFile
from subcircuit.concepts.study import Study
from subcircuit.concepts.texts import Corpus
from subcircuit.concepts.writers import writers
from subcircuit.concepts.writing import Writing, write
from subcircuit.errors import DataError, ResourceError, UsageError
from subcircuit.report.concepts import concept_payload
from subcircuit.sites import Kind, Node
from subcircuit.subject import Subject
from tiny import tiny
from tiny_circuit import by_hand, kept_nodes
from tiny_concepts import FRAME, corpus, spoken, told


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    return asking(monkeypatch, capsys)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("codebook")
    codebook_folder(path)
    return path


def test_writers_are_the_mean_over_examples_less_that_over_all_concepts(folder: Path) -> None:
    """One example at a time by the function that explains single words, and the means by hand."""
    study, texts = Study.load(folder), told(spoken(), corpus(80))
    found = write(spoken(), study, texts, heads=99, neurons=999).concepts
    shares = study.book.counts.double() / study.book.counts.sum()
    for code in (0, 5):
        direction = study.book.direction(code)
        means: list[dict[str, float]] = []
        for concept in study.catalogue.concepts:
            sums = Counter[str]()
            for example in concept.examples:
                prompt = FRAME.around([texts.texts[example.text]], spoken().tokenizer).prompts
                one = writers(spoken(), prompt, example.position, LAYER, direction)
                sums.update({str(node): part for node, part in one.nodes.items()})
                sums.update({"whole": one.whole, "embedding": one.embedding})
            means.append({name: total / len(concept.examples) for name, total in sums.items()})
        names = means[0]
        apart = {
            name: means[code][name] - sum(float(p) * each[name] for p, each in zip(shares, means, strict=True))
            for name in names
        }
        mine = found[code]
        parts = {**mine.heads, **mine.neurons, "whole": mine.whole, "embedding": mine.embedding}
        assert parts == pytest.approx(apart, abs=1e-4)
        assert mine.embedding + sum(mine.heads.values()) + sum(mine.neurons.values()) == pytest.approx(
            mine.whole, abs=1e-4
        )
        sizes = [abs(part) for part in mine.heads.values()]
        assert sizes == sorted(sizes, reverse=True) and len(mine.heads) == 4 * LAYER


def test_of_families_whose_shares_do_not_sum_there_is_a_note(folder: Path) -> None:
    study, subject = Study.load(folder), spoken()
    other = Subject(tiny("gemma2").model, subject.tokenizer, name="tiny-gemma2", revision=study.book.about.revision)
    found = write(other, study, told(subject, corpus(80)))
    assert found.concepts == [] and "norms after its branches" in found.note


def test_a_name_is_of_words_that_are_rarer_elsewhere() -> None:
    here, every = Counter({"the": 6, "joy": 3, "film": 1}), Counter({"the": 60, "joy": 3, "film": 37})
    assert characteristic(here, every) == ["joy", "the", "film"]  # 0.3 ln 10, 0.6 ln 1, 0.1 ln (10 / 37)


def test_labels_hang_on_directions(folder: Path, tmp_path: Path, ask: Ask) -> None:
    study = codebook_folder(tmp_path, scored=False)
    ids = concept_ids(study.book)
    assert ids == concept_ids(Study.load(tmp_path).book) and len(set(ids)) == CODES
    assert find_concept(study.book, ids[3][:8].upper()) == (3, ids[3])
    answer = ask("concepts", "label", tmp_path, ids[3][:8], "late letters", "--json")
    assert (answer.code, answer.json["code"], answer.json["label"]) == (0, 3, "late letters")
    assert ask("concepts", "label", tmp_path, ids[4], " x ").code == 0
    page = concept_payload(str(tmp_path))[0].concepts
    assert [each.label for each in page.concepts] == ["", "", "", "late letters", "x", *[""] * (CODES - 5)]
    order = torch.arange(CODES).flip(0)  # the same codebook, numbered the other way round
    flipped = {name: getattr(study.book, name)[order] for name in ("codes", "directions", "counts")}
    turned = Study(type(study.book)(**{**vars(study.book), **flipped}), study.catalogue)
    turned.save(tmp_path)
    assert concept_payload(str(tmp_path))[0].concepts.concepts[CODES - 4].label == "late letters"
    changed = study.book.directions.clone()
    changed[4] += 1
    Study(type(study.book)(**{**vars(study.book), "directions": changed}), study.catalogue).save(tmp_path)
    page = concept_payload(str(tmp_path))[0].concepts
    assert page.concepts[3].label and not page.concepts[4].label
    assert any("names 1 concept" in each for each in page.warnings)
    assert ask("concepts", "label", tmp_path, ids[3], "").code == 0
    assert Labels.load(tmp_path) == Labels(labels={ids[4]: "x"})
    (tmp_path / "labels.json").write_text("{")
    answer = ask("concepts", "label", tmp_path, ids[3], "y")
    assert answer.code == 3 and "mend the file" in answer.err


def test_ids_that_are_none_are_refused(folder: Path) -> None:
    book = Study.load(folder).book
    for text, message in (("ab", "too short"), ("zzzz", "0 concepts have an id")):
        with pytest.raises(UsageError, match=message):
            find_concept(book, text)


def test_effects_are_those_of_the_texts_of_each_concept(folder: Path) -> None:
    report, page = ScoreFile.load(folder), concept_payload(str(folder))[0].concepts
    assert report is not None and page.score == report.faithfulness
    rows = report.faithfulness.rows
    assert sum(len(each.effect.rows) for each in page.concepts if each.effect) == len(rows) == 20
    for each in page.concepts:
        mine = [row for row in rows if row.code == each.code]
        assert (each.effect is None) == (not mine)
        if each.effect:
            assert each.effect.change == pytest.approx(sum(abs(row.after - row.before) for row in mine) / len(mine))
            assert each.effect.flipped == sum(row.flipped for row in mine)
    mean = sum(abs(row.after - row.before) for row in rows) / len(rows)
    assert report.faithfulness.concept.change.mean == pytest.approx(mean, abs=1e-6)
    assert page.texts == pytest.approx(_label_shares(Study.load(folder)))


def _label_shares(study: Study) -> dict[str, float]:
    texts = told(spoken(), corpus(80))
    assert texts.labels is not None
    counts = Counter[str]()
    for text, label in zip(texts.texts, texts.labels, strict=True):
        counts[label] += len(text.split())
    return {label: count / counts.total() for label, count in counts.items()}


def test_what_a_circuit_keeps_is_marked(folder: Path, tmp_path: Path) -> None:
    plain = concept_payload(str(folder))[0].concepts
    assert all(each.kept is None for concept in plain.concepts for each in (*concept.heads, *concept.neurons))
    head, neuron = (Node.parse(each[0].node) for each in (plain.concepts[0].heads, plain.concepts[0].neurons))
    run = circuit_folder(tmp_path / "run", [(0, head.unit)], [(0, neuron.unit)])
    page = concept_payload(str(folder), str(run))[0].concepts
    marked = {each.node for concept in page.concepts for each in (*concept.heads, *concept.neurons) if each.kept}
    assert marked == {str(head), str(neuron)}
    assert page.circuit is not None and (page.circuit.heads, page.circuit.neurons) == (1, 1)
    by_hand(kept_nodes(spoken(), [(0, 1)], []), revision="sha256:1").save(tmp_path / "other")
    with pytest.raises(DataError, match="give a circuit of the same model"):
        concept_payload(str(folder), str(tmp_path / "other"))


def test_files_of_an_earlier_codebook_are_left_out(tmp_path: Path) -> None:
    study = codebook_folder(tmp_path)
    assert not any("earlier" in each for each in concept_payload(str(tmp_path))[0].concepts.warnings)
    Study(type(study.book)(**{**vars(study.book), "directions": study.book.directions + 1}), study.catalogue).save(
        tmp_path
    )
    page = concept_payload(str(tmp_path))[0].concepts
    assert page.score is None and not any(each.heads or each.effect for each in page.concepts)
    assert any("score.json is of an earlier codebook" in each for each in page.warnings)
    assert any("fit again with --writers" in each for each in page.warnings)
    (tmp_path / "writers.json").write_text('{"concepts": 3}')
    with pytest.raises(DataError, match=r"writers\.json is not what `subcircuit concepts` writes"):
        concept_payload(str(tmp_path))


def test_fit_score_and_report_leave_their_files(folder: Path, tmp_path: Path, ask: Ask) -> None:
    run = circuit_folder(tmp_path / "run", [(0, 1)], [])
    answer = ask("report", folder, "--circuit", run, "--out", tmp_path / "page.html", "--json")
    assert answer.code == 0, answer.err
    assert "Concepts at layer 1 of tiny-llama: kmeans" in (tmp_path / "page.html").read_text()
    for words, code, message in (
        (["report", run, "--circuit", run], 2, "--circuit is of codebooks"),
        (["report", folder, run], 2, "give the folder of one codebook"),
        (["report", folder, "--circuit", tmp_path], 3, "circuit.json"),
    ):
        answer = ask(*words)
        assert (answer.code, message in answer.err.replace("\n", " ")) == (code, True), answer.err


def test_rows_of_a_report_are_its_texts(folder: Path) -> None:
    """The probability after is that of the edited model, as the mean of them is."""
    texts = told(spoken(), corpus(6, seed=8))
    report = Faithfulness(steps=4, draws=1).run(spoken(), Study.load(folder).book, FRAME, texts)
    assert [row.text for row in report.rows] == list(texts.texts)
    assert [row.label for row in report.rows] == list(texts.labels or ()) == [row.answer for row in report.rows]
    assert all(row.word in row.text.split() for row in report.rows)
    assert sum(row.flipped for row in report.rows) / 6 == pytest.approx(report.concept.flipped.mean)
    assert (
        Writing.load(folder) is not None and Kind.HEAD in Writing.load(folder).concepts[0].heads.__iter__().__next__()
    )


def test_a_codebook_that_cannot_be_written_is_one_error_and_leaves_the_old_one(tmp_path: Path, folder: Path) -> None:
    study = Study.load(folder)
    study.save(tmp_path)
    (tmp_path / "codebook.safetensors.part").mkdir()  # where a full disk would stop it
    with pytest.raises(ResourceError, match=r"codebook\.safetensors cannot be written"):
        study.save(tmp_path)
    assert Study.load(tmp_path).book.digest == study.book.digest
    (tmp_path / "labels.json.part").mkdir()
    with pytest.raises(ResourceError, match=r"labels\.json cannot be written"):
        Labels().given("abcd", "x").save(tmp_path)


def test_sheets_and_indices_in_another_form_are_refused(tmp_path: Path) -> None:
    (tmp_path / "sheet.csv").write_bytes(b"number,question,answer\n1,\xff,2\n")
    question = Question(number=1, kind="rating", text="?", choices=3)
    with pytest.raises(DataError, match=r"sheet\.csv is not UTF-8"):
        read_sheet(tmp_path / "sheet.csv", [question])
    (tmp_path / "index.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="harvest again"):
        Index.read(tmp_path / "index.parquet")


def test_a_label_without_words_that_are_kept_has_no_mean(tmp_path: Path) -> None:
    texts = Corpus(("a b a b", "a b", "q z"), ("left", "left", "right"))
    states = Harvest(per_word=0, least=2).run(spoken(), texts, FRAME, [LAYER], tmp_path)
    assert class_means(states, LAYER) is None
