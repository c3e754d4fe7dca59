"""Attribution graphs: the replacement is the model, rows sum to what they explain, an edge by hand, known influence."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hand_graphs import drawn
from subcircuit.errors import DataError, UnsupportedModel, UsageError
from subcircuit.features.dictionary import Dictionary
from subcircuit.features.transcoders import Transcoders
from subcircuit.graphs.attribution import Attribution, Cost
from subcircuit.graphs.graph import Graph
from subcircuit.graphs.influence import influence, node_influence, normalised, prune, quality
from subcircuit.graphs.norms import FrozenNorm
from subcircuit.graphs.replacement import LocalReplacement
from subcircuit.graphs.targets import difference, likeliest
from subcircuit.sites import Kind, Site
from tiny import CONFIGS, tiny
from tiny_transcoders import one_prompt, random_transcoders

DECODERS = [family for family in CONFIGS if "bert" not in family]
VARIANTS = {
    "stream": {"reads": "hook_resid_mid", "writes": "hook_mlp_out", "activation": "topk"},
    "norm": {"reads": "mlp.hook_in", "writes": "mlp.hook_out", "activation": "jumprelu", "skip": True},
    "cross-layer": {"activation": "jumprelu", "skip": True, "crossing": True},
}


def graph_of(family: str, variant: str = "stream", **settings: int) -> Graph:
    subject = tiny(family)
    transcoders = random_transcoders(subject, **VARIANTS[variant])  # type: ignore[arg-type]
    return Attribution(batch_size=16, max_logits=4, **settings).graph(subject, transcoders, one_prompt())  # type: ignore[arg-type]


# -- the local replacement model ------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", DECODERS)
def test_the_replacement_gives_the_models_own_logits(family: str, variant: str) -> None:
    subject = tiny(family)
    local = LocalReplacement(subject, random_transcoders(subject, **VARIANTS[variant]), one_prompt())  # type: ignore[arg-type]
    own = subject.logits(one_prompt())
    assert local.run(1).logits.equal(own) and local.logits.equal(own)
    several = local.run(3).logits
    torch.testing.assert_close(several, own.expand(3, -1), rtol=1e-4, atol=1e-4)


def test_features_and_errors_make_up_what_an_mlp_adds() -> None:
    subject, prompt = tiny("llama"), one_prompt()
    transcoders = random_transcoders(subject)
    local = LocalReplacement(subject, transcoders, prompt)
    _, seen = subject.record(prompt, subject.sites(Kind.MLP, Kind.MLP_IN))
    for layer in range(len(subject)):
        x, y = (seen[Site(layer, kind)][0, :, 0] for kind in (Kind.MLP_IN, Kind.MLP))
        dense = transcoders[layer].encode(x)
        assert (local.features[local.features[:, 0] == layer, 1] > 0).all()  # none at the first token
        dense[0] = 0
        torch.testing.assert_close(
            dense @ transcoders[layer].decoder + transcoders[layer].decoder_bias, y - local.errors[layer]
        )


def test_nothing_of_a_pass_is_left_behind() -> None:
    subject, prompt = tiny("gemma2"), one_prompt()
    before = subject.logits(prompt)
    LocalReplacement(subject, random_transcoders(subject), prompt).run(2)
    assert subject.logits(prompt).equal(before)


def test_a_norm_is_frozen_whatever_its_epsilon() -> None:
    x = torch.randn(4, 8)
    norm = torch.nn.LayerNorm(8, eps=0.5)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    norm.requires_grad_(False)
    held, changed = FrozenNorm.of(norm, x, norm(x)), torch.randn(4, 8)
    scale = (x.var(-1, unbiased=False, keepdim=True) + 0.5).rsqrt()
    expected = (changed - changed.mean(-1, keepdim=True)) * scale * norm.weight + norm.bias
    torch.testing.assert_close(held(changed), expected)
    with pytest.raises(UnsupportedModel, match="Tanh is not linear"):
        FrozenNorm.of(torch.nn.Tanh(), x, x.tanh())


# -- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1000, 20])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", DECODERS)
def test_a_row_and_its_constant_sum_to_the_pre_activation(family: str, variant: str, budget: int) -> None:
    graph = graph_of(family, variant, max_features=budget)
    explained = torch.zeros(len(graph), dtype=torch.bool)
    explained[graph.feature_nodes], explained[graph.target_nodes] = True, True
    sums = graph.adjacency.sum(1) + graph.constants + graph.rest
    torch.testing.assert_close(sums[explained], graph.values[explained], rtol=1e-4, atol=1e-4)
    assert not graph.adjacency[~explained].any() and (graph.rest[explained].any() or graph.active <= budget)
    assert len(graph.features) == min(budget, graph.active)


def test_an_edge_by_hand() -> None:
    """Layer 0's feature reaches layer 1's through the stream, and through the heads of layer 1 by their patterns."""
    subject, prompt = tiny("llama"), one_prompt()
    subject.model.set_attn_implementation("eager")
    transcoders = random_transcoders(subject)
    graph = Attribution().graph(subject, transcoders, prompt)
    with torch.no_grad():
        out = subject.model(prompt.ids, output_attentions=True, output_hidden_states=True)
    layer, config = subject.model.model.layers[1], subject.model.config
    stream = out.hidden_states[1][0]  # that enters layer 1
    gain = layer.input_layernorm.weight * (stream.square().mean(-1, keepdim=True) + config.rms_norm_eps).rsqrt()
    width = config.hidden_size // 4
    heads = [slice(head * width, (head + 1) * width) for head in range(4)]
    groups = [heads[head // 2] for head in range(4)]  # two heads to a value
    moved = [
        layer.self_attn.o_proj.weight[:, own] @ layer.self_attn.v_proj.weight[group]
        for own, group in zip(heads, groups, strict=True)
    ]
    checked = 0
    for target, (at, p, j) in enumerate(graph.features.tolist()):
        for source, (from_, q, i) in enumerate(graph.features.tolist()):
            if (at, from_) != (1, 0) or q > p:
                assert at or not graph.adjacency[target, source]
                continue
            given = graph.activations[source] * transcoders[0].decoder[i]
            reached: Tensor = given * (p == q)
            for head in range(4):
                reached = reached + out.attentions[1][0, head, p, q] * (moved[head] @ (gain[q] * given))
            assert float(graph.adjacency[target, source]) == pytest.approx(
                float(reached @ transcoders[1].encoder[j]), abs=2e-4
            )
            checked += 1
    assert checked > 50


def test_a_budget_takes_the_features_that_matter() -> None:
    whole, some = graph_of("llama"), graph_of("llama", max_features=20)
    found = {
        tuple(row): value for row, value in zip(whole.features.tolist(), node_influence(whole).tolist(), strict=False)
    }
    taken = [found[tuple(row)] for row in some.features.tolist()]
    assert sum(taken) > 0.9 * sum(sorted(found.values())[-20:])
    rows = [whole.features.tolist().index(row) for row in some.features.tolist()]
    torch.testing.assert_close(some.adjacency[:20, :20], whole.adjacency[rows][:, rows])


def test_targets_are_the_fewest_likely_logits_or_a_difference() -> None:
    subject, prompt = tiny("gpt2"), one_prompt()
    logits = subject.logits(prompt)[0]
    chances = logits.softmax(-1).sort(descending=True).values
    found = likeliest(subject, logits, probability=0.5, most=50)
    assert chances[: len(found)].sum() >= 0.5 > chances[: len(found) - 1].sum()
    graph = Attribution(max_logits=3, probability=0.9999).graph(subject, random_transcoders(subject), prompt)
    torch.testing.assert_close(graph.logits, (logits - logits.mean())[list(graph.targets)], rtol=1e-4, atol=1e-4)
    apart = Attribution().graph(subject, random_transcoders(subject), prompt, between=([5], [9, 11]))
    assert float(apart.logits) == pytest.approx(float(logits[5] - logits[[9, 11]].mean()), abs=1e-4)
    assert apart.weights.tolist() == [1.0] and apart.name(len(apart) - 1) == "logit '<5> - <9>/<11>'"
    with pytest.raises(DataError, match="tell nothing apart"):
        difference(subject, [5], [5])
    with pytest.raises(UsageError, match="probability 0"):
        likeliest(subject, logits, probability=0)


# -- what is refused ------------------------------------------------------------------------------------------------


def test_transcoders_of_another_model_are_refused() -> None:
    subject = tiny("llama")
    other = random_transcoders(tiny("llama", num_hidden_layers=3))
    with pytest.raises(DataError, match="3 layers and width 32; tiny-llama has 2 layers") as refusal:
        LocalReplacement(subject, other, one_prompt())
    assert "'tiny'" in refusal.value.cure
    with pytest.raises(UnsupportedModel, match="encoder"):
        LocalReplacement(tiny("bert"), random_transcoders(tiny("bert")), one_prompt())


def test_dead_transcoders_and_what_is_not_approved_stop_before_any_work() -> None:
    subject = tiny("llama")
    alive = random_transcoders(subject)
    dead = Transcoders.of([_dead(each) for each in alive.layers])
    with pytest.raises(DataError, match="no feature of 48 is active"):
        Attribution().graph(subject, dead, one_prompt())
    told: list[Cost] = []

    def refuse(cost: Cost) -> None:
        told.append(cost)
        raise UsageError("too long")

    with pytest.raises(UsageError, match="too long"):
        Attribution(max_features=30).graph(subject, alive, one_prompt(), approve=refuse)
    assert told[0].rows == 30 and told[0].active > 30 and told[0].bytes > 4 * 30 * told[0].active


def _dead(dictionary: Dictionary) -> Dictionary:
    return replace(dictionary, encoder=0 * dictionary.encoder, encoder_bias=0 * dictionary.encoder_bias - 1)


# -- influence ------------------------------------------------------------------------------------------------------

# t -> f0 -> f1 -> l, with an error into f1 and a direct path t -> l
CHAIN = {("t", "f0"): 2.0, ("f0", "f1"): -3.0, ("e0", "f1"): 1.0, ("f1", "l0"): 4.0, ("t", "l0"): 1.0}


def test_influence_of_a_drawn_graph() -> None:
    graph = drawn(2, CHAIN)
    # the logit hears f1 by 4/5 and the token by 1/5; f1 hears f0 by 3/4 and the error by 1/4; f0 the token alone
    expected = [0.8 * 0.75, 0.8, 0.8 * 0.25, 0.0, 0.2 + 0.8 * 0.75, 0.0]
    torch.testing.assert_close(node_influence(graph), torch.tensor(expected))
    found = quality(graph)
    assert found.replacement == pytest.approx(0.8 / (0.8 + 0.2))
    weights = torch.tensor([*expected[:5], 1.0])
    explained = torch.tensor([1, 0.75, 1, 1, 1, 1])
    assert found.completeness == pytest.approx(float((weights * explained).sum() / weights.sum()))


def test_influence_is_the_sum_over_paths() -> None:
    torch.manual_seed(0)
    shares = normalised(torch.randn(7, 7).tril(-1))
    start = torch.eye(7)[6]
    inverse = torch.linalg.inv(torch.eye(7) - shares)
    torch.testing.assert_close(influence(shares, start), start @ inverse - start)
    with pytest.raises(DataError, match="cycle"):
        influence(torch.ones(2, 2) / 2, torch.ones(2))


def test_influence_starts_at_the_logits_by_their_probability() -> None:
    graph = drawn(2, {("f0", "l0"): 1.0, ("f1", "l1"): -5.0}, targets=2)
    torch.testing.assert_close(node_influence(graph)[:2], torch.tensor([0.75, 0.25]))


def test_pruning_a_drawn_graph() -> None:
    graph = drawn(2, CHAIN)  # influence: f1 .8, token .8, f0 .6, error .2; in all 2.4
    everything = prune(graph, nodes=1.0, edges=1.0)
    assert everything.nodes.tolist() == [True, True, True, False, True, True]
    assert int(everything.edges.sum()) == len(CHAIN)
    without_error = prune(graph, nodes=0.9, edges=1.0)  # 2.2 of 2.4 is enough
    assert without_error.nodes.tolist() == [True, True, False, False, True, True]
    assert int(without_error.edges.sum()) == 4
    torch.testing.assert_close(everything.cumulative[[0, 2]], torch.tensor([2.2 / 2.4, 1.0]))


def test_pruning_goes_on_until_nothing_hangs() -> None:
    """f0 has an input only; once its weak edge to f1 goes, f0 goes, and its own input with it."""
    weak = {("t", "f0"): 1.0, ("f0", "f1"): 0.01, ("t", "f1"): 1.0, ("f1", "l0"): 1.0}
    found = prune(drawn(2, weak), nodes=1.0, edges=0.95)
    assert found.nodes.tolist() == [False, True, False, False, True, True] and int(found.edges.sum()) == 2
    with pytest.raises(UsageError, match="share of nodes is 2"):
        prune(drawn(2, weak), nodes=2)


def test_a_graph_without_a_path_is_refused() -> None:
    with pytest.raises(DataError, match=r"no path leads to a target \(y0\)"):
        prune(drawn(2, {("t", "f0"): 1.0}))
