"""Likelihoods of one target given the network's outputs f ∈ R^C for one example.

A likelihood is a pytree with these methods, each for a single example (the kernels map them over the batch):

- ``nll(output, target)``: −log p(y | f), a scalar.
- ``root(output, target)``: S [C, r] with S Sᵀ = H, the Hessian of the negative log likelihood in the outputs, or its
  expectation (the Fisher information) where that is not positive semi-definite.
- ``whitened_score(output, target)``: u [r] with S u = ∇_f nll. It exists because an update written with u needs no
  subtraction of large numbers.
- ``normaliser(output)``: nll − ½‖u‖² where that is a constant (then the evidence needs no subtraction either).
- ``curvature(output, target)``: the trace of H; and ``root_product``, ``root_transposed_product``, ``root_columns``:
  S w, Sᵀv and some of S's columns. By default they are made of S, which may be large and have a structure.
- ``terms(output, target)`` and ``normaliser_terms(output)``: the summands of nll and of the normaliser, one for each
  target, where targets are independent given the outputs and S is diagonal (``factorises``). Some may then be missing.
- ``shares(output)``: p where S = diag(√p) − p √pᵀ. Updates of many outputs then hold no C×C matrix.
- ``under(covariance)``: the likelihood whose loss is the expected one under outputs N(f, V), where ``uncertain``. An
  update then takes the Gaussian that is nearest to the posterior, not one at its mode.
- ``target_units(outputs, targets, usable)``: of a batch, where its targets ask the outputs to be, for a prior.
- ``moments(output)`` and ``sample(key, output)``: mean and variance of each target given the outputs, and a draw, for a
  :class:`Prediction`.
- ``in_domain(target, outputs)``: whether a target is one that a network with that number of outputs can be asked for.
- ``targets(outputs)``: the shape of one target, or None if any is allowed.

To bring one's own, subclass :class:`Likelihood` and define ``nll``: the rest is derived by automatic differentiation.
Overriding ``root`` and ``whitened_score`` with closed forms is faster, and necessary where the Hessian is not
positive semi-definite or does not span the gradient. The class registers itself as a pytree of its attributes, so that
its hyperparameters are traced; text, functions and dataclass fields with ``metadata={"static": True}`` are not.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key

from lowrank_filter.common import checks
from lowrank_filter.common.registered import registered

LOG_2PI = math.log(2 * math.pi)

# From this count on four terms of Stirling's series leave less than the rounding of float64.
_STIRLING = 16.0
# A rate from which on counts are drawn as rounded normal numbers.
_MANY = 2.0**20
# z² of seven standard deviations, from which on an observation of unknown noise pulls as if the tails were heavy.
_FAR = 49.0


class TargetUnits(NamedTuple):
    """The units in which targets are standardised, as outputs: f = shift + √variance · f̃, for each output.

    Attributes:
        shift: from the outputs as they are, on average over a batch.
        variance: above 0.
    """

    shift: Float[Array, " C"]
    variance: Float[Array, " C"]


class Likelihood:
    """Base class: everything but ``nll`` has a default.

    ``discrete`` says that p(y | f) is a probability, at most 1: the evidence is then integrated over the outputs.
    ``uncertain`` says that the posterior's mode misleads, as where the loss has no lower bound: an update then takes
    expectations, see :meth:`under`. ``prior_variance`` is that of the outputs before data, unless another is chosen
    (:func:`scaled`), in the units of :meth:`target_units`: 10 lets logits reach ±10 and targets lie at three of their
    standard deviations. ``prior_variance_with_targets`` is the same where a batch of targets says what these units are;
    None: no other one.
    """

    discrete: ClassVar[bool] = False
    classes: ClassVar[bool] = False
    uncertain: ClassVar[bool] = False
    prior_variance: ClassVar[float] = 10.0
    prior_variance_with_targets: ClassVar[float | None] = None

    def moments(self, output: Float[Array, " C"]) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
        """Mean and variance of each target given the outputs; for :meth:`Prediction.moments`."""
        raise self._without("moments(output)", "the mean and variance of each target")

    def sample(self, key: Key[Array, ""], output: Float[Array, " C"]) -> Array:
        """y ~ p(y | output), in the shape of one target; for :meth:`Prediction.sample_targets`."""
        raise self._without("sample(key, output)", "a target drawn given the outputs")

    def target_units(
        self, outputs: Float[Array, "B C"], targets: Array, usable: Bool[Array, " B"] | Bool[Array, "B m"]
    ) -> TargetUnits | None:
        """Where a batch of targets asks the outputs to be; None where they ask nothing, as classes do.

        ``usable`` says which examples count, or where single targets are masked which of them.
        """
        return None

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """By its first instance a class is a pytree, whether it was registered as one or not."""
        _register(cls)
        return super().__new__(cls)

    def nll(self, output: Float[Array, " C"], target: Array) -> Float[Array, ""]:
        """−log p(target | output)."""
        raise self._without("nll(output, target)", "the negative log likelihood")

    def root(self, output: Float[Array, " C"], target: Array) -> Float[Array, "C r"]:
        """V √max(λ, 0) of the Hessian's eigendecomposition."""
        values, vectors = self._eigen(output, target)
        return vectors * jnp.sqrt(values)

    def whitened_score(self, output: Float[Array, " C"], target: Array) -> Float[Array, " r"]:
        """S⁺ ∇_f nll."""
        values, vectors = self._eigen(output, target)
        projected = vectors.T @ jax.grad(self.nll)(output, target)
        return jnp.where(values > 0, projected / jnp.sqrt(jnp.where(values > 0, values, 1)), 0)

    def normaliser(self, output: Float[Array, " C"]) -> Float[Array, ""] | None:
        """nll − ½‖u‖² where that is a constant, as for a Gaussian; None where it is not."""
        return None

    @property
    def factorises(self) -> bool:
        """Whether targets are independent given the outputs, with a diagonal S; :meth:`terms` are then defined."""
        return False

    def terms(self, output: Float[Array, " C"], target: Array) -> Float[Array, " m"]:
        """−log p of each target."""
        raise self._without("terms(output, target)", "the loss of each target")

    def normaliser_terms(self, output: Float[Array, " C"]) -> Float[Array, " m"] | None:
        """The summands of the normaliser."""
        return None

    def curvature(self, output: Float[Array, " C"], target: Array) -> Float[Array, ""]:
        """tr S Sᵀ."""
        return jnp.sum(self.root(output, target) ** 2)

    def root_product(
        self, output: Float[Array, " C"], target: Array, weights: Float[Array, " r"]
    ) -> Float[Array, " C"]:
        """S w."""
        return jnp.matmul(self.root(output, target), weights, precision=jax.lax.Precision.HIGHEST)

    def root_transposed_product(
        self, output: Float[Array, " C"], target: Array, vector: Float[Array, " C"]
    ) -> Float[Array, " r"]:
        """Sᵀv."""
        return jnp.matmul(vector, self.root(output, target), precision=jax.lax.Precision.HIGHEST)

    def root_columns(self, output: Float[Array, " C"], target: Array, index: Int[Array, " n"]) -> Float[Array, "C n"]:
        """S's columns of these numbers, zero past its last."""
        root = self.root(output, target)
        return jnp.take(root, index, axis=1, mode="fill", fill_value=0)

    def shares(self, output: Float[Array, " C"]) -> Float[Array, " C"] | None:
        """p > 0 with Σp = 1, where S = diag(√p) − p √pᵀ; None of other likelihoods."""
        return None

    def under(self, covariance: Float[Array, "C C"], *, guarded: bool = True) -> "Likelihood":
        """The likelihood with the loss E ℓ(f + ε), ε ~ N(0, V); ``guarded``: as the step should see it, where
        outliers must not throw it."""
        raise self._without("under(covariance)", "the expected likelihood")

    def in_domain(self, target: Array, outputs: int) -> Bool[Array, ""]:
        """Finite."""
        return jnp.all(jnp.isfinite(target))

    def targets(self, outputs: int) -> tuple[int, ...] | None:
        """The shape of one target, or None for any."""
        return None

    def check(self, outputs: int) -> None:
        """Raise ValueError if a network with this number of outputs does not fit."""

    def _without(self, method: str, what: str) -> NotImplementedError:
        """What a likelihood says of a method that its class leaves out."""
        name = type(self).__name__
        return NotImplementedError(f"{name}: expected {method}, {what}, got a class without it; define {method}")

    def _eigen(self, output: Array, target: Array) -> tuple[Array, Array]:
        values, vectors = jnp.linalg.eigh(jax.hessian(self.nll)(output, target))
        negligible = len(values) * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
        return jnp.where(values > negligible, values, 0), vectors


