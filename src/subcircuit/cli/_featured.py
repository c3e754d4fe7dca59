"""What `features train` and `features check` print with `--json`, as models."""

from typing import Any

from pydantic import Field, RootModel

from subcircuit.cli._outputs import Output

__all__ = ["DictionaryChecked", "DictionaryFinding", "DictionaryTrained", "Featured", "TranscodersTrained"]


class DictionaryTrained(Output):
    """`subcircuit features train`."""

    folder: str
    reads: str = Field(description="site, for example 12.resid")
    writes: str = Field(description="of an autoencoder the same")
    settings: dict[str, Any]
    tokens: int = Field(description="rows that were learned from, counted each time")
    fvu: float = Field(description="fraction of variance unexplained, on held-out windows: 0 none, 1 as by the mean")
    l0: float = Field(description="features on at a token, mean")
    dead: float = Field(description="share of the features that no held-out token turns on")


class TranscodersTrained(Output):
    """`subcircuit features train --cross-layer`; lists are layer by layer, on held-out windows."""

    folder: str
    reads: str = Field(description="hook, for example hook_resid_mid")
    writes: str
    settings: dict[str, Any]
    tokens: int = Field(description="rows that were learned from, counted each time")
    fvu: list[float] = Field(
        description="fraction of the variance of an MLP's output unexplained by all that write to it"
    )
    l0: list[float] = Field(description="features of the layer that are on at a token, mean")
    dead: list[float] = Field(description="share of the layer's features that no held-out token turns on")


class DictionaryFinding(Output):
    """Something that is wrong."""

    part: str = Field(description="model, layer, hook, activation, normalisation, decoder, fit or dead")
    level: str = Field(description="error or warning")
    cause: str
    cure: str


class DictionaryChecked(Output):
    """`subcircuit features check`."""

    folder: str
    model: str
    reads: str
    writes: str
    tokens: int
    healthy: bool
    measured: dict[str, float] = Field(description="fvu, l0, dead and the mean norm of the input")
    expected: dict[str, float] = Field(description="the same as its maker measured; empty where that is not told")
    others: dict[str, float] = Field(description="fvu at other places and with other readings, best first")
    findings: list[DictionaryFinding]


class Featured(RootModel[DictionaryTrained | TranscodersTrained | DictionaryChecked]):
    """`subcircuit features train` or `check`."""
