"""The linearised update on a batch of examples: an extended Kalman step (LO-FI, arXiv 2305.19535) that is guarded."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from lowrank_filter.algebra import small_matrices, tree, widths
from lowrank_filter.algebra.diag_low_rank import DiagLowRank, Joined
from lowrank_filter.algebra.example_gradients import Columns, Stack
from lowrank_filter.algebra.last_layer import LastLayer, OutputCovariance, Shares
from lowrank_filter.algebra.one_buffer import OneBuffer
from lowrank_filter.algebra.precision import Correction, Misfit, Precision
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.common import checks
from lowrank_filter.common.compiled import Shared, compiled
from lowrank_filter.kernels import many_outputs
from lowrank_filter.kernels.belief import Belief, check_belief, learned
from lowrank_filter.kernels.deprecated import with_choices
from lowrank_filter.kernels.evidence import log_expectation, within_reach
from lowrank_filter.kernels.examples import Apply, Batch, Examples, check_examples, prepare, zero_where_masked
from lowrank_filter.kernels.expansion import Local, expand, localise, shares
from lowrank_filter.kernels.health import Health, measure
from lowrank_filter.kernels.likelihoods import Likelihood
from lowrank_filter.kernels.line_search import line_search
from lowrank_filter.kernels.linearisation import Linearisation, identity
from lowrank_filter.kernels.output_map import output_map
from lowrank_filter.kernels.output_posterior import output_posterior
from lowrank_filter.kernels.predict import check_dynamics, dynamics
from lowrank_filter.kernels.surprise import of_classes, of_outputs, of_residuals


class Info(NamedTuple):
    """What an update learned, beside the belief.

    Attributes:
        site: the information that the data added, as a precision of the belief's structure; :func:`smooth` wants it.
        log_evidence: log p(y | earlier data) in nats, tempered like the likelihood.
        loss: Σ −log p(yᵢ | fᵢ) / temperature at the parameters of the linearisation, in nats.
        truncated: what did not fit the structure: a share in [0, 1] of the low-rank part's trace (in the metric), all
            blocks together; for a Kronecker precision the projection error of the sum over the norm of the added term,
            in Frobenius norms, which passes 1 where the basis turns away from what it held.
        invalid: how many unmasked examples were left out because an input, output or target was not valid.
        discounted: Σ(1 − w) over the examples, how many of them outlying took away; None without a threshold.
        health: the step's :class:`Health`, None if it was not asked for.
        diverged: whether the belief could not take the examples and is the predicted one: it was not finite when it
            came, or would not be after them, or no step along the update lowers the penalised loss. None of a
            :func:`laplace_update`.
        step_size: the share of the step that was taken, 1 unless the network's linearisation had to be guarded
            against; None of a plain step, and of a :func:`laplace_update`.
        dynamics: what a filter that finds its dynamics by itself did in this step, by name: see
            :func:`adaptive_filter` and :func:`changepoint_filter`; None of others.
        surprise: 1 − 2 P(observations less probable than these) under the prediction, in [−1, 1] whatever the
            likelihood: 0 on average where that is right, below where it could be surer, near 1 where labels are wrong
            or targets far away. A mean over n steps above √(3/n) is hardly chance (three standard errors). The mean
            over labels; of other targets by χ² of the innovation. 0 without data; None of a :func:`laplace_update`.
        outputs: f(x; m) [B, C] at the predicted mean, so before the targets were seen: in a stream what was predicted
            one step ahead. 0 of examples that were left out; None of a :func:`laplace_update`.
    """

    site: Precision
    log_evidence: Float[Array, ""]
    loss: Float[Array, ""]
    truncated: Float[Array, ""]
    invalid: Int[Array, ""]
    discounted: Float[Array, ""] | None = None
    health: Health | None = None
    diverged: Bool[Array, ""] | None = None
    step_size: Float[Array, ""] | None = None
    dynamics: dict[str, Any] | None = None
    surprise: Float[Array, ""] | None = None
    outputs: Float[Array, "B C"] | None = None


@with_choices
@checks.all_given
def update(
    belief: Belief,
    apply_fn: Apply,
    likelihood: Likelihood,
    x: Any,
    y: Any,
    *,
    temperature: ArrayLike = 1.0,
    mask: Any = None,
    weights: Any = None,
    process_noise: Tree | None = None,
    transition: Tree = 1.0,
    center: Tree | None = None,
    outlier_threshold: ArrayLike | None = None,
    health: bool = False,
    iterations: int = 1,
) -> tuple[Belief, Info]:
    """Condition a belief on a batch of examples, with the network linearised at its mean.

    The linearised network is a generalised linear model in its outputs, and its MAP f* = f(m) + J(θ − m) is found there
    (damped Newton, O((B·C)³)). With A = [JᵢᵀSᵢ]/√λ and u = [uᵢ]/√λ at f* (B·r columns),

        v = u − [Sᵢᵀ(fᵢ* − fᵢ)]/√λ
        m⁺ = m − t (P + A Aᵀ)⁻¹ A v           (the untruncated posterior)
        P⁺ = P + A Aᵀ, truncated as the structure says (:class:`LowRank`),

    where t ∈ {1, ½, ¼ …} is the first that lowers the penalised loss Σℓᵢ(f(θ))/λ + ½(θ − m)ᵀP(θ − m) of the network
    itself. For Gaussian likelihoods f* needs no search. Memory O((k + B·r)·D): meant for streams and small batches;
    :func:`laplace_update` takes large ones. Of more than 512 logits from a last dense layer with I inputs, few beside
    them, :class:`Categorical` needs O(k·D + B²·(C + I²)): no matrix of outputs by outputs, the same numbers but for the
    kept directions, which are then those of a Krylov space, and for what is differentiated twice.

    The log evidence is log N(y; f(m), R + J P⁻¹ Jᵀ) for Gaussian likelihoods; for discrete ones
    log E exp(−Σℓᵢ/λ) under the outputs' N(f(m), J P⁻¹ Jᵀ), by points, never above 0; for likelihoods that are
    ``uncertain`` (:class:`HeteroscedasticGaussian`) ℓ is expected under the outputs' own posterior N(f*, V), S with it,
    and the log evidence is the lower bound −Σ E ℓᵢ/λ − KL (see :mod:`output_posterior`); for others, and for batches of
    more outputs than points can fill (256), Laplace's approximation at f*,
    −Σℓᵢ/λ − ½(θ − m)ᵀP(θ − m) − ½ log det(I + AᵀP⁻¹A). That may be nats above the first, where
    labels say little about many classes: choose by batches of one size.

    Args:
        belief: the predicted belief.
        apply_fn: (params, x) → outputs [B, C].
        likelihood: of a target given the outputs of one example.
        x: inputs, an array or pytree with leading axis B.
        y: targets, leading axis B; integer labels [B] for :class:`Categorical`.
        temperature: λ > 0: p ∝ exp(−loss/λ).
        mask: [B] booleans; an example that is masked out changes nothing, whatever it contains. With none left the
            belief comes back bit for bit. Or [B, m] like ``y``, for likelihoods whose targets are independent given
            the outputs: single targets of an example are then missing.
        weights: [B] ≥ 0; an example of weight w counts w times.
        process_noise, transition, center: with a noise, ``belief`` is first predicted with them, as :func:`predict`
            does, in the same pass over the factor: a third less time in a stream.
        outlier_threshold: c > 0, in standard deviations of the observations: an example weighs w = 1/(1 + ‖uᵢ‖²/c²), so
            that none moves the mean by more than one at c would (WoLF, arXiv 2405.05646). Loss and evidence are then
            those of the weighted likelihood. None: all weigh the same, and an outlier moves the mean in proportion.
        health: whether ``info`` has a :class:`Health`, static.
        iterations: how often the network is linearised, static: each time at where the last step led (the iterated
            extended Kalman filter, Bell & Cathey 1993). 0: the plain step, with S and u taken at f(m) and t = 1, which
            wide priors and saturated likelihoods throw out of its region; then log evidence =
            −Σℓᵢ/λ + ½ uᵀAᵀ(P + A Aᵀ)⁻¹A u − ½ log det(I + AᵀP⁻¹A), which can be above 0.

    Returns:
        The posterior belief, and :class:`Info`.

    Raises:
        TypeError: apply_fn, likelihood or labels are of the wrong kind.
        ValueError: shapes, options or visible values are wrong; the message says which.

    Examples:
        >>> apply_fn = lambda weights, x: x @ weights[:, None]
        >>> belief = lf.init(jnp.zeros(2), rank=2)
        >>> belief, info = lf.update(belief, apply_fn, lf.Gaussian(1.0), jnp.eye(2), jnp.array([2.0, 4.0]))
        >>> print(belief.mean.round(3), lf.inverse_diagonal(belief.precision).round(3))
        [1. 2.] [0.5 0.5]
    """
    check_belief(belief)
    checks.scalar("temperature", temperature)
    checks.flag("health", health)
    checks.count("iterations", iterations, minimum=0)
    if outlier_threshold is not None:
        checks.scalar("outlier_threshold", outlier_threshold)
    if process_noise is not None:
        check_dynamics(belief, process_noise, transition, center)
    examples = check_examples(belief.mean, apply_fn, likelihood, x, y, mask, weights)
    return compiled(
        *(_update, belief, likelihood, examples, temperature),
        None if process_noise is None else Shared.of(process_noise),
        Shared.of(transition),
        center,
        outlier_threshold,
        **{"apply_fn": apply_fn, "health": health, "iterations": iterations},
    )


def _update(
    belief: Belief,
    likelihood: Likelihood,
    examples: Examples,
    temperature: ArrayLike,
    process_noise: Shared | None,
    transition: Shared,
    center: Tree | None,
    outlier_threshold: ArrayLike | None,
    *,
    apply_fn: Apply,
    health: bool,
    iterations: int,
) -> tuple[Belief, Info]:
    belief, apply_fn, whole = learned(belief, apply_fn)
    dtype = widths.common(belief, examples.x)
    narrow, belief, likelihood, examples = belief, *widths.cast((belief, likelihood, examples), dtype)
    apply_fn = widths.outputs_in(dtype, apply_fn)
    noise = decay = None
    mean = belief.mean
    if process_noise is not None:
        mean, noise, decay = dynamics(belief, process_noise, transition, center)
    joined = Joined.of(belief.precision, mean, columns=jax.eval_shape(apply_fn, mean, examples.x).size)
    buffer = joined.buffer
    mean, precision = buffer.vector(mean), joined.precision(belief.precision)
    if noise is not None:
        noise, decay = buffer.vector(noise), buffer.vector(decay)
    apply_fn = buffer.function(apply_fn)
    batch = prepare(mean, apply_fn, likelihood, examples)
    options = {"noise": noise, "transition": decay}
    problem = _Problem(mean, precision, apply_fn, likelihood, batch, temperature, outlier_threshold, buffer.joined)
    step = _guarded(problem, iterations, options) if iterations else _plain(problem, options)
    broken = ~OneBuffer.all_finite(mean)
    finite = OneBuffer.all_finite(step.mean) & tree.all_finite((step.log_evidence, step.misfit))
    diverged = broken | ~(step.settled & finite)

    def predicted() -> tuple[Tree, Precision, Precision]:
        prior = precision
        if noise is not None:
            one = Joined.of(precision, mean)
            prior = one.precision(precision).propagate(*map(one.buffer.vector, (noise, decay)))
            prior = one.precision_back(prior)
        return mean, prior.truncate(), jax.tree.map(jnp.zeros_like, step.site)

    after = step.mean, step.precision, step.site
    if iterations:
        after = jax.lax.cond(diverged, predicted, lambda: after)
    mean, posterior, site = buffer.vector_back(after[0]), *map(joined.precision_back, after[1:])
    local = step.local
    info = Info(
        widths.like(site, narrow.precision),
        step.log_evidence,
        jnp.sum(local.loss),
        step.misfit.share,
        jnp.where(broken, 0, jnp.sum(local.invalid)),
        None if local.weight is None else jnp.sum(jnp.where(local.counts, 1 - local.weight, 0)),
        measure(step.correction, step.misfit, local) if health else None,
        diverged,
        step.size,
        surprise=step.surprise,
        outputs=zero_where_masked(batch.usable, step.outputs),
    )
    return whole(widths.like(Belief(mean, posterior), narrow)), info


class _Problem(NamedTuple):
    """A prior and a batch, checked; the precision before the prediction that its operations are told of."""

    mean: Tree
    precision: Precision
    apply_fn: Apply
    likelihood: Likelihood
    batch: Batch
    temperature: ArrayLike
    threshold: ArrayLike | None
    joined: bool

    def columns(
        self, point: Tree, root: Callable[[Float[Array, "B C"]], Float[Array, "B C r"]]
    ) -> tuple[Array, Columns]:
        """The outputs at parameters, and the columns JᵢᵀSᵢ there; of many leaves built, as one array."""
        outputs, columns = Linearisation(self.apply_fn, point, self.batch.x).columns(self.batch.x, root)
        return outputs, Stack(columns.stack()) if self.joined else columns

    @property
    def many(self) -> bool:
        """Whether there are so many outputs that their structure is used, and they have it."""
        size, outputs = jax.eval_shape(self.apply_fn, self.mean, self.batch.x).shape
        precision = self.precision
        if not many_outputs.many(size, outputs) or not isinstance(precision, DiagLowRank):
            return False
        # Several examples that repeat each other may ask for square roots, where there is room for those.
        if (size > 1 and precision.roomy(size * outputs)) or not many_outputs.has_shares(self.likelihood, outputs):
            return False
        features = Linearisation(self.apply_fn, self.mean, self.batch.x).features
        return features is not None and 2 * (size * (features + 1) + precision.rank) <= size * outputs

    @property
    def low_rank(self) -> DiagLowRank:
        """The precision, of a problem with so many outputs."""
        if not isinstance(self.precision, DiagLowRank):
            raise AssertionError("a precision that is diagonal plus low rank")
        return self.precision

    def outputs_covariance(self, layer: LastLayer, options: dict[str, Any]) -> tuple[OutputCovariance, Any]:
        """Σ of a layer's outputs, and the predicted precision."""
        return self.low_rank.outputs_covariance(layer, **options)

    def shares(self, outputs: Float[Array, "B C"], given: Local) -> Shares:
        """The roots of a likelihood that has shares."""
        return shares(self.likelihood, outputs, self.batch, given.counts, self.temperature, given.weight)

    def localise(self, outputs: Float[Array, "B C"]) -> Local:
        """Which examples count and what they weigh, at the prior's mean."""
        return localise(self.likelihood, outputs, self.batch, self.temperature, self.threshold)

    def expand(
        self, outputs: Float[Array, "B C"], spread: Float[Array, "B C C"] | None = None, *, given: Local, **how: bool
    ) -> Local:
        """At other outputs, for the same examples with the same weights."""
        return expand(self.likelihood, outputs, self.batch, given.counts, self.temperature, given.weight, spread, **how)


