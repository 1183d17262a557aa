"""Filters built once, in the manner of optax: a NamedTuple of pure functions that close over their choices."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import optax
from jaxtyping import Array, ArrayLike, Key

from lowrank_filter.algebra.operations import truncation_options
from lowrank_filter.algebra.structures import LowRank
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.algebra.truncation import Metric, Residual
from lowrank_filter.common import checks
from lowrank_filter.drivers.fit import check_optimizer, fit
from lowrank_filter.kernels.belief import Belief, moved, prior, structured
from lowrank_filter.kernels.examples import Apply, check_model, check_stream, output_count
from lowrank_filter.kernels.laplace import laplace_update
from lowrank_filter.kernels.likelihoods import Likelihood
from lowrank_filter.kernels.predict import predict
from lowrank_filter.kernels.prior import Scaled, scaled
from lowrank_filter.kernels.update import Info, update


class _Functions(NamedTuple):
    init: Callable[..., Any]
    predict: Callable[..., Any]
    update: Callable[..., tuple[Any, Info]]
    step: Callable[..., tuple[Any, Info]]
    check: Callable[..., Callable[..., Any]] | None


class Filter(_Functions):
    """``init(params, x=None, y=None, mask=None)`` → belief, ``predict(belief)`` → belief,
    ``update(belief, x, y, mask=None, weights=None)`` →
    (belief, info). x, y and mask of ``init`` are a first batch, from which a prior takes the scale of
    outputs.

    ``step(belief, x, y, mask=None, weights=None)`` is predict, then update: what :func:`filter_stream` does for each
    chunk. Where it is not given (the two together being cheaper) it is made of them. ``predict`` and ``step`` take a
    ``process_noise``, a ``transition`` and a ``center`` in place of those that they were built with.

    ``check(params, x)``, where there is one, returns a function (y, mask=None) that raises where targets are none that
    the filter could learn from: a step that is traced can only count them. Of params and x shapes are enough.

    In place of a belief there may be a state that has one as its ``belief``, and its ``mean``.

    Hyperparameters may be traced: build the filter inside the function that is mapped or differentiated.
    """

    __slots__ = ()

    def __new__(
        cls,
        init: Callable[..., Any],
        predict: Callable[..., Any],
        update: Callable[..., tuple[Any, Info]],
        step: Callable[..., tuple[Any, Info]] | None = None,
        check: Callable[..., Callable[..., Any]] | None = None,
    ) -> Self:
        """With a step in any case."""
        return super().__new__(cls, init, predict, update, step or functools.partial(_step, predict, update), check)


def _step(
    predict: Callable,
    update: Callable,
    belief: Belief,
    x: Any,
    y: Any,
    mask: Any = None,
    weights: Any = None,
    **dynamics: Any,
) -> tuple[Belief, Info]:
    return update(predict(belief, **dynamics), x, y, mask, **if_given(weights))


def started(filter: Filter, params: Tree, x: Any, y: Any, mask: Any) -> Any:
    """What its init returns for what there is: one of a user's own need not take a batch."""
    batch = () if x is None else (x,) if y is None else (x, y)
    return filter.init(params, *batch, **({} if mask is None else {"mask": mask}))


def if_given(weights: Any) -> dict[str, Any]:
    """The weights as a keyword where there are some: not every update of a user's own takes them."""
    return {} if weights is None else {"weights": weights}


def extended_filter(
    apply_fn: Apply,
    likelihood: Likelihood,
    *,
    rank: int | None = None,
    structure: Any = None,
    precision: Tree | Scaled | None = None,
    process_noise: Tree = 0.0,
    transition: Tree = 1.0,
    center: Tree | None = None,
    residual: Residual | None = None,
    metric: Metric | None = None,
    temperature: ArrayLike = 1.0,
    outlier_threshold: ArrayLike | None = None,
    health: bool = False,
    iterations: int = 1,
) -> Filter:
    """The extended Kalman filter of the weights, for streams; arguments as in init, predict and update.

    ``structure`` is that of :func:`init`, for the network or each of its parts; ``rank`` is short for one low-rank
    structure over all of it. ``residual`` and ``metric`` are deprecated: a structure has them. Without a ``precision``,
    ``filter.init(params, x, y, mask)`` takes the network's own for a first batch, ``scaled(apply_fn, x, y, mask=mask,
    likelihood=likelihood)``, ``filter.init(params, x)`` the same for targets that are standardised, and
    ``filter.init(params)`` takes 1. With a ``transition`` below 1 and ``center=params`` the weights return to where
    they began.

    Raises:
        TypeError: apply_fn, likelihood or a number is of the wrong kind.
        ValueError: an option is unknown or a visible value out of range.

    Examples:
        >>> apply_fn = lambda weights, x: x @ weights[:, None]
        >>> built = lf.extended_filter(apply_fn, lf.Gaussian(1.0), rank=2, process_noise=1e-4)
        >>> belief = built.predict(built.init(jnp.zeros(2)))
        >>> belief, info = built.update(belief, jnp.eye(2), jnp.array([2.0, 4.0]))
        >>> print(belief.mean.round(2))
        [1. 2.]
    """
    check_model(apply_fn, likelihood)
    choices = {"residual": residual, "metric": metric}
    start, former = _start(apply_fn, likelihood, structure, precision, rank, choices)
    checks.not_negative("process_noise", process_noise)
    checks.finite("transition", transition)
    checks.finite("center", center)
    checks.scalar("temperature", temperature)
    checks.flag("health", health)
    checks.count("iterations", iterations, minimum=0)
    if outlier_threshold is not None:
        checks.scalar("outlier_threshold", outlier_threshold)

    def update_(
        belief: Belief, x: Any, y: Any, mask: Any = None, weights: Any = None, **dynamics: Any
    ) -> tuple[Belief, Info]:
        return update(
            belief,
            apply_fn,
            likelihood,
            x,
            y,
            **former(belief),
            temperature=temperature,
            mask=mask,
            weights=weights,
            outlier_threshold=outlier_threshold,
            health=health,
            iterations=iterations,
            **dynamics,
        )

    update_.__qualname__ = "Filter.update"  # what Python calls it where an argument is missing
    return Filter(
        start,
        functools.partial(predict, process_noise=process_noise, transition=transition, center=center),
        update_,
        functools.partial(update_, process_noise=process_noise, transition=transition, center=center),
        functools.partial(_check, apply_fn, likelihood),
    )


