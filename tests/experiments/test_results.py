"""Results: right statistics, whole files, no NaN; tables and pictures that show them."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from experiments import pictures, tables
from experiments.run.results import MethodResult, Pair, build, paired, standard_error, versions, write, written_whole

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
    settings = {"train": np.int64(50), "angles": np.array([0, 10, 20])}
    arguments = {"settings": settings, "grid": {}, "seconds": {"fit": 1.5}, "tasks": TASKS, "methods": two()}
    return build("some", **arguments | changes)


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
        with pytest.raises(ValueError, match=f"method 'ewc': expected finite {field}"):
            content(methods={"ewc": good._replace(**{field: broken})})

    def test_a_chosen_hyper_parameter_that_is_nan_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"method 'ewc': expected finite chosen noise"):
            content(methods={"ewc": result([[0.5, 0.5, 0.5]], chosen={"noise": float("nan")})})

    @pytest.mark.parametrize(
        "changes", [{"accuracy": np.ones((2, 2))}, {"nll": np.ones((2, 1))}, {"matrix": np.ones((2, 3, 2))}]
    )
    def test_other_shapes_are_refused(self, changes: dict) -> None:
        with pytest.raises(ValueError, match=r"method 'ewc': expected .*shape"):
            content(methods={"ewc": result([[0.5] * 3] * 2, **changes)})


class TestPaired:
    def test_differences_are_taken_seed_by_seed(self) -> None:
        (difference,) = paired(two(), [Pair("smoother", "filter")])
        assert difference.per_seed == [0.25, 0.25]
        assert difference.difference == 0.25 and difference.standard_error == 0

    def test_an_unknown_method_is_refused(self) -> None:
        with pytest.raises(ValueError, match="one names 'smother'"):
            paired(two(), [Pair("smother", "filter")])

    def test_of_different_tasks_those_that_both_have_are_compared(self) -> None:
        methods = two() | {"interpolated": result([[1.0], [0.5]], matrix=None, scored=(2,))}
        (difference,) = paired(methods, [Pair("interpolated", "filter")])
        assert difference.per_seed == [0.5, 0.25]
        with pytest.raises(ValueError, match="same seeds and tasks"):
            paired(methods, [Pair("interpolated", "filter", (0,))])

    def test_other_seeds_are_refused(self) -> None:
        methods = two() | {"ewc": result([[0.5, 0.5, 0.5]])}
        with pytest.raises(ValueError, match="same seeds and tasks"):
            paired(methods, [Pair("smoother", "ewc")])


class TestWrite:
    def test_what_is_written_reads_back_as_plain_numbers(self, tmp_path: Path) -> None:
        path = write(content(pairs=[Pair("smoother", "filter")]), tmp_path)
        assert path == tmp_path / "some" / "results.json"
        read = json.loads(path.read_text(encoding="utf-8"))
        assert read["experiment"] == "some" and read["tasks"] == list(TASKS)
        assert read["settings"] == {"train": 50, "angles": [0, 10, 20]}
        assert read["methods"]["filter"]["chosen"] == {"rank": 10, "noise": 0.5}
        assert read["paired"][0]["better"] == "smoother" and read["paired"][0]["difference"] == 0.25

    @pytest.mark.parametrize(("bad", "error"), [(object(), TypeError), (float("nan"), ValueError)])
    def test_a_failure_midway_leaves_the_old_file_and_nothing_else(
        self, tmp_path: Path, bad: object, error: type[Exception]
    ) -> None:
        path = write(content(), tmp_path)
        before = path.read_bytes()
        broken = content()
        broken["paired"] = [bad]  # the last entry: everything before it has been written when it fails
        with pytest.raises(error):
            write(broken, tmp_path)
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]

    def test_a_new_file_appears_only_when_complete(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "file"
        with written_whole(path) as file:
            file.write(b"all of it")
            assert not path.exists()
        assert path.read_bytes() == b"all of it"


class TestTables:
    def test_the_best_method_that_is_no_reference_is_bold(self) -> None:
        methods = two() | {"joint": result([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])}
        printed = io.StringIO()
        console = Console(file=printed, force_terminal=True, width=120, color_system="standard")
        tables.print_table(console, "Digits", TASKS, methods)
        lines = printed.getvalue().splitlines()
        bold = [line for line in lines if "\x1b[1m" in line and "±" in line and "s.e." not in line]
        assert len(bold) == 1 and "Smoother" in bold[0] and "75.0 ± 0.0" in bold[0]
        assert "Joint training" in lines[-2]

    def test_numbers_are_percent_and_choices_short(self) -> None:
        printed = io.StringIO()
        console = Console(file=printed, width=120)
        tables.print_table(console, "Digits", TASKS, two())
        tables.print_chosen(console, two())
        tables.print_paired(console, ["a", "b"], paired(two(), [Pair("smoother", "filter", (0,))]))
        text = printed.getvalue()
        assert "62.5" in text and "37.5" in text and "rank=10 noise=0.5" in text
        assert "+25.0 ± 0.0" in text and "2 of 2" in text


class TestPictures:
    @pytest.mark.parametrize("seeds", [1, 3])
    def test_each_picture_is_a_png(self, tmp_path: Path, seeds: int) -> None:
        methods = {name: result([[0.5, 0.6, 0.7]] * seeds) for name in ("sequential", "smoother", "of one's own")}
        pictures.accuracy_per_task(tmp_path / "a.png", TASKS, methods, "Title", examples=np.ones((3, 4, 4)))
        pictures.accuracy_matrices(tmp_path / "b.png", TASKS, methods)
        pictures.means(tmp_path / "c.png", methods, "Title", {"smoother": "Looking back"})
        for name in ("a.png", "b.png", "c.png"):
            assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")

    def test_no_matrix_no_picture(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="none has one"):
            pictures.accuracy_matrices(tmp_path / "b.png", TASKS, {"ewc": result([[0.5] * 3], matrix=None)})
        assert not list(tmp_path.iterdir())
