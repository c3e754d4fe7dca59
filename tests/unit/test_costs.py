"""Prices counted by hand for two tiny models, and expected costs worked out on paper."""

import pytest
import torch

from subcircuit.costs import Prices
from subcircuit.errors import UnknownName
from subcircuit.sites import Kind
from tiny import tiny

# hidden 32, 4 heads of 8 channels, 2 key/value heads, 48 neurons, 2 layers
LLAMA: dict[Kind, float] = {
    Kind.HEAD: 8 * 32 + 8 * 32 / 2,  # its rows of Q, and half of the K that it shares with another head
    Kind.CHANNEL: 32 + 32 / 2,  # a column of O, and half a row of V
    Kind.NEURON: 3 * 32,  # gate, up, down
}
GPT2: dict[Kind, float] = {Kind.HEAD: 2 * 8 * 32, Kind.CHANNEL: 2 * 32, Kind.NEURON: 2 * 32}
COUNTED: dict[str, dict[Kind, float]] = {"llama": LLAMA, "gpt2": GPT2}


@pytest.mark.parametrize("family", COUNTED)
def test_parameters_are_those_counted_by_hand(family: str) -> None:
    prices = Prices.of(tiny(family), "parameters", 9)
    assert dict(prices.unit) == COUNTED[family]
    assert dict(prices.units) == {Kind.HEAD: 4, Kind.CHANNEL: 32, Kind.NEURON: 48}


@pytest.mark.parametrize("family", ["gemma2", "gpt_neox", "llama", "gpt2", "phi3", "qwen3", "bert", "olmo2"])
def test_all_nodes_together_cost_every_matrix_of_the_layers(family: str) -> None:
    subject = tiny(family)
    prices = Prices.of(subject, "parameters", 9)
    layer = sum(prices.unit[kind] * prices.units[kind] for kind in prices.unit)
    matrices = [weight.numel() for weight in subject.module(0, "").parameters() if weight.dim() == 2]
    assert layer == sum(matrices)


def test_flops_are_two_a_weight_and_attention_grows_with_the_prompt() -> None:
    prices = Prices.of(tiny("llama"), "flops", 10)
    assert prices.unit[Kind.NEURON] == 2 * LLAMA[Kind.NEURON]
    assert prices.unit[Kind.HEAD] == 2 * LLAMA[Kind.HEAD] + 10 * 8 * 4  # q k and scores v, two FLOPs a product


@pytest.mark.parametrize("cost", ["parameters", "nodes", "flops"])
def test_everything_open_costs_one_and_nothing_open_nothing(cost: str) -> None:
    prices = Prices.of(tiny("llama"), cost, 9)  # type: ignore[arg-type]
    for value in (1.0, 0.0):
        p = {kind: torch.full((2, units), value) for kind, units in prices.units.items()}
        assert float(prices.expected(p)) == pytest.approx(value)
    assert float(prices.expected({Kind.BLOCK: torch.ones(2, 1)})) == pytest.approx(1)


def test_a_closed_block_takes_its_children_with_it() -> None:
    prices = Prices.of(tiny("llama"), "parameters", 9)
    p = {kind: torch.ones(2, units) for kind, units in prices.units.items()}
    assert float(prices.expected({**p, Kind.BLOCK: torch.tensor([[0.0], [1.0]])})) == pytest.approx(1 / 2)


def test_the_expected_cost_is_the_sum_over_lines_of_products() -> None:
    """Layer 0: block open with 1/2, head 0 with 1/4, its channel 3 with 1/5, neuron 7 with 1/10; all else open."""
    prices = Prices.of(tiny("llama"), "parameters", 9)
    p = {Kind.BLOCK: torch.ones(2, 1), Kind.HEAD: torch.ones(2, 4)}
    p |= {Kind.CHANNEL: torch.ones(2, 32), Kind.NEURON: torch.ones(2, 48)}
    p[Kind.BLOCK][0], p[Kind.HEAD][0, 0], p[Kind.CHANNEL][0, 3], p[Kind.NEURON][0, 7] = 1 / 2, 1 / 4, 1 / 5, 1 / 10
    heads = (1 / 4 + 3) * 384
    channels = ((7 + 1 / 5) / 4 + 24) * 48
    neurons = (47 + 1 / 10) * 96
    layer = 4 * 384 + 32 * 48 + 48 * 96
    assert float(prices.expected(p)) == pytest.approx(((heads + channels + neurons) / 2 + layer) / (2 * layer))


def test_counting_nodes_counts_branches_and_blocks_too() -> None:
    prices = Prices.of(tiny("gpt2"), "nodes", 9)
    p = {Kind.MLP: torch.tensor([[0.0], [1.0]])}
    whole = 3 + 4 + 32 + 48  # block, two branches, heads, channels, neurons
    assert float(prices.expected(p)) == pytest.approx(1 - (1 + 48) / (2 * whole))


def test_gated_key_value_groups_are_paid_for_by_themselves() -> None:
    """What heads and channels share no longer is: the whole costs the same, and one group its K and V."""
    subject = tiny("llama")
    shared, gated = (Prices.of(subject, "parameters", 9, kinds) for kinds in ((), (Kind.KV,)))
    whole = [sum(prices.unit[kind] * prices.units[kind] for kind in prices.unit) for prices in (shared, gated)]
    assert whole[0] == whole[1]
    assert gated.unit[Kind.KV] == 2 * 8 * 32
    p = {Kind.KV: torch.tensor([[1.0, 0.0], [1.0, 1.0]])}
    assert float(gated.expected(p)) == pytest.approx(1 - 512 / (2 * whole[0]))


@pytest.mark.parametrize(("family", "share"), [("llama", 1 / 3), ("gpt2", 1 / 2)])
def test_a_closed_mlp_output_saves_its_row_of_the_down_projection(family: str, share: float) -> None:
    """Half of layer 0's outputs closed: half of its down projection, a third of a gated MLP's weights."""
    prices = Prices.of(tiny(family), "parameters", 9, (Kind.MLP_OUT,))
    outputs = torch.ones(2, 32)
    outputs[0, :16] = 0
    unit = COUNTED[family]
    mlp = 48 * unit[Kind.NEURON]
    whole = 2 * (4 * unit[Kind.HEAD] + 32 * unit[Kind.CHANNEL] + mlp)
    assert float(prices.expected({Kind.MLP_OUT: outputs})) == pytest.approx(1 - mlp * share / 2 / whole)


def test_the_cost_of_open_gates_reaches_them_as_a_gradient() -> None:
    prices = Prices.of(tiny("llama"), "parameters", 9)
    neurons = torch.full((2, 48), 0.5, requires_grad=True)
    (slope,) = torch.autograd.grad(prices.expected({Kind.NEURON: neurons}), neurons)
    torch.testing.assert_close(slope, torch.full((2, 48), 96 / (2 * (4 * 384 + 32 * 48 + 48 * 96))))


def test_an_unknown_cost_is_refused() -> None:
    with pytest.raises(UnknownName, match="no cost 'flop'; did you mean 'flops'"):
        Prices.of(tiny("llama"), "flop", 9)  # type: ignore[arg-type]