def laplace_filter(
    apply_fn: Apply,
    likelihood: Likelihood,
    optimizer: optax.GradientTransformation,
    *,
    steps: int,
    rank: int | None = None,
    structure: Any = None,
    fit_batch_size: int | None = None,
    precision: Tree | Scaled | None = None,
    process_noise: Tree = 0.0,
    transition: Tree = 1.0,
    center: Tree | None = None,
    residual: Residual | None = None,
    metric: Metric | None = None,
    temperature: ArrayLike = 1.0,
    curvature_scale: ArrayLike = 1.0,
    batch_size: int = 1000,
    key: Key[Array, ""] | None = None,
) -> Filter:
    """LR-LGF: train to the MAP with the belief as regulariser, then take the curvature there; for task sequences.

    Arguments as in init, predict, fit and laplace_update; ``structure`` as in :func:`extended_filter`. ``key`` is
    for the order of the mini-batches where ``fit_batch_size`` is given, the same at each update that is given no other
    one; by default ``jax.random.key(0)``.

    Raises:
        TypeError: apply_fn, likelihood or a number is of the wrong kind.
        ValueError: an option is unknown or a visible value out of range.

    Examples:
        >>> apply_fn = lambda weights, x: x @ weights[:, None]
        >>> built = lf.laplace_filter(apply_fn, lf.Gaussian(1.0), optax.sgd(0.5), steps=1, rank=2)
        >>> belief, info = built.update(built.init(jnp.zeros(2)), jnp.eye(2), jnp.array([2.0, 4.0]))
        >>> print(belief.mean.round(3))
        [1. 2.]
    """
    check_model(apply_fn, likelihood)
    choices = {"residual": residual, "metric": metric}
    start, former = _start(apply_fn, likelihood, structure, precision, rank, choices)
    checks.not_negative("process_noise", process_noise)
    checks.finite("transition", transition)
    checks.finite("center", center)
    checks.scalar("temperature", temperature)
    checks.scalar("curvature_scale", curvature_scale)
    check_optimizer(optimizer)
    checks.count("steps", steps, minimum=0)
    checks.count("batch_size", batch_size, minimum=1)
    if fit_batch_size is not None:
        checks.count("fit_batch_size", fit_batch_size, minimum=1)
    order = jax.random.key(0) if key is None else checks.key("key", key)

    def update_(
        belief: Belief, x: Any, y: Any, mask: Any = None, weights: Any = None, key: Key[Array, ""] | None = None
    ) -> tuple[Belief, Info]:
        data = {"x": x, "y": y, "mask": mask, "weights": weights, "temperature": temperature}
        params, _ = fit(
            belief,
            apply_fn,
            likelihood,
            optimizer=optimizer,
            steps=steps,
            batch_size=fit_batch_size,
            key=order if key is None else key,
            **data,
        )
        return laplace_update(
            belief,
            params,
            apply_fn,
            likelihood,
            **former(belief),
            curvature_scale=curvature_scale,
            batch_size=batch_size,
            **data,
        )

    update_.__qualname__ = "Filter.update"
    return Filter(
        start,
        functools.partial(predict, process_noise=process_noise, transition=transition, center=center),
        update_,
        check=functools.partial(_check, apply_fn, likelihood),
    )


def _check(apply_fn: Apply, likelihood: Likelihood, params: Tree, x: Any) -> Callable[..., Any]:
    return functools.partial(check_stream, likelihood, output_count(params, apply_fn, x))


def _start(
    apply_fn: Apply,
    likelihood: Likelihood,
    structure: Any,
    precision: Tree | Scaled | None,
    rank: int | None,
    choices: dict[str, Any],
) -> tuple[Callable[..., Belief], Callable[[Belief], dict[str, Any]]]:
    """The filter's init, and what its update still says of rank, residual and metric to a belief from elsewhere."""
    kind = structured(structure, rank)
    given = {name: value for name, value in choices.items() if value is not None}
    truncation_options(**given)
    for name, value in given.items():
        if not isinstance(kind, LowRank) or kind is structure:
            raise ValueError(
                f"{name}: expected None for structure={structure!r}, got {value!r}; leave it out: a LowRank structure "
                "has it, others have none"
            )
    if given:
        kind = dataclasses.replace(kind, **given)
        moved(", ".join(f"{name}=" for name in given), f"structure={kind!r}", stacklevel=4)
    if precision is not None and not isinstance(precision, Scaled):
        checks.positive("precision", precision)

    def start(params: Tree, x: Any = None, y: Any = None, mask: Any = None) -> Belief:
        if precision is not None:
            return prior(params, precision, kind)
        if x is None and y is not None:
            raise ValueError("x: expected the inputs of y, got None; give init both, or neither")
        found = 1.0 if x is None else scaled(apply_fn, x, y, mask=mask, likelihood=likelihood)
        return prior(params, found, kind)

    def former(belief: Belief) -> dict[str, Any]:
        return given if rank in (None, belief.precision.rank) else {"rank": rank, **given}

    start.__qualname__ = "Filter.init"
    return start, former