class _Step(NamedTuple):
    """What a step leads to; ``local`` and ``outputs`` are the likelihood and the network at the prior's mean."""

    mean: Tree
    precision: Precision
    site: Precision
    log_evidence: Float[Array, ""]
    correction: Correction
    misfit: Misfit
    local: Local
    size: Float[Array, ""] | None
    settled: Bool[Array, ""]
    surprise: Float[Array, ""]
    outputs: Float[Array, "B C"]


class _Round(NamedTuple):
    """Where a step from the last linearisation led; ``distance`` is (θ − m)ᵀP(θ − m) there."""

    step: _Step
    distance: Float[Array, ""]


def _plain_of_many(problem: _Problem, options: dict[str, Any]) -> _Step:
    """The same for many outputs."""
    outputs, layer = Linearisation(problem.apply_fn, problem.mean, problem.batch.x).last_layer(problem.batch.x)
    local = _without_root(problem.localise(outputs))
    covariance, prior = problem.outputs_covariance(layer, options)
    conditioned = _condition_outputs(problem, layer, covariance, prior, local.score, problem.shares(outputs, local))
    correction, misfit = conditioned.correction, conditioned.misfit
    mean = jax.tree.map(jnp.subtract, problem.mean, correction.step)
    log_evidence = -jnp.sum(local.loss) + 0.5 * correction.explained - 0.5 * correction.logdet
    surprise = of_classes(problem.likelihood, outputs, jnp.zeros_like(outputs), problem.batch, local)
    settled = jnp.ones((), bool)
    both = conditioned.precision, conditioned.site
    return _Step(mean, *both, log_evidence, correction, misfit, local, None, settled, surprise, outputs)