class _Independent(Likelihood):
    """Targets that are independent given the outputs, so that the terms are all there is."""

    def nll(self, output: Float[Array, " C"], target: Array) -> Float[Array, ""]:
        """The sum of the terms."""
        return jnp.sum(self.terms(output, target))

    @property
    def factorises(self) -> bool:
        """Always."""
        return True


def _mean(values: Float[Array, "B n"], usable: Bool[Array, " B"] | Bool[Array, "B n"]) -> Float[Array, " n"]:
    """Over the examples that are usable, or of each column over its own."""
    usable = usable.reshape(len(usable), -1)
    return jnp.sum(jnp.where(usable, values, 0), axis=0) / _count(usable)


def _count(usable: Bool[Array, " B"] | Bool[Array, "B n"]) -> Int[Array, " _"]:
    return jnp.maximum(jnp.sum(usable.reshape(len(usable), -1), axis=0), 1)


def _residual_units(residuals: Float[Array, "B n"], usable: Bool[Array, " B"] | Bool[Array, "B n"]) -> TargetUnits:
    """Mean and variance; where all are equal, the square of the mean for the variance, or one."""
    shift = _mean(residuals, usable)
    variance, square = _mean((residuals - shift) ** 2, usable), shift**2
    least = 100 * jnp.finfo(variance.dtype).eps * square
    return TargetUnits(shift, jnp.where(variance > least, variance, jnp.where(square > 0, square, 1)))


