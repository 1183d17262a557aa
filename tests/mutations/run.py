"""``python tests/mutations/run.py [NAME …]``: each fault in a copy of the project, and whether its tests see it.

Writes tests/mutations/README.md when all have been tried. Not a part of ``make test``: half an hour on two cores.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from faults import FAULTS, Fault

ROOT = Path(__file__).parents[2]
COPIED = ("lowrank_filter", "latenttrack", "experiments", "tests", "pyproject.toml")


def tried(fault: Fault) -> str:
    """The first test that fails, or "missed"."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for part in COPIED:
            ignored = shutil.ignore_patterns("__pycache__", "results", "cache")
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, copy / part, ignore=ignored)
            else:
                shutil.copy(ROOT / part, copy / part)
        path = copy / fault.file
        text = path.read_text(encoding="utf-8")
        if text.count(fault.old) != 1:
            raise ValueError(
                f"{fault.file}: expected {fault.old!r} once, got {text.count(fault.old)} times; mend faults.py"
            )
        path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, *fault.tests.split()], cwd=copy, env=environment, capture_output=True, text=True, check=False
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        if done.returncode == 0:
            return "missed"
        return lines[0].split(" - ")[0].removeprefix("FAILED ") if lines else f"pytest ended with {done.returncode}"


def main(names: list[str]) -> None:
    """Try them, two at a time."""
    chosen = {name: FAULTS[name] for name in names or FAULTS}
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(chosen, pool.map(lambda name: show(name, tried(chosen[name])), chosen), strict=True))
    seen = sum(result != "missed" for result in found.values())
    print(f"{seen} of {len(found)} found")
    if not names:
        rows = [f"| {name} | `{FAULTS[name].file}` | {result} |" for name, result in found.items()]
        head = (
            f"# Seeded faults\n\n{seen} of {len(found)} are found by the tests named in faults.py (`make mutations`).\n"
        )
        table = ["| fault | in | first test that fails |", "| --- | --- | --- |", *rows]
        Path(__file__).with_name("README.md").write_text(head + "\n" + "\n".join(table) + "\n", encoding="utf-8")


def show(name: str, result: str) -> str:
    """Print one as it comes."""
    print(f"{name}: {result}", flush=True)
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
