"""Single heads swapped through a subject, against the same patch written by hand for each layout of projections."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from subcircuit.sites import Kind, Site
from subcircuit.subject import Prompts, Subject
from tiny import random_prompts, tiny

LAYER = 1
SIZE = 8  # channels of a head; 4 heads, and 2 key/value heads in llama and phi3

OUTPUT = {  # the attention output projection, and how to read the weight that one input channel is multiplied by
    "llama": ("model.layers.1.self_attn.o_proj", nn.Linear),
    "gpt2": ("transformer.h.1.attn.c_proj", None),
    "gpt_neox": ("gpt_neox.layers.1.attention.dense", nn.Linear),
    "phi3": ("model.layers.1.self_attn.o_proj", nn.Linear),
    "bert": ("bert.encoder.layer.1.attention.output.dense", nn.Linear),
}
COLUMNS: dict[str, dict[Kind, tuple[str, Callable[[int], int]]]] = {  # where a unit's first column is
    "llama": {
        Kind.Q: ("model.layers.1.self_attn.q_proj", lambda unit: 8 * unit),
        Kind.K: ("model.layers.1.self_attn.k_proj", lambda unit: 8 * unit),
        Kind.V: ("model.layers.1.self_attn.v_proj", lambda unit: 8 * unit),
    },
    "gpt2": {  # q of all heads, k of all heads, v of all heads
        Kind.Q: ("transformer.h.1.attn.c_attn", lambda unit: 8 * unit),
        Kind.K: ("transformer.h.1.attn.c_attn", lambda unit: 32 + 8 * unit),
        Kind.V: ("transformer.h.1.attn.c_attn", lambda unit: 64 + 8 * unit),
    },
    "gpt_neox": {  # q, k, v of head 0, q, k, v of head 1, ...
        Kind.Q: ("gpt_neox.layers.1.attention.query_key_value", lambda unit: 24 * unit),
        Kind.K: ("gpt_neox.layers.1.attention.query_key_value", lambda unit: 24 * unit + 8),
        Kind.V: ("gpt_neox.layers.1.attention.query_key_value", lambda unit: 24 * unit + 16),
    },
    "phi3": {  # four queries, two keys, two values
        Kind.Q: ("model.layers.1.self_attn.qkv_proj", lambda unit: 8 * unit),
        Kind.K: ("model.layers.1.self_attn.qkv_proj", lambda unit: 32 + 8 * unit),
        Kind.V: ("model.layers.1.self_attn.qkv_proj", lambda unit: 48 + 8 * unit),
    },
}
PARTS = [(name, kind, unit) for name in COLUMNS for kind in (Kind.Q, Kind.K, Kind.V) for unit in (0, 1)]


@pytest.mark.parametrize("name", OUTPUT)
@pytest.mark.parametrize("head", range(4))
def test_a_head_swapped_is_its_write_swapped(name: str, head: int) -> None:
    """By hand: the projection's output changes by what the changed channels write, z' W - z W."""
    subject, clean, corrupt = _setting(name)
    path, linear = OUTPUT[name]
    module = subject.model.get_submodule(path)
    weight = module.weight.T if linear else module.weight  # (in, out)
    channels = slice(SIZE * head, SIZE * head + SIZE)
    written = [_seen(subject, path, "in", ids)[..., channels] @ weight[channels] for ids in (clean, corrupt)]
    with _raw(module, lambda output: output + written[1] - written[0]):
        by_hand = subject.model(clean).logits
    torch.testing.assert_close(_swapped(subject, Kind.HEAD, head, clean, corrupt), by_hand, rtol=0, atol=3e-5)
    assert (by_hand - subject.model(clean).logits).abs().max() > 1e-2


@pytest.mark.parametrize(("name", "kind", "unit"), PARTS)
def test_a_query_key_or_value_swapped_is_its_columns_swapped(name: str, kind: Kind, unit: int) -> None:
    subject, clean, corrupt = _setting(name)
    path, first = COLUMNS[name][kind]
    columns = list(range(first(unit), first(unit) + SIZE))
    donor = _seen(subject, path, "out", corrupt)

    def overwrite(output: Tensor) -> Tensor:
        output = output.clone()
        for column in columns:
            output[..., column] = donor[..., column]
        return output

    with _raw(subject.model.get_submodule(path), overwrite):
        by_hand = subject.model(clean).logits
    torch.testing.assert_close(_swapped(subject, kind, unit, clean, corrupt), by_hand, rtol=0, atol=1e-5)
    assert (by_hand - subject.model(clean).logits).abs().max() > 1e-2


@pytest.mark.parametrize(("name", "kind", "unit"), PARTS)
def test_the_other_columns_of_a_projection_are_untouched(name: str, kind: Kind, unit: int) -> None:
    subject, clean, corrupt = _setting(name)
    path, first = COLUMNS[name][kind]
    before, donor = _seen(subject, path, "out", clean), _seen(subject, path, "out", corrupt)
    site = Site(LAYER, kind)
    with subject.editing({site: _put_unit(_recorded(subject, site, corrupt), unit)}):
        after = _seen(subject, path, "out", clean)
    mine = torch.zeros(before.shape[-1], dtype=torch.bool)
    mine[first(unit) : first(unit) + SIZE] = True
    assert torch.equal(after[..., mine], donor[..., mine])
    assert torch.equal(after[..., ~mine], before[..., ~mine])


# -- the words of these tests --------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def frozen() -> Iterator[None]:
    with torch.no_grad():
        yield


def _setting(name: str) -> tuple[Subject, Tensor, Tensor]:
    subject = tiny(name)
    return subject, random_prompts(subject, seed=1).ids, random_prompts(subject, seed=2).ids


@contextmanager
def _raw(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    handle = module.register_forward_hook(lambda _, args, output: change(output))
    yield
    handle.remove()


def _seen(subject: Subject, path: str, side: str, ids: Tensor) -> Tensor:
    """What a module reads or gives in one pass, by a hook of this test's own."""
    seen: list[Tensor] = []
    handle = subject.model.get_submodule(path).register_forward_hook(
        lambda _, args, output: seen.append(args[0] if side == "in" else output)
    )
    subject.model(ids)
    handle.remove()
    return seen[0]


def _recorded(subject: Subject, site: Site, ids: Tensor) -> Tensor:
    prompts = Prompts(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros(len(ids), dtype=torch.long))
    return subject.record(prompts, [site])[1][site]


def _put_unit(donor: Tensor, unit: int) -> Callable[[Tensor], Tensor]:
    def edit(act: Tensor) -> Tensor:
        units = torch.arange(act.shape[2]) == unit
        return torch.where(units[:, None], donor, act)

    return edit


def _swapped(subject: Subject, kind: Kind, unit: int, clean: Tensor, corrupt: Tensor) -> Tensor:
    site = Site(LAYER, kind)
    with subject.editing({site: _put_unit(_recorded(subject, site, corrupt), unit)}):
        logits: Tensor = subject.model(clean).logits
    return logits
