"""Pages and documents: every number comes from results.json, and what is marked is what is there."""

from pathlib import Path

import pytest

from experiments.run import report, results
from experiments.run.experiment import Experiment

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path.parent for path in report.RESULTS.glob("*/results.json"))
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_every_page_is_what_its_results_give():
    assert FOLDERS
    for folder in FOLDERS:
        text = (folder / "README.md").read_text(encoding="utf-8")
        assert text == report.page(report.kind_of(folder), folder), f"{folder}: python -m experiments report"


def test_one_of_a_kind_is_said_in_the_singular(tmp_path):
    text = "1 seeds, 1 batches of 1 images, 21 seeds, 0.1 steps, 1 seed, 1 losses, 10 tasks"
    results.write({"catalogue": "streams", "title": "One", "introduction": text}, tmp_path / "results.json")
    kind = type("Plain", (Experiment,), {"tables": lambda content: {}})
    expected = "1 seed, 1 batch of 1 image, 21 seeds, 0.1 steps, 1 seed, 1 losses, 10 tasks"
    assert expected in report.page(kind, tmp_path)


def test_every_document_has_the_numbers_of_the_results():
    for path in (path for path in DOCUMENTS if path.exists()):
        text = path.read_text(encoding="utf-8")
        assert text == report.filled(text), f"{path}: python -m experiments fill {path.relative_to(ROOT)}"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    accuracy = {"per_task_per_seed": [[0.5, 0.75], [0.75, 1.0]], "mean": 0.75, "per_seed": [0.625, 0.875]}
    worse = {"per_task_per_seed": [[0.5, 0.5], [0.5, 1.0]], "mean": 0.625, "per_seed": [0.5, 0.75]}
    nll = {"mean": -1.4364, "per_seed": [-1.4374, -1.4354]}
    methods = {"filter": {"accuracy": accuracy, "seconds": 2.5}, "ewc": {"accuracy": worse}}
    content = {"catalogue": "streams", "settings": {"dimension": 1510}, "tasks": ["a", "b"], "methods": methods}
    results.write(content, root / "some/results.json")
    model = {"nll": nll, "chosen": {"learning_rate": 0.01}}
    variants = {"easy": {"models": {"gru": model}}, "hard": {"models": {"gru": model | {"nll": nll | {"mean": 0}}}}}
    results.write({"catalogue": "streams", "variants": variants}, root / "streams/results.json")
    return root


@pytest.mark.parametrize(
    ("mark", "expected"),
    [
        ("some filter accuracy", "75.0 ± 12.5"),
        ("some filter accuracy mean", "75.0"),
        ("some filter accuracy tasks=a", "62.5 ± 12.5"),
        ("some filter accuracy form=.2f times=1", "0.75 ± 0.12"),
        ("some filter seconds", "2.5"),
        ("some filter - ewc accuracy", "+12.5 ± 0.0"),
        ("some ewc - filter accuracy mean", "−12.5"),
        ("some filter - ewc accuracy tasks=b won", "1 of 2"),
        ("some value settings/dimension form=,d", "1,510"),
        ("streams gru nll variant=easy form=.4f", "−1.4364 ± 0.0010"),
    ],
)
def test_what_is_marked_is_filled_in(root, mark, expected):
    text = f"before <!--= {mark} -->old<!--/--> after"
    new = report.filled(text, root)
    assert new == f"before <!--= {mark} -->{expected}<!--/--> after"
    assert report.filled(new, root) == new


@pytest.mark.parametrize(
    "mark", ["none filter accuracy", "some filtre accuracy", "some filter acuracy", "some value settings/size", "some"]
)
def test_what_is_not_there_is_refused_with_the_mark(root, mark):
    with pytest.raises(ValueError, match=f"<!--= {mark} -->: expected what is in the results"):
        report.filled(f"<!--= {mark} --><!--/-->", root)


def test_tables_are_picked_and_turned():
    table = report.Table(["method", "mean", "0°"], [["EWC", "1", "2"], ["Smoother", "3", "4"]])
    assert (
        table.picked(rows=["Smoother"], columns=["0°"]).markdown()
        == "| method | 0° |\n| --- | ---: |\n| Smoother | 4 |"
    )
    assert table.picked(turned=True).head == ["method", "EWC", "Smoother"]
    text = "<!--= rotated-digits table accuracy turned rows=Smoother -->\n<!--/-->"
    mean = results.read(report.RESULTS / "rotated-digits")["methods"]["smoother"]["accuracy"]["mean"]
    assert f"| mean | {100 * mean:.1f} ± " in report.filled(text)


def test_documents_that_differ_are_named_and_written(root, tmp_path, capsys):
    path = tmp_path / "document.md"
    path.write_text("<!--= some filter accuracy -->80<!--/-->", encoding="utf-8")
    assert report.fill([str(path), "--check"], root) == 1
    assert "differs" in capsys.readouterr().out and "80<" in path.read_text(encoding="utf-8")
    assert report.fill([str(path)], root) == 0
    assert report.fill([str(path), "--check"], root) == 0
