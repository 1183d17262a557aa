"""What truncation costs: the rank-k posterior of a network small enough for the dense one."""

import dataclasses
import functools
import itertools
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from rich.console import Console
from rich.table import Column, Table

import lowrank_filter as lf
from experiments import pages, pictures, results
from experiments.claim import claimed
from experiments.run.experiment import Experiment
from experiments.structure_comparison import (
    LIKELIHOOD,
    SMALL_FLAT,
    Split,
    dense_curvature,
    digits_split,
    gaussian_kl,
    logdet,
    output_variance,
)

QUANTITIES = (
    "kl_exact_approximate",
    "kl_approximate_exact",
    "logdet_error",
    "variance_ratio",
    "largest_ratio",
    "smallest_ratio",
    "share_over",
)
_HEAD = (
    *("residual", "metric", "rank", "KL(exact‖it)", "KL(it‖exact)", "log det − exact", "variance / exact"),
    *("ratio of curvature", "over"),
)
_PAGE = """# What truncation costs

The rank-k posterior of a network of 64-20-10 (D = 1,510) after two Laplace updates with half of {examples:,} digits
each, against the dense generalised Gauss-Newton posterior at the same maximum, in float64; mean over {seeds} seeds,
made by `python -m experiments truncation`. KL and log determinant in nats; variance: of the outputs at 100 test images,
median ratio. Ratio of curvature: the smallest and the largest vᵀPv / vᵀP_exact v of any direction; over: the share of
the generalised eigenvectors whose curvature is overestimated.

{table}

![truncation.png](truncation.png)
"""
Residual = Literal["diagonal", "drop"]
Metric = Literal["relative", "euclidean"]


@dataclasses.dataclass(frozen=True)
class TruncationCost(Experiment):
    """Digits, 64-20-10: residual × metric × rank against the dense generalised Gauss-Newton posterior."""

    published: ClassVar[Mapping[str, Any]] = {"seeds": 5, "ranks": (1, 2, 5, 10, 20, 50, 100, 200)}

    seeds: int = 2
    """Number of seeds: each has another split and other starting weights."""
    ranks: tuple[int, ...] = (1, 5, 20, 100)
    """Directions kept."""
    examples: int = 1000
    """Images in the curvature."""
    residuals: tuple[Residual, ...] = ("diagonal", "drop")
    """What becomes of the rest."""
    metrics: tuple[Metric, ...] = ("relative", "euclidean")
    """What counts as large."""

    def run(self, console: Console) -> None:
        """Run, write and print."""
        depends = {"examples": self.examples}
        kept = self.output / "truncation" / "unfinished"
        with claimed(kept, depends, resume=self.resume):
            self._run(console, Unfinished(kept, depends))

    def _run(self, console: Console, unfinished: Unfinished) -> None:
        choices = list(itertools.product(self.residuals, self.metrics, self.ranks))
        found: dict[tuple, list[dict[str, float]]] = {choice: [] for choice in choices}
        for seed in range(self.seeds):
            measured = unfinished.recall(
                {"seed": seed, "choices": choices},
                lambda seed=seed: self._measured(seed, choices),
                lambda: {choice: dict.fromkeys(QUANTITIES, 0.0) for choice in choices},
            )
            for choice, values in measured.items():
                found[choice].append({name: float(values[name]) for name in QUANTITIES})
        rows = [
            {"residual": residual, "metric": metric, "rank": rank}
            | {name: statistics.mean(one[name] for one in measured) for name in measured[0]}
            | {"per_seed": measured}
            for (residual, metric, rank), measured in found.items()
        ]
        settings = {"seeds": self.seeds, "examples": self.examples, "dimension": 64 * 20 + 20 + 20 * 10 + 10}
        content = {"experiment": "truncation", "settings": settings, "versions": results.versions(), "rows": rows}
        path = results.write(content, self.output)
        unfinished.clear()
        console.print(_table(rows))
        _write_page(path.parent, rows, settings)
        console.print(f"Results are in [bold]{path.parent}[/bold].")

    def _measured(self, seed: int, choices: list[tuple]) -> dict[tuple, dict[str, float]]:
        data = digits_split(seed, self.examples)
        start = SMALL_FLAT.init(jax.random.key(seed))
        params, _ = lf.fit(
            lf.init(start, 1.0, rank=0),
            *(SMALL_FLAT.apply, LIKELIHOOD, data.train_x, data.train_y),
            optimizer=optax.adam(3e-3),
            steps=2000,
        )
        with jax.enable_x64(True):
            start, params = (jnp.asarray(vector, float) for vector in (start, params))
            data = data._replace(train_x=data.train_x.astype(float), test_x=data.test_x[:100].astype(float))
            added = dense_curvature(params, data.train_x, data.train_y)
            exact = jnp.eye(len(params)) + added
            spread = output_variance(params, exact, data.test_x)
            found = {}
            for choice in choices:
                belief = _absorbed(*choice)(start, params, data)
                precision = jnp.diag(belief.precision.diag) + belief.precision.factor.T @ belief.precision.factor
                # Directions in whose curvature the approximation is above or below the exact one.
                ratios = _ratios(precision, exact)
                found[choice] = {
                    "kl_exact_approximate": float(gaussian_kl(exact, precision)),
                    "kl_approximate_exact": float(gaussian_kl(precision, exact)),
                    "logdet_error": float(logdet(precision) - logdet(exact)),
                    "variance_ratio": float(jnp.median(output_variance(params, precision, data.test_x) / spread)),
                    "largest_ratio": float(ratios[-1]),
                    "smallest_ratio": float(ratios[0]),
                    "share_over": float(jnp.mean(ratios > 1 + 1e-6)),
                }
            return found


