"""Size and speed of two models, measured in turns so that both see the same machine."""

import statistics
from collections.abc import Callable, Sequence
from time import perf_counter

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from subcircuit.extraction.records import Measured

__all__ = ["matrix_flops", "measured"]

SEQUENCES, TOKENS = 8, 64
MORE = 4  # tokens behind each latency


@torch.no_grad()
def measured(models: Sequence[PreTrainedModel], rounds: int = 5) -> list[Measured]:
    """Each model's size and speed. The first round warms up."""
    seconds: list[list[tuple[float, float]]] = [[] for _ in models]
    for done in range(rounds + 1):
        for own, model in zip(seconds, models, strict=True):
            ids = _tokens(model)
            whole = _timed(lambda model=model, ids=ids: model(ids, use_cache=False), model.device)  # type: ignore[misc]
            more = _latency(model, ids[:1])
            if done:
                own.append((whole, more))
    return [_record(model, own) for model, own in zip(models, seconds, strict=True)]


def matrix_flops(model: nn.Module) -> int:
    """FLOPs per token of everything that multiplies by a matrix; embeddings are looked up, not multiplied."""
    weights = (each.weight for each in model.modules() if isinstance(each, nn.Linear | Conv1D))
    return sum(2 * weight.numel() for weight in weights)


def _record(model: PreTrainedModel, seconds: Sequence[tuple[float, float]]) -> Measured:
    parameters = list(model.parameters())  # tied ones once
    return Measured(
        parameters=sum(each.numel() for each in parameters),
        bytes=sum(each.numel() * each.element_size() for each in parameters),
        flops=matrix_flops(model),
        tokens_per_second=SEQUENCES * TOKENS / statistics.median(whole for whole, _ in seconds),
        latency_ms=1000 * statistics.median(more for _, more in seconds) / MORE,
    )


def _tokens(model: PreTrainedModel) -> Tensor:
    length = min(TOKENS, int(model.config.max_position_embeddings) - MORE)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(int(model.config.vocab_size), (SEQUENCES, length), generator=generator)
    return ids.to(model.device)


def _latency(model: PreTrainedModel, ids: Tensor) -> float:
    """Seconds of a few tokens after a prompt, one by one."""
    out = model(ids, use_cache=True)

    def extend() -> None:
        last, past = out.logits[:, -1:].argmax(-1), out.past_key_values
        for _ in range(MORE):
            last = model(last, past_key_values=past, use_cache=True).logits[:, -1:].argmax(-1)

    return _timed(extend, model.device)


def _timed(run: Callable[[], object], device: torch.device) -> float:
    start = perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter() - start
