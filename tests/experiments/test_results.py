"""Results: right statistics, whole files, no NaN; tables and pictures that show them."""

import io
import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from experiments.continual import drawing, summary
from experiments.continual.comparison import Comparison
from experiments.continual.summary import MethodResult, Pair, build
from experiments.run import pictures, report
from experiments.run.results import difference, frame, standard_error, versions, write, written_whole

TASKS = ("0°", "10°", "20°")


def result(per_task: list[list[float]], **changes) -> MethodResult:
    values = np.array(per_task, np.float32)
    seeds, tasks = values.shape
    matrix = np.broadcast_to(values[:, None], (seeds, tasks, tasks))
    return MethodResult(values, 1 - values, matrix, {"rank": 10, "noise": np.float32(0.5)}, 0.75)._replace(**changes)


def two() -> dict[str, MethodResult]:
    return {
        "filter": result([[0.5, 0.5, 0.5], [0.75, 0.5, 0.25]]),
        "smoother": result([[0.75, 0.75, 0.75], [1.0, 0.75, 0.5]], matrix=None),
    }


def content(**changes) -> dict:
    head = {"experiment": "some", "title": "Some", "settings": {"train": np.int64(50), "angles": np.arange(3)}}
    return head | build(**{"grid": {}, "tasks": TASKS, "methods": two(), **changes})


class TestBuild:
    def test_statistics_over_seeds_and_tasks(self) -> None:
        methods = content()["methods"]
        assert methods["filter"]["accuracy"] == {
            "mean": 0.5,
            "standard_error": 0.0,
            "per_task": [0.625, 0.5, 0.375],
            "per_seed": [0.5, 0.5],
            "per_task_per_seed": [[0.5, 0.5, 0.5], [0.75, 0.5, 0.25]],
            "matrix": [[0.625, 0.5, 0.375]] * 3,
        }
        assert methods["filter"]["nll"] == {
            "mean": 0.5,
            "standard_error": 0.0,
            "per_seed": [0.5, 0.5],
            "per_task": [0.375, 0.5, 0.625],
        }
        assert methods["filter"]["chosen"]["rank"] == 10 and methods["filter"]["validation"] == 0.75
        assert methods["smoother"]["accuracy"]["matrix"] is None

    def test_the_standard_error_is_that_of_the_mean(self) -> None:
        assert standard_error(np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(np.sqrt(5 / 3) / 2)
        assert standard_error(np.array([1.0])) is None

    def test_one_seed_has_no_standard_error(self) -> None:
        summary = content(methods={"filter": result([[0.5, 0.5, 0.5]])})["methods"]["filter"]
        assert summary["accuracy"]["standard_error"] is None

    def test_versions_name_what_results_depend_on(self) -> None:
        found = versions()
        assert {"python", "weightfilter", "jax", "jaxlib", "numpy", "flax", "optax", "scikit-learn"} < set(found)
        assert found["numpy"] == np.__version__ and found["platform"] and found["cpu_count"]

    @pytest.mark.parametrize("field", ["accuracy", "nll", "matrix", "validation"])
    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_a_value_that_is_not_finite_is_refused_with_the_methods_name(self, field: str, bad: float) -> None:
        good = result([[0.5, 0.5, 0.5]])
        broken = np.array(getattr(good, field), np.float64)
        broken.flat[0] = bad
        with pytest.raises(ValueError, match=f"method 'ewc', {field}: expected finite"):
            content(methods={"ewc": good._replace(**{field: broken})})

    def test_a_chosen_hyper_parameter_that_is_nan_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"method 'ewc', chosen noise: expected finite"):
            content(methods={"ewc": result([[0.5, 0.5, 0.5]], chosen={"noise": float("nan")})})

    @pytest.mark.parametrize(
        "changes", [{"accuracy": np.ones((2, 2))}, {"nll": np.ones((2, 1))}, {"matrix": np.ones((2, 3, 2))}]
    )
    def test_other_shapes_are_refused(self, changes: dict) -> None:
        with pytest.raises(ValueError, match=r"method 'ewc': expected .*shape"):
            content(methods={"ewc": result([[0.5] * 3] * 2, **changes)})


def paired(methods: dict[str, MethodResult], pair: Pair) -> dict:
    return build({}, TASKS, methods, [pair])["paired"][0]


class TestPaired:
    def test_differences_are_taken_seed_by_seed(self) -> None:
        found = paired(two(), Pair("smoother", "filter"))
        assert found["per_seed"] == [0.25, 0.25] and found["difference"] == 0.25 and found["standard_error"] == 0

    def test_an_unknown_method_is_refused(self) -> None:
        with pytest.raises(ValueError, match="one names 'smother'"):
            paired(two(), Pair("smother", "filter"))

    def test_of_different_tasks_those_that_both_have_are_compared(self) -> None:
        methods = two() | {"interpolated": result([[1.0], [0.5]], matrix=None, scored=(2,))}
        assert paired(methods, Pair("interpolated", "filter"))["per_seed"] == [0.5, 0.25]
        with pytest.raises(ValueError, match="same seeds and tasks"):
            paired(methods, Pair("interpolated", "filter", (0,)))

    def test_other_seeds_are_refused(self) -> None:
        methods = two() | {"ewc": result([[0.5, 0.5, 0.5]])}
        with pytest.raises(ValueError, match="same seeds and tasks"):
            paired(methods, Pair("smoother", "ewc"))


