"""What every family promises of its hooks: that do nothing, they change nothing; and none is left behind."""

import pytest
import torch
from torch import Tensor, nn

from subcircuit.errors import UnknownName, UnsupportedModel
from subcircuit.sites import Kind, Site
from subcircuit.subject import Edit, Prompts, Subject

BOTH = tuple[Prompts, Prompts]


@pytest.mark.parametrize("copying", [False, True], ids=["same", "copy"])
def test_idle_hooks_change_no_logit(subject: Subject, prompts: BOTH, copying: bool) -> None:
    clean, _ = prompts
    plain = subject.logits(clean)
    with subject.editing({site: _idle(copying) for site in _everywhere(subject)}):
        hooked = subject.logits(clean)
    assert (plain - hooked).abs().max() == 0


def test_no_hook_is_left_behind(subject: Subject, prompts: BOTH) -> None:
    clean, _ = prompts
    plain, before = subject.logits(clean), _hooks(subject.model)
    edits = {site: _idle(True) for site in _everywhere(subject)}
    with subject.editing(edits), subject.editing(edits):
        assert _hooks(subject.model) > before
        subject.logits(clean)
    assert _hooks(subject.model) == before
    assert torch.equal(subject.logits(clean), plain)


def test_no_hook_is_left_behind_by_an_error(subject: Subject, prompts: BOTH) -> None:
    clean, _ = prompts
    before = _hooks(subject.model)
    with pytest.raises(ZeroDivisionError), subject.editing(dict.fromkeys(_everywhere(subject), _fail)):
        subject.logits(clean)  # the edit fails in the middle of the forward pass
    assert _hooks(subject.model) == before
    with pytest.raises(ZeroDivisionError), subject.editing({site: _idle(True) for site in _everywhere(subject)}):
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


def _everywhere(subject: Subject) -> list[Site]:
    return subject.sites(*subject.family.taps)


def _idle(copying: bool) -> Edit:
    return lambda act: act.clone() if copying else act


def _idles(*sites: Site) -> dict[Site, Edit]:
    return {site: _idle(False) for site in sites}


def _fail(act: Tensor) -> Tensor:
    return act / (1 // 0)


def _hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
