"""Run what the README shows: ``python readme.py README.md HEADING …``, the Python blocks under each heading in turn."""

import re
import sys
from pathlib import Path


def blocks(readme: Path, heading: str) -> list[str]:
    """The Python code under a heading of the second level."""
    section = re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", readme.read_text(encoding="utf-8"), re.M | re.S)
    found = re.findall(r"^```python\n(.*?)^```$", section[1] if section else "", re.M | re.S)
    if not found:
        raise ValueError(f"{readme}: expected Python blocks under the heading {heading!r}, but there are none")
    return found


if __name__ == "__main__":
    for title in sys.argv[2:]:
        together: dict[str, object] = {}  # later blocks go on with the names of earlier ones
        for block in blocks(Path(sys.argv[1]), title):
            exec(block, together)
