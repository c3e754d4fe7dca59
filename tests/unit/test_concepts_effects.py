"""What answers owe to concepts: salience adds up, removal removes, writers sum, controls are fair."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from subcircuit.concepts.codebooks.kmeans import KMeans
from subcircuit.concepts.faithfulness import Faithfulness
from subcircuit.concepts.framing import Frame
from subcircuit.concepts.harvest import Harvest
from subcircuit.concepts.reading import read_texts
from subcircuit.concepts.removal import Removal, energy, removed
from subcircuit.concepts.salience import answer_odds, salience, word_scores
from subcircuit.concepts.study import Study, fit
from subcircuit.concepts.texts import Corpus
from subcircuit.concepts.writers import writers
from subcircuit.errors import DataError, UnknownName, UnsupportedModel, UsageError
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from tiny import tiny
from tiny_concepts import FRAME, corpus, spoken, told

LAYER = 1
MEASURE = Faithfulness(steps=4, draws=2, batch=8)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Twelve codes of labelled texts."""
    folder = tmp_path_factory.mktemp("states")
    states = Harvest(per_word=0).run(spoken(), told(spoken(), corpus(80)), FRAME, [LAYER], folder)
    return fit(KMeans(12, steps=30, batch=256), states, LAYER)


def recorded(subject: Subject, texts: Corpus, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    framed = FRAME.around(texts.texts, subject.tokenizer)
    site = Site(layer, Kind.RESID)
    logits, seen = subject.record(framed.prompts, [site])
    answers = FRAME.answers(subject.tokenizer)
    return logits, seen[site][:, :, 0], answers


@pytest.mark.parametrize("labelled", [True, False])
def test_salience_sums_to_what_the_text_changes(labelled: bool) -> None:
    subject, texts = spoken(), corpus(6)
    framed = FRAME.around(texts.texts, subject.tokenizer)
    logits, states, answers = recorded(subject, texts, LAYER)
    answers = answers if labelled else answers[:0]
    said = logits[:, answers].argmax(-1) if labelled else logits.argmax(-1)
    mean = states[framed.prompts.mask].mean(0)
    scores = salience(subject, framed, LAYER, states, mean, answers, said, steps=200)
    base = mean.where(framed.own[:, :, None], states)
    with torch.no_grad(), subject.editing({Site(LAYER, Kind.RESID): lambda act: base[:, :, None]}):
        bare = subject.logits(framed.prompts)
    gap = answer_odds(logits, answers, said) - answer_odds(bare, answers, said)
    torch.testing.assert_close(scores.sum(1), gap, atol=0.02, rtol=0.02)
    assert (scores[~framed.own] == 0).all()
    words = word_scores(framed, scores)
    torch.testing.assert_close(torch.stack([each.sum() for each in words]), scores.sum(1))


def test_odds_are_those_of_the_label_against_the_rest() -> None:
    logits = torch.randn(3, 9, generator=torch.Generator().manual_seed(0)).double()
    answers, said = torch.tensor([2, 5, 7]), torch.tensor([0, 2, 1])
    shares = logits[:, answers].softmax(-1)
    mine = shares.gather(1, said[:, None])[:, 0]
    torch.testing.assert_close(answer_odds(logits, answers, said), (mine / (1 - mine)).log())


def test_a_removal_is_a_projection_and_leaves_other_places_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    h, mean = (torch.randn(*shape, generator=generator).double() for shape in ((3, 5, 8), (8,)))
    v = torch.nn.functional.normalize(torch.randn(3, 8, generator=generator).double(), dim=-1)
    where = torch.rand(3, 5, generator=generator) < 0.6
    removal = Removal(v, where, mean, torch.ones(3).double())
    once = removed(h, removal)
    torch.testing.assert_close(removed(once, removal), once)
    assert torch.equal(once[~where], h[~where])
    along = torch.einsum("bpd,bd->bp", once - mean, v)
    torch.testing.assert_close(along[where], torch.zeros(int(where.sum())).double())
    torch.testing.assert_close((once - h).square().sum((1, 2)), energy(h, v, where, mean))
    half = removed(h, Removal(v, where, mean, torch.full((3,), 0.5).double()))
    torch.testing.assert_close(half, (h + once) / 2)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_writers_sum_to_the_state(family: str) -> None:
    subject = Subject(tiny(family).model, spoken().tokenizer)
    with torch.no_grad():
        for name, weight in subject.model.named_parameters():
            if name.endswith("bias"):
                weight.zero_()  # what neither heads nor neurons write
    framed = FRAME.around(["a b c d"], subject.tokenizer)
    direction = torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(0)), dim=0)
    last = len(subject)
    found = writers(subject, framed.prompts, 3, last, direction)
    assert len(found.nodes) == last * (4 + 48)
    assert found.embedding + sum(found.nodes.values()) == pytest.approx(found.whole, abs=1e-4)
    node, share = found.top(1, Kind.HEAD)[0]
    assert abs(share) == max(abs(each) for other, each in found.nodes.items() if other.site.kind is Kind.HEAD)

    def off(act: Tensor) -> Tensor:
        return act * (torch.arange(act.shape[2]) != node.unit)[None, None, :, None]

    with torch.no_grad(), subject.editing({node.site: off}):  # what the stream of its own layer loses is its share
        _, without = subject.record(framed.prompts, [Site(node.site.layer, Kind.ATTN)])
    _, before = subject.record(framed.prompts, [Site(node.site.layer, Kind.ATTN)])
    site = Site(node.site.layer, Kind.ATTN)
    lost = float((before[site] - without[site])[0, 3, 0] @ direction)
    assert lost == pytest.approx(share, abs=1e-4)


