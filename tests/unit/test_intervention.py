"""Masks against what they stand for: other prompts, hand-written hooks, and products worked out on paper."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from subcircuit.intervention import Fill, Mask, Reference, acting, effective, masked_logits, masking
from subcircuit.sites import Kind, Site
from subcircuit.subject import Prompts, Subject
from tiny import random_prompts, tiny

ALL = (Kind.BLOCK, Kind.ATTN, Kind.MLP, Kind.HEAD, Kind.CHANNEL, Kind.NEURON, Kind.MLP_OUT, Kind.KV)
DECODERS = ["llama", "gpt2", "gpt_neox", "gemma2", "olmo2"]


# -- both ends of the mask ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("fill", ["corrupt", "mean", "zero", "resample"])
def test_gates_all_one_are_the_model(family: str, fill: Fill) -> None:
    subject, clean, corrupt = _setting(family)
    assert torch.equal(_run(subject, clean, corrupt, _gates(subject, 1.0, *ALL), fill), subject.logits(clean))


@pytest.mark.parametrize("family", DECODERS)
def test_gates_all_zero_are_the_model_on_the_corrupted_prompt(family: str) -> None:
    """Where the judged token is the same in both prompts: token embeddings have no gate."""
    subject, clean, corrupt = _setting(family)
    corrupt.ids[:, -1] = clean.ids[:, -1]
    closed = _run(subject, clean, corrupt, _gates(subject, 0.0, Kind.BLOCK))
    assert torch.equal(closed, subject.logits(corrupt))
    assert (closed - subject.logits(clean)).abs().max() > 1e-2


# -- single nodes, by hand ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layer", "head"), [(0, 0), (0, 3), (1, 2)])
def test_a_closed_head_is_that_head_patched(layer: int, head: int) -> None:
    subject, clean, corrupt = _setting("llama")
    path = f"model.layers.{layer}.self_attn.o_proj"
    donor = _seen(subject, path, corrupt)[0]

    def patch(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        patched = args[0].clone()
        patched[..., 8 * head : 8 * head + 8] = donor[..., 8 * head : 8 * head + 8]
        return (patched,)

    with _hooked(subject.model.get_submodule(path).register_forward_pre_hook(patch)):
        by_hand = subject.logits(clean)
    closed = _run(subject, clean, corrupt, _all_but(subject, Site(layer, Kind.HEAD), head))
    torch.testing.assert_close(closed, by_hand, rtol=0, atol=1e-6)
    assert (by_hand - subject.logits(clean)).abs().max() > 1e-2


@pytest.mark.parametrize("group", [0, 1])
def test_a_closed_key_value_group_is_its_key_and_value_patched(group: int) -> None:
    subject, clean, corrupt = _setting("llama")
    names = [f"model.layers.1.self_attn.{name}_proj" for name in "kv"]
    donors = [_seen(subject, name, corrupt)[1] for name in names]

    def patch(output: Tensor, donor: Tensor) -> Tensor:
        patched = output.clone()
        patched[..., 8 * group : 8 * group + 8] = donor[..., 8 * group : 8 * group + 8]
        return patched

    key, value = (subject.model.get_submodule(name) for name in names)
    hooks = [
        module.register_forward_hook(lambda _, args, output, donor=donor: patch(output, donor))
        for module, donor in zip((key, value), donors, strict=True)
    ]
    with _hooked(*hooks):
        by_hand = subject.logits(clean)
    closed = _run(subject, clean, corrupt, _all_but(subject, Site(1, Kind.KV), group))
    torch.testing.assert_close(closed, by_hand, rtol=0, atol=1e-6)
    assert (by_hand - subject.logits(clean)).abs().max() > 1e-2


def test_a_closed_mlp_output_is_that_coordinate_patched() -> None:
    subject, clean, corrupt = _setting("gpt2")
    donor = _seen(subject, "transformer.h.0.mlp", corrupt)[1]

    def patch(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        patched = output.clone()
        patched[..., 5] = donor[..., 5]
        return patched

    with _hooked(subject.model.get_submodule("transformer.h.0.mlp").register_forward_hook(patch)):
        by_hand = subject.logits(clean)
    closed = _run(subject, clean, corrupt, _all_but(subject, Site(0, Kind.MLP_OUT), 5))
    torch.testing.assert_close(closed, by_hand, rtol=0, atol=1e-6)
    assert (by_hand - subject.logits(clean)).abs().max() > 1e-3


# -- a block is a skip ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", DECODERS)
def test_a_closed_block_hands_on_what_entered_it(family: str) -> None:
    """By hand: block 1's output is what enters it plus what the corrupted run's block 1 adds to its own input."""
    subject, clean, corrupt = _setting(family)
    block = subject.module(1, "")
    entered, left = _in_and_out(subject, block, corrupt)

    def skip(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: object) -> object:
        skipped = (args[0] if args else kwargs["hidden_states"]) + (left - entered)
        return (skipped, *output[1:]) if isinstance(output, tuple) else skipped

    with _hooked(block.register_forward_hook(skip, with_kwargs=True)):
        by_hand = subject.logits(clean)
    closed = _run(subject, clean, corrupt, _all_but(subject, Site(1, Kind.BLOCK), 0))
    torch.testing.assert_close(closed, by_hand, rtol=1e-4, atol=1e-4)
    assert (by_hand - subject.logits(clean)).abs().max() > 1e-2


def test_behind_a_closed_block_upstream_still_counts() -> None:
    subject, clean, corrupt = _setting("llama")
    last = _all_but(subject, Site(1, Kind.BLOCK), 0)
    upstream = last | {Site(0, Kind.MLP): torch.zeros(1)}
    both = [_run(subject, clean, corrupt, mask) for mask in (last, upstream)]
    assert (both[0] - both[1]).abs().max() > 1e-2


# -- composition ----------------------------------------------------------------------------------------------------


def test_nested_gates_multiply() -> None:
    subject = tiny("llama")  # 4 heads of 8 channels, 48 neurons
    heads, channels, neurons = torch.tensor([1.0, 0.5, 0.2, 0.0]), torch.linspace(0, 1, 32), torch.linspace(1, 0, 48)
    gates = {
        Site(0, Kind.BLOCK): torch.tensor([0.5]),
        Site(0, Kind.ATTN): torch.tensor([0.8]),
        Site(0, Kind.MLP): torch.tensor([0.25]),
        Site(0, Kind.HEAD): heads,
        Site(0, Kind.CHANNEL): channels,
        Site(0, Kind.NEURON): neurons,
    }
    found = effective(subject, gates)
    by_hand = [0.5 * 0.8 * float(heads[channel // 8]) * float(channels[channel]) for channel in range(32)]
    assert list(found) == [Site(0, Kind.CHANNEL), Site(0, Kind.NEURON)]
    torch.testing.assert_close(found[Site(0, Kind.CHANNEL)], torch.tensor(by_hand))
    torch.testing.assert_close(found[Site(0, Kind.NEURON)], 0.125 * neurons)


def test_composed_gates_act_like_their_product() -> None:
    subject, clean, corrupt = _setting("gpt2")
    gates = _random(subject, *ALL)
    product = {
        Site(layer, Kind.CHANNEL): gates[Site(layer, Kind.BLOCK)]
        * gates[Site(layer, Kind.ATTN)]
        * gates[Site(layer, Kind.HEAD)].repeat_interleave(8)
        * gates[Site(layer, Kind.CHANNEL)]
        for layer in range(2)
    }
    product |= {
        Site(layer, Kind.NEURON): gates[Site(layer, Kind.BLOCK)]
        * gates[Site(layer, Kind.MLP)]
        * gates[Site(layer, Kind.NEURON)]
        for layer in range(2)
    }
    product |= {site: gate for site, gate in gates.items() if site.kind in (Kind.MLP_OUT, Kind.KV)}
    both = [_run(subject, clean, corrupt, mask) for mask in (gates, product)]
    torch.testing.assert_close(*both, rtol=0, atol=1e-5)


def test_a_gate_per_prompt_acts_on_that_prompt() -> None:
    subject, clean, corrupt = _setting("llama")
    gates = {Site(1, Kind.HEAD): torch.linspace(0, 1, 4 * len(clean)).view(-1, 4)}
    together = _run(subject, clean, corrupt, gates)
    for row in range(len(clean)):
        alone = _run(subject, clean[[row]], corrupt[[row]], {Site(1, Kind.HEAD): gates[Site(1, Kind.HEAD)][row]})
        torch.testing.assert_close(together[[row]], alone, rtol=0, atol=1e-5)


def test_gates_of_one_layer_act_in_the_order_of_computation() -> None:
    sites = [Site(1, Kind.NEURON), Site(1, Kind.KV), Site(0, Kind.MLP), Site(1, Kind.HEAD)]
    assert acting(sites) == [Site(0, Kind.NEURON), *(Site(1, Kind(k)) for k in ("k", "v", "channel", "neuron"))]


# -- gradients ------------------------------------------------------------------------------------------------------


def test_the_gradient_of_a_gate_is_its_finite_difference() -> None:
    """In float64 (GPT-2: RMSNorm computes in float32 inside), all kinds of gates partly open: every factor counts."""
    subject = Subject(tiny("gpt2").model.double())
    clean, corrupt = random_prompts(subject, seed=1), random_prompts(subject, seed=2)
    generator = torch.Generator().manual_seed(0)
    gates = {
        site: 0.3 + 0.6 * torch.rand(subject.units(site.kind), generator=generator, dtype=torch.float64)
        for site in subject.sites(*ALL)
    }
    reference = Reference(subject, "corrupt", clean, corrupt, acting(gates))

    def objective(mask: Mask) -> Tensor:
        with masking(subject, mask, reference(torch.arange(len(clean)))):
            return subject.all_logits(clean)[:, -1].log_softmax(-1)[:, 7].sum()

    leaves = {site: gate.clone().requires_grad_() for site, gate in gates.items()}
    slopes = torch.autograd.grad(objective(leaves), list(leaves.values()))
    step = 1e-5
    for (site, gate), slope in zip(gates.items(), slopes, strict=True):
        unit = len(gate) // 2
        nudge = torch.zeros_like(gate).index_fill(0, torch.tensor(unit), step)
        with torch.no_grad():
            rise = objective({**gates, site: gate + nudge}) - objective({**gates, site: gate - nudge})
        assert slope[unit].item() == pytest.approx(rise.item() / (2 * step), rel=1e-5, abs=1e-8), str(site)


# -- the words of these tests ---------------------------------------------------------------------------------------


def _setting(family: str) -> tuple[Subject, Prompts, Prompts]:
    subject = tiny(family)
    return subject, random_prompts(subject, seed=1), random_prompts(subject, seed=2)


def _gates(subject: Subject, value: float, *kinds: Kind) -> dict[Site, Tensor]:
    return {site: torch.full((subject.units(site.kind),), value) for site in subject.sites(*kinds)}


def _random(subject: Subject, *kinds: Kind) -> dict[Site, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {site: torch.rand(subject.units(site.kind), generator=generator) for site in subject.sites(*kinds)}


def _all_but(subject: Subject, site: Site, unit: int) -> dict[Site, Tensor]:
    gates = _gates(subject, 1.0, *ALL)
    gates[site][unit] = 0
    return gates


def _run(
    subject: Subject, clean: Prompts, corrupt: Prompts, mask: Mask, fill: Fill = "corrupt", batch_size: int = 32
) -> Tensor:
    reference = Reference(subject, fill, clean, corrupt, acting(mask))
    return masked_logits(subject, clean, mask, reference, batch_size=batch_size)


@contextmanager
def _hooked(*handles: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    with torch.no_grad():
        yield
    for handle in handles:
        handle.remove()


@torch.no_grad()
def _seen(subject: Subject, path: str, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """What a module reads and gives in one pass."""
    seen: list[tuple[Tensor, Tensor]] = []
    module = subject.model.get_submodule(path)
    with _hooked(module.register_forward_hook(lambda _, args, output: seen.append((args[0], output)))):
        subject.model(prompts.ids)
    return seen[0]


@torch.no_grad()
def _in_and_out(subject: Subject, block: nn.Module, prompts: Prompts) -> tuple[Tensor, Tensor]:
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: object) -> None:
        result = output[0] if isinstance(output, tuple) else output
        assert isinstance(result, Tensor)
        seen.append((args[0] if args else kwargs["hidden_states"], result))

    with _hooked(block.register_forward_hook(keep, with_kwargs=True)):
        subject.model(prompts.ids)
    return seen[0]
