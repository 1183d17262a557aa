"""What a belief says about observations: the Gaussian of the outputs seen through a likelihood."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from lowrank_filter.algebra import small_matrices, tree
from lowrank_filter.common import checks
from lowrank_filter.common.compiled import compiled
from lowrank_filter.common.registered import registered
from lowrank_filter.kernels.evidence import examples_at_once, log_expectation, log_probabilities, standard_rule
from lowrank_filter.kernels.examples import TARGETS, Batch, check_stream, in_pieces
from lowrank_filter.kernels.expansion import Local, expand
from lowrank_filter.kernels.likelihoods import Categorical, Gaussian, Likelihood
from lowrank_filter.kernels.output_map import output_map

# Points on a line: more than the evidence takes, since none of them are where the data say that the output is. Between
# them a sigmoid of an output of a hundred standard deviations still turns.
_LINE = 512


@registered
@dataclasses.dataclass(frozen=True)
class Prediction:
    """p(y | x) = E p(y | f), f ~ N(f̂, Σ), of each of B examples by itself.

    Closed forms for :class:`Gaussian` likelihoods; for others fixed points of the outputs' Gaussian. Those of
    :class:`Categorical` are one set for all classes: probabilities add up to one, and ``log_prob`` is their logarithm.

    Attributes:
        outputs: f̂ [B, C].
        covariance: Σ = J P⁻¹Jᵀ [B, C, C], without the observation's noise.
        likelihood: of y given the outputs.
    """

    outputs: Float[Array, "B C"]
    covariance: Float[Array, "B C C"]
    likelihood: Likelihood

    @property
    def mean(self) -> Float[Array, "B C"]:
        """f̂, as :class:`Predictive` calls it: of the outputs. That of the targets is ``moments()[0]``."""
        return self.outputs

    def moments(self) -> tuple[Float[Array, "B m"], Float[Array, "B m"]]:
        """Mean and variance of each target, the observation's noise included.

        Of a class label: of its one-hot vector, so the mean are the class probabilities.
        """
        return compiled(_moments, self)

    def probabilities(self) -> Float[Array, "B m"]:
        """Of each class, or of each target being one.

        Raises:
            TypeError: the likelihood is of something else than classes.
        """
        if not self.likelihood.classes:
            raise TypeError(
                f"likelihood: expected Categorical or Bernoulli, got {type(self.likelihood).__name__}; take moments()"
            )
        return self.moments()[0]

    def log_prob(self, y: Any) -> Float[Array, " B"]:
        """log p(yᵢ | xᵢ) in nats.

        By points around each target, so that an improbable one keeps its relative accuracy; of :class:`Categorical`
        the logarithms of :meth:`probabilities`, which add up to 1.

        Args:
            y: targets, as in :func:`update`.

        Raises:
            TypeError: labels are not integers.
            ValueError: targets of another shape, or visible ones out of the likelihood's domain.
        """
        y = checks.array("y", y, TARGETS)
        y = jnp.asarray(check_stream(self.likelihood, self.outputs.shape[1], y))
        if len(y) != len(self.outputs):
            targets = checks.counted(len(self.outputs), "target")
            raise ValueError(f"y: expected {targets}, got shape {y.shape}; give one for each predicted example")

        return compiled(_log_prob, self, y)

    def quantile(self, p: float | Float[Array, ""]) -> Float[Array, "B m"]:
        """The value that each target is below with probability p ∈ (0, 1); of several p, by ``vmap``.

        Raises:
            TypeError: the likelihood is not :class:`Gaussian`.
            ValueError: p is not between 0 and 1.
        """
        if not isinstance(self.likelihood, Gaussian):
            raise TypeError(
                f"likelihood: expected Gaussian, got {type(self.likelihood).__name__}; take moments(), or "
                "quantiles of what sample_targets() draws"
            )
        checks.within("p", p, 1e-6, 1 - 1e-6, "a probability between 0 and 1")
        mean, variance = self.moments()
        return mean + jax.scipy.special.ndtri(jnp.asarray(p, mean.dtype)) * jnp.sqrt(variance)

    def sample(self, key: Key[Array, ""], n: int) -> Float[Array, "n B C"]:
        """``n`` draws of the outputs, each example by itself, O(C²) a draw: what Thompson sampling needs.

        Raises:
            TypeError: ``key`` is no random key.
            ValueError: ``n`` is not a static integer ≥ 0.
        """
        key = checks.key("key", key)
        checks.count("n", n, minimum=0)
        return compiled(_sample, self, key, n=n)

    def sample_targets(self, key: Key[Array, ""], n: int) -> Shaped[Array, "n B *target"]:
        """``n`` draws of y, each example by itself: of the outputs, then of a target given them.

        Labels are integers [n, B]; counts, zeros and ones, and real numbers are floating-point, [n, B, m].

        Raises:
            NotImplementedError: the likelihood is one of your own that does not define ``sample(key, output)``.
            TypeError: ``key`` is no random key.
            ValueError: ``n`` is not a static integer ≥ 0.

        Examples:
            >>> prediction = lf.Prediction(jnp.zeros((2, 3)), jnp.zeros((2, 3, 3)), lf.Categorical())
            >>> prediction.sample_targets(jax.random.key(0), 5).shape
            (5, 2)
        """
        key = checks.key("key", key)
        checks.count("n", n, minimum=0)
        return compiled(_sample_targets, self, key, n=n)


def _sample(prediction: Prediction, key: Key[Array, ""], *, n: int) -> Float[Array, "n B C"]:
    normal = jax.random.normal(key, (n, *prediction.outputs.shape), prediction.outputs.dtype)
    moved = jnp.einsum("bcd,nbd->nbc", _roots(prediction.covariance), normal, precision=tree.HIGHEST)
    return prediction.outputs + moved


def _sample_targets(prediction: Prediction, key: Key[Array, ""], *, n: int) -> Shaped[Array, "n B *target"]:
    for_outputs, for_targets = jax.random.split(key)
    outputs = _sample(prediction, for_outputs, n=n)
    keys = jax.random.split(for_targets, outputs.shape[:2])
    return jax.vmap(jax.vmap(prediction.likelihood.sample))(keys, outputs)


def _moments(prediction: Prediction) -> tuple[Float[Array, "B m"], Float[Array, "B m"]]:
    rule = standard_rule(prediction.outputs.shape[1], _LINE)
    points, shares = (jnp.asarray(array, prediction.outputs.dtype) for array in rule)
    if isinstance(prediction.likelihood, Gaussian):
        _, noise = jax.vmap(prediction.likelihood.moments)(prediction.outputs)
        return prediction.outputs, noise + jnp.diagonal(prediction.covariance, axis1=1, axis2=2)

    if _by_classes(prediction):
        p = jnp.exp(_log_probabilities(prediction))
        return p, p * (1 - p)

    def one(output: Array, root: Array) -> tuple[Array, Array]:
        drawn = output + jnp.matmul(points, root.T, precision=tree.HIGHEST)
        means, variances = jax.vmap(prediction.likelihood.moments)(drawn)
        mean = jnp.matmul(shares, means, precision=tree.HIGHEST)
        return mean, jnp.matmul(shares, variances + (means - mean) ** 2, precision=tree.HIGHEST)

    return jax.vmap(one)(prediction.outputs, _roots(prediction.covariance))


def _log_prob(prediction: Prediction, y: Array) -> Float[Array, " B"]:
    """−∞ of finite targets out of the domain, such as labels without an output, where only a trace sees them."""

    def one(output: Array, covariance: Array, target: Array) -> Array:
        here = jnp.ones(1, bool)
        batch = Batch(None, target[None], here, here)

        def at(outputs: Array) -> Local:
            return expand(prediction.likelihood, outputs, batch, here, 1.0)

        centre = output[None]
        found = at(centre)
        if found.excess is not None:
            root = found.root[0]
            gram = jnp.matmul(jnp.matmul(root.T, covariance, precision=tree.HIGHEST), root, precision=tree.HIGHEST)
            lower = small_matrices.cholesky_plus_identity(gram)
            unexplained = jnp.sum(small_matrices.solve_lower(lower, found.score[0]) ** 2)
            return -found.excess[0] - 0.5 * unexplained - 0.5 * small_matrices.logdet(lower)
        a = output_map(at, centre, covariance)
        moved = jnp.matmul(covariance, a, precision=tree.HIGHEST)
        return log_expectation(at, centre, covariance, a, at(centre + moved), discrete=prediction.likelihood.discrete)

    def possible(target: Array) -> Array:
        return prediction.likelihood.in_domain(target, prediction.outputs.shape[1]) | ~jnp.all(jnp.isfinite(target))

    if _by_classes(prediction):
        found = jnp.take_along_axis(_log_probabilities(prediction), y[:, None], axis=1, mode="clip")[:, 0]
    else:
        found = jax.vmap(one)(prediction.outputs, prediction.covariance, y)
    return jnp.where(jax.vmap(possible)(y), found, -jnp.inf)


def _by_classes(prediction: Prediction) -> bool:
    """Whether outputs are logits: not of a class of one's own, which may make something else of them."""
    return type(prediction.likelihood) is Categorical


def _log_probabilities(prediction: Prediction) -> Float[Array, "B C"]:
    given = prediction.outputs, prediction.covariance
    return in_pieces(lambda some: jax.vmap(log_probabilities)(*some), given, examples_at_once(given[0].shape[1]))


def _roots(covariance: Float[Array, "B C C"]) -> Float[Array, "B C C"]:
    """R with R Rᵀ = Σ, also where Σ is singular."""
    values, vectors = jax.vmap(small_matrices.eigendecompose)(covariance)
    positive = values > 0
    return vectors * jnp.where(positive, jnp.sqrt(jnp.where(positive, values, 1)), 0)[:, None]