def _positive_definite(matrix: np.ndarray) -> bool:
    try:
        return bool(np.isfinite(np.linalg.cholesky(matrix)).all())
    except np.linalg.LinAlgError:
        return False


@functools.cache
def _register(cls: type) -> None:
    """A pytree of its attributes; those that are text or functions, or are marked as static, are not traced."""
    marked = {field.name for field in getattr(cls, "__dataclass_fields__", {}).values() if field.metadata.get("static")}

    def flatten(value: Any) -> tuple[list, tuple]:
        held = vars(value)
        static = {name for name, v in held.items() if name in marked or isinstance(v, str) or callable(v)}
        traced = [name for name in held if name not in static]
        keyed = [(jax.tree_util.GetAttrKey(name), held[name]) for name in traced]
        return keyed, (tuple(traced), tuple((name, held[name]) for name in held if name in static))

    def unflatten(about: tuple, children: Iterable) -> Any:
        value = object.__new__(cls)
        for name, child in (*zip(about[0], children, strict=True), *about[1]):
            object.__setattr__(value, name, child)
        return value

    with contextlib.suppress(ValueError):  # it is one already
        jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)


def _floor(dtype: Any) -> float:
    """A probability below which S and u would under- and overflow; their product S u stays exact."""
    return float(jnp.finfo(dtype).tiny) ** 0.75


