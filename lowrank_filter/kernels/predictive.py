"""What a belief says about outputs."""

from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lowrank_filter.algebra import widths
from lowrank_filter.algebra.diag_low_rank import Joined
from lowrank_filter.algebra.example_gradients import Columns, Stack
from lowrank_filter.common import checks
from lowrank_filter.common.compiled import compiled
from lowrank_filter.kernels.belief import Belief, check_belief, learned
from lowrank_filter.kernels.coupling import check_uncoupled
from lowrank_filter.kernels.examples import Apply, as_inputs, check_likelihood, in_pieces, output_count
from lowrank_filter.kernels.likelihoods import Likelihood
from lowrank_filter.kernels.linearisation import Linearisation, identity
from lowrank_filter.kernels.prediction import Prediction

_OF_TARGETS = ("moments", "probabilities", "log_prob", "quantile", "sample", "sample_targets")


class Predictive(NamedTuple):
    """Gaussian over the outputs of each example.

    Attributes:
        mean: f(x; m), [B, C].
        covariance: J P⁻¹ Jᵀ of each example, [B, C, C]; positive semi-definite up to rounding.
    """

    mean: Float[Array, "B C"]
    covariance: Float[Array, "B C C"]

    def __getattr__(self, name: str) -> Any:
        """What a prediction of targets has is asked for where that is."""
        if name in _OF_TARGETS:
            raise AttributeError(
                f"{name}: expected a Prediction, got a Predictive, that of outputs; give likelihood= to predictive"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


@overload
def predictive(belief: Belief, apply_fn: Apply, x: Any, *, batch_size: int = ...) -> Predictive: ...


@overload
def predictive(
    belief: Belief, apply_fn: Apply, x: Any, *, likelihood: Likelihood, batch_size: int = ...
) -> Prediction: ...


@checks.all_given
def predictive(
    belief: Belief, apply_fn: Apply, x: Any, *, likelihood: Likelihood | None = None, batch_size: int = 32
) -> Predictive | Prediction:
    """Mean and covariance of the outputs, linearised at the belief's mean: N(f(x; m), J P⁻¹ Jᵀ).

    The likelihood's own noise is not included, unless a ``likelihood`` is given. A low-rank precision is met through
    the network's layers, k·D operations an example; where the data have said so much that this loses digits, and in
    other structures, a covariance is the Gram matrix of whitened Jacobian rows, C·k·D.

    Args:
        apply_fn: (params, x) → outputs [B, C].
        x: inputs, an array or pytree with leading axis B. One that is not finite leaves NaN where its own example is
            predicted, and nothing elsewhere (labels drawn for it mean nothing).
        likelihood: of a target given the outputs. The result is then a :class:`Prediction` of the targets.
        batch_size: examples that are worked on at once, static; the last resort holds C·D numbers for each.

    Raises:
        TypeError: belief, apply_fn or inputs are of the wrong kind.
        ValueError: an empty batch, outputs that are not [B, C], or a batch size below 1.

    Examples:
        >>> apply_fn = lambda weights, x: x @ weights[:, None]
        >>> belief = lf.init(jnp.array([1.0, 2.0]), precision=4.0, rank=0)
        >>> mean, covariance = lf.predictive(belief, apply_fn, jnp.eye(2))
        >>> print(mean[:, 0], covariance[:, 0, 0].round(3))
        [1. 2.] [0.25 0.25]
    """
    check_belief(belief)
    checks.count("batch_size", batch_size, minimum=1)
    x = as_inputs(x)
    outputs = output_count(belief.mean, apply_fn, x)
    if likelihood is not None:
        check_likelihood(likelihood)
        likelihood.check(outputs)
    found = compiled(_predictive, belief, x, apply_fn=apply_fn, outputs=outputs, batch_size=batch_size)
    return found if likelihood is None else Prediction(found.mean, found.covariance, likelihood)


def _predictive(belief: Belief, x: Any, *, apply_fn: Apply, outputs: int, batch_size: int) -> Predictive:
    belief, apply_fn, _ = learned(belief, apply_fn)
    dtype = widths.common(belief, x)
    belief, x = widths.cast((belief, jax.tree.map(jnp.asarray, x)), dtype)
    apply_fn = widths.outputs_in(dtype, apply_fn)
    joined = Joined.of(belief.precision, belief.mean, columns=outputs)
    buffer, precision = joined.buffer, joined.precision(belief.precision)
    mean, apply_fn = buffer.vector(belief.mean), buffer.function(apply_fn)
    check_uncoupled(apply_fn, mean, x)
    linear = Linearisation(apply_fn, mean, x, 1)

    def one(example: Any) -> tuple[Array, Columns]:
        found, columns = linear.columns(jax.tree.map(lambda leaf: leaf[None], example), identity)
        return found[0], Stack(columns.stack()) if buffer.joined else columns

    def some(x: Any) -> Predictive:
        mean, columns = jax.vmap(one)(x)
        return Predictive(mean, precision.covariances(columns))

    return in_pieces(some, x, batch_size)
