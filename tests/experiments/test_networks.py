"""Networks of the experiments against what they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from experiments.continual.networks import _Conv, lenet


@pytest.mark.parametrize(("size", "padding", "stride"), [(3, 1, 1), (3, 1, 2), (5, 2, 1), (5, 0, 1)])
def test_shifted_images_make_a_convolution(size: int, padding: int, stride: int) -> None:
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, kernel = rng.normal(size=(2, 9, 8, 3)), rng.normal(size=(size, size, 3, 4))
        around = [(padding, padding)] * 2
        published = linen.Conv(4, (size, size), stride, padding=around, param_dtype=float)
        params = {"kernel": kernel, "bias": rng.normal(size=4)}
        ours = params | {"kernel": kernel.reshape(-1, 4)}
        found = jax.jit(_Conv(4, stride, size=size, padding=padding).apply)({"params": {"Dense_0": ours}}, x)
        np.testing.assert_allclose(found, jax.jit(published.apply)({"params": params}, x), rtol=1e-12, atol=1e-12)


def test_lenet_has_as_many_parameters_as_published() -> None:
    params = jax.eval_shape(lenet(10).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 61_706
    images = jax.ShapeDtypeStruct((1, 784), jnp.float32)
    assert jax.eval_shape(lenet(10).apply, params, images).shape == (1, 10)