@registered
@dataclasses.dataclass(frozen=True)
class Categorical(Likelihood):
    """y ∈ {0 … C−1}, p = softmax(f). S = diag(√p) − p √pᵀ, u = √p − e_y/√p_y; targets are integers."""

    discrete: ClassVar[bool] = True
    classes: ClassVar[bool] = True

    def moments(self, output: Float[Array, " C"]) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
        """p and p(1 − p): of the one-hot label."""
        p = self._softmax(output)
        return p, p * (1 - p)

    def sample(self, key: Key[Array, ""], output: Float[Array, " C"]) -> Int[Array, ""]:
        """A label."""
        return jax.random.categorical(key, output)

    def nll(self, output: Float[Array, " C"], target: Array) -> Float[Array, ""]:
        """logsumexp(f) − f_y."""
        shifted, exponentials = self._exponentials(output)
        return jnp.log(jnp.sum(exponentials)) - jnp.sum(jnp.where(self._is(target, output), shifted, 0))

    def root(self, output: Float[Array, " C"], target: Array) -> Float[Array, "C C"]:
        """diag(√p) − p √pᵀ."""
        p = self._probabilities(output)
        return jnp.diag(jnp.sqrt(p)) - jnp.outer(p, jnp.sqrt(p))

    def whitened_score(self, output: Float[Array, " C"], target: Array) -> Float[Array, " C"]:
        """√p − e_y/√p_y."""
        root = jnp.sqrt(self._probabilities(output))
        return root - jnp.where(self._is(target, output), 1 / root, 0)

    def curvature(self, output: Float[Array, " C"], target: Array) -> Float[Array, ""]:
        """Σ p(1 − p)."""
        p = self._softmax(output)
        return jnp.sum(p * (1 - p))

    def root_product(
        self, output: Float[Array, " C"], target: Array, weights: Float[Array, " C"]
    ) -> Float[Array, " C"]:
        """√p w − p √pᵀw."""
        p = self._probabilities(output)
        weighted = jnp.sqrt(p) * weights
        return weighted - p * jnp.sum(weighted)

    def root_transposed_product(
        self, output: Float[Array, " C"], target: Array, vector: Float[Array, " C"]
    ) -> Float[Array, " C"]:
        """√p (v − pᵀv)."""
        p = self._probabilities(output)
        return jnp.sqrt(p) * (vector - jnp.sum(p * vector))

    def root_columns(self, output: Float[Array, " C"], target: Array, index: Int[Array, " n"]) -> Float[Array, "C n"]:
        """√pⱼ (eⱼ − p)."""
        p = self._probabilities(output)
        roots = jnp.sqrt(jnp.take(p, index, mode="fill", fill_value=0))
        return (jax.nn.one_hot(index, len(p), axis=0, dtype=p.dtype) - p[:, None]) * roots

    def shares(self, output: Float[Array, " C"]) -> Float[Array, " C"]:
        """The probabilities."""
        return self._probabilities(output)

    def in_domain(self, target: Array, outputs: int) -> Bool[Array, ""]:
        """0 ≤ y < C."""
        return (target >= 0) & (target < outputs)

    def targets(self, outputs: int) -> tuple[int, ...]:
        """A scalar class label."""
        return ()

    def check(self, outputs: int) -> None:
        """At least two classes."""
        if outputs < 2:
            raise ValueError(f"Categorical: expected at least 2 outputs (logits), got {outputs}; use Bernoulli for one")

    def _probabilities(self, output: Array) -> Array:
        return jnp.maximum(self._softmax(output), _floor(output.dtype))

    def _softmax(self, output: Array) -> Array:
        exponentials = self._exponentials(output)[1]
        return exponentials / jnp.sum(exponentials)

    def _exponentials(self, output: Array) -> tuple[Array, Array]:
        """f − max f, and e to that: the same for loss, root and score, which a compiler then computes once."""
        shifted = output - jax.lax.stop_gradient(jnp.max(output))
        return shifted, jnp.exp(shifted)

    def _is(self, target: Array, output: Array) -> Array:
        return jnp.arange(len(output)) == target


