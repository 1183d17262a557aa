"""The reference has a place for each public name, and the pages that are made are what they were made from."""

import importlib.util
import re
from pathlib import Path

import pytest

import latenttrack
import lowrank_filter

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def hooks():
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("package", [lowrank_filter, latenttrack], ids=lambda package: package.__name__)
def test_every_public_name_is_in_the_reference_once(package):
    pages = (DOCS / "reference" / package.__name__).glob("*.md")
    found = [name for page in pages for name in re.findall(r"^::: \w+\.(\w+)$", page.read_text("utf-8"), re.M)]
    assert sorted(found) == sorted(package.__all__)


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
