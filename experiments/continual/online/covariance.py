"""Filters of a low-rank *covariance*: LRKF, HiLoFi and LoLoFi (arXiv 2506.11898), after the authors' code.

The observation is y = E[y | f(θ, x)] + noise, linearised at the mean, with the covariance R of a one-hot label and ε
more; of a reward R = ε. Parts of the network are independent in the posterior, each with Σ = WᵀW, W [k, D], or with a
whole Σ; at first Σ has variances of 1, or .01 (rewards, in two parts). The gain K = (Σ + q I)Hᵀ S⁻¹ has the
innovation's covariance S of all parts, Σ⁺ = (I − K H) Σ (I − K H)ᵀ + K R Kᵀ what the part itself says. Process noise q
enters S and the gain; the factors do not grow by it, as in that code, whose addition to the eigenvalues cancels. Draws
of the outputs have the covariance of a one-hot label, as there. Unlike it, a whole Σ is kept as such and not by a QR
decomposition of its root: the same in exact arithmetic, and cheaper.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

import lowrank_filter as lf
from experiments.continual.online.interface import Hyper, Method, Online, Problem


class Belief(NamedTuple):
    """Means [D] of the parts, and W [k, D] or Σ [D, D] of each."""

    means: tuple[Array, ...]
    spreads: tuple[Array, ...]


def filtered(problem: Problem, ranks: Sequence[int | None], hyper: Hyper) -> Online:
    """One rank for the whole network, or two for body and head; None keeps all of Σ."""
    shapes = jax.eval_shape(problem.network.init, jax.random.key(0))
    whole = len(ranks) == 1
    unravel = [ravel_pytree(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), p))[1] for p in _split(shapes, whole)]
    noise = hyper["process_noise"]
    variance = 1.0 if whole or isinstance(problem.likelihood, lf.Categorical) else 0.01

    def params(means: Sequence[Array]) -> Any:
        parts = [back(mean) for back, mean in zip(unravel, means, strict=True)]
        return parts[0] if whole else {"params": {"body": parts[0], "head": parts[1]}}

    def init(start: Any, first: Any) -> Belief:
        means = tuple(ravel_pytree(part)[0] for part in _split(start, whole))
        sizes = [len(mean) if rank is None else rank for rank, mean in zip(ranks, means, strict=True)]
        spreads = [jnp.eye(size, len(mean)) for size, mean in zip(sizes, means, strict=True)]
        power = [1 if rank is None else 0.5 for rank in ranks]
        return Belief(means, tuple(variance**p * spread for p, spread in zip(power, spreads, strict=True)))

    def times(rank: int | None, spread: Array, rows: Float[Array, "c D"]) -> Float[Array, "c D"]:
        """(Σ + q I) applied to each row."""
        return (rows @ spread if rank is None else (rows @ spread.T) @ spread) + noise * rows

    def spread_of(belief: Belief, rows: Sequence[Float[Array, "c D"]]) -> Float[Array, "c c"]:
        """H (Σ + q I) Hᵀ over all parts."""
        parts = zip(ranks, belief.spreads, rows, strict=True)
        return sum((times(rank, spread, part) @ part.T for rank, spread, part in parts), start=jnp.zeros(()))

    def update(belief: Belief, seen: Any, target: Array) -> tuple[Belief, Array]:
        def expected(means: Sequence[Array]) -> Float[Array, " c"]:
            return _moments(problem, problem.observed(params(means), seen)[0])[0]

        value, rows = expected(belief.means), jax.jacrev(expected)(belief.means)
        _, around = _moments(problem, problem.observed(params(belief.means), seen)[0])
        around = around + hyper["epsilon"] * jnp.eye(len(value))
        root = jnp.linalg.cholesky(around)
        factor = jax.scipy.linalg.cho_factor(spread_of(belief, rows) + around)
        surprise = _shown(problem, target[0], len(value)) - value
        means, spreads = [], []
        for rank, mean, spread, part in zip(ranks, belief.means, belief.spreads, rows, strict=True):
            gain = jax.scipy.linalg.cho_solve(factor, times(rank, spread, part))
            means.append(mean + surprise @ gain)
            if rank is None:
                kept = spread - gain.T @ (part @ spread)
                spreads.append(kept - (kept @ part.T) @ gain + gain.T @ around @ gain)
            else:
                stacked = jnp.concatenate([spread - (spread @ part.T) @ gain, root.T @ gain])
                _, vectors = jnp.linalg.eigh(stacked @ stacked.T)
                spreads.append(vectors[:, ::-1][:, :rank].T @ stacked)
        after = Belief(tuple(means), tuple(spreads))
        lost = ~jnp.all(jnp.stack([jnp.all(jnp.isfinite(mean)) for mean in after.means]))
        return after, lost

    def draw(belief: Belief, key: Array, x: Any) -> Float[Array, "1 C"]:
        def outputs(means: Sequence[Array]) -> Array:
            return problem.network.apply(params(means), x)[0]

        p = jax.nn.softmax(outputs(belief.means))
        around = jnp.diag(p) - jnp.outer(p, p) + hyper["epsilon"] * jnp.eye(len(p))
        covariance = spread_of(belief, jax.jacrev(outputs)(belief.means)) + around
        values, vectors = jnp.linalg.eigh(covariance)
        normal = jax.random.normal(key, values.shape)
        return (outputs(belief.means) + vectors @ (jnp.sqrt(jnp.maximum(values, 0)) * normal))[None]

    return Online(init, lambda belief, x: problem.network.apply(params(belief.means), x), update, draw)


def _split(params: Any, whole: bool) -> list[Any]:
    return [params] if whole else [params["params"]["body"], params["params"]["head"]]


def _moments(problem: Problem, output: Float[Array, " c"]) -> tuple[Float[Array, " c"], Float[Array, "c c"]]:
    """Mean and covariance of what is observed: of the one-hot label; of the reward, which is taken to be exact."""
    mean, _ = problem.likelihood.moments(output)
    if isinstance(problem.likelihood, lf.Categorical):
        return mean, jnp.diag(mean) - jnp.outer(mean, mean)
    return mean, jnp.zeros((len(mean), len(mean)))


def _shown(problem: Problem, target: Array, size: int) -> Float[Array, " c"]:
    return jax.nn.one_hot(target, size) if isinstance(problem.likelihood, lf.Categorical) else target


_GRID = {"process_noise": (1e-6, 1e-2, 1e-1), "epsilon": (1e-4, 1e-1)}
METHODS = {
    "lrkf": Method(lambda problem, rank, hyper: filtered(problem, (rank,), hyper), _GRID),
    "hilofi": Method(lambda problem, rank, hyper: filtered(problem, (rank, None), hyper), _GRID),
    "lolofi": Method(lambda problem, rank, hyper: filtered(problem, (rank, rank), hyper), _GRID),
}
