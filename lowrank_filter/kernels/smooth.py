"""Smoothing: the predict kernel run backwards."""

import jax
import jax.numpy as jnp

from lowrank_filter.algebra import widths
from lowrank_filter.algebra.diag_low_rank import Joined
from lowrank_filter.algebra.operations import OPERATIONS
from lowrank_filter.algebra.precision import Precision
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.common import checks
from lowrank_filter.common.compiled import Shared, compiled
from lowrank_filter.kernels.belief import Belief, learned
from lowrank_filter.kernels.deprecated import with_choices
from lowrank_filter.kernels.predict import moved, per_step


@with_choices
@checks.all_given
def smooth(
    beliefs: Belief,
    sites: Precision,
    process_noise: Tree,
    transition: Tree = 1.0,
    *,
    center: Tree | None = None,
) -> Belief:
    """The beliefs about every step's parameters given all steps' data.

    The backward message Λ_t is the information in later steps about θ_t; it obeys the prediction equations, with the
    decay a applied from outside:

        Λ_T = 0,   Λ_t = a ((Λ_{t+1} + site_{t+1})⁻¹ + q_{t+1})⁻¹ a,   P^s_t = P_t + Λ_t
        m^s_t = m_t + G_t (m^s_{t+1} − c − a_{t+1} (m_t − c)),   G_t = P_t⁻¹ a (a P_t⁻¹ a + q)⁻¹

    Without truncation this is the Rauch-Tung-Striebel smoother; nothing is subtracted, so P^s_t is positive definite by
    construction. A step without data is legal: its belief is the predicted one, its site :func:`zero_site`.

    Args:
        beliefs: filtered beliefs, stacked along a leading axis T (``jax.tree.map(lambda *b: jnp.stack(b), *list)``).
        sites: ``info.site`` of each step's update, stacked likewise.
        process_noise: q; entry t enters step t (entry 0 is not used). One prefix for all steps, or one stacked along T.
            A leaf that broadcasts to the parameters it covers is the same for all steps; otherwise its first axis is T.
        transition: a, likewise.
        center: c, likewise; None: 0.

    Returns:
        Smoothed beliefs, stacked along T. The last is the filtered one.

    Raises:
        ValueError: stacks of different lengths, arguments that are not prefixes, negative noise, a negative rank.

    Examples:
        >>> apply_fn = lambda weights, x: x @ weights[:, None]
        >>> built = lf.extended_filter(apply_fn, lf.Gaussian(1.0), rank=2)
        >>> x, y = jnp.eye(2), jnp.array([2.0, 4.0])
        >>> _, steps = lf.filter_stream(built, built.init(jnp.zeros(2)), x, y, history="all")
        >>> smoothed = lf.smooth(steps.beliefs, steps.info.site, process_noise=0.0)
        >>> print(steps.beliefs.mean[0].round(3), smoothed.mean[0].round(3))  # the second step's data reach the first
        [1. 0.] [1. 2.]
    """
    states = hasattr(beliefs, "belief")
    advice = 'stack filtered beliefs, or take steps.beliefs of filter_stream(…, history="all")'
    advice = "give their .belief" if states else advice
    checks.instance("beliefs", beliefs, Belief, advice)
    for name, precision in (("beliefs.precision", beliefs.precision), ("sites", sites)):
        checks.operations(name, precision, OPERATIONS, "stack info.site of each step, or take steps.info.site")
    _steps(beliefs, sites)
    checks.not_negative("process_noise", process_noise)
    checks.finite("transition", transition)
    checks.finite("center", center)
    return compiled(_smooth, beliefs, sites, Shared.of(process_noise), Shared.of(transition), center)


def _smooth(
    beliefs: Belief,
    sites: Precision,
    process_noise: Shared,
    transition: Shared,
    center: Tree | None,
) -> Belief:
    steps = _steps(beliefs, sites)
    beliefs, _, whole = learned(beliefs)
    narrow, beliefs, sites = beliefs, *widths.cast((beliefs, sites), widths.common(beliefs, sites))
    last = jax.tree.map(lambda leaf: leaf[-1], beliefs)
    like = jax.tree.map(lambda leaf: leaf[0], beliefs.mean)
    noise_at = per_step("process_noise", process_noise.tree, like, steps)
    transition_at = per_step("transition", transition.tree, like, steps)
    center_at = None if center is None else per_step("center", center, like, steps)
    given = last.precision.in_structure
    joined = Joined.of(last.precision, like)
    buffer = joined.buffer
    last = Belief(buffer.vector(last.mean), joined.precision(last.precision))

    def in_structure(name: str, value: Tree) -> Tree:
        return buffer.vector(given(name, value, like))

    def body(carry: tuple[Tree, Precision, Precision], inputs: tuple) -> tuple:
        next_mean, message, next_precision = carry
        step, belief, next_site = inputs
        noise, decay = noise_at(step + 1), transition_at(step + 1)
        ahead = buffer.vector(moved(belief.mean, decay, None if center_at is None else center_at(step + 1)))
        belief = Belief(buffer.vector(belief.mean), joined.precision(belief.precision))
        next_site = joined.precision(next_site)
        noise, decay = in_structure("process_noise", noise), in_structure("transition", decay)
        message, _ = message.add(next_site, reference=next_precision)
        message = message.retrodict(noise, decay)
        innovation = jax.tree.map(jnp.subtract, next_mean, ahead)
        mean = jax.tree.map(jnp.add, belief.mean, belief.precision.smoothing_gain(innovation, noise, decay))
        precision, _ = belief.precision.add(message)
        return (mean, message, precision), Belief(mean, precision)

    last_precision = last.precision.truncate()
    nothing = jax.tree.map(jnp.zeros_like, last_precision)
    earlier = jax.tree.map(lambda leaf: leaf[:-1], beliefs)
    later_sites = jax.tree.map(lambda leaf: leaf[1:], sites)
    start = (last.mean, nothing, last_precision)
    _, smoothed = jax.lax.scan(body, start, (jnp.arange(steps - 1), earlier, later_sites), reverse=True)
    final = Belief(last.mean, last_precision)
    stacked = jax.tree.map(lambda s, f: jnp.concatenate([s, f[None]]), smoothed, final)
    found = jax.vmap(lambda b: Belief(buffer.vector_back(b.mean), joined.precision_back(b.precision)))(stacked)
    return whole(widths.like(found, narrow))


def _steps(beliefs: Belief, sites: Precision) -> int:
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves((beliefs, sites))}
    if len(lengths) != 1 or () in lengths or (0,) in lengths:
        raise ValueError(
            f"beliefs, sites: expected stacks of T >= 1 steps along a leading axis, got leading axes "
            f"{sorted(lengths)}; "
            "stack them with jax.tree.map(lambda *b: jnp.stack(b), *list)"
        )
    if jax.tree.structure(beliefs.precision) != jax.tree.structure(sites):
        raise ValueError(
            f"sites: expected precisions like the beliefs', {jax.tree.structure(beliefs.precision)}; got "
            f"{jax.tree.structure(sites)}; take info.site of the same filter"
        )
    return lengths.pop()[0]
