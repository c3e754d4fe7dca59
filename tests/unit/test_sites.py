"""Names of places: what is written is read back, and nothing else is read."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from subcircuit.errors import SubcircuitError, UnknownName, UsageError
from subcircuit.sites import CHILDREN, PARENT, Kind, Node, Site

SINGLE = {Kind.RESID, Kind.BLOCK, Kind.ATTN, Kind.MLP, Kind.ATTN_IN, Kind.MLP_IN}

numbers = st.integers(min_value=0, max_value=10**6)
sites = st.builds(Site, numbers, st.sampled_from(Kind))
nodes = sites.flatmap(lambda site: st.builds(Node, st.just(site), st.just(0) if site.kind in SINGLE else numbers))


@given(sites)
def test_a_site_is_read_back(site: Site) -> None:
    assert Site.parse(str(site)) == site


@given(nodes)
def test_a_node_is_read_back(node: Node) -> None:
    assert Node.parse(str(node)) == node


def test_names_are_the_ones_in_the_files() -> None:
    assert str(Site(3, Kind.HEAD)) == "3.head"
    assert str(Node(Site(9, Kind.HEAD), 6)) == "9.head.6"
    assert str(Node(Site(3, Kind.MLP), 0)) == "3.mlp"
    assert str(Node(Site(0, Kind.MLP_OUT), 12)) == "0.mlp_out.12"


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=12))
def test_any_text_is_read_exactly_or_refused(text: str) -> None:
    """No text but a name's own spelling means that name."""
    for read in (Site.parse, Node.parse):
        try:
            place = read(text)
        except SubcircuitError:
            continue
        assert str(place) == text


@given(numbers, st.text(alphabet="abcdefghijklmnopqrstuvwxyz_", min_size=1))
def test_an_unknown_kind_is_refused_with_the_known_ones(layer: int, kind: str) -> None:
    assume(kind not in set(Kind))
    with pytest.raises(UnknownName, match=f"no kind '{kind}'") as refusal:
        Site.parse(f"{layer}.{kind}")
    assert refusal.value.known == sorted(Kind)


@pytest.mark.parametrize(
    "text", ["", "head", "3", "3.", ".head", "-1.head", "three.head", "03.head", " 3.head", "²3.head", "٣.head"]
)
def test_what_is_no_site_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Site.parse(text)


@pytest.mark.parametrize(
    "text", ["3.head", "3.head.", "3.head.x", "3.head.-1", "3.head.²", "3.head.01", "3.mlp.1", "3.mlp."]
)
def test_what_is_no_node_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a node"):
        Node.parse(text)


@pytest.mark.parametrize("text", ["3", "head.3", "3.head.1.2"])
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Node.parse(text)


def test_the_nearest_kind_is_suggested() -> None:
    with pytest.raises(UnknownName, match="did you mean 'neuron'"):
        Site.parse("0.neurons")


def test_children_are_the_inverse_of_parents() -> None:
    assert {(child, parent) for parent, children in CHILDREN.items() for child in children} == set(PARENT.items())
    assert CHILDREN[Kind.BLOCK] == (Kind.ATTN, Kind.MLP)
