"""A latent filter whose low-dimensional state generates the weights of a predictor (LatentTrack, arXiv 2602.00458).

h, z ─predict→ p(z) ─generate→ weights ─emit(x)→ prediction ─update(x, y)→ h, z …
"""

from typing import TYPE_CHECKING, Any

from latenttrack import metrics
from latenttrack.adapted import Adapted, AdaptedState, adapted
from latenttrack.discriminative import DiscriminativeBelief, discriminative_update, stationary_covariance
from latenttrack.drivers.fit import Data, Fit, History, fit
from latenttrack.drivers.forecast import Forecast, forecast
from latenttrack.drivers.rollout import rollout
from latenttrack.interface import Aux, Outputs, StreamModel
from latenttrack.next_latent import (
    Decoded,
    LatentDynamics,
    LatentFilter,
    NextLatParams,
    SequenceModel,
    TransformerConfig,
    generate,
    latent_filter,
    nextlat_loss,
    speculate,
    transformer,
)
from latenttrack.tracking.config import Config
from latenttrack.tracking.model import Model, Prior, State, build

if TYPE_CHECKING:
    from latenttrack.drivers.forecaster import Forecaster

__all__ = [
    "Adapted",
    "AdaptedState",
    "Aux",
    "Config",
    "Data",
    "Decoded",
    "DiscriminativeBelief",
    "Fit",
    "Forecast",
    "Forecaster",
    "History",
    "LatentDynamics",
    "LatentFilter",
    "Model",
    "NextLatParams",
    "Outputs",
    "Prior",
    "SequenceModel",
    "State",
    "StreamModel",
    "TransformerConfig",
    "adapted",
    "build",
    "discriminative_update",
    "fit",
    "forecast",
    "generate",
    "latent_filter",
    "metrics",
    "nextlat_loss",
    "rollout",
    "speculate",
    "stationary_covariance",
    "transformer",
]


def __getattr__(name: str) -> Any:
    """The forecaster, whose packages are an extra, when it is asked for."""
    if name == "Forecaster":
        from latenttrack.drivers.forecaster import Forecaster  # noqa: PLC0415

        return Forecaster
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