@registered
@dataclasses.dataclass(frozen=True)
class Gaussian(Likelihood):
    """y ~ N(f, R), R = L Lᵀ. S = L⁻ᵀ, u = L⁻¹(f − y).

    With targets the outputs' prior variance is 1 in their units: outputs vary as those do.

    Attributes:
        covariance: R, in the squared units of y: a scalar (for all outputs), a vector [C] (independent) or [C, C].

    Raises:
        ValueError: visible numbers that no covariance has; others where it is used, with the outputs known.
    """

    prior_variance_with_targets: ClassVar[float | None] = 1.0

    covariance: ArrayLike

    def __post_init__(self) -> None:
        """Checked where it is written; not what else JAX's prefixes put there, as an axis in ``vmap``'s ``in_axes``."""
        if isinstance(self.covariance, float | np.floating | np.ndarray | jax.Array):
            # With two axes or more it may be a stack.
            check = checks.positive if jnp.ndim(self.covariance) < 2 else checks.finite
            check("Gaussian covariance", self.covariance)

    def moments(self, output: Float[Array, " C"]) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
        """f and diag(R)."""
        if self.factorises:
            return output, self._variances(output)
        return output, jnp.diagonal(jnp.asarray(self.covariance, output.dtype))

    def sample(self, key: Key[Array, ""], output: Float[Array, " C"]) -> Float[Array, " C"]:
        """f + L ε."""
        normal = jax.random.normal(key, output.shape, output.dtype)
        if self.factorises:
            return output + jnp.sqrt(self._variances(output)) * normal
        return output + jnp.matmul(self._lower(output), normal, precision=jax.lax.Precision.HIGHEST)

    def target_units(
        self, outputs: Float[Array, "B C"], targets: Array, usable: Bool[Array, " B"] | Bool[Array, "B m"]
    ) -> TargetUnits:
        """Mean and variance of y − f, R included: an upper bound where R is right, and no harm where it is not."""
        return _residual_units(targets - outputs, usable)

    def nll(self, output: Float[Array, " C"], target: Array) -> Float[Array, ""]:
        """½‖u‖² + ½ log det(2πR)."""
        return 0.5 * jnp.sum(self.whitened_score(output, target) ** 2) + self.normaliser(output)

    @property
    def factorises(self) -> bool:
        """With a scalar or a vector for R."""
        return jnp.ndim(self.covariance) < 2

    def terms(self, output: Float[Array, " C"], target: Array) -> Float[Array, " C"]:
        """½u² + ½ log 2πR."""
        return 0.5 * self.whitened_score(output, target) ** 2 + self.normaliser_terms(output)

    def normaliser_terms(self, output: Float[Array, " C"]) -> Float[Array, " C"]:
        """½ log 2πR."""
        return 0.5 * (jnp.log(self._variances(output)) + LOG_2PI)

    def curvature(self, output: Float[Array, " C"], target: Array) -> Float[Array, ""]:
        """tr R⁻¹."""
        return jnp.sum(1 / self._variances(output)) if self.factorises else jnp.sum(self.root(output, target) ** 2)

    def normaliser(self, output: Float[Array, " C"]) -> Float[Array, ""]:
        """½ log det(2πR)."""
        if self.factorises:
            return jnp.sum(self.normaliser_terms(output))
        return jnp.sum(jnp.log(jnp.diagonal(self._lower(output)))) + 0.5 * len(output) * LOG_2PI

    def root(self, output: Float[Array, " C"], target: Array) -> Float[Array, "C C"]:
        """L⁻ᵀ."""
        if self.factorises:
            return jnp.diag(1 / jnp.sqrt(self._variances(output)))
        lower = self._lower(output)
        return jax.scipy.linalg.solve_triangular(lower, jnp.eye(len(lower), dtype=lower.dtype), lower=True).T

    def whitened_score(self, output: Float[Array, " C"], target: Array) -> Float[Array, " C"]:
        """L⁻¹(f − y)."""
        if self.factorises:
            return (output - target) / jnp.sqrt(self._variances(output))
        return jax.scipy.linalg.solve_triangular(self._lower(output), output - target, lower=True)

    def targets(self, outputs: int) -> tuple[int, ...]:
        """A vector like the outputs."""
        return (outputs,)

    def check(self, outputs: int) -> None:
        """The covariance fits the outputs and is positive."""
        shape = checks.shape_of("Gaussian covariance", self.covariance)
        if shape not in ((), (outputs,), (outputs, outputs)):
            raise ValueError(
                f"Gaussian: expected a covariance of shape (), ({outputs},) or ({outputs}, {outputs}) for "
                f"{checks.counted(outputs, 'output')}, got {shape}; a scalar is the variance of each"
            )
        if len(shape) < 2:
            checks.positive("Gaussian covariance", self.covariance)
        elif checks.concrete(self.covariance) and not _positive_definite(np.asarray(self.covariance, float)):
            raise ValueError(
                "Gaussian: expected a positive definite covariance, got one without a Cholesky factor; "
                "add a multiple of the identity"
            )

    def _lower(self, output: Array) -> Array:
        return jnp.linalg.cholesky(jnp.asarray(self.covariance, output.dtype))

    def _variances(self, output: Array) -> Array:
        return jnp.broadcast_to(jnp.asarray(self.covariance, output.dtype), output.shape)