@pytest.mark.parametrize("family", ["bert", "olmo2", "gemma2"])
def test_where_shares_do_not_sum_writers_are_refused(family: str) -> None:
    subject = Subject(tiny(family).model, spoken().tokenizer)
    framed = Frame().around(["a b c"], subject.tokenizer)
    with pytest.raises(UnsupportedModel, match="norms after its branches"):
        writers(subject, framed.prompts, 1, 1, torch.ones(32))


def test_the_effect_is_what_the_edited_model_says(study: Study) -> None:
    """Text by text and by hand: salient word, its code, the projection in a hook of its own, the new probability."""
    subject, texts = spoken(), told(spoken(), corpus(12, seed=3))
    report = MEASURE.run(subject, study.book, FRAME, texts)
    answers, changes, flips, shares = FRAME.answers(subject.tokenizer), [], [], []
    for text in texts.texts:
        framed = FRAME.around([text], subject.tokenizer)
        reading = read_texts(subject, study.book, FRAME, [text], steps=4)
        (code,), (first, *_) = reading.concepts.tolist(), framed.words[0]
        raw = study.book.directions[code]
        v = raw / raw.norm()

        def cut(module: torch.nn.Module, args: tuple[Tensor], v: Tensor = v, first: int = first.first) -> tuple[Tensor]:
            (h,) = args
            centred = h[:, first:] - study.book.mean
            shares.append(float((centred @ v).square().sum() / centred.square().sum()))
            return (torch.cat([h[:, :first], h[:, first:] - (centred @ v)[..., None] * v], 1),)

        layer = subject.module(LAYER, "")
        with torch.no_grad():
            before = subject.logits(framed.prompts)[0, answers].softmax(-1)
            handle = layer.register_forward_pre_hook(cut)
            after = subject.logits(framed.prompts)[0, answers].softmax(-1)
            handle.remove()
        said = int(before.argmax())
        changes.append(float((before - after)[said].abs()))
        flips.append(float(after.argmax() != said))
    assert report.concept.change.mean == pytest.approx(sum(changes) / 12, abs=1e-5)
    assert report.concept.flipped.mean == pytest.approx(sum(flips) / 12)
    assert report.concept.removed == pytest.approx(sum(shares) / 12, rel=1e-3)
    assert report.accuracy is not None and report.accuracy.mean == 1.0
    assert report.concept.accuracy is not None
    assert report.concept.accuracy.mean == pytest.approx(1 - sum(flips) / 12)
    assert report.concept.either == max(report.concept.accuracy.mean, 1 - report.concept.accuracy.mean)


