"""The models of the comparison by name, each of about 20,000 parameters where its kind allows."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import latenttrack as lt
from experiments.baselines import dssm, gru, kalman, parts, persistence, static, vrnn, weights

LT = lt.Config(hidden_dim=60, variance_floor=parts.FLOOR)
"""The latent filter of the comparison; chosen on the validation year."""


class Entry(NamedTuple):
    """A model and how it is chosen.

    Attributes:
        build: (x_dim, y_dim, steps of the training span) → model.
        samples_prior: whether its objective has a part of prior samples, whose share is then chosen too.
        trained: whether gradients train it; else it filters the training span, if it has a ``grid``.
        side_by_side: whether its seeds and windows train as one batch: many small decompositions are slow one by one.
        grid: values for the entries of its parameters, for a model that is not trained.
    """

    build: Callable[[int, int, int], Any]
    samples_prior: bool = False
    trained: bool = True
    side_by_side: bool = False
    grid: Mapping[str, Sequence[float]] = {}


def latent(**changes: Any) -> Entry:
    """A latent filter that differs from :data:`LT` in some fields."""
    config = lt.Config(**{**vars(LT), **changes})
    return Entry(lambda x, y, _: lt.build(config, x, y), samples_prior=True)


MODELS: Mapping[str, Entry] = {
    "lt_structured": latent(transition="structured"),
    "vrnn": Entry(lambda x, y, _: vrnn.build(x, y), samples_prior=True),
    "gru": Entry(lambda x, y, _: gru.build(x, y)),
    "lt_unstructured": latent(transition="unstructured"),
    "persistence": Entry(lambda x, y, _: persistence.build(x, y), trained=False),
    "mlp": Entry(lambda x, y, _: static.mlp(x, y)),
    "kalman": Entry(lambda x, y, _: kalman.build(x, y), side_by_side=True),
    "gru_mixture": Entry(lambda x, y, _: gru.build(x, y, components=8, hidden=60)),
    "weight_filter": Entry(
        lambda x, y, _: weights.build(x, y),
        trained=False,
        grid={"process_noise": (1e-7, 1e-6, 1e-5, 1e-4), "outlier_threshold": (10.0, 30.0)},
    ),
    "ensemble": Entry(lambda x, y, _: static.ensemble(x, y)),
    "dssm": Entry(lambda x, y, _: dssm.build(x, y), samples_prior=True),
    "mc_dropout": Entry(lambda x, y, _: static.mc_dropout(x, y)),
    "bbb": Entry(lambda x, y, steps: static.bayes_by_backprop(x, y, steps=steps)),
}
"""In the order in which they are run: what the comparison is about comes first."""

LABELS = {
    "lt_structured": "LatentTrack, structured",
    "lt_unstructured": "LatentTrack, unstructured",
    "vrnn": "VRNN",
    "gru": "GRU, Gaussian head",
    "gru_mixture": "GRU, mixture of 8",
    "dssm": "DSSM",
    "persistence": "Persistence",
    "mlp": "MLP",
    "ensemble": "Deep ensemble",
    "mc_dropout": "MC-dropout",
    "bbb": "Bayes by backprop",
    "kalman": "Kalman filter",
    "weight_filter": "Weight filter",
}