class _Conditioned(NamedTuple):
    """What many outputs make of a precision; ``coefficients`` is S(I + SᵀΣS)⁻¹v and ``across`` Σ times that."""

    precision: Precision
    site: Precision
    correction: Correction
    misfit: Misfit
    coefficients: Float[Array, "B C"]


def _condition_outputs(
    problem: _Problem, layer: LastLayer, covariance: OutputCovariance, prior: Any, target: Array, root: Shares
) -> _Conditioned:
    """:meth:`Precision.condition` by the structure of the last layer."""
    solver = covariance.solver(root)
    coefficients = solver.solve(target)
    explained = root.transposed_times(covariance.times(coefficients))
    left = target - explained
    precision, site, step, misfit = problem.low_rank.condition_outputs(layer, root, coefficients, covariance, prior)
    correction = Correction(
        step, jnp.sum(target * explained), jnp.sum(target * left), solver.logdet, solver.triangle(covariance.old)
    )
    return _Conditioned(precision, site, correction, misfit, coefficients)


def _without_root(local: Local) -> Local:
    """Without what has a matrix for each example."""
    return local._replace(root=local.root[:, :, :0])


def _round_of_many(
    problem: _Problem, options: dict[str, Any], last: _Round | None, first: Bool[Array, ""] | None = None
) -> _Round:
    """:func:`_round` for many outputs of a likelihood that has shares."""
    point, offset = problem.mean, None
    distance = jnp.zeros((), tree.wide_dtype(point))
    if last is not None:
        point, distance = last.step.mean, last.distance
        offset = jax.tree.map(jnp.subtract, point, problem.mean)
    outputs, layer = Linearisation(problem.apply_fn, point, problem.batch.x).last_layer(problem.batch.x)
    along = jnp.zeros_like(outputs)
    local = _without_root(problem.localise(outputs)) if last is None else last.step.local
    if offset is not None:
        along = layer.along(offset).astype(outputs.dtype)
    centre = outputs - along

    def at(outputs: Array) -> tuple[Local, Shares]:
        return _without_root(problem.expand(outputs, given=local)), problem.shares(outputs, local)

    covariance, prior = problem.outputs_covariance(layer, options)
    variance = covariance.variances().astype(centre.dtype)
    surprise = of_classes(problem.likelihood, centre, variance, problem.batch, local)
    a = many_outputs.output_map(at, centre, covariance)
    across = covariance.times(a)
    found, root = at(centre + across.astype(outputs.dtype))
    target = found.score - root.transposed_times(across)
    conditioned = _condition_outputs(problem, layer, covariance, prior, target, root)
    correction, coefficients = conditioned.correction, conditioned.coefficients

    def evidence() -> Array:
        if problem.likelihood.discrete and len(outputs) == 1:
            return many_outputs.log_expectation(at, centre, covariance, a)
        return -jnp.sum(found.loss) - 0.5 * jnp.sum(a * across) - 0.5 * correction.logdet

    if last is None or first is None:
        log_evidence = evidence()
    else:
        # Evidence and surprise are those of the first linearisation.
        log_evidence = jax.lax.cond(first, evidence, lambda: last.step.log_evidence)
        surprise = jnp.where(first, surprise, last.step.surprise)
    point, size, distance, settled = line_search(
        lambda params: jnp.sum(problem.expand(problem.apply_fn(params, problem.batch.x), given=local).loss),
        jnp.sum(at(outputs)[0].loss if last is not None else local.loss),
        point,
        jax.tree.map(jnp.subtract, problem.mean, correction.step),
        (
            distance,
            -jnp.sum(coefficients * along).astype(distance.dtype),
            jnp.sum(coefficients * covariance.times(coefficients)),
        ),
    )
    ahead = outputs if last is None else last.step.outputs
    both = conditioned.precision, conditioned.site
    step = _Step(point, *both, log_evidence, correction, conditioned.misfit, local, size, settled, surprise, ahead)
    return _Round(step, distance)