def test_controls_take_out_as_much_and_a_codebook_is_its_own_equal(study: Study) -> None:
    subject, texts = spoken(), told(spoken(), corpus(12, seed=3))
    report = MEASURE.run(subject, study.book, FRAME, texts, rival=study.book)
    assert set(report.controls) == {
        *("random direction", "random code", "other answer's code", "mean", "class means", "kmeans's concept")
    }
    assert all(each.removed == pytest.approx(report.concept.removed, rel=1e-3) for each in report.controls.values())
    own = report.controls["kmeans's concept"]
    assert own.change == report.concept.change and own.ahead is not None and own.ahead.mean == 0
    plain = Faithfulness(steps=4, draws=2, matched=False).run(subject, study.book, FRAME, texts)
    assert plain.controls["random direction"].removed < plain.concept.removed
    other = plain.controls["random code"]
    assert other.ahead is not None
    assert other.ahead.mean == pytest.approx(plain.concept.change.mean - other.change.mean, abs=1e-6)


@pytest.mark.parametrize("where", ["text", "salient", "judged"])
def test_the_place_of_removal(study: Study, where: str) -> None:
    subject, texts = spoken(), told(spoken(), corpus(6, seed=4))
    report = Faithfulness(where=where, steps=2, draws=1, centred=False).run(subject, study.book, FRAME, texts)  # type: ignore[arg-type]
    assert report.where == where and 0 <= report.concept.change.mean <= 1


def test_controls_that_cannot_be_had_are_named(study: Study) -> None:
    texts = told(spoken(), corpus(40, seed=5))
    assert texts.labels is not None
    left = tuple(text for text, label in zip(texts.texts, texts.labels, strict=True) if label == "left")[:4]
    report = MEASURE.run(spoken(), study.book, FRAME, Corpus(left, ("left",) * len(left)))
    assert report.absent == {"other answer's code": "the model gives all texts one answer"}
    bare = MEASURE.run(spoken(), study.book, FRAME, Corpus(left))
    assert bare.accuracy is None and bare.concept.accuracy is None and bare.concept.either is None


def test_what_cannot_be_measured_is_refused(study: Study) -> None:
    with pytest.raises(UsageError, match="without label words"):
        MEASURE.run(spoken(), study.book, Frame(template="0 {text} 1"), corpus(4))
    with pytest.raises(DataError, match="the label 'up'"):
        MEASURE.run(spoken(), study.book, FRAME, Corpus(("a b",), ("up",)))
    with pytest.raises(UnknownName, match="no place 'everywhere'"):
        Faithfulness(where="everywhere").run(spoken(), study.book, FRAME, corpus(4))  # type: ignore[arg-type]
    other = Subject(tiny("llama").model, spoken().tokenizer, name="another", revision="sha256:1")
    with pytest.raises(DataError, match="this is another"):
        MEASURE.run(other, study.book, FRAME, corpus(4))


def test_a_catalogue_tells_words_sentences_and_labels(study: Study, tmp_path: Path) -> None:
    concepts = study.catalogue.concepts
    texts = told(spoken(), corpus(80))
    assert [each.code for each in concepts] == list(range(len(study.book)))
    assert [each.size for each in concepts] == study.book.counts.tolist()
    assert sum(each.size for each in concepts) == len(" ".join(texts.texts).split())
    for each in concepts:
        assert sum(each.labels.values()) == pytest.approx(1.0) and each.label in FRAME.labels
        assert all(sentence.partition("[")[2][0] in each.words or len(each.words) == 10 for sentence in each.sentences)
        plain = [sentence.replace("[", "").replace("]", "") for sentence in each.sentences]
        assert set(plain) <= set(texts.texts)
    study.save(tmp_path)
    again = Study.load(tmp_path)
    assert again.catalogue == study.catalogue and again.book.about == study.book.about
    assert again.book.classes is not None