@functools.cache
def _absorbed(residual: Residual, metric: Metric, rank: int) -> Callable[[Array, Array, Split], Any]:
    """The belief after two updates of half the examples each: the first one alone does not tell the metrics apart."""

    @jax.jit
    def absorb(belief: lf.Belief, params: Float[Array, " D"], x: Array, y: Array) -> lf.Belief:
        arguments = (belief, params, SMALL_FLAT.apply, LIKELIHOOD, x, y)
        return lf.laplace_update(*arguments, residual=residual, metric=metric)[0]

    def both(start: Float[Array, " D"], params: Float[Array, " D"], data: Split) -> lf.Belief:
        belief, half = lf.init(start, 1.0, rank=rank), len(data.train_y) // 2
        for part in (slice(half), slice(half, None)):
            belief = absorb(belief, params, data.train_x[part], data.train_y[part])
        return belief

    return both


@jax.jit
def _ratios(approximate: Float[Array, "D D"], exact: Float[Array, "D D"]) -> Float[Array, " D"]:
    """Generalised eigenvalues: vᵀPv / vᵀP_exact v in the directions where it is extreme, ascending."""
    root = jnp.linalg.cholesky(exact)
    half = jax.scipy.linalg.solve_triangular(root, approximate, lower=True)
    return jnp.linalg.eigvalsh(jax.scipy.linalg.solve_triangular(root, half.T, lower=True))


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        *(row["residual"], row["metric"], str(row["rank"])),
        *(f"{row[name]:.0f}" for name in ("kl_exact_approximate", "kl_approximate_exact")),
        f"{row['logdet_error']:+.0f}",
        f"{row['variance_ratio']:.2f}",
        f"{row['smallest_ratio']:.2g} … {row['largest_ratio']:.3g}",
        f"{100 * row['share_over']:.0f} %",
    ]


def _table(rows: list[dict[str, Any]]) -> Table:
    numbers = (Column(name, justify="right") for name in _HEAD[2:])
    table = Table(
        *_HEAD[:2], *numbers, title="What truncation costs, 64-20-10", title_justify="left", title_style="bold"
    )
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _write_page(folder: Path, rows: list[dict[str, Any]], settings: dict[str, Any]) -> None:
    lines = {}
    for title, name in (("KL(exact‖it)", "kl_exact_approximate"), ("KL(it‖exact)", "kl_approximate_exact")):
        lines[title] = {
            ", ".join(choice): tuple(zip(*((row["rank"], row[name]) for row in part), strict=True))
            for choice, part in itertools.groupby(rows, lambda row: (row["residual"], row["metric"]))
        }
    pictures.log_lines(folder / "truncation.png", "rank", "nats", lines)
    text = _PAGE.format(**settings, table=pages.table(_HEAD, map(_cells, rows), words=2))
    with results.written_whole(folder / "README.md") as file:
        file.write(text.encode())
