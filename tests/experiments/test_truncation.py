"""What truncation costs: the experiment at its smallest."""

import json

import pytest
from rich.console import Console

from experiments.catalogue.truncation import TruncationCost


@pytest.mark.slow
def test_more_directions_are_nearer_and_the_page_is_whole(tmp_path):
    TruncationCost(seeds=1, ranks=(1, 10), examples=100, metrics=("relative",), output=tmp_path).run(
        Console(quiet=True)
    )
    folder = tmp_path / "truncation"
    rows = json.loads((folder / "results.json").read_text())["rows"]
    assert [(row["residual"], row["rank"]) for row in rows] == [
        ("diagonal", 1),
        ("diagonal", 10),
        ("drop", 1),
        ("drop", 10),
    ]
    for few, many in (rows[:2], rows[2:]):
        assert 0 < many["kl_exact_approximate"] < few["kl_exact_approximate"]
        assert 0 < many["kl_approximate_exact"] < few["kl_approximate_exact"]
    # What is dropped is missing from the curvature; nothing is above the exact one.
    assert all(row["share_over"] == 0 and row["logdet_error"] < 0 for row in rows[2:])
    page = (folder / "README.md").read_text()
    assert page.count("| diagonal |") == 2 and "over 1 seeds" in page and (folder / "truncation.png").stat().st_size > 0
