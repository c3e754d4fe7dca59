"""The tutorial of `docs/debiasing.md` as it stands, run on SmolLM2; its table is made of what this writes.

    python benchmarks/debiasing.py      (a few minutes of one CPU core)

The page's own blocks are the program: what a reader copies is what is measured.
"""

import re
from pathlib import Path
from typing import Any

from _record import write

PAGE = Path(__file__).parent.parent / "docs/debiasing.md"


def main() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    page: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), page)
    rows = {
        name: {key: getattr(row, key) for key in ("label", "spurious", "worst")} for name, row in page["table"].items()
    }
    print(
        write(
            "debiasing", {"picked": len(page["off"]), "looked": page["looked"], "texts": len(page["y"]), "rows": rows}
        )
    )


if __name__ == "__main__":
    main()
