"""The one rule for dtypes.

A kernel computes in the promoted type of the floating-point arrays that it is given (belief, parameters, inputs), at
least float32; what the network returns is cast to it. Beliefs, sites and parameters come back in the dtypes in which
they came, so that a stream goes on as it began; evidence, losses and predictions are in the type computed in.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def common(*trees: Tree) -> Any:
    """The dtype to compute in."""
    dtypes = {jax.dtypes.canonicalize_dtype(leaf.dtype) for leaf in jax.tree.leaves(trees) if _floating(leaf)}
    return jnp.result_type(jnp.float32, *dtypes)


def cast(tree: Tree, dtype: Any) -> Tree:
    """Floating-point arrays in one dtype; what else there is stays."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype) if _floating(leaf) else leaf, tree)


def like(tree: Tree, other: Tree) -> Tree:
    """Each array in the dtype that another tree has in its place."""
    return jax.tree.map(lambda leaf, kept: leaf.astype(kept.dtype), tree, other)


def outputs_in(dtype: Any, apply_fn: Callable) -> Callable:
    """The network, with outputs of one dtype; traced once for each shape, however many kernels ask."""
    return jax.jit(lambda params, x: apply_fn(params, x).astype(dtype), inline=True)


def _floating(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