def _plain(problem: _Problem, options: dict[str, Any]) -> _Step:
    """One extended Kalman step."""
    if problem.many:
        return _plain_of_many(problem, options)
    outputs, columns = problem.columns(problem.mean, lambda outputs: problem.localise(outputs).root)
    local = problem.localise(outputs)
    precision, site, correction, misfit = problem.precision.condition(columns, local.score.ravel(), **options)
    mean = jax.tree.map(jnp.subtract, problem.mean, correction.step)
    if local.excess is None:
        fit = -jnp.sum(local.loss) + 0.5 * correction.explained
    else:
        fit = _gaussian_fit(local, correction)
    log_evidence = fit - 0.5 * correction.logdet
    if problem.likelihood.classes:
        surprise = of_classes(problem.likelihood, outputs, jnp.zeros_like(outputs), problem.batch, local)
    else:
        surprise = of_residuals(correction.unexplained, local.residuals)
    settled = jnp.ones((), bool)
    return _Step(mean, precision, site, log_evidence, correction, misfit, local, None, settled, surprise, outputs)


def _guarded(problem: _Problem, iterations: int, options: dict[str, Any]) -> _Step:
    """Steps to the MAP of the network linearised where the last one led, none of which raises the penalised loss."""
    round = _round_of_many if problem.many else _round
    if iterations == 1:
        return round(problem, options, None).step
    # One program, however many there are: the first starts as if one before it had led nowhere.
    shapes = jax.eval_shape(lambda: round(problem, options, None))
    nowhere = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    outputs = problem.apply_fn(problem.mean, problem.batch.x)
    local = problem.localise(outputs)
    if problem.many:
        local = _without_root(local)
    start = nowhere._replace(step=nowhere.step._replace(mean=problem.mean, local=local, outputs=outputs))

    def body(last: _Round, number: Array) -> tuple[_Round, None]:
        return round(problem, options, last, number == 0), None

    return jax.lax.scan(body, start, jnp.arange(iterations))[0].step