class TestFrame:
    def test_every_score_is_one_row(self) -> None:
        scores = frame(content())
        one = scores[(scores["method"] == "filter") & (scores["metric"] == "accuracy")]
        assert one[one["task"].isna()]["value"].tolist() == [0.5, 0.5]
        assert one[one["task"] == "20°"]["value"].tolist() == [0.5, 0.25]
        assert set(scores["metric"]) >= {"accuracy", "nll", "validation"} and set(scores["variant"]) == {""}
        assert difference(scores, "smoother", "filter", "nll") == [-0.25, -0.25]

    def test_variants_are_kept_apart(self) -> None:
        models = {"gru": {"nll": {"mean": 1.5, "per_seed": [1.0, 2.0]}, "max_nll": 7.0, "chosen": {"rate": 0.1}}}
        scores = frame({"variants": {"easy": {"models": models}, "hard": {"models": models}}})
        assert scores["variant"].tolist() == ["easy"] * 3 + ["hard"] * 3
        assert scores[scores["metric"] == "max_nll"]["value"].tolist() == [7.0, 7.0]


class TestWrite:
    def test_what_is_written_reads_back_as_plain_numbers(self, tmp_path: Path) -> None:
        path = tmp_path / "some" / "results.json"
        write(content(pairs=[Pair("smoother", "filter")]), path)
        read = json.loads(path.read_text(encoding="utf-8"))
        assert read["experiment"] == "some" and read["tasks"] == list(TASKS)
        assert read["settings"] == {"train": 50, "angles": [0, 1, 2]}
        assert read["methods"]["filter"]["chosen"] == {"rank": 10, "noise": 0.5}
        assert read["paired"][0]["better"] == "smoother" and read["paired"][0]["difference"] == 0.25

    @pytest.mark.parametrize(("bad", "error"), [(object(), TypeError), (float("nan"), ValueError)])
    def test_a_failure_midway_leaves_the_old_file_and_nothing_else(
        self, tmp_path: Path, bad: object, error: type[Exception]
    ) -> None:
        path = tmp_path / "some" / "results.json"
        write(content(), path)
        before = path.read_bytes()
        broken = content()
        broken["paired"] = [bad]  # the last entry: everything before it has been written when it fails
        with pytest.raises(error):
            write(broken, path)
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]

    def test_a_new_file_appears_only_when_complete(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "file"
        with written_whole(path) as file:
            file.write(b"all of it")
            assert not path.exists()
        assert path.read_bytes() == b"all of it"


class TestTables:
    def test_numbers_are_percent_and_choices_short(self) -> None:
        parts = summary.tables(content(pairs=[Pair("smoother", "filter", (0,))]))
        assert parts["accuracy"].rows[1] == ["Smoother", "75.0 ± 0.0", "87.5", "75.0", "62.5"]
        assert "Low-rank filter: rank=10 noise=0.5" in parts["chosen"]
        assert parts["paired"].rows == [["Smoother – Low-rank filter", "0°", "+25.0 ± 0.0", "2 of 2", "+25.0  +25.0"]]

    def test_a_task_alone_is_a_row_where_it_was_run(self) -> None:
        parts = summary.tables(content(methods=two() | {"alone": result([[0.9] * 3] * 2)}))
        assert [row[:2] for row in parts["accuracy"].rows][2] == ["Each task alone", "90.0 ± 0.0"]

    def test_what_is_printed_is_what_the_page_has(self, tmp_path: Path) -> None:
        write(
            content(pairs=[Pair("smoother", "filter")]) | {"seconds": {"filter, smoother": 3.0}},
            tmp_path / "results.json",
        )
        console = Console(record=True, width=100, file=io.StringIO())
        report.show(Comparison, tmp_path, console)
        text = report.page(Comparison, tmp_path)
        for part in ("75.0 ± 0.0", "+25.0", "rank=10 noise=0.5"):
            assert part in text and part in console.export_text(clear=False)
        assert text.startswith("# Some\n") and "Low-rank filter, Smoother 3." in text


class TestPictures:
    @pytest.mark.parametrize("seeds", [1, 3])
    def test_each_picture_is_a_png(self, tmp_path: Path, seeds: int) -> None:
        methods = {name: result([[0.5, 0.6, 0.7]] * seeds) for name in ("sequential", "smoother", "of one's own")}
        methods["forecast"] = result([[0.4]] * seeds, scored=(1,), matrix=np.full((seeds, 3, 3), 0.4))
        found = content(methods=methods)
        drawn = drawing.pictures_of(found) | {"accuracy": lambda: drawing.accuracy(found, "Title", np.ones((3, 4, 4)))}
        drawn["noise"] = lambda: drawing.noise({"filter": {0.0: np.ones(seeds), 0.1: np.zeros(seeds)}}, "Title")
        for name, draw in drawn.items():
            with (tmp_path / name).open("wb") as file:
                pictures.save(draw, file)
            assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")

    def test_a_task_never_trained_on_is_hatched_and_not_outlined(self) -> None:
        unseen = result([[0.4]] * 2, scored=(1,), matrix=np.full((2, 3, 3), 0.4))
        figure = drawing.matrices(content(methods=two() | {"forecast": unseen}))
        hatched = [[patch.get_hatch() for patch in axes.patches] for axes in figure.axes]
        assert hatched[:2] == [[None] * 3, [None, "///", None]]

    def test_no_name_lies_on_another_or_on_a_line(self) -> None:
        rows = [(name, t, 0.5 + 0.001 * place) for place, name in enumerate(("ewc", "anchor", "joint")) for t in (0, 1)]
        figure, axes = pictures.figure("Title")
        pictures.lines(axes, pd.DataFrame(rows, columns=["name", "task", "accuracy"]), "task", "accuracy")
        figure.draw_without_rendering()
        boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
        assert len(boxes) == 3 and all(low.y1 <= high.y0 for low, high in itertools.pairwise(boxes))
        assert all(box.x0 > axes.get_window_extent().x1 for box in boxes)
