"""The linearised update: one extended Kalman step on a batch of examples (LO-FI, arXiv 2305.19535)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from lowrank_filter.algebra import storage
from lowrank_filter.algebra.operations import truncation_options
from lowrank_filter.algebra.precision import Precision
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.algebra.truncation import Metric, Residual
from lowrank_filter.common import checks
from lowrank_filter.common.compiled import Shared, compiled
from lowrank_filter.kernels.belief import Belief, check_belief
from lowrank_filter.kernels.examples import Apply, Examples, check_examples, prepare
from lowrank_filter.kernels.health import Health, measure
from lowrank_filter.kernels.likelihoods import Likelihood
from lowrank_filter.kernels.linearisation import example_gradients
from lowrank_filter.kernels.predict import check_dynamics, dynamics


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
    """

    site: Precision
    log_evidence: Float[Array, ""]
    loss: Float[Array, ""]
    truncated: Float[Array, ""]
    invalid: Int[Array, ""]
    discounted: Float[Array, ""] | None = None
    health: Health | None = None


def update(
    belief: Belief,
    apply_fn: Apply,
    likelihood: Likelihood,
    x: Any,
    y: Any,
    *,
    rank: int | None = None,
    residual: Residual = "diagonal",
    metric: Metric = "relative",
    temperature: ArrayLike = 1.0,
    mask: Any = None,
    process_noise: Tree | None = None,
    transition: Tree = 1.0,
    outlier_threshold: ArrayLike | None = None,
    health: bool = False,
) -> tuple[Belief, Info]:
    """Condition a belief on a batch of examples, with the network linearised at its mean.

    With A = [JᵢᵀSᵢ]/√λ (B·r columns) and u = [uᵢ]/√λ,

        m⁺ = m − (P + A Aᵀ)⁻¹ A u           (the untruncated posterior)
        P⁺ = P + A Aᵀ, truncated to ``rank``
        log evidence = −Σℓᵢ/λ + ½ uᵀAᵀ(P + A Aᵀ)⁻¹A u − ½ log det(I + AᵀP⁻¹A),

    which for Gaussian likelihoods is log N(y; f(m), R + J P⁻¹ Jᵀ). Memory O((k + B·r)·D): meant for streams and small
    batches; :func:`laplace_update` takes large ones.

    Args:
        belief: the predicted belief.
        apply_fn: (params, x) → outputs [B, C].
        likelihood: of a target given the outputs of one example.
        x: inputs, an array or pytree with leading axis B.
        y: targets, leading axis B; integer labels [B] for :class:`Categorical`.
        rank: k of the result, static; by default that of the belief.
        residual: "diagonal" adds the diagonal of what is truncated to P's, so diag(P⁺) is exact; "drop" forgets it.
        metric: "relative" (KL-optimal) or "euclidean"; see :func:`truncate`.
        temperature: λ > 0: p ∝ exp(−loss/λ).
        mask: [B] booleans; an example that is masked out changes nothing, whatever it contains. With none left the
            belief comes back bit for bit (at equal rank).
        process_noise, transition: if given, ``belief`` is first predicted with them, as :func:`predict` does, in the
            same pass over the factor: a third less time in a stream.
        outlier_threshold: c > 0, in standard deviations of the observations: an example weighs w = 1/(1 + ‖uᵢ‖²/c²), so
            that none moves the mean by more than one at c would (WoLF, arXiv 2405.05646). Loss and evidence are then
            those of the weighted likelihood. None: all weigh the same, and an outlier moves the mean in proportion.
        health: whether ``info`` has a :class:`Health`, static.

    Returns:
        The posterior belief, and :class:`Info`.

    Raises:
        TypeError: apply_fn, likelihood or labels are of the wrong kind.
        ValueError: shapes, options or visible values are wrong; the message says which.
    """
    check_belief(belief)
    rank = belief.precision.rank if rank is None else rank
    checks.rank(rank)
    truncation_options(residual, metric)
    checks.scalar("temperature", temperature)
    checks.flag("health", health)
    if outlier_threshold is not None:
        checks.scalar("outlier_threshold", outlier_threshold)
    if process_noise is not None:
        check_dynamics(belief, process_noise, transition)
    examples = check_examples(belief.mean, apply_fn, likelihood, x, y, mask)
    return compiled(
        *(_update, belief, likelihood, examples, temperature),
        None if process_noise is None else Shared.of(process_noise),
        Shared.of(transition),
        outlier_threshold,
        **{"apply_fn": apply_fn, "rank": rank, "residual": residual, "metric": metric, "health": health},
    )


def _update(
    belief: Belief,
    likelihood: Likelihood,
    examples: Examples,
    temperature: ArrayLike,
    process_noise: Shared | None,
    transition: Shared,
    outlier_threshold: ArrayLike | None,
    *,
    apply_fn: Apply,
    rank: int,
    residual: Residual,
    metric: Metric,
    health: bool,
) -> tuple[Belief, Info]:
    noise = decay = None
    mean = belief.mean
    if process_noise is not None:
        mean, noise, decay = dynamics(belief, process_noise, transition)
    batch = prepare(mean, apply_fn, likelihood, examples)
    local, columns = example_gradients(mean, apply_fn, likelihood, batch, temperature, outlier_threshold)
    precision, site, correction, misfit = storage.widened(belief.precision).condition(
        columns,
        local.score.ravel(),
        rank=rank,
        residual=residual,
        metric=metric,
        noise=noise,
        transition=decay,
    )
    precision, site = (storage.stored_like(p, belief.precision) for p in (precision, site))
    mean = jax.tree.map(jnp.subtract, mean, correction.step)
    loss = jnp.sum(local.loss)
    if local.excess is None:
        fit = -loss + 0.5 * correction.explained
    else:  # −½‖u‖² + ½ explained would cancel where the data say much more than the prior
        fit = -jnp.sum(local.excess) - 0.5 * correction.unexplained
    log_evidence = fit - 0.5 * correction.logdet
    discounted = None if local.weight is None else jnp.sum(jnp.where(local.counts, 1 - local.weight, 0))
    record = measure(correction, misfit, local) if health else None
    info = Info(site, log_evidence, loss, misfit.share, jnp.sum(local.invalid), discounted, record)
    return Belief(mean, precision), info
