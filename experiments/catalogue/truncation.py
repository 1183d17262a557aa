"""What truncation costs: the rank-k posterior of a network small enough for the dense one."""

import dataclasses
import functools
import itertools
import statistics
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax
import pandas as pd
from jaxtyping import Array, Float
from matplotlib.figure import Figure
from rich.console import Console

import lowrank_filter as lf
from experiments.continual.exact import (
    LIKELIHOOD,
    SMALL_FLAT,
    Split,
    dense_curvature,
    digits_split,
    gaussian_kl,
    logdet,
    output_variance,
)
from experiments.run import pictures
from experiments.run.experiment import Arrays, Content, Experiment
from experiments.run.options import Count
from experiments.run.report import Table

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
INTRODUCTION = """The rank-k posterior of a network of 64-20-10 (D = {dimension:,}) after two Laplace updates with half
of {examples:,} digits each, against the dense generalised Gauss-Newton posterior at the same maximum, in float64, mean
over {seeds} seeds; made by `python -m experiments truncation`. KL and log determinant in nats; variance: of the outputs
at 100 test images, median ratio. Ratio of curvature: the smallest and the largest vᵀPv / vᵀP_exact v of any direction;
over: the share of the generalised eigenvectors whose curvature is overestimated."""
Residual = Literal["diagonal", "drop"]
Metric = Literal["relative", "euclidean"]


@dataclasses.dataclass(frozen=True)
class TruncationCost(Experiment):
    """Digits, 64-20-10: residual × metric × rank against the dense generalised Gauss-Newton posterior."""

    presets: ClassVar = {"published": {"seeds": 5, "ranks": (1, 2, 5, 10, 20, 50, 100, 200)}}

    seeds: Count = 2
    """Number of seeds: each has another split and other starting weights."""
    ranks: tuple[Count, ...] = (1, 5, 20, 100)
    """Directions kept."""
    examples: Count = 1000
    """Images in the curvature."""
    residuals: tuple[Residual, ...] = ("diagonal", "drop")
    """What becomes of the rest."""
    metrics: tuple[Metric, ...] = ("relative", "euclidean")
    """What counts as large."""

    def run(self, console: Console) -> None:
        """Compute and write."""
        choices = list(itertools.product(self.residuals, self.metrics, self.ranks))
        found: dict[tuple, list[dict[str, float]]] = {choice: [] for choice in choices}
        settings = {"seeds": self.seeds, "examples": self.examples, "dimension": 64 * 20 + 20 + 20 * 10 + 10}
        head: Any = {"introduction": INTRODUCTION.format(**settings), "depends": {"examples": self.examples}}
        with self.study(console, "truncation", "What truncation costs", **(head | settings)) as study:
            with study.part("seeds", self.seeds) as advance:
                for seed in range(self.seeds):
                    measured = study.cache.recall(
                        {"seed": seed, "choices": choices},
                        lambda seed=seed: self._measured(seed, choices),
                        lambda: {choice: dict.fromkeys(QUANTITIES, 0.0) for choice in choices},
                    )
                    for choice, values in measured.items():
                        found[choice].append({name: float(values[name]) for name in QUANTITIES})
                    advance()
            rows = [
                {"residual": residual, "metric": metric, "rank": rank}
                | {name: statistics.mean(one[name] for one in measured) for name in measured[0]}
                | {"per_seed": measured}
                for (residual, metric, rank), measured in found.items()
            ]
            study.finish({"rows": rows})

    @classmethod
    def tables(cls, content: Content) -> dict[str, Table | str]:
        """Every choice."""
        return {"truncation": Table(_HEAD, [_cells(row) for row in content["rows"]], words=2)}

    @classmethod
    def pictures(cls, content: Content, arrays: Arrays) -> dict[str, Callable[[], Figure]]:
        """Both divergences against the rank."""
        y, kinds = "nats", {"KL(exact‖it)": "kl_exact_approximate", "KL(it‖exact)": "kl_approximate_exact"}
        frame = pd.DataFrame(content["rows"]).assign(name=lambda rows: rows["residual"] + ", " + rows["metric"])
        panels = {title: frame.assign(**{y: frame[kind]}) for title, kind in kinds.items()}
        panels = {title: part[["name", "rank", y]] for title, part in panels.items()}
        return {"truncation": lambda: pictures.logarithmic(panels, content["title"], "rank", y)}

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
        return lf.laplace_update(belief, params, SMALL_FLAT.apply, LIKELIHOOD, x, y)[0]

    def both(start: Float[Array, " D"], params: Float[Array, " D"], data: Split) -> lf.Belief:
        structure = lf.LowRank(rank, residual=residual, metric=metric)
        belief, half = lf.init(start, 1.0, structure=structure), len(data.train_y) // 2
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