def _round(
    problem: _Problem, options: dict[str, Any], last: _Round | None, first: Bool[Array, ""] | None = None
) -> _Round:
    """One of them; ``first`` says whether there was none before ``last``.

    With δ = (P + A Aᵀ)⁻¹A v, P δ = A(v − Aᵀδ): the penalty along a step needs no product with P.
    """
    if last is None:
        point, offset = problem.mean, None
        distance = jnp.zeros((), tree.wide_dtype(point))
    else:
        point, distance = last.step.mean, last.distance
        offset = jax.tree.map(jnp.subtract, point, problem.mean)
    outputs, jacobian = problem.columns(point, identity)
    if offset is None or last is None:
        local = problem.localise(outputs)
        centre = outputs
    else:
        local = last.step.local
        centre = outputs - _along(jacobian, offset).reshape(outputs.shape).astype(outputs.dtype)
    at = functools.partial(problem.expand, given=local)
    found, penalty, projection, spread, moved = at(centre), jnp.zeros_like(distance), None, None, 0
    surprise = None
    target, log_evidence = found.score, None if last is None else last.step.log_evidence
    by_points = problem.likelihood.discrete and within_reach(*outputs.shape)
    if found.excess is None:
        projection = problem.precision.project(jacobian, **options)
        covariance = projection.covariance
        if problem.likelihood.classes:
            variance = small_matrices.diagonal(covariance).reshape(centre.shape).astype(centre.dtype)
            surprise = of_classes(problem.likelihood, centre, variance, problem.batch, local)
        else:
            surprise = of_outputs(found, covariance)
        if problem.likelihood.uncertain:
            a, spread = output_posterior(at, centre, covariance)
            at = functools.partial(problem.expand, spread=spread, given=local)
        else:
            a = output_map(at, centre, covariance)
        across = jnp.matmul(covariance, a, precision=tree.HIGHEST)
        moved = across.reshape(outputs.shape).astype(outputs.dtype)
        found = at(centre + moved)
        if by_points:

            def by_points_at(found: Local) -> Array:
                return log_expectation(at, centre, covariance, a, found)

            # The evidence is that of the first linearisation.
            if last is None or first is None:
                log_evidence = by_points_at(found)
            else:
                log_evidence = jax.lax.cond(first, by_points_at, lambda _: last.step.log_evidence, found)
        penalty = 0.5 * jnp.sum(a * across)
        target = found.score - jnp.einsum("bcr,bc->br", found.root, moved, precision=tree.HIGHEST)
    columns = jacobian.mixed(found.root)
    if projection is not None:
        projection = projection.mixed(found.root)
    precision, site, correction, misfit = problem.precision.condition(
        columns, target.ravel(), **options, projection=projection
    )
    if surprise is None:
        surprise = of_residuals(correction.unexplained, found.residuals)
    if last is not None and first is not None:
        surprise = jnp.where(first, surprise, last.step.surprise)
    if not by_points or log_evidence is None:
        fit = -jnp.sum(found.loss) - penalty if found.excess is None else _gaussian_fit(found, correction)
        if spread is not None:
            expected = problem.expand(centre + moved, spread, given=local, guarded=False).loss
            inside = jnp.einsum("bcr,bcd,bdr->", found.root, spread, found.root, precision=tree.HIGHEST)
            # No direction of SᵀVS is above one, but where rounding made it so.
            fit = -jnp.sum(expected) - penalty + 0.5 * jnp.minimum(inside, found.residuals)
        log_evidence = fit - 0.5 * correction.logdet
    explained = _along(columns, correction.step) if correction.along is None else correction.along
    left = target.ravel() - explained
    point, size, distance, settled = line_search(
        lambda params: jnp.sum(at(problem.apply_fn(params, problem.batch.x)).loss),
        jnp.sum(at(outputs).loss if last is not None or spread is not None else local.loss),
        point,
        jax.tree.map(jnp.subtract, problem.mean, correction.step),
        (
            distance,
            jnp.zeros_like(distance) if offset is None else -jnp.sum(left * _along(columns, offset)),
            jnp.sum(left * explained),
        ),
    )
    ahead = outputs if last is None else last.step.outputs
    step = _Step(point, precision, site, log_evidence, correction, misfit, local, size, settled, surprise, ahead)
    return _Round(step, distance)


def _gaussian_fit(local: Local, correction: Correction) -> Float[Array, ""]:
    """−½‖u‖² + ½ explained would cancel where the data say much more than the prior."""
    return -jnp.sum(jnp.asarray(local.excess)) - 0.5 * correction.unexplained


def _along(columns: Columns, vector: Tree) -> Float[Array, " n"]:
    """Aᵀv."""
    return columns.against(jax.tree.map(lambda leaf: leaf[None], vector))[0]
