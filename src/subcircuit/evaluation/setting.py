"""What a faithfulness number depends on, in six words that stand beside it.

After Miller et al. 2024, "Transformer circuit faithfulness metrics are not robust": the same circuit scores differently
with another granularity, component, ablation value, set of positions, direction or set of ablated nodes.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from subcircuit.circuit import Circuit

__all__ = ["Ablated", "Result", "Setting", "denoised", "traced"]

Ablated = Literal[
    "outside the circuit",
    "the circuit",
    "outside the circuit, and some of it",
    "outside the circuit, and one node of it",
    "outside the circuit, but one node",
    "outside the top of a ranking",
    "",
]


class Setting(BaseModel):
    """Under which conditions a number was measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    granularity: Literal["node", "edge"]
    component: str = Field(description="kinds that are switched, e.g. head,neuron; or edge")
    ablation: str = Field(description="what fills an ablated node: corrupt, mean, zero, resample or optimal")
    positions: str = Field(
        default="all", description="token positions at which nodes are ablated: all, or the parts that differ"
    )
    direction: Literal["noising", "denoising"] = Field(
        default="noising",
        description="noising: the clean prompt is run, and reference values are put into it; denoising: the other way",
    )
    set: Ablated = Field(description="which nodes are ablated; empty where nothing is run")

    @classmethod
    def of(cls, circuit: Circuit, ablated: Ablated, *, ablation: str = "") -> "Setting":
        """The setting of numbers about a circuit."""
        edges = circuit.edges is not None
        kinds = dict.fromkeys(str(site.kind) for site in circuit.kept)
        return cls(
            granularity="edge" if edges else "node",
            component="edge" if edges else ",".join(kinds),
            ablation=ablation or circuit.origin.reference,
            positions=",".join(circuit.positions) if circuit.positions else "all",
            direction="denoising" if denoised(circuit) else "noising",
            set=ablated,
        )


class Result(BaseModel):
    """The root of everything measured: a frozen record that says under which setting."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    setting: Setting


def traced(circuit: Circuit) -> bool:
    """Whether a circuit is a set of nodes to be replaced, the rest of the model left as it is."""
    return circuit.origin.method == "causal-tracing"


def denoised(circuit: Circuit) -> bool:
    """Whether it is one into which clean values are put."""
    return traced(circuit) and circuit.origin.settings.get("direction") == "denoise"
