"""Teacher, extracted and taught model side by side: on text, in what they write, and at their task."""

from collections.abc import Mapping, Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field

from subcircuit import metrics
from subcircuit.distillation.measures import Closeness, closeness, diversity, pass_at_k, resampled
from subcircuit.distillation.speaking import Ending
from subcircuit.distillation.writing import write
from subcircuit.errors import DataError
from subcircuit.scores import Estimate
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs

__all__ = ["AtTask", "Standing", "at_task", "side_by_side"]


class AtTask(BaseModel):
    """A model on a task's prompts; intervals over prompts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    accuracy: Estimate = Field(description="share of prompts whose right answers beat the wrong ones")
    drawn: Estimate = Field(description="share of answers, drawn at temperature 1, that are right")
    pass_at_k: Estimate = Field(description="chance that one of k such answers is right, without bias")
    k: int
    answers: int = Field(description="drawn for each prompt")


class Standing(BaseModel):
    """One model beside its teacher."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parameters: int
    reading: Closeness = Field(description="on the teacher's continuations")
    writing: Closeness = Field(description="on its own continuations of the same prompts")
    diversity: float = Field(description="different pairs of neighbours over all pairs in its own: 1 = no repetition")
    task: AtTask | None


def side_by_side(
    models: Mapping[str, Subject],
    teacher: Subject,
    prompts: Sequence[Sequence[int]],
    *,
    pairs: Pairs | None = None,
    new_tokens: int = 32,
    tau: float = 0.8,
    rows: int = 8,
    seed: int = 0,
) -> dict[str, Standing]:
    """Every model by its name on prompts that none was taught on; give the teacher too, to have its own numbers.

    `pairs`: of the task that the circuit was found for. `tau`: nats, splits tokens by the teacher's entropy.
    """
    theirs = write(
        teacher.model, prompts, Ending.of(teacher.model, teacher.model).stops, new_tokens=new_tokens, seed=seed
    )
    found = {}
    for name, subject in models.items():
        stops = Ending.of(subject.model, subject.model).stops
        own = write(subject.model, prompts, stops, new_tokens=new_tokens, seed=seed + 1)
        reading, writing = (
            closeness(subject.model, teacher.model, text, tau=tau, rows=rows, seed=seed) for text in (theirs, own)
        )
        found[name] = Standing(
            parameters=sum(each.numel() for each in subject.model.parameters()),
            reading=reading,
            writing=writing,
            diversity=diversity(own),
            task=None if pairs is None else at_task(subject, pairs, rows=rows, seed=seed),
        )
    return found


@torch.no_grad()
def at_task(subject: Subject, pairs: Pairs, *, k: int = 8, answers: int = 32, rows: int = 8, seed: int = 0) -> AtTask:
    """Accuracy, and how often answers that are drawn are right.

    Raises DataError for answers of several tokens, UsageError for a k above `answers`.
    """
    if pairs.continued is not None:
        raise DataError("answers of several tokens are not judged here", "score them with subcircuit score")
    logits = torch.cat([subject.logits(pairs.clean[part]).cpu() for part in torch.arange(len(pairs)).split(rows)])
    generator = torch.Generator().manual_seed(seed)
    draws = torch.multinomial(logits.double().softmax(-1), answers, replacement=True, generator=generator)
    right = pairs.right.cpu()
    hits = (draws[:, :, None] == right[:, None, :]).any(-1).sum(1)
    return AtTask(
        accuracy=resampled(metrics.accuracy(logits, right, pairs.wrong.cpu()), seed=seed),
        drawn=resampled(hits / answers, seed=seed),
        pass_at_k=resampled(pass_at_k(hits.tolist(), answers, k), seed=seed),
        k=k,
        answers=answers,
    )
