"""Which structure of the precision for what: posterior against the exact one, evidence, streams, memory and time."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array
from rich.console import Console

import lowrank_filter as lf
from experiments.continual import metrics
from experiments.continual.exact import (
    LIKELIHOOD,
    SMALL,
    UNRAVEL,
    Split,
    costs,
    dense_curvature,
    digits_split,
    gaussian_kl,
    logdet,
    output_variance,
)
from experiments.continual.networks import mlp
from experiments.continual.structures import FORMS, Structure
from experiments.run.experiment import Content, Experiment
from experiments.run.options import Count, Natural
from experiments.run.report import Table
from experiments.run.results import over_seeds

POSTERIOR = ("kl_exact_approximate", "kl_approximate_exact", "variance_ratio", "evidence_error")
STREAM = ("stream_accuracy", "stream_nll")
MIDDLE = mlp(64, (50, 50), 10)
INTRODUCTION = """Posterior, predictive variance and evidence against the dense generalised Gauss-Newton posterior, in
nats: 64-20-10. One pass over a stream: 64-50-50-10. Memory, and seconds of an update with 1,000 examples:
784-100-100-10, with twice as many directions. Made by `python -m experiments structures`."""


@dataclasses.dataclass(frozen=True)
class StructureComparison(Experiment):
    """Digits: each structure's posterior against the dense one, its evidence, one pass over a stream, and its cost."""

    seeds: Count = 3
    """Number of seeds: each has another split and other starting weights."""
    rank: Natural = 10
    """Directions kept by the low-rank structures."""
    examples: Count = 1000
    """Images in the curvature."""

    def run(self, console: Console) -> None:
        """Compute and write."""
        depends = {"rank": self.rank, "examples": self.examples}
        structures = {"diagonal": Structure("network", 0)} | {form: Structure(form, self.rank) for form in FORMS}
        found: dict[str, dict[str, list[float]]] = {name: {} for name in structures}
        head: Any = {"introduction": INTRODUCTION, "depends": depends}
        title = "Which structure for what"
        with self.study(console, "structures", title, **(head | {"seeds": self.seeds} | depends)) as study:
            with study.part("seeds", self.seeds) as advance:
                for seed in range(self.seeds):
                    split = digits_split(seed, self.examples)
                    for measure, quantities in ((_posteriors, POSTERIOR), (_streams, STREAM)):
                        measured = study.cache.recall(
                            {"seed": seed, "quantities": quantities},
                            lambda measure=measure, seed=seed, split=split: measure(seed, split, structures),
                            lambda quantities=quantities: {name: dict.fromkeys(quantities, 0.0) for name in structures},
                        )
                        for name, values in measured.items():
                            for quantity in quantities:
                                found[name].setdefault(quantity, []).append(float(values[quantity]))
                    advance()
            cost = costs({name: s._replace(rank=2 * s.rank) for name, s in structures.items()})
            methods = {
                name: {quantity: over_seeds(values) for quantity, values in measured.items()} | cost[name]
                for name, measured in found.items()
            }
            study.finish({"methods": methods})

    @classmethod
    def tables(cls, content: Content) -> dict[str, Table | str]:
        """What each structure is worth, and what it costs."""
        columns = {
            "KL(exact‖it)": lambda v: f"{v['kl_exact_approximate']['mean']:.0f}",
            "KL(it‖exact)": lambda v: f"{v['kl_approximate_exact']['mean']:.0f}",
            "variance / exact": lambda v: f"{v['variance_ratio']['mean']:.2f}",
            "evidence − exact": lambda v: f"{v['evidence_error']['mean']:+.0f}",
            "stream accuracy, %": lambda v: f"{100 * v['stream_accuracy']['mean']:.1f}",
            "stream NLL": lambda v: f"{v['stream_nll']['mean']:.3f}",
            "MB": lambda v: f"{v['state_bytes'] / 1e6:.1f}",
            "update, s": lambda v: f"{v['update_seconds']:.2f}",
        }
        rows = [[name, *(show(v) for show in columns.values())] for name, v in content["methods"].items()]
        return {"structures": Table(["structure", *columns], rows)}


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
    built = lf.extended_filter(
        MIDDLE.apply,
        LIKELIHOOD,
        structure=structure.form,
        rank=None if structure.form == "kronecker" else structure.rank,
    )

    def stream(belief: lf.Belief, split: Split) -> Array:
        last, _ = lf.filter_stream(built, belief, split.train_x, split.train_y)
        return MIDDLE.apply(last.mean, split.test_x)

    return jax.jit(stream)