@registered
@dataclasses.dataclass(frozen=True)
class Bernoulli(_Independent):
    """y ∈ [0, 1]^C, independent, p = sigmoid(f). S = √(p(1 − p)), u = (p − y)/√(p(1 − p)).

    The prior variance of an output is that of the logistic distribution, π²/3, under which p is uniform on [0, 1]: a
    wider one is sure of what it has not seen.
    """

    discrete: ClassVar[bool] = True
    classes: ClassVar[bool] = True
    prior_variance: ClassVar[float] = math.pi**2 / 3

    def moments(self, output: Float[Array, " C"]) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
        """p and p(1 − p)."""
        p = jax.nn.sigmoid(output)
        return p, p * (1 - p)

    def sample(self, key: Key[Array, ""], output: Float[Array, " C"]) -> Float[Array, " C"]:
        """Zeros and ones."""
        return jax.random.bernoulli(key, jax.nn.sigmoid(output)).astype(output.dtype)

    def terms(self, output: Float[Array, " C"], target: Array) -> Float[Array, " C"]:
        """softplus(f) − y f."""
        return jax.nn.softplus(output) - target * output

    def curvature(self, output: Float[Array, " C"], target: Array) -> Float[Array, ""]:
        """Σ p(1 − p)."""
        return jnp.sum(self._deviation(output) ** 2)

    def root(self, output: Float[Array, " C"], target: Array) -> Float[Array, "C C"]:
        """diag √(p(1 − p))."""
        return jnp.diag(self._deviation(output))

    def whitened_score(self, output: Float[Array, " C"], target: Array) -> Float[Array, " C"]:
        """(p − y)/√(p(1 − p))."""
        return (jax.nn.sigmoid(output) - target) / self._deviation(output)

    def in_domain(self, target: Array, outputs: int) -> Bool[Array, ""]:
        """0 ≤ y ≤ 1."""
        return jnp.all((target >= 0) & (target <= 1))

    def targets(self, outputs: int) -> tuple[int, ...]:
        """A vector like the outputs."""
        return (outputs,)

    def _deviation(self, output: Array) -> Array:
        variance = jax.nn.sigmoid(output) * jax.nn.sigmoid(-output)
        return jnp.sqrt(jnp.maximum(variance, _floor(output.dtype)))


@registered
@dataclasses.dataclass(frozen=True)
class Poisson(_Independent):
    """y ∈ {0, 1, …}^C, independent, rate = exp(f). S = √rate, u = (rate − y)/√rate."""

    discrete: ClassVar[bool] = True

    def moments(self, output: Float[Array, " C"]) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
        """The rate, twice."""
        rate = jnp.exp(output)
        return rate, rate

    def sample(self, key: Key[Array, ""], output: Float[Array, " C"]) -> Float[Array, " C"]:
        """Counts, as floating-point numbers: a rate may be beyond any integer.

        From a rate of 2²⁰ on, where the skew is a thousandth, rounded draws of N(rate, rate).
        """
        below, above = jax.random.split(key)
        # JAX draws counts by keys of this kind only.
        below = jax.random.wrap_key_data(jax.random.bits(below, (2,), jnp.uint32), impl="threefry2x32")
        rate = jnp.exp(output)
        few = jax.random.poisson(below, jnp.minimum(rate, _MANY)).astype(output.dtype)
        many = jnp.round(rate + jnp.sqrt(rate) * jax.random.normal(above, output.shape, output.dtype))
        return jnp.where(rate < _MANY, few, many)

    def target_units(
        self, outputs: Float[Array, "B C"], targets: Array, usable: Bool[Array, " B"] | Bool[Array, "B m"]
    ) -> TargetUnits:
        """log ȳ − f̄ and 1: the unit of a logarithm is a factor e."""
        mean = jnp.maximum(_mean(targets.astype(outputs.dtype), usable), 0.5 / _count(usable))
        return TargetUnits(jnp.log(mean) - _mean(outputs, usable), jnp.ones_like(mean))

    def curvature(self, output: Float[Array, " C"], target: Array) -> Float[Array, ""]:
        """Σ rate."""
        return jnp.sum(self._deviation(output) ** 2)

    def terms(self, output: Float[Array, " C"], target: Array) -> Float[Array, " C"]:
        """exp(f) − y f + log y!, by the deviance.

        With t = f − log y and Stirling's series that is y (eᵗ − 1 − t) + ½ log 2πy + 1/(12y) − …; terms of the size of
        y log y would leave nothing of their difference in float32.
        """
        y = target.astype(output.dtype)
        few = y < _STIRLING
        small, large = jnp.where(few, y, 0), jnp.where(few, _STIRLING, y)
        directly = jnp.exp(output) - small * output + jax.scipy.special.gammaln(small + 1)
        ratio = output - jnp.log(large)
        deviance = large * (jnp.expm1(ratio) - ratio)
        inverse = 1 / large
        remainder = inverse / 12 - inverse**3 / 360 + inverse**5 / 1260 - inverse**7 / 1680
        stirling = 0.5 * (LOG_2PI + jnp.log(large)) + remainder
        return jnp.where(few, directly, deviance + stirling)

    def root(self, output: Float[Array, " C"], target: Array) -> Float[Array, "C C"]:
        """diag √rate."""
        return jnp.diag(self._deviation(output))

    def whitened_score(self, output: Float[Array, " C"], target: Array) -> Float[Array, " C"]:
        """(rate − y)/√rate."""
        return (jnp.exp(output) - target) / self._deviation(output)

    def in_domain(self, target: Array, outputs: int) -> Bool[Array, ""]:
        """Whole numbers from 0 on."""
        return jnp.all((target >= 0) & jnp.isfinite(target) & (target == jnp.floor(target)))

    def targets(self, outputs: int) -> tuple[int, ...]:
        """A vector like the outputs."""
        return (outputs,)

    def _deviation(self, output: Array) -> Array:
        return jnp.sqrt(jnp.maximum(jnp.exp(output), _floor(output.dtype)))


