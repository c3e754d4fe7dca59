"""What every family promises: hooks that do nothing change nothing, and nested swaps agree with each other."""

from collections.abc import Iterator

import pytest
import torch
from tiny import NODES, planted, random_prompts, shortened
from torch import Tensor, nn

from subcircuit import plugins
from subcircuit.errors import UnknownName, UnsupportedModel
from subcircuit.metrics import kl
from subcircuit.sites import Kind, Node, Site
from subcircuit.subject import Edit, Prompts, Subject

TAPPED = (
    Kind.RESID,
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


@pytest.mark.parametrize("copying", [False, True], ids=["same", "copy"])
def test_idle_hooks_change_no_logit(subject: Subject, prompts: BOTH, copying: bool) -> None:
    clean, _ = prompts
    plain = subject.logits(clean)
    with subject.editing({site: _idle(copying) for site in subject.sites(*TAPPED)}):
        hooked = subject.logits(clean)
    assert (plain - hooked).abs().max() == 0


def test_recorded_shapes(subject: Subject, prompts: BOTH) -> None:
    clean, _ = prompts
    config = subject.model.config
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    channels = getattr(config, "head_dim", None) or config.hidden_size // heads
    neurons = {"distilbert": "hidden_dim", "gpt2": "n_inner"}.get(subject.family_name, "intermediate_size")
    expected = {
        Kind.RESID: (1, config.hidden_size),
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
    torch.testing.assert_close(subject.logits(clean), own, rtol=0, atol=5e-6)
    torch.testing.assert_close(subject.all_logits(clean)[clean.mask], everywhere[clean.mask], rtol=0, atol=5e-6)
    cap = getattr(subject.model.config, "final_logit_softcapping", None)
    if cap:
        assert own.abs().max() <= cap < subject.model.get_output_embeddings().weight.norm(dim=1).max() * 2


def test_padding_changes_no_prompt(subject: Subject) -> None:
    padded = shortened(random_prompts(subject, seed=3))
    together = subject.logits(padded)
    for row in range(len(padded)):
        alone = subject.logits(padded[[row]])  # cut to its own length: no padding is left
        torch.testing.assert_close(together[[row]], alone, rtol=1e-5, atol=1e-5)


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
    clean, corrupt = random_prompts(subject, 16, seed=1), random_prompts(subject, 16, seed=2)
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
    assert measured == pytest.approx(predicted, rel=2e-2)
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())


# -- what is left behind -------------------------------------------------------------------------------------------


def test_no_hook_is_left_behind(subject: Subject, prompts: BOTH) -> None:
    clean, _ = prompts
    plain, before = subject.logits(clean), _hooks(subject.model)
    edits = {site: _idle(True) for site in subject.sites(*TAPPED)}
    with subject.editing(edits), subject.editing(edits):
        assert _hooks(subject.model) > before
        subject.logits(clean)
    assert _hooks(subject.model) == before
    assert torch.equal(subject.logits(clean), plain)


def test_no_hook_is_left_behind_by_an_error(subject: Subject, prompts: BOTH) -> None:
    clean, _ = prompts
    before = _hooks(subject.model)
    with pytest.raises(ZeroDivisionError), subject.editing({site: _fail for site in subject.sites(*TAPPED)}):
        subject.logits(clean)  # the edit fails in the middle of the forward pass
    assert _hooks(subject.model) == before
    with pytest.raises(ZeroDivisionError), subject.editing({site: _idle(True) for site in subject.sites(*TAPPED)}):
        _fail(torch.ones(1))
    assert _hooks(subject.model) == before


def test_no_hook_is_left_behind_by_a_site_that_is_not_there(subject: Subject) -> None:
    before = _hooks(subject.model)
    good, beyond, untapped = Site(0, Kind.HEAD), Site(len(subject), Kind.HEAD), Site(0, Kind.KV)
    with pytest.raises(UnknownName, match=r"no layer '2'.* there are: 0, 1"), subject.editing(_idles(good, beyond)):
        pass
    with pytest.raises(UnsupportedModel, match="no tap for 'kv'"), subject.editing(_idles(good, untapped)):
        pass
    assert _hooks(subject.model) == before


# -- the words of these tests --------------------------------------------------------------------------------------


def _idle(copying: bool) -> Edit:
    return lambda act: act.clone() if copying else act


def _idles(*sites: Site) -> dict[Site, Edit]:
    return {site: _idle(False) for site in sites}


def _fail(act: Tensor) -> Tensor:
    return act / (1 // 0)


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


def _hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
