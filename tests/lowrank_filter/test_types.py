"""The annotations of shapes are checked while the tests run."""

import jax.numpy as jnp
import jaxtyping
import pytest

from lowrank_filter.algebra import cholesky


def test_a_wrong_shape_is_caught():
    with pytest.raises(jaxtyping.TypeCheckError):
        cholesky.logdet(jnp.ones((2, 3)))
