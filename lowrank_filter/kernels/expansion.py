"""The likelihood of a batch to second order in the network's outputs: what an example weighs and where it pulls."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lowrank_filter.kernels.examples import Batch, valid, zero_where_masked
from lowrank_filter.kernels.likelihoods import Likelihood


class Local(NamedTuple):
    """The likelihood of each example to second order in the network's outputs.

    Attributes:
        loss: −log p(yᵢ | fᵢ) [B]; zero for examples that do not count.
        excess: loss − ½‖uᵢ‖² [B] where the likelihood has it in closed form, else None.
        root: Sᵢ [B, C, r].
        score: uᵢ [B, r], with Sᵢuᵢ = ∇_f loss.
        counts: [B], which examples count.
        invalid: [B], unmasked examples left out because their inputs, outputs or targets are not valid.
        weight: [B], what each example counts for where outliers count less, else None.
    """

    loss: Float[Array, " B"]
    excess: Float[Array, " B"] | None
    root: Float[Array, "B C r"]
    score: Float[Array, "B r"]
    counts: Bool[Array, " B"]
    invalid: Bool[Array, " B"]
    weight: Float[Array, " B"] | None = None


def localise(
    likelihood: Likelihood, outputs: Float[Array, "B C"], batch: Batch, temperature: Any, threshold: Any = None
) -> Local:
    """The likelihood's loss, root and score at the outputs, divided by the temperature; zero where nothing counts.

    With a threshold c, an example weighs w = 1/(1 + ‖u‖²/c²): its temperature is divided by that, so ‖√w u‖ < c.
    """
    counts = batch.usable & jax.vmap(valid, in_axes=(None, 0, 0))(likelihood, outputs, batch.y)
    weight = None
    if threshold is not None:
        score = _expanded(likelihood, outputs, batch.y, counts, jnp.ones((), outputs.dtype)).score
        weight = 1 / (1 + jnp.sum(jnp.square(score / jnp.asarray(threshold, score.dtype)), axis=1))
    found = expand(likelihood, outputs, batch.y, counts, temperature, weight)
    return found._replace(invalid=batch.mask & ~counts)


def expand(
    likelihood: Likelihood,
    outputs: Float[Array, "B C"],
    targets: Array,
    counts: Bool[Array, " B"],
    temperature: Any,
    weight: Float[Array, " B"] | None,
) -> Local:
    """The same at outputs where nobody looks whether they are valid, and with the weights that examples were given."""
    scale = jax.lax.rsqrt(jnp.asarray(temperature, outputs.dtype))
    if weight is not None:
        scale = scale * jnp.sqrt(weight)
    return _expanded(likelihood, outputs, targets, counts, scale)._replace(weight=weight)


def _expanded(
    likelihood: Likelihood, outputs: Float[Array, "B C"], targets: Array, counts: Bool[Array, " B"], scale: Array
) -> Local:
    # A second zeroing, after which no derivative of an example that does not count can be anything but finite.
    outputs = jnp.where(counts[:, None], outputs, 0)
    targets = zero_where_masked(counts, targets)
    excess = jax.vmap(likelihood.normaliser)(outputs)
    return Local(
        zero_where_masked(counts, jax.vmap(likelihood.nll)(outputs, targets)) * scale**2,
        None if excess is None else zero_where_masked(counts, excess) * scale**2,
        zero_where_masked(counts, jax.vmap(likelihood.root)(outputs, targets)) * scale.reshape(-1, 1, 1),
        zero_where_masked(counts, jax.vmap(likelihood.whitened_score)(outputs, targets)) * scale.reshape(-1, 1),
        counts,
        jnp.zeros_like(counts),
    )
