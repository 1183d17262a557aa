"""Which structure of the precision for what: posterior against the exact one, evidence, streams, memory and time."""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float
from rich.console import Console
from rich.table import Table

import lowrank_filter as lf
from experiments import metrics, results
from experiments.claim import claimed
from experiments.continual.networks import flat, mlp
from experiments.continual.structures import FORMS, Structure
from experiments.data import digits
from experiments.run.experiment import Experiment

LIKELIHOOD = lf.Categorical()
POSTERIOR = ("kl_exact_approximate", "kl_approximate_exact", "variance_ratio", "evidence_error")
STREAM = ("stream_accuracy", "stream_nll")
SMALL, MIDDLE, LARGE = mlp(64, (20,), 10), mlp(64, (50, 50), 10), mlp(784, (100, 100), 10)
SMALL_FLAT, UNRAVEL = flat(SMALL)


class Split(NamedTuple):
    """Digits to learn from and to test on."""

    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array


@dataclasses.dataclass(frozen=True)
class StructureComparison(Experiment):
    """Digits: each structure's posterior against the dense one, its evidence, one pass over a stream, and its cost."""

    seeds: int = 3
    """Number of seeds: each has another split and other starting weights."""
    rank: int = 10
    """Directions kept by the low-rank structures."""
    examples: int = 1000
    """Images in the curvature."""

    def run(self, console: Console) -> None:
        """Run, write and print."""
        depends = {"rank": self.rank, "examples": self.examples}
        kept = self.output / "structures" / "unfinished"
        with claimed(kept, depends, resume=self.resume):
            self._run(console, Unfinished(kept, depends))

    def _run(self, console: Console, unfinished: Unfinished) -> None:
        structures = {"diagonal": Structure("network", 0)} | {form: Structure(form, self.rank) for form in FORMS}
        found: dict[str, dict[str, list[float]]] = {name: {} for name in structures}
        for seed in range(self.seeds):
            split = digits_split(seed, self.examples)
            for measure, quantities in ((_posteriors, POSTERIOR), (_streams, STREAM)):
                measured = unfinished.recall(
                    {"seed": seed, "quantities": quantities},
                    lambda measure=measure, seed=seed, split=split: measure(seed, split, structures),
                    lambda quantities=quantities: {name: dict.fromkeys(quantities, 0.0) for name in structures},
                )
                for name, values in measured.items():
                    for quantity in quantities:
                        found[name].setdefault(quantity, []).append(float(values[quantity]))
        cost = costs({name: s._replace(rank=2 * s.rank) for name, s in structures.items()})
        content = {
            "experiment": "structures",
            "settings": {"seeds": self.seeds, "rank": self.rank, "examples": self.examples},
            "versions": results.versions(),
            "structures": {
                name: {
                    quantity: {"mean": statistics.mean(values), "per_seed": values}
                    for quantity, values in measured.items()
                }
                | cost[name]
                for name, measured in found.items()
            },
        }
        path = results.write(content, self.output)
        unfinished.clear()
        _print(console, content)
        console.print(f"Results are in [bold]{path.parent}[/bold].")


def digits_split(seed: int, train: int) -> Split:
    """The first ``train`` digits in a seed's order, and the last 500."""
    images, labels = digits.load()
    rows = np.random.default_rng(seed).permutation(len(images))
    x, y = images.reshape(len(images), -1)[rows], labels[rows]
    return Split(*(jnp.asarray(part) for part in (x[:train], y[:train], x[-500:], y[-500:])))


def _posteriors(seed: int, split: Split, structures: dict[str, Structure]) -> dict[str, dict[str, float]]:
    """Posterior of a network small enough for the dense one (64-20-10), at the same maximum."""
    prior = lf.init(SMALL.init(jax.random.key(seed)), 1.0, rank=0)
    params, _ = lf.fit(
        *(prior, SMALL.apply, LIKELIHOOD, split.train_x, split.train_y), optimizer=optax.adam(3e-3), steps=2000
    )
    with jax.enable_x64(True):
        mean, params = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), (prior.mean, params))
        split = split._replace(train_x=split.train_x.astype(float), test_x=split.test_x[:100].astype(float))
        vector, shift = (ravel_pytree(tree)[0] for tree in (params, jax.tree.map(jnp.subtract, params, mean)))
        exact = jnp.eye(len(vector)) + dense_curvature(vector, split.train_x, split.train_y)
        variance = output_variance(vector, exact, split.test_x)
        loss = jnp.sum(jax.vmap(LIKELIHOOD.nll)(SMALL.apply(params, split.train_x), split.train_y))
        evidence = -loss - 0.5 * shift @ shift - 0.5 * logdet(exact)
        found = {}
        for name, structure in structures.items():
            approximate, log_evidence, covariance = _absorbed(structure)(mean, params, split)
            found[name] = {
                "kl_exact_approximate": float(gaussian_kl(exact, approximate)),
                "kl_approximate_exact": float(gaussian_kl(approximate, exact)),
                "variance_ratio": float(jnp.median(jnp.trace(covariance, axis1=1, axis2=2) / variance)),
                "evidence_error": float(log_evidence - evidence),
            }
    return found


