"""Files that lie beside a codebook: read whole, written whole or not at all."""

from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from subcircuit.concepts.files import atomically
from subcircuit.errors import DataError

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
        try:
            return cls.model_validate_json(path.read_bytes()) if path.exists() else None
        except (OSError, ValidationError) as error:
            raise DataError(f"{path} cannot be read: {error}", cls.CURE) from error

    def save(self, folder: Path) -> None:
        """Raises ResourceError."""
        text = self.model_dump_json(indent=1) + "\n"
        atomically(folder / self.FILE, lambda to: to.write_text(text, encoding="utf-8"))


class Measured(Beside):
    """What was measured on a codebook, and says on which."""

    codebook: str = Field(description="its digest")
