"""What a model of a stream is: four pure functions that training, forecasting and metrics are written against."""

from typing import Any, NamedTuple, Protocol

from jaxtyping import Array, Bool, Float

Params = Any
State = Any


class Outputs(NamedTuple):
    """Predictions of a stream, each made before its target is seen: an equal mixture of K components.

    Attributes:
        mean: of the components [T, K, y_dim], in units of y.
        variance: of the components [T, K, y_dim], in units of y²; the aleatoric part.
        log_prob: log density of the mixture at y [T], in nats, by log-sum-exp; NaN where there is no y to score: where
            it is masked or invalid. :func:`latenttrack.metrics.summary` leaves those steps out; so does ``nanmean``.
        invalid: steps [T] that were not masked but had a NaN or infinity in x or y, and were treated as not observed;
            None for a model that does not look.
    """

    mean: Float[Array, "T K y_dim"]
    variance: Float[Array, "T K y_dim"]
    log_prob: Float[Array, " T"]
    invalid: Bool[Array, " T"] | None = None


class Aux(NamedTuple):
    """Beside the loss of a window.

    Attributes:
        reconstruction: weighted mean of −log p(y | x, z) over the observed steps, in nats.
        kl: weighted mean of the divergence over the observed steps, in nats; 0 for a model without one.
        state: after the window, to carry into the next one.
        predictive: weighted mean of −log (1/S) Σ_s p(y | x, z_s) with z_s from the prior; what is scored online.
    """

    reconstruction: Float[Array, ""]
    kl: Float[Array, ""]
    state: State
    predictive: Float[Array, ""] | float = 0.0


class StreamModel(Protocol):
    """A model of a stream, for :func:`latenttrack.fit`. All functions are pure, for one stream and one seed."""

    @property
    def init(self) -> Any:
        """``init(key)`` → params."""

    @property
    def initial_state(self) -> Any:
        """``initial_state(params)`` → state, a pytree."""

    @property
    def rollout(self) -> Any:
        """``rollout(params, key, xs, ys, state=None, samples=K, mask=None)`` → (state, :class:`Outputs`)."""

    @property
    def loss(self) -> Any:
        """``loss(params, key, xs, ys, state, mask=None, *, beta=1.0, weights=None, **options)`` → (scalar, Aux).

        The loss is a mean over the observed steps with ``weights`` [T] (None: equal), so that windows compare. No
        gradient flows into ``state``. ``beta`` scales the divergence; a model without one ignores it.
        """
