"""The likelihood of a batch to second order in the network's outputs: what an example weighs and where it pulls."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lowrank_filter.algebra.last_layer import Shares
from lowrank_filter.kernels.examples import Batch, valid, zero_where_masked
from lowrank_filter.kernels.likelihoods import Likelihood


class Local(NamedTuple):
    """The likelihood of each example to second order in the network's outputs.

    Attributes:
        loss: −log p(yᵢ | fᵢ) [B]; zero for examples that do not count.
        excess: loss − ½‖uᵢ‖² [B] where the likelihood has it in closed form, else None.
        root: Sᵢ [B, C, r].
        score: uᵢ [B, r], with Sᵢuᵢ = ∇_f loss.
        counts: [B], which examples count.
        invalid: [B], unmasked examples left out because their inputs, outputs or targets are not valid.
        residuals: how many of the uᵢ's entries there are in the examples that count.
        weight: [B], what each example counts for where outliers count less, else None.
    """

    loss: Float[Array, " B"]
    excess: Float[Array, " B"] | None
    root: Float[Array, "B C r"]
    score: Float[Array, "B r"]
    counts: Bool[Array, " B"]
    invalid: Bool[Array, " B"]
    residuals: Float[Array, ""]
    weight: Float[Array, " B"] | None = None


class Losses(NamedTuple):
    """The loss alone: fields as in :class:`Local`."""

    loss: Float[Array, " B"]
    counts: Bool[Array, " B"]
    invalid: Bool[Array, " B"]


class Roots(NamedTuple):
    """The roots Sᵢ/√λ of a batch, known by their products.

    Attributes:
        likelihood, outputs, targets: what they are made of.
        scale: √(wᵢ/λ) [B], zero for examples that do not count.
        observed: [B, r], which of their columns there are; None for all.
    """

    likelihood: Likelihood
    outputs: Float[Array, "B C"]
    targets: Array
    scale: Float[Array, " B"]
    observed: Bool[Array, "B r"] | None

    def times(self, weights: Float[Array, "B r"]) -> Float[Array, "B C"]:
        """Sᵢwᵢ."""
        return self._scaled(jax.vmap(self.likelihood.root_product)(self.outputs, self.targets, self._seen(weights)))

    def transposed_times(self, vectors: Float[Array, "B C"]) -> Float[Array, "B r"]:
        """Sᵢᵀvᵢ."""
        products = jax.vmap(self.likelihood.root_transposed_product)(self.outputs, self.targets, vectors)
        return self._seen(self._scaled(products))

    def columns(self, index: Int[Array, " n"]) -> Float[Array, "B C n"]:
        """Some of their columns."""
        found = jax.vmap(self.likelihood.root_columns, in_axes=(0, 0, None))(self.outputs, self.targets, index)
        seen = found if self.observed is None else found * jnp.take(self.observed, index, axis=1, mode="clip")[:, None]
        return self._scaled(seen)

    def _scaled(self, values: Array) -> Array:
        return values * self.scale.reshape(-1, *(1,) * (values.ndim - 1))

    def _seen(self, values: Array) -> Array:
        return values if self.observed is None else values * self.observed


def localise(
    likelihood: Likelihood, outputs: Float[Array, "B C"], batch: Batch, temperature: Any, threshold: Any = None
) -> Local:
    """The likelihood's loss, root and score at the outputs, divided by the temperature; zero where nothing counts.

    With a threshold c, an example weighs w = 1/(1 + ‖u‖²/c²): its temperature is divided by that, so ‖√w u‖ < c.
    """
    counts = _counting(likelihood, outputs, batch)
    weight = None
    if threshold is not None:
        score = expand(likelihood, outputs, batch._replace(weights=None), counts, 1.0).score
        weight = 1 / (1 + jnp.sum(jnp.square(score / jnp.asarray(threshold, score.dtype)), axis=1))
    found = expand(likelihood, outputs, batch, counts, temperature, weight)
    return found._replace(invalid=batch.mask & ~counts)


def expand(
    likelihood: Likelihood,
    outputs: Float[Array, "B C"],
    batch: Batch,
    counts: Bool[Array, " B"],
    temperature: Any,
    weight: Float[Array, " B"] | None = None,
    spread: Float[Array, "B C C"] | None = None,
    *,
    guarded: bool = True,
) -> Local:
    """The same at outputs where nobody looks whether they are valid, and with the weights that outliers were given.

    With a ``spread``, expected under outputs that have this covariance, see :meth:`Likelihood.under`.
    """
    outputs, targets, scale = _prepared(outputs, batch, counts, temperature, weight)
    observed = batch.observed
    each = None
    if spread is not None:
        each, likelihood = 0, jax.vmap(functools.partial(likelihood.under, guarded=guarded))(spread)
    root = zero_where_masked(counts, _map("root", likelihood, each, outputs, targets))
    score = zero_where_masked(counts, _map("whitened_score", likelihood, each, outputs, targets))
    residuals = jnp.sum(counts) * score.shape[1]
    if observed is None:
        excess = _map("normaliser", likelihood, each, outputs)
    else:
        terms = _map("normaliser_terms", likelihood, each, outputs)
        excess = None if terms is None else jnp.sum(jnp.where(observed, terms, 0), axis=1)
        columns = columns_of(observed, score.shape[1])
        root, score = jnp.where(columns[:, None], root, 0), jnp.where(columns, score, 0)
        residuals = jnp.sum(columns & counts[:, None])
    return Local(
        _losses(likelihood, outputs, targets, counts, observed, each) * scale**2,
        None if excess is None else zero_where_masked(counts, excess) * scale**2,
        root * scale[:, None, None],
        score * scale[:, None],
        counts,
        jnp.zeros_like(counts),
        residuals.astype(score.dtype),
        weight,
    )


def losses(likelihood: Likelihood, outputs: Float[Array, "B C"], batch: Batch, temperature: Any) -> Losses:
    """The likelihood's loss at the outputs, divided by the temperature; nothing larger than the outputs is built."""
    counts = _counting(likelihood, outputs, batch)
    outputs, targets, scale = _prepared(outputs, batch, counts, temperature)
    loss = _losses(likelihood, outputs, targets, counts, batch.observed)
    return Losses(loss * scale**2, counts, batch.mask & ~counts)


