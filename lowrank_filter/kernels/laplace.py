"""The Laplace update: the belief after training ended somewhere (LR-LGF, arXiv 2410.06800)."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike

from lowrank_filter.algebra import widths
from lowrank_filter.algebra.diag_low_rank import Joined
from lowrank_filter.algebra.precision import Misfit, Precision
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.common import checks
from lowrank_filter.common.compiled import compiled
from lowrank_filter.kernels.belief import Belief, check_belief, check_frozen, learned
from lowrank_filter.kernels.deprecated import with_choices
from lowrank_filter.kernels.examples import Apply, Examples, check_examples, check_model, in_pieces, prepare
from lowrank_filter.kernels.expansion import losses
from lowrank_filter.kernels.ggn import curvature
from lowrank_filter.kernels.likelihoods import Likelihood
from lowrank_filter.kernels.update import Info


@with_choices
@checks.all_given
def laplace_update(
    belief: Belief,
    params: Tree,
    apply_fn: Apply,
    likelihood: Likelihood,
    x: Any,
    y: Any = None,
    *,
    temperature: ArrayLike = 1.0,
    curvature_scale: ArrayLike = 1.0,
    batch_size: int = 1000,
    iterations: int | None = None,
    roots: int | None = None,
    mask: Any = None,
    weights: Any = None,
) -> tuple[Belief, Info]:
    """The belief centred where training on loss/λ + :func:`penalty` ended, with the curvature found there.

        m⁺ = θ*,   P⁺ = P + (α/λ) Σᵢ JᵢᵀHᵢJᵢ at θ*, truncated as the structure says (:class:`LowRank`)
        log evidence = −Σℓᵢ/λ − ½(θ* − m)ᵀP(θ* − m) + ½ log det P − ½ log det P⁺

    The generalised Gauss-Newton matrix is met only in products, micro-batched: memory O(k·D + batch) whatever
    the number of examples. Its diagonal, where the structure keeps that, costs one gradient per example and output.

    Args:
        belief: the predicted belief, the one that the penalty was taken from.
        params: θ*, where training ended; frozen parameters where they were.
        apply_fn: (params, x) → outputs [B, C].
        likelihood: of a target given the outputs of one example.
        x, y, mask, weights: the examples, as in :func:`update`; any number of them. Or, for data that do not fit into
            memory, an iterable of batches (x, y), (x, y, mask) or (x, y, mask, weights) in place of x, and no y: each
            adds its curvature and is truncated before the next comes, which leaves other directions than all at once
            (none with ``rank=0``). A batch of another size compiles again.
        temperature: λ > 0, as in training.
        curvature_scale: α > 0: this task's curvature counts α times in what follows. Above 1 it buys retention
            (10 … 30 for task sequences), and the log evidence is then no longer that of the model.
        batch_size: examples per micro-batch, static.
        iterations: Krylov blocks after the first, static, of max(4, r) vectors or as many as the rank takes; r is the
            number of roots of the likelihood (the outputs). By default 3k vectors, after which the eigenvalues of
            trained networks are within 1e-3; more are more accurate in a flat spectrum.
        roots: n, static: the diagonal and Kronecker factors of the curvature come from n random combinations (signs) of
            each example's root columns in place of all, unbiased: n gradients an example, for hundreds of outputs. The
            low-rank part stays exact. Noise in P⁺ biases log det P⁺ low, the log evidence high, by nats.
            The signs are the same in every call. None, or as many as there are, takes all columns.

    Returns:
        The posterior belief, and :class:`Info`.

    Raises:
        TypeError: apply_fn, likelihood or labels are of the wrong kind.
        ValueError: shapes, options or visible values are wrong; the message says which.

    Examples:
        >>> apply_fn = lambda weights, x: x @ weights[:, None]
        >>> belief, x, y = lf.init(jnp.zeros(2), rank=2), jnp.eye(2), jnp.array([2.0, 4.0])
        >>> trained = jnp.array([1.0, 2.0])  # where ½‖y − w‖² + ½‖w‖² is least
        >>> belief, info = lf.laplace_update(belief, trained, apply_fn, lf.Gaussian(1.0), x, y)
        >>> print(lf.inverse_diagonal(belief.precision).round(3))
        [0.5 0.5]
    """
    check_belief(belief)
    checks.count("batch_size", batch_size, minimum=1)
    if iterations is not None:
        checks.count("iterations", iterations, minimum=0)
    if roots is not None:
        checks.count("roots", roots, minimum=1)
    checks.scalar("temperature", temperature)
    checks.scalar("curvature_scale", curvature_scale)
    checks.same_shapes("params", params, belief.mean)
    checks.finite("params", params)
    check_frozen(belief, params)
    check_model(apply_fn, likelihood)

    def absorb(belief: Belief, *batch: Any) -> tuple[Belief, Info, Misfit]:
        examples = check_examples(params, apply_fn, likelihood, *batch)
        return compiled(
            *(_laplace_update, belief, params, likelihood, examples, temperature, curvature_scale),
            apply_fn=apply_fn,
            batch_size=batch_size,
            iterations=iterations,
            roots=roots,
        )

    if y is not None:
        return absorb(belief, x, y, mask, weights)[:2]
    if mask is not None or weights is not None:
        raise ValueError("mask, weights: expected y beside them, got none; in batches they are (x, y, mask, weights)")
    return _in_turn(absorb, belief, _batches(x))


def _in_turn(
    absorb: Callable[..., tuple[Belief, Info, Misfit]], belief: Belief, batches: Iterator[tuple]
) -> tuple[Belief, Info]:
    """One batch after the other; after the first the belief lies at θ*, so that penalties and ½ log det P add up."""
    total = left_out = None
    for index, batch in enumerate(batches):
        try:
            belief, info, misfit = absorb(belief, *batch)
        except (TypeError, ValueError) as error:
            # Subclasses, of which JAX has some, need not take a message.
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"x[{index}], a batch: {error}") from error
        if total is None or left_out is None:
            total, left_out = info, misfit.left_out
            continue
        share = Misfit(left_out + misfit.left_out, left_out + misfit.whole).share
        left_out = left_out + misfit.left_out
        total = Info(
            compiled(_sum, total.site, info.site, belief),
            total.log_evidence + info.log_evidence,
            total.loss + info.loss,
            share,
            total.invalid + info.invalid,
        )
    if total is None:
        raise ValueError("x: expected at least one batch, got none; give arrays x and y, or (x, y) for each batch")
    return belief, total


def _sum(first: Any, second: Any, belief: Belief) -> Precision:
    joined = Joined.of(first, belief.mean)
    first, second, whole = (joined.precision(part) for part in (first, second, belief.precision))
    return joined.precision_back(first.add(second, reference=whole)[0])


def _batches(x: Any) -> Iterator[tuple]:
    if hasattr(x, "dtype") or isinstance(x, str | bytes | Mapping) or not isinstance(x, Iterable):
        raise TypeError(
            f"y: expected targets, got None beside x of {type(x).__name__}; give y, or in place of x an iterable of "
            "batches (x, y)"
        )
    for index, batch in enumerate(x):
        if not isinstance(batch, tuple | list) or not 2 <= len(batch) <= 4:
            raise TypeError(
                f"x[{index}]: expected a batch (x, y), (x, y, mask) or (x, y, mask, weights), got "
                f"{type(batch).__name__}; give y where x is not an iterable of batches"
            )
        yield (*batch, *[None] * (4 - len(batch)))


def _laplace_update(
    belief: Belief,
    params: Tree,
    likelihood: Likelihood,
    examples: Examples,
    temperature: ArrayLike,
    curvature_scale: ArrayLike,
    *,
    apply_fn: Apply,
    batch_size: int,
    iterations: int | None,
    roots: int | None,
) -> tuple[Belief, Info, Misfit]:
    params = learned(belief._replace(mean=params))[0].mean
    belief, apply_fn, whole = learned(belief, apply_fn)
    dtype = widths.common(belief, examples.x)
    params = jax.tree.map(lambda p: jnp.asarray(p, dtype), params)
    narrow, belief, likelihood, examples = belief, *widths.cast((belief, likelihood, examples), dtype)
    apply_fn = widths.outputs_in(dtype, apply_fn)
    joined = Joined.of(belief.precision, params)
    buffer, prior = joined.buffer, joined.precision(belief.precision)
    mean, params, apply_fn = buffer.vector(belief.mean), buffer.vector(params), buffer.function(apply_fn)
    batch = prepare(params, apply_fn, likelihood, examples, batch_size)
    operator = curvature(
        params,
        apply_fn,
        likelihood,
        batch,
        jnp.asarray(temperature) / curvature_scale,
        min(batch_size, len(batch.mask)),
        roots,
    )
    site, cut = prior.approximate(operator, iterations=iterations)
    precision, misfit = prior.add(site)
    misfit = Misfit(cut.left_out + misfit.left_out, cut.left_out + misfit.whole)
    local = losses(likelihood, in_pieces(functools.partial(apply_fn, params), batch.x, batch_size), batch, temperature)
    loss = jnp.sum(local.loss)
    penalty = 0.5 * prior.quadratic(jax.tree.map(jnp.subtract, params, mean))
    log_evidence = -loss - penalty - 0.5 * precision.logdet_over(prior)
    posterior = Belief(buffer.vector_back(params), joined.precision_back(precision))
    site = widths.like(joined.precision_back(site), narrow.precision)
    info = Info(site, log_evidence, loss, misfit.share, jnp.sum(local.invalid))
    return whole(widths.like(posterior, narrow)), info, misfit
