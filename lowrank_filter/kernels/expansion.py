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
    # A second zeroing, after which no derivative of an example that does not count can be anything but finite.
    outputs = jnp.where(counts[:, None], outputs, 0)
    targets = zero_where_masked(counts, batch.y)
    scale = jax.lax.rsqrt(jnp.asarray(temperature, outputs.dtype))
    excess = jax.vmap(likelihood.normaliser)(outputs)
    root = zero_where_masked(counts, jax.vmap(likelihood.root)(outputs, targets))
    score = zero_where_masked(counts, jax.vmap(likelihood.whitened_score)(outputs, targets))
    weight = None
    if threshold is not None:
        weight = 1 / (1 + jnp.sum(jnp.square(score / jnp.asarray(threshold, score.dtype)), axis=1))
        scale = scale * jnp.sqrt(weight)
        root, score = root * scale[:, None, None], score * scale[:, None]
    else:
        root, score = root * scale, score * scale
    return Local(
        zero_where_masked(counts, jax.vmap(likelihood.nll)(outputs, targets)) * scale**2,
        None if excess is None else zero_where_masked(counts, excess) * scale**2,
        root,
        score,
        counts,
        batch.mask & ~counts,
        weight,
    )