@functools.cache
def _absorbed(structure: Structure) -> Callable[[Any, Any, Split], tuple[Array, Array, Array]]:
    """The dense precision, the evidence and the covariance of test outputs after a Laplace update."""

    def absorb(mean: Any, params: Any, split: Split) -> tuple[Array, Array, Array]:
        prior = structure.prior(mean, 1.0)
        belief, info = lf.laplace_update(prior, params, SMALL.apply, LIKELIHOOD, split.train_x, split.train_y)
        rows = jax.vmap(lambda row: ravel_pytree(lf.matvec(belief.precision, UNRAVEL(row)))[0])
        size = ravel_pytree(mean)[0].size
        return rows(jnp.eye(size)), info.log_evidence, lf.predictive(belief, SMALL.apply, split.test_x).covariance

    return jax.jit(absorb)


@jax.jit
def dense_curvature(vector: Float[Array, " D"], x: Array, y: Array) -> Float[Array, "D D"]:
    """The generalised Gauss-Newton matrix, dense."""

    def rows(x: Array, y: Array) -> Array:
        jacobian = jax.jacobian(lambda p: SMALL_FLAT.apply(p, x[None])[0])(vector)
        return LIKELIHOOD.root(SMALL_FLAT.apply(vector, x[None])[0], y).T @ jacobian

    stack = jax.lax.map(lambda pair: rows(*pair), (x, y)).reshape(-1, len(vector))
    return stack.T @ stack


@jax.jit
def output_variance(vector: Float[Array, " D"], precision: Float[Array, "D D"], x: Array) -> Float[Array, " B"]:
    """The summed variance of each example's outputs."""
    jacobian = jax.jacobian(lambda p: SMALL_FLAT.apply(p, x))(vector)
    solved = jnp.linalg.solve(precision, jacobian.reshape(-1, len(vector)).T).T.reshape(jacobian.shape)
    return jnp.sum(jacobian * solved, axis=(1, 2))


def gaussian_kl(first: Array, second: Array) -> Array:
    """KL of N(0, first⁻¹) from N(0, second⁻¹), in nats."""
    trace = jnp.trace(jnp.linalg.solve(first, second))
    return 0.5 * (trace - len(first) + logdet(first) - logdet(second))


def logdet(matrix: Array) -> Array:
    """Of a positive definite matrix."""
    return jnp.linalg.slogdet(matrix)[1]


def _streams(seed: int, split: Split, structures: dict[str, Structure]) -> dict[str, dict[str, float]]:
    """One pass over the digits, one example at a time, 64-50-50-10: test accuracy and NLL of the last mean."""
    start, found = MIDDLE.init(jax.random.key(seed)), {}
    for name, structure in structures.items():
        logits = _passed(structure)(structure.prior(start, 1 / 0.06), split)
        found[name] = {
            "stream_accuracy": float(metrics.accuracy(logits, split.test_y)),
            "stream_nll": float(metrics.nll(logits, split.test_y)),
        }
    return found


@functools.cache
def _passed(structure: Structure) -> Callable[[lf.Belief, Split], Array]:
    built = lf.extended_filter(MIDDLE.apply, LIKELIHOOD, rank=structure.rank, structure=structure.form)

    def stream(belief: lf.Belief, split: Split) -> Array:
        last, _ = lf.filter_stream(built, belief, split.train_x, split.train_y)
        return MIDDLE.apply(last.mean, split.test_x)

    return jax.jit(stream)


def costs(structures: dict[str, Structure]) -> dict[str, dict[str, float]]:
    """Bytes of each precision, and seconds of a Laplace update with 1,000 examples, for 784-100-100-10."""
    params = LARGE.init(jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), (1000, 784))
    y = jnp.arange(1000) % 10
    found = {}
    for name, structure in structures.items():
        update = jax.jit(lambda b, p, x, y: lf.laplace_update(b, p, LARGE.apply, LIKELIHOOD, x, y))
        belief = structure.prior(params, 1.0)
        belief, _ = jax.block_until_ready(update(belief, params, x, y))
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            jax.block_until_ready(update(belief, params, x, y))
            seconds.append(time.perf_counter() - began)
        found[name] = {
            "rank": structure.rank,
            "state_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(belief.precision)),
            "update_seconds": statistics.median(seconds),
        }
    return found


def _print(console: Console, content: dict[str, Any]) -> None:
    rank = content["settings"]["rank"]
    table = Table(title="Which structure for what", title_justify="left", title_style="bold")
    columns = {
        "KL(exact‖approx)": lambda v: f"{v['kl_exact_approximate']['mean']:.0f}",
        "KL(approx‖exact)": lambda v: f"{v['kl_approximate_exact']['mean']:.0f}",
        "variance / exact": lambda v: f"{v['variance_ratio']['mean']:.2f}",
        "evidence − exact": lambda v: f"{v['evidence_error']['mean']:+.0f}",
        "stream accuracy": lambda v: f"{100 * v['stream_accuracy']['mean']:.1f}",
        "stream NLL": lambda v: f"{v['stream_nll']['mean']:.3f}",
        "MB": lambda v: f"{v['state_bytes'] / 1e6:.1f}",
        "update, s": lambda v: f"{v['update_seconds']:.2f}",
    }
    table.add_column("structure")
    for column in columns:
        table.add_column(column, justify="right")
    for name, values in content["structures"].items():
        table.add_row(name, *(show(values) for show in columns.values()))
    console.print(table)
    console.print(f"Posterior and evidence: 64-20-10, rank {rank}; stream: 64-50-50-10; memory, time: 784-100-100-10.")
