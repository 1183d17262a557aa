"""A prior precision that is the network's own: known outputs, whatever the width of its layers."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike

from lowrank_filter.algebra import tree, widths
from lowrank_filter.algebra.partition import layout
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.common import checks
from lowrank_filter.kernels.examples import Apply, Examples, as_inputs, check_model, output_count, prepare
from lowrank_filter.kernels.ggn import curvature
from lowrank_filter.kernels.likelihoods import Gaussian

_MICRO_BATCH = 32


@dataclasses.dataclass(frozen=True)
class Scaled:
    """What :func:`scaled` returns: a prior precision that waits for its parameters."""

    apply_fn: Apply
    x: Any
    variance: ArrayLike
    per_layer: bool

    def of(self, params: Tree, whole: Callable[[Tree], Tree] = lambda params: params) -> Tree:
        """One number for each of the parameters that are learned; ``whole`` puts the others back."""
        dtype = widths.common(params, self.x)
        params, x = widths.cast((params, self.x), dtype)
        apply_fn = widths.outputs_in(dtype, lambda some, x: self.apply_fn(whole(some), x))
        outputs = output_count(params, apply_fn, x)
        likelihood, size = Gaussian(1.0), len(jax.tree.leaves(x)[0])
        # With a unit Gaussian, S is the identity: diag(Σ JᵢᵀJᵢ) sums to the trace of J Jᵀ.
        batch = prepare(params, apply_fn, likelihood, Examples(x, jnp.zeros((size, outputs), dtype)))
        squares = curvature(params, apply_fn, likelihood, batch, 1.0, _MICRO_BATCH).diagonal()
        scale = 1 / (jnp.maximum(jnp.sum(batch.usable), 1) * outputs * self.variance)
        if not self.per_layer:
            return tree.broadcast(_precision(tree.total(jnp.asarray, squares) * scale), params)
        where = layout(params, None, "layer")
        parts = where.split(squares)
        shares = [jnp.sum(part) * scale * len(parts) for part in parts]
        return where.join([jnp.full_like(p, _precision(share)) for p, share in zip(parts, shares, strict=True)])


def scaled(apply_fn: Apply, x: Any, *, variance: ArrayLike = 10.0, per_layer: bool = False) -> Scaled:
    """A prior precision under which the outputs have a known variance: ``lf.init(params, lf.scaled(apply_fn, x), …)``.

    precision = mean diag(J Jᵀ)/variance, over the examples and outputs, with J the Jacobian at ``params``: an output of
    the network linearised there then has that variance on average.

    Args:
        apply_fn: (params, x) → outputs [B, C].
        x: a first batch of inputs, no targets; a hundred are plenty.
        variance: of the outputs, in their squared units. The default lets logits reach ±10; for regression, the
            variance of the targets.
        per_layer: whether each layer has its own precision, so that all contribute equally to that variance.

    Raises:
        TypeError: apply_fn or inputs are of the wrong kind.
        ValueError: ``variance`` is not positive.

    Examples:
        >>> apply_fn = lambda weights, x: x @ weights[:, None]
        >>> belief = lf.init(jnp.zeros(2), lf.scaled(apply_fn, jnp.eye(2), variance=4.0), rank=0)
        >>> print(belief.precision.diag)
        [0.25 0.25]
    """
    check_model(apply_fn, Gaussian(1.0))
    checks.scalar("variance", variance)
    checks.flag("per_layer", per_layer)
    return Scaled(apply_fn, as_inputs(x), variance, per_layer)


def _precision(value: Any) -> Any:
    """One where the outputs do not depend on the parameters at all."""
    return jnp.where((value > 0) & jnp.isfinite(value), value, 1)
