"""The annotations of shapes are checked while the tests run."""

import jax.numpy as jnp
import jaxtyping
import pytest

from lowrank_filter.algebra import small_matrices


def test_a_wrong_shape_is_caught():
    with pytest.raises(jaxtyping.TypeCheckError):
        small_matrices.logdet(jnp.ones((2, 3)))
