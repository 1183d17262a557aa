"""The command line: instant, one line for each experiment, and experiments apart from each other."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import cli
from experiments.run.experiment import Experiment

ROOT = Path(__file__).parents[2]


def test_help_imports_nothing_heavy_and_has_a_line_for_each():
    code = "import sys\nfrom experiments.cli import main\ntry:\n  main(['--help'])\nexcept SystemExit: pass\n"
    code += (
        "print(*sorted(set(sys.modules) & {'jax', 'numpy', 'pandas', 'matplotlib', 'tyro', 'rich'}), file=sys.stderr)"
    )
    best = float("inf")
    for _ in range(3):
        began = time.process_time(), time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        best = min(best, time.perf_counter() - began[1])
    assert done.stderr.strip() == ""
    for name, line in cli.catalogue().items():
        assert f"{name} " in done.stdout and line and line in done.stdout
    assert best < 5, "half a second where nothing else runs"


def test_each_file_of_the_catalogue_is_one_experiment():
    for name in cli.catalogue():
        kind = cli.load(name)
        assert issubclass(kind, Experiment) and kind.__doc__
        for preset in ("default", *kind.presets):
            kind.of(preset)


def test_help_of_an_experiment_says_what_each_preset_changes(capsys):
    with pytest.raises(SystemExit):
        cli.main(["long", "--help"])
    shown = capsys.readouterr().out
    for name, options in cli.load("long").presets.items():
        assert f"--preset {name}: " in shown
        assert all(name.replace("_", "-") in shown for name in options)
    assert "tuned-on 5" in shown


def test_unknown_names_are_refused(capsys):
    with pytest.raises(ValueError, match=r"expected an experiment: .*camelyon, .*got 'rotated'"):
        cli.load("rotated")
    with pytest.raises(SystemExit):
        cli.main(["rotated"])
    assert "invalid choice: 'rotated'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("folder", "never"),
    [
        ("catalogue", ("catalogue",)),
        ("continual", ("catalogue", "streaming")),
        ("streaming", ("catalogue", "continual")),
        ("run", ("catalogue", "continual", "streaming", "data")),
        ("data", ("catalogue", "continual", "streaming", "run")),
    ],
)
def test_imports_point_one_way(folder, never):
    for path in (ROOT / "experiments" / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert not name.startswith(tuple(f"experiments.{each}" for each in never)), f"{path}: {name}"


def test_each_folder_says_what_it_is():
    for folder in ("", "run", "data", "continual", "streaming", "catalogue", "results"):
        assert (ROOT / "experiments" / folder / "README.md").stat().st_size > 200
