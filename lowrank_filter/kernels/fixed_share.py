"""Which of two predictions is the better one, where that may change at any step (Herbster & Warmuth 1998)."""

import jax
from jaxtyping import Array, Float


def fixed_share(doubt: Float[Array, ""], evidence: Array, share: float) -> Float[Array, ""]:
    """The probability of the first after ``evidence`` log p₁ − log p₂; a ``share`` of the steps exchanges them."""
    found = share + (1 - 2 * share) * jax.nn.sigmoid(jax.scipy.special.logit(doubt) + evidence)
    return found.astype(doubt.dtype)
