"""What benchmarks keep of an extraction."""

from typing import Any

from subcircuit.extraction import Extraction

__all__ = ["saved"]


def saved(found: Extraction) -> dict[str, Any]:
    """Its record without the circuit's history, and the ratios that are read first."""
    return found.model_dump(exclude={"origin", "layers"}) | {
        "speed-up": found.speedup,
        "fewer FLOPs": found.fewer_flops,
    }
