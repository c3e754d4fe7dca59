"""Responses drawn from a model: from its own probabilities, as many rows at a time as memory takes."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from subcircuit.batching import out_of_memory
from subcircuit.distillation.speaking import Written
from subcircuit.errors import NumericalError, ResourceError

__all__ = ["Writer", "write"]

log = logging.getLogger(__name__)

Ids = Sequence[Sequence[int]]
APART = 40  # bits between the seeds of two parts of a batch, so that none is another step's


class Writer:
    """Writes batches. Where memory runs out, half as many rows are written at a time from then on."""

    def __init__(
        self, *, new_tokens: int, temperature: float = 1.0, top_p: float = 1.0, pad: int = 0, rows: int | None = None
    ) -> None:
        self.new_tokens, self.temperature, self.top_p, self.pad = new_tokens, temperature, top_p, pad
        self.rows = rows  # at a time; None: all

    def __call__(
        self, model: PreTrainedModel, prompts: Ids, stops: Sequence[int], seed: int, who: str = "the model"
    ) -> Written:
        """A response to each prompt. The draws are a function of the seed; the global generator stays as it is.

        Raises NumericalError where the model's answer is not a number, ResourceError when one row does not fit.
        """
        answers: list[list[int]] = []
        while len(answers) < len(prompts):
            start, rows = len(answers), self.rows or len(prompts)
            part = prompts[start : start + rows]
            try:
                answers += self._answers(model, part, stops, seed + (start << APART), who)
                continue
            except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if len(part) == 1:
                    message = f"{self.new_tokens} tokens after a prompt of {len(part[0])} do not fit in memory"
                    raise ResourceError(message, "lower new_tokens, or use a smaller model") from error
            self.rows = len(part) // 2
            log.warning("out of memory; going on with %d texts written at a time", self.rows)
        return _joined(prompts, answers, stops, self.new_tokens, self.pad)

    @torch.no_grad()
    def _answers(
        self, model: PreTrainedModel, prompts: Ids, stops: Sequence[int], seed: int, who: str
    ) -> list[list[int]]:
        longest = max(map(len, prompts))
        ids = torch.tensor([[self.pad] * (longest - len(each)) + list(each) for each in prompts], device=model.device)
        mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in prompts], device=model.device)
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices), _own_probabilities(model):
            torch.manual_seed(seed)
            made: Any = model.generate(  # type: ignore[operator]
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=self.new_tokens,
                do_sample=self.temperature > 0,
                temperature=self.temperature or None,
                top_p=self.top_p,
                top_k=0,
                pad_token_id=self.pad,
                eos_token_id=list(stops) or None,
                logits_processor=LogitsProcessorList([_Numbers(who)]),
            )
        return [_until(row, stops) for row in made[:, longest:].tolist()]


def write(
    model: PreTrainedModel,
    prompts: Ids,
    stops: Sequence[int],
    *,
    new_tokens: int,
    seed: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    pad: int = 0,
) -> Written:
    """One batch of responses."""
    writer = Writer(new_tokens=new_tokens, temperature=temperature, top_p=top_p, pad=pad)
    return writer(model, prompts, stops, seed)


class _Numbers(LogitsProcessor):
    """Stops where logits are not numbers, before anything is drawn from them."""

    def __init__(self, who: str) -> None:
        self.who = who

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores as they are. Raises NumericalError."""
        bad = (scores.isnan() | (scores == torch.inf)).any(-1).nonzero()
        if len(bad):
            raise NumericalError(
                f"what {self.who} says to row {int(bad[0])} of a batch is not a number",
                "load it with --dtype float32, and check its weights",
            )
        return scores


@contextmanager
def _own_probabilities(model: PreTrainedModel) -> Iterator[None]:
    """Without what a model's folder adds to generation: a penalty on repetition would write another model's text."""
    before = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before


def _until(row: Sequence[int], stops: Sequence[int]) -> list[int]:
    """A response up to and with the first token that ends it."""
    end = next((place for place, token in enumerate(row) if token in stops), len(row) - 1)
    return list(row[: end + 1])


def _joined(prompts: Ids, answers: Ids, stops: Sequence[int], room: int, pad: int) -> Written:
    rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    width = max(map(len, rows))
    places = torch.arange(width)
    lengths, starts = torch.tensor([len(row) for row in rows]), torch.tensor([len(prompt) for prompt in prompts])
    mask = places < lengths[:, None]
    return Written(
        torch.tensor([row + [pad] * (width - len(row)) for row in rows]),
        mask,
        mask & (places >= starts[:, None]),
        sum(answer[-1] not in stops for answer in answers if len(answer) == room),
    )