@registered
@dataclasses.dataclass(frozen=True)
class HeteroscedasticGaussian(_Independent):
    """y ~ N(μ, diag σ²), outputs f = (μ, log σ²) concatenated, C = 2m for m targets.

    H is the Fisher information: S = diag(1/σ, 1/√2), u = (−z, (1 − z²)/√2) with z = (y − μ)/σ.

    The loss is not convex in both outputs, and falls without end as μ → y and σ → 0: its mode believes one observation
    that the noise is nothing. So an update looks for the Gaussian nearest to the posterior, in which μ's uncertainty
    counts as noise that may yet be (see :class:`UncertainGaussian`).
    """

    uncertain: ClassVar[bool] = True

    def under(self, covariance: Float[Array, "C C"], *, guarded: bool = True) -> "UncertainGaussian":
        """In closed form."""
        means, logs = jnp.split(jnp.diagonal(covariance), 2)
        half = len(means)
        cross = jnp.diagonal(covariance[:half, half:])
        return UncertainGaussian(means, logs, cross, _FAR if guarded else jnp.inf)

    def target_units(
        self, outputs: Float[Array, "B C"], targets: Array, usable: Bool[Array, " B"] | Bool[Array, "B m"]
    ) -> TargetUnits:
        """Of μ the mean and variance of y − μ; of log σ² the logarithm of that variance and 1."""
        mean, log_variance = jnp.split(outputs, 2, axis=1)
        shift, variance = _residual_units(targets - mean, usable)
        rise = jnp.log(variance) - _mean(log_variance, usable)
        return TargetUnits(jnp.concatenate([shift, rise]), jnp.concatenate([variance, jnp.ones_like(rise)]))

    def moments(self, output: Float[Array, " C"]) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
        """μ and σ²."""
        mean, log_variance = jnp.split(output, 2)
        return mean, jnp.exp(log_variance)

    def sample(self, key: Key[Array, ""], output: Float[Array, " C"]) -> Float[Array, " m"]:
        """μ + σ ε."""
        mean, log_variance = jnp.split(output, 2)
        return mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape, mean.dtype)

    def terms(self, output: Float[Array, " C"], target: Array) -> Float[Array, " m"]:
        """½(z² + log σ² + log 2π)."""
        standardised, log_variance = self._standardise(output, target)
        return 0.5 * (standardised**2 + log_variance + LOG_2PI)

    def curvature(self, output: Float[Array, " C"], target: Array) -> Float[Array, ""]:
        """Σ 1/σ² + ½."""
        return jnp.sum(jnp.exp(-jnp.split(output, 2)[1]) + 0.5)

    def root(self, output: Float[Array, " C"], target: Array) -> Float[Array, "C C"]:
        """diag(1/σ, 1/√2)."""
        log_variance = jnp.split(output, 2)[1]
        return jnp.diag(jnp.concatenate([jnp.exp(-log_variance / 2), jnp.full_like(log_variance, math.sqrt(0.5))]))

    def whitened_score(self, output: Float[Array, " C"], target: Array) -> Float[Array, " C"]:
        """(−z, (1 − z²)/√2)."""
        standardised, _ = self._standardise(output, target)
        return jnp.concatenate([-standardised, (1 - standardised**2) * math.sqrt(0.5)])

    def targets(self, outputs: int) -> tuple[int, ...]:
        """One target for each pair of outputs."""
        return (outputs // 2,)

    def check(self, outputs: int) -> None:
        """An even number of outputs."""
        if outputs % 2:
            raise ValueError(
                f"HeteroscedasticGaussian: expected an even number of outputs (means, then log variances), "
                f"got {outputs}; give the network one more"
            )

    def _standardise(self, output: Array, target: Array) -> tuple[Array, Array]:
        mean, log_variance = jnp.split(output, 2)
        return (target - mean) * jnp.exp(-log_variance / 2), log_variance


@registered
@dataclasses.dataclass(frozen=True)
class UncertainGaussian(_Independent):
    """:class:`HeteroscedasticGaussian` expected under outputs N((μ, s), V), s = log σ².

    E ℓ = ½ Σ q + s + log 2π with q = E z² = ((y − μ + V_μs)² + V_μμ) exp(−s + ½V_ss). From q > c on, c(1 + log q/c)
    stands for q: tails like those of Student's t with c degrees of freedom, so that one outlier raises s by no more
    than ½c times its variance. Gradient and root are those of that loss, the root with E 1/σ² for 1/σ².

    Attributes:
        means, logs, cross: V_μμ, V_ss and V_μs of each target.
        far: c.
    """

    means: Float[Array, "*B m"]
    logs: Float[Array, "*B m"]
    cross: Float[Array, "*B m"]
    far: ArrayLike

    def terms(self, output: Float[Array, " C"], target: Array) -> Float[Array, " m"]:
        """½(q + s + log 2π), q tempered where it is far."""
        _, square, _ = self._expected(output, target)
        far = square > self.far
        tail = jnp.where(far, self.far * jnp.log(jnp.where(far, square / self.far, 1)), 0)
        return 0.5 * (jnp.minimum(square, self.far) + tail + jnp.split(output, 2)[1] + LOG_2PI)

    def root(self, output: Float[Array, " C"], target: Array) -> Float[Array, "C C"]:
        """diag(√(w E 1/σ²), 1/√2) with w = min(1, c/q)."""
        inverse, square, _ = self._expected(output, target)
        first = jnp.sqrt(inverse * self._weight(square))
        return jnp.diag(jnp.concatenate([first, jnp.full_like(first, math.sqrt(0.5))]))

    def whitened_score(self, output: Float[Array, " C"], target: Array) -> Float[Array, " C"]:
        """(−√(w E 1/σ²)(y − μ + V_μs), (1 − min(q, c))/√2)."""
        inverse, square, difference = self._expected(output, target)
        first = jnp.sqrt(inverse * self._weight(square))
        return jnp.concatenate([-first * difference, (1 - jnp.minimum(square, self.far)) * math.sqrt(0.5)])

    def targets(self, outputs: int) -> tuple[int, ...]:
        """One target for each pair of outputs."""
        return (outputs // 2,)

    def _expected(self, output: Array, target: Array) -> tuple[Array, Array, Array]:
        """E 1/σ², q, and y − μ + V_μs."""
        mean, log_variance = jnp.split(output, 2)
        inverse = jnp.exp(-log_variance + self.logs / 2)
        difference = target - mean + self.cross
        return inverse, (difference**2 + self.means) * inverse, difference

    def _weight(self, square: Array) -> Array:
        return jnp.where(square > self.far, self.far / jnp.where(square > self.far, square, 1), 1)
