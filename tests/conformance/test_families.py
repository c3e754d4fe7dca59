"""What every family promises: activations of known shapes, swaps that agree with each other, true gradients."""

import pytest
import torch
from torch import Tensor, nn

from subcircuit.metrics import kl
from subcircuit.sites import Kind, Node, Site
from subcircuit.subject import Edit, Prompts, Subject
from tiny import NODES, planted, random_prompts, shortened, tiny

TAPPED = (
    Kind.RESID,
    Kind.ATTN_IN,
    Kind.MLP_IN,
    Kind.ATTN,
    Kind.MLP,
    Kind.MLP_OUT,
    Kind.HEAD,
    Kind.CHANNEL,
    Kind.NEURON,
    Kind.Q,
    Kind.K,
    Kind.V,
)
BOTH = tuple[Prompts, Prompts]


# -- what is seen ------------------------------------------------------------------------------------------------


def test_every_kind_is_tapped(subject: Subject) -> None:
    assert set(subject.family.taps) == set(TAPPED)


def test_recorded_shapes(subject: Subject, prompts: BOTH) -> None:
    clean, _ = prompts
    config = subject.model.config
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    channels = getattr(config, "head_dim", None) or config.hidden_size // heads
    neurons = {"distilbert": "hidden_dim", "gpt2": "n_inner"}.get(subject.family_name, "intermediate_size")
    expected = {
        Kind.RESID: (1, config.hidden_size),
        Kind.ATTN_IN: (1, config.hidden_size),
        Kind.MLP_IN: (1, config.hidden_size),
        Kind.ATTN: (1, config.hidden_size),
        Kind.MLP: (1, config.hidden_size),
        Kind.MLP_OUT: (config.hidden_size, 1),
        Kind.HEAD: (heads, channels),
        Kind.CHANNEL: (heads * channels, 1),
        Kind.NEURON: (getattr(config, neurons), 1),
        Kind.Q: (heads, channels),
        Kind.K: (groups, channels),
        Kind.V: (groups, channels),
    }
    logits, seen = subject.record(clean, subject.sites(*TAPPED))
    assert logits.shape == (len(clean), config.vocab_size)
    assert len(seen) == len(subject) * len(TAPPED)
    for site, act in seen.items():
        units, channels = expected[site.kind]
        assert act.shape == (*clean.ids.shape, units, channels), site
        assert subject.units(site.kind) == units
        assert subject.width(site.kind) == units * channels


def test_judged_logits_are_the_models_own(subject: Subject, prompts: BOTH) -> None:
    clean, _ = prompts
    everywhere = subject.model(clean.ids, attention_mask=clean.mask.long()).logits
    own = everywhere[torch.arange(len(clean)), clean.at]
    torch.testing.assert_close(subject.logits(clean), own, rtol=0, atol=1e-6)
    torch.testing.assert_close(subject.all_logits(clean)[clean.mask], everywhere[clean.mask], rtol=0, atol=1e-6)


def test_judged_logits_are_capped_where_the_model_caps_them() -> None:
    subject = tiny("gemma2")
    cap, prompts = subject.model.config.final_logit_softcapping, random_prompts(subject)
    hidden = subject.model.base_model(prompts.ids).last_hidden_state[:, -1]
    raw = subject.model.get_output_embeddings()(hidden)
    assert raw.abs().max() > cap
    torch.testing.assert_close(subject.logits(prompts), cap * (raw / cap).tanh(), rtol=0, atol=1e-6)


def test_branches_add_up_to_the_stream(subject: Subject, prompts: BOTH) -> None:
    """Into layer 1 goes what went into layer 0 plus both branches, in encoders normalised after each."""
    paths = {
        "bert": ("attention.output.LayerNorm", "output.LayerNorm"),
        "distilbert": ("sa_layer_norm", "output_layer_norm"),
    }.get(subject.family_name)
    norms = [subject.module(0, path) for path in paths] if paths else [nn.Identity(), nn.Identity()]
    sites = [Site(0, Kind.RESID), Site(0, Kind.ATTN), Site(0, Kind.MLP), Site(1, Kind.RESID)]
    _, seen = subject.record(prompts[0], sites)
    before, attn, mlp, after = (seen[site] for site in sites)
    torch.testing.assert_close(norms[1](norms[0](before + attn) + mlp), after, rtol=1e-5, atol=1e-5)


def test_padding_changes_no_prompt(subject: Subject) -> None:
    padded = shortened(random_prompts(subject, seed=3))
    together = subject.logits(padded)
    for row in range(len(padded)):
        alone = subject.logits(padded[[row]])  # cut to its own length: no padding is left
        torch.testing.assert_close(together[[row]], alone, rtol=1e-5, atol=3e-5)


# -- swaps ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ([Kind.HEAD], Kind.ATTN),
        ([Kind.CHANNEL], Kind.HEAD),
        ([Kind.Q, Kind.K, Kind.V], Kind.HEAD),
        ([Kind.NEURON], Kind.MLP),
        ([Kind.MLP_OUT], Kind.MLP),
    ],
    ids=lambda kinds: "+".join(kinds) if isinstance(kinds, list) else str(kinds),
)
@pytest.mark.parametrize("layer", [0, 1])
def test_all_parts_swapped_is_the_whole_swapped(
    subject: Subject, prompts: BOTH, parts: list[Kind], whole: Kind, layer: int
) -> None:
    by_parts = _swapped(subject, prompts, [Site(layer, kind) for kind in parts])
    at_once = _swapped(subject, prompts, [Site(layer, whole)])
    torch.testing.assert_close(by_parts, at_once, rtol=0, atol=1e-5)
    assert (at_once - subject.logits(prompts[0])).abs().amax(1).min() > 1e-2  # every prompt is moved


