"""A prior precision that is the network's own: known outputs, whatever the width of its layers."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from lowrank_filter.algebra import tree, widths
from lowrank_filter.algebra.partition import layout
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.common import checks
from lowrank_filter.common.compiled import compiled
from lowrank_filter.kernels.examples import (
    TARGETS,
    Apply,
    Examples,
    as_inputs,
    as_mask,
    check_model,
    check_rows,
    check_stream,
    output_count,
    prepare,
)
from lowrank_filter.kernels.ggn import curvature
from lowrank_filter.kernels.likelihoods import Gaussian, Likelihood
from lowrank_filter.kernels.target_units import in_target_units

_MICRO_BATCH = 32
# Inputs and directions by which it is told whether a leaf moves outputs as far as its slope says, and how many times
# less it must be for the slope not to be believed: saturating units make it ten.
_FEW, _DIRECTIONS, _FAR_FROM_LINEAR = 32, 4, 100.0


@dataclasses.dataclass(frozen=True)
class Scaled:
    """What :func:`scaled` returns: a prior precision that waits for its parameters."""

    apply_fn: Apply
    x: Any
    y: Any
    mask: Any
    likelihood: Likelihood | None
    variance: ArrayLike
    per_layer: bool

    def of(self, params: Tree, whole: Callable[[Tree, Tree], Tree], others: Tree) -> Tree:
        """One number for each of the parameters that are learned; ``whole`` puts them among the others."""
        network = self.apply_fn
        outputs = output_count((params, others), lambda given, x: network(whole(*given), x), self.x)
        y, size = None, len(jax.tree.leaves(self.x)[0])
        if self.y is not None and self.likelihood is not None:
            y = self._targets(outputs, size)
        elif self.mask is not None:
            checks.shape("mask", self.mask, (size,), "one boolean per example")
        arguments = params, others, self.x, y, self.mask, self.likelihood, self.variance
        return compiled(_scaled, *arguments, network=network, whole=whole, per_layer=self.per_layer)

    def _targets(self, outputs: int, size: int) -> Array:
        likelihood: Any = self.likelihood
        check_rows(self.y, size)
        return jnp.asarray(check_stream(likelihood, outputs, self.y, self.mask))


def scaled(
    apply_fn: Apply,
    x: Any,
    y: Any = None,
    *,
    mask: Any = None,
    likelihood: Likelihood | None = None,
    variance: ArrayLike | None = None,
    per_layer: bool = False,
) -> Scaled:
    """A prior precision under which the outputs have a known variance: ``lf.init(params, lf.scaled(apply_fn, x), …)``.

    precision = mean diag(J Jᵀ)/variance, over the examples and outputs, with J the Jacobian at ``params``: an output of
    the network linearised there then has that variance on average. Where an array of parameters has most of that and,
    under this prior, moves the outputs a hundred times less than J says (it feeds a normalisation of what does not
    vary), it counts for what it does.

    With targets that is the prior for *standardised* ones, brought into their units: outputs that a Gaussian
    likelihood asks to be at δ on average about where they are, and to vary by σ², have that prior as (f − δ)/σ. So a
    stream of y and one of 1,000 y predict alike. It is precision/σ² for parameters in which outputs are affine (a last
    layer), a variance larger by δ² for those that move an output by as much for every input (its bias), and the
    precision itself for others. See :mod:`target_units`.

    Args:
        apply_fn: (params, x) → outputs [B, C].
        x: a first batch of inputs; a hundred are plenty.
        y: their targets. Missing numbers are left out; labels and counts have to be in the likelihood's domain.
        mask: which examples count, or which of their targets.
        likelihood: of them: it says what targets ask of outputs (:meth:`Likelihood.target_units`). Classes ask nothing.
        variance: of the outputs, in their squared units, with targets in units of σ². By default what the likelihood
            says: with targets its ``prior_variance_with_targets``, 1 of :class:`Gaussian`, so that outputs vary as
            those do; without, or where that is None, its ``prior_variance``: π²/3 of :class:`Bernoulli`, by which
            probabilities are uniform, 10 of others and without a likelihood.
        per_layer: whether each layer has its own precision, so that all contribute equally to that variance.

    Raises:
        TypeError: apply_fn, likelihood or data are of the wrong kind.
        ValueError: ``variance`` is not positive, targets are given without a likelihood or in another shape.

    Examples:
        >>> apply_fn = lambda weights, x: x @ weights[:, None]
        >>> belief = lf.init(jnp.zeros(2), lf.scaled(apply_fn, jnp.eye(2), variance=4.0), rank=0)
        >>> print(belief.precision.diag)
        [0.25 0.25]
    """
    check_model(apply_fn, Gaussian(1.0) if likelihood is None else likelihood)
    if variance is None:
        says = Likelihood if likelihood is None else likelihood
        with_targets = None if y is None else says.prior_variance_with_targets
        variance = says.prior_variance if with_targets is None else with_targets
    checks.scalar("variance", variance)
    checks.flag("per_layer", per_layer)
    if y is not None:
        if likelihood is None:
            raise ValueError("likelihood: expected one with y, got None; give that of the targets, or leave y out")
        y = checks.array("y", y, TARGETS)
    mask = None if mask is None else as_mask(mask)
    return Scaled(apply_fn, as_inputs(x), y, mask, likelihood, variance, per_layer)


def _scaled(
    params: Tree,
    others: Tree,
    x: Any,
    y: Array | None,
    mask: Array | None,
    likelihood: Likelihood | None,
    variance: Array,
    *,
    network: Apply,
    whole: Callable[[Tree, Tree], Tree],
    per_layer: bool,
) -> Tree:
    dtype = widths.common(params, x)
    params, x = widths.cast((params, x), dtype)
    apply_fn = widths.outputs_in(dtype, lambda some, x: network(whole(some, others), x))
    size, outputs = jax.eval_shape(apply_fn, params, x).shape
    # With a unit Gaussian, S is the identity: diag(Σ JᵢᵀJᵢ) sums to the trace of J Jᵀ.
    unit = Gaussian(1.0)
    some = mask if mask is None or mask.ndim == 1 else jnp.any(mask, axis=1)
    batch = prepare(params, apply_fn, unit, Examples(x, jnp.zeros((size, outputs), dtype), some))
    squares = curvature(params, apply_fn, unit, batch, 1.0, _MICRO_BATCH).diagonal()
    scale = 1 / (jnp.maximum(jnp.sum(batch.usable), 1) * outputs * variance)
    few = jax.tree.map(lambda leaf: leaf[:_FEW], batch.x)
    squares = _believed(squares, params, others, few, scale, variance, network=network, whole=whole)
    if per_layer:
        where = layout(params, None, "layer")
        parts = where.split(squares)
        shares = [jnp.sum(part) * scale * len(parts) for part in parts]
        found = where.join([jnp.full_like(p, _precision(share)) for p, share in zip(parts, shares, strict=True)])
    else:
        found = tree.broadcast(_precision(tree.total(jnp.asarray, squares) * scale), params)
    if y is None or likelihood is None:
        return found
    return _for_targets(found, params, likelihood, Examples(x, y, mask), apply_fn=apply_fn)


def _believed(
    squares: Tree,
    params: Tree,
    others: Tree,
    x: Any,
    scale: Array,
    variance: ArrayLike,
    *,
    network: Apply,
    whole: Callable[[Tree, Tree], Tree],
) -> Tree:
    """The squares of J; of a leaf whose prior moves the outputs far less than J says, as much as it does move them.

    A normalisation of what does not vary, as of a blank patch of an image, has a slope of thousands for a thousandth of
    the way, and would hold all other parameters to the precision that it asks for. So the largest leaf is looked at,
    under the prior that results, as long as it says more than all others and less is true.
    """
    given = params, others, x, squares, scale, variance
    params, others, x, looked_at, scale, variance = jax.lax.stop_gradient(given)
    leaves, structure = jax.tree.flatten(params)
    # Precisions by which each leaf alone would give the outputs their variance.
    each = jnp.stack([jnp.sum(leaf) for leaf in jax.tree.leaves(looked_at)]) * scale

    def outputs(leaves: list) -> Array:
        return network(whole(structure.unflatten(leaves), others), x).astype(each.dtype)

    here = outputs(leaves)

    ends = np.cumsum([0, *(leaf.size for leaf in leaves)])

    def moved(chosen: Array, length: Array, key: Array) -> Array:
        signs = jax.random.rademacher(key, (int(ends[-1]),), here.dtype)
        steps = [one * length * signs[i:j] for one, i, j in zip(chosen, ends[:-1], ends[1:], strict=True)]
        there = [leaf + step.reshape(leaf.shape).astype(leaf.dtype) for leaf, step in zip(leaves, steps, strict=True)]
        return jnp.mean(jnp.square(outputs(there) - here))

    def look(state: tuple) -> tuple:
        count, shares, _ = state
        now = each * shares
        precision, largest = _precision(jnp.sum(now)), jnp.argmax(now)
        chosen = jnp.arange(len(leaves)) == largest
        keys = jax.random.split(jax.random.key(0), _DIRECTIONS)
        came = jnp.mean(jax.lax.map(lambda key: moved(chosen, jax.lax.rsqrt(precision), key), keys))
        share = came * precision / (each[largest] * variance)
        wrong = (now[largest] > 0.5 * jnp.sum(now)) & (share * _FAR_FROM_LINEAR < 1)
        return count + 1, jnp.where(chosen & wrong, share, shares), wrong

    def unfinished(state: tuple) -> Array:
        return state[2] & (state[0] < len(leaves) + 4)

    shares = jax.lax.while_loop(unfinished, look, (0, jnp.ones_like(each), jnp.ones((), bool)))[1]
    return jax.tree.map(lambda leaf, share: leaf * share, squares, structure.unflatten(list(shares)))


def _for_targets(precision: Tree, params: Tree, likelihood: Likelihood, examples: Examples, *, apply_fn: Apply) -> Tree:
    batch = prepare(params, apply_fn, likelihood, examples)
    usable = batch.usable if batch.observed is None else batch.usable[:, None] & batch.observed
    units = likelihood.target_units(apply_fn(params, batch.x), batch.y, usable)
    return precision if units is None else in_target_units(precision, units, params, apply_fn, batch)


def _precision(value: Any) -> Any:
    """One where the outputs do not depend on the parameters at all."""
    return jnp.where((value > 0) & jnp.isfinite(value), value, 1)
