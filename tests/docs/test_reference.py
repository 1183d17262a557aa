"""The reference has a place for each public name, and the pages that are made are what they were made from."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def hooks():
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PACKAGES = ["lowrank_filter", "latenttrack", "latenttrack.gaussian_process"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_in_the_reference_once(package):
    source = DOCS.parent.joinpath(*package.split("."), "__init__.py").read_text(encoding="utf-8")
    (public,) = re.findall(r"^__all__ = (\[.*?\])$", source, re.M | re.S)
    shown = re.compile(rf"^::: {re.escape(package)}\.(\w+)$", re.M)
    found = [name for page in (DOCS / "reference").rglob("*.md") for name in shown.findall(page.read_text("utf-8"))]
    assert sorted(found) == sorted(ast.literal_eval(public))


def test_a_guide_is_shown_as_it_runs(hooks, tmp_path):
    script = tmp_path / "guide.py"
    script.write_text('"""Title.\n\nText.\n"""\n\nx = 1\n\nprint(x)\n', encoding="utf-8")
    page = hooks.guide(script)
    assert page.startswith("# Title\n\nText.\n")
    assert "```python\nx = 1\n\nprint(x)\n```" in page


def test_every_result_has_a_page(hooks):
    folders = hooks.results(DOCS.parent)
    assert folders
    assert len({folder.name for folder in folders}) == len(folders)
