"""Files that lie beside a codebook: read whole, written whole or not at all."""

from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from subcircuit.files import load_record, save_record

__all__ = ["Beside", "Measured"]


class Beside(BaseModel):
    """One of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    FILE: ClassVar[str]
    CURE: ClassVar[str]  # of a file that cannot be read

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """None where the folder has none. Raises DataError."""
        path = folder / cls.FILE
        what = "what `subcircuit concepts` writes"
        return load_record(cls, path, what, missing=cls.CURE, broken=cls.CURE) if path.exists() else None

    def save(self, folder: Path) -> None:
        """Raises ResourceError."""
        save_record(self, folder / self.FILE)


class Measured(Beside):
    """What was measured on a codebook, and says on which."""

    codebook: str = Field(description="its digest")
