"""The words in which a family is written down: where each kind of activation passes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from subcircuit import plugins
from subcircuit.errors import UnknownName, UnsupportedModel
from subcircuit.sites import ONE_UNIT, Kind

__all__ = ["Family", "Tap", "decoder", "find_family", "llama_like"]

Side = Literal["in", "out"]
COMPACT = "compact_"  # before the model type of an extracted model whose layers differ in size


@dataclass(frozen=True)
class Tap:
    """Where a kind passes: the input or output of a module of the layer, and how to find the units in its last axis.

    `layout` names the axes of the last dimension in einops words: "(u c)" units of channels, "u" units of one channel,
    "c" one unit; "(p u c)" and "(u p c)" hold several fused parts, of which `part` is taken. When the fused parts have
    different sizes, `split` gives the units of each ("heads" or "kv_heads") and the layout is that of one part.
    """

    module: str  # dotted path below the layer; "" is the layer itself
    side: Side
    layout: str = "(u c)"
    part: int | None = None
    split: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """Everything that differs between architectures. Paths start at `model.base_model`."""

    layers: str  # the list of layers
    taps: Mapping[Kind, Tap]
    causal: bool = True  # False: an encoder, judged at its mask token
    final: str = ""  # the norm after the last layer; "" where there is none
    pre_norms: bool = True  # each branch begins with a norm, whose input is its ATTN_IN or MLP_IN
    post_norms: bool = False  # each branch ends in a norm, whose output is its ATTN or MLP
    wide_norms: bool = False  # queries, and keys, are normalised over all heads together
    parallel: str = ""  # the config's flag for branches that read the same stream; "" = the MLP always comes after


def decoder(
    layers: str,
    *,
    attn: str,
    mlp: str,
    heads: str,
    neurons: str,
    q: Tap,
    k: Tap,
    v: Tap,
    reads: tuple[str, str],
    **more: Any,
) -> Family:
    """A family from module paths.

    `attn` and `mlp` are the modules whose *outputs* join the residual stream; `heads` and `neurons` the projections
    whose *inputs* are the heads' outputs and the MLP's hidden units; `reads` the modules whose *inputs* are the
    residual stream that the attention and the MLP branch take in. `more` are fields of the family.
    """
    taps = {
        Kind.RESID: Tap("", "in", "c"),
        Kind.ATTN_IN: Tap(reads[0], "in", "c"),
        Kind.MLP_IN: Tap(reads[1], "in", "c"),
        Kind.ATTN: Tap(attn, "out", "c"),
        Kind.MLP: Tap(mlp, "out", "c"),
        Kind.MLP_OUT: Tap(mlp, "out", "u"),
        Kind.HEAD: Tap(heads, "in", "(u c)"),
        Kind.CHANNEL: Tap(heads, "in", "u"),
        Kind.NEURON: Tap(neurons, "in", "u"),
        Kind.Q: q,
        Kind.K: k,
        Kind.V: v,
    }
    return Family(layers, taps, **more)


def llama_like(*, pre_norms: bool = True, post_norms: bool = False, **more: Any) -> Family:
    """Llama's module names. With `post_norms` each branch ends in a norm, whose output joins the residual stream."""
    after_attention = "pre_feedforward_layernorm" if post_norms else "post_attention_layernorm"
    return decoder(
        "layers",
        attn="post_attention_layernorm" if post_norms else "self_attn",
        mlp="post_feedforward_layernorm" if post_norms else "mlp",
        heads="self_attn.o_proj",
        neurons="mlp.down_proj",
        q=Tap("self_attn.q_proj", "out"),
        k=Tap("self_attn.k_proj", "out"),
        v=Tap("self_attn.v_proj", "out"),
        reads=("input_layernorm", after_attention) if pre_norms else ("self_attn", "mlp"),
        final="norm",
        pre_norms=pre_norms,
        post_norms=post_norms,
        **more,
    )


def find_family(model_type: str) -> Family:
    """The family of a `config.model_type`. Raises UnsupportedModel, which lists the known ones.

    A compact model has its architecture's branches; its layers need not have equal numbers of heads or neurons.
    """
    known, stock = plugins.names("families"), model_type.removeprefix(COMPACT)
    if stock not in known:
        near = str(UnknownName("family", model_type, known))
        raise UnsupportedModel(near, "a family is one file: see docs/architecture.md, 'Adding a family'")
    family: Family = plugins.load("families", stock)
    if stock == model_type:
        return family
    return replace(family, taps={kind: tap for kind, tap in family.taps.items() if kind in (*ONE_UNIT, Kind.MLP_OUT)})