def test_everything_swapped_is_the_corrupted_run(subject: Subject, prompts: BOTH) -> None:
    sites = [Site(0, Kind.RESID), *subject.sites(Kind.ATTN, Kind.MLP)]
    torch.testing.assert_close(_swapped(subject, prompts, sites), subject.logits(prompts[1]), rtol=0, atol=1e-5)


def test_the_stream_swapped_before_the_last_layer_is_the_corrupted_run(subject: Subject, prompts: BOTH) -> None:
    last = Site(len(subject) - 1, Kind.RESID)
    torch.testing.assert_close(_swapped(subject, prompts, [last]), subject.logits(prompts[1]), rtol=0, atol=1e-5)


def test_edits_of_one_module_compose(subject: Subject, prompts: BOTH) -> None:
    """Head 2 through HEAD and the rest channel by channel, at one module: the whole branch is swapped."""
    head, channel = Site(0, Kind.HEAD), Site(0, Kind.CHANNEL)
    clean, corrupt = prompts
    _, other = subject.record(corrupt, [head, channel])
    size = other[head].shape[-1]
    rest = torch.arange(subject.units(Kind.CHANNEL)) // size != 2
    edits = {head: _patch(other[head], [2]), channel: _patch(other[channel], rest.nonzero()[:, 0].tolist())}
    with subject.editing(edits):
        logits = subject.logits(clean)
    torch.testing.assert_close(logits, _swapped(subject, prompts, [Site(0, Kind.ATTN)]), rtol=0, atol=1e-5)


def test_only_planted_nodes_move_a_planted_model(family: str) -> None:
    subject = planted(family)
    clean, corrupt = random_prompts(subject, 64, seed=1), random_prompts(subject, 64, seed=2)
    plain = subject.logits(clean)
    known = {Node(Site(layer, Kind.HEAD), unit) for layer, unit in NODES[0]}
    known |= {Node(Site(layer, Kind.NEURON), unit) for layer, unit in NODES[1]}
    for site in subject.sites(Kind.HEAD, Kind.NEURON):
        _, other = subject.record(corrupt, [site])
        idle = [unit for unit in range(subject.units(site.kind)) if Node(site, unit) not in known]
        assert torch.equal(_edited(subject, clean, site, _patch(other[site], idle)), plain), site
    for node in known:
        _, other = subject.record(corrupt, [node.site])
        moved = _edited(subject, clean, node.site, _patch(other[node.site], [node.unit]))
        assert kl(plain, moved).mean() > 0.1, node


# -- gradients -----------------------------------------------------------------------------------------------------


def test_gradients_are_finite_differences(subject: Subject, prompts: BOTH) -> None:
    """Along a random direction in the masks of all units of all kinds at once, half-way between clean and corrupted."""
    clean, corrupt = prompts
    sites = subject.sites(*TAPPED)
    _, other = subject.record(corrupt, sites)
    generator = torch.Generator().manual_seed(0)
    masks = {site: torch.full((subject.units(site.kind),), 0.5, requires_grad=True) for site in sites}
    direction = {site: torch.randn(mask.shape, generator=generator) for site, mask in masks.items()}
    weights = torch.randn(len(clean), subject.model.config.vocab_size, generator=generator)

    def value(step: float) -> Tensor:
        edits = {site: _mix(other[site], mask + step * direction[site]) for site, mask in masks.items()}
        with subject.editing(edits):
            return (subject.logits(clean) * weights).sum()

    with torch.enable_grad():
        gradients = dict(zip(sites, torch.autograd.grad(value(0.0), list(masks.values())), strict=True))
    predicted = sum(float((gradients[site] * direction[site]).sum()) for site in sites)
    measured = float(value(1e-3) - value(-1e-3)) / 2e-3
    assert measured == pytest.approx(predicted, rel=2e-2, abs=1e-2)  # float32 leaves that much of a sum of many terms
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())


# -- the words of these tests --------------------------------------------------------------------------------------


def _patch(other: Tensor, units: list[int]) -> Edit:
    def edit(act: Tensor) -> Tensor:
        act = act.clone()
        act[:, :, units] = other[:, :, units]
        return act

    return edit


def _mix(other: Tensor, mask: Tensor) -> Edit:
    return lambda act: other + mask[:, None] * (act - other)


def _edited(subject: Subject, clean: Prompts, site: Site, edit: Edit) -> Tensor:
    with subject.editing({site: edit}):
        return subject.logits(clean)


def _swapped(subject: Subject, prompts: BOTH, sites: list[Site]) -> Tensor:
    """The clean run with whole sites from the corrupted run."""
    clean, corrupt = prompts
    _, other = subject.record(corrupt, sites)
    with subject.editing({site: _patch(other[site], list(range(other[site].shape[2]))) for site in sites}):
        return subject.logits(clean)
