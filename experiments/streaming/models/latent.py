"""The latent filter of the comparison; its numbers were chosen on Jena's validation year."""

from typing import Any

import latenttrack as lt
from experiments.streaming.models import parts
from experiments.streaming.models.entry import Entry

LT = lt.Config(hidden_dim=60, variance_floor=parts.FLOOR)


def latent(**changes: Any) -> Entry:
    """A latent filter that differs from :data:`LT` in some fields."""
    return Entry(_build, {**vars(LT), **changes}, samples_prior=True)


def _build(x_dim: int, y_dim: int, steps: int, **config: Any) -> Any:
    return lt.build(lt.Config(**config), x_dim, y_dim)


MODELS = {
    "lt_structured": latent(transition="structured"),
    "lt_unstructured": latent(transition="unstructured"),
    "lt_adapted": latent(adapt="filter"),
    # A wider predictor has about as many parameters as the generator that it does without.
    "latent_input": latent(conditioning="input", predictor_hidden=(60,)),
}