def roots(likelihood: Likelihood, outputs: Float[Array, "B C"], batch: Batch, temperature: Any, width: int) -> Roots:
    """The likelihood's roots at the outputs, ``width`` columns each, not built."""
    counts = _counting(likelihood, outputs, batch)
    outputs, targets, scale = _prepared(outputs, batch, counts, temperature)
    observed = None if batch.observed is None else columns_of(batch.observed, width)
    return Roots(likelihood, outputs, targets, jnp.where(counts, scale, 0), observed)


def shares(
    likelihood: Likelihood,
    outputs: Float[Array, "B C"],
    batch: Batch,
    counts: Bool[Array, " B"],
    temperature: Any,
    weight: Float[Array, " B"] | None = None,
) -> Shares:
    """The roots of a likelihood that has shares, for the same examples as in :func:`expand`."""
    outputs, _, scale = _prepared(outputs, batch, counts, temperature, weight)
    found = jax.vmap(likelihood.shares)(outputs)
    if found is None:
        raise AssertionError("a likelihood that has shares")
    return Shares(jnp.sqrt(found), jnp.where(counts, scale, 0))


def columns_of(observed: Bool[Array, "B m"], width: int) -> Bool[Array, "B r"]:
    """Which columns of a diagonal root belong to observed targets: each target has one in each of its outputs."""
    return jnp.tile(observed, (1, width // observed.shape[1]))


def _counting(likelihood: Likelihood, outputs: Float[Array, "B C"], batch: Batch) -> Bool[Array, " B"]:
    """Which examples can be used, with these outputs too."""
    return batch.usable & jax.vmap(valid, in_axes=(None, 0, 0))(likelihood, outputs, batch.y)


def _prepared(
    outputs: Array, batch: Batch, counts: Array, temperature: Any, weight: Array | None = None
) -> tuple[Array, Array, Array]:
    """Outputs and targets without the examples that do not count, and √(w/λ) of each, w also what an outlier weighs."""
    # A second zeroing, after which no derivative of an example that does not count can be anything but finite.
    outputs = jnp.where(counts[:, None], outputs, 0)
    scale = jnp.broadcast_to(jax.lax.rsqrt(jnp.asarray(temperature, outputs.dtype)), counts.shape)
    if batch.weights is not None:
        scale = scale * jnp.sqrt(batch.weights.astype(outputs.dtype))
    if weight is not None:
        scale = scale * jnp.sqrt(weight)
    return outputs, zero_where_masked(counts, batch.y), scale


def _map(method: str, likelihood: Likelihood, each: int | None, *arguments: Array) -> Any:
    """A method at all examples, of one likelihood or (along its axis ``each``) of one for each."""
    return jax.vmap(lambda one, rows: getattr(one, method)(*rows), in_axes=(each, 0))(likelihood, arguments)


def _losses(
    likelihood: Likelihood,
    outputs: Array,
    targets: Array,
    counts: Array,
    observed: Array | None,
    each: int | None = None,
) -> Array:
    if observed is None:
        found = _map("nll", likelihood, each, outputs, targets)
    else:
        found = jnp.sum(jnp.where(observed, _map("terms", likelihood, each, outputs, targets), 0), axis=1)
    return zero_where_masked(counts, found)
