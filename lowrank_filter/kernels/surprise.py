"""How improbable observations were under the prediction: the same number for every likelihood, 0 on average."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lowrank_filter.algebra import small_matrices, tree
from lowrank_filter.kernels.examples import Batch
from lowrank_filter.kernels.expansion import Local
from lowrank_filter.kernels.likelihoods import Likelihood

_SURE = 1e4


def of_classes(
    likelihood: Likelihood, outputs: Float[Array, "B C"], variance: Float[Array, "B C"], batch: Batch, local: Local
) -> Float[Array, ""]:
    """1 − 2 P(a label less probable, or by half one as probable), the mean over the labels that count.

    Probabilities are those at f̂/√(1 + πv/8) (MacKay 1992, "The evidence framework applied to classification networks").
    """
    # Outputs as large as this are sure; beyond, what is fused loses the maximum that a softmax subtracts.
    wide = jnp.clip(outputs * jax.lax.rsqrt(1 + np.pi / 8 * variance), -_SURE, _SURE)
    p = jax.vmap(likelihood.moments)(wide)[0]
    if likelihood.targets(outputs.shape[1]) == ():
        of_each, labels = p[:, None], batch.y[:, None]
    else:
        of_each, labels = jnp.stack([1 - p, p], axis=-1), batch.y
    own = jnp.take_along_axis(of_each, labels.astype(int)[..., None], axis=-1, mode="clip")
    below = jnp.sum(of_each * ((of_each < own) + 0.5 * (of_each == own)), axis=-1)
    counts = local.counts[:, None] & (jnp.ones_like(labels, bool) if batch.observed is None else batch.observed)
    total = jnp.sum(jnp.where(counts, 1 - 2 * below, 0))
    return jax.lax.stop_gradient(total / jnp.maximum(jnp.sum(counts), 1))


def of_outputs(local: Local, covariance: Float[Array, "n n"]) -> Float[Array, ""]:
    """Of targets that are no classes, by their whitened residuals u at f̂: ε = uᵀ(I + SᵀΣS)⁻¹u."""
    size, outputs, width = local.root.shape
    blocks = covariance.reshape(size, outputs, size, outputs)
    root = local.root.astype(covariance.dtype)
    gram = jnp.einsum("bcr,bcde,des->brds", root, blocks, root, precision=tree.HIGHEST)
    lower = small_matrices.cholesky_plus_identity(gram.reshape(size * width, size * width))
    return of_residuals(jnp.sum(small_matrices.solve_lower(lower, local.score.ravel()) ** 2), local.residuals)


def of_residuals(unexplained: Float[Array, ""], count: Float[Array, ""]) -> Float[Array, ""]:
    """1 − 2 P(χ²ₙ > ε) = erf(z/√2), (ε/n)^⅓ = 1 − 2/9n + z √(2/9n) (Wilson & Hilferty 1931)."""
    size = jnp.maximum(count, 1)
    spread = 2 / (9 * size)
    z = (jnp.cbrt(unexplained / size) - (1 - spread)) / jnp.sqrt(spread)
    return jax.lax.stop_gradient(jnp.where(count > 0, jax.scipy.special.erf(z / np.sqrt(2)), 0))
