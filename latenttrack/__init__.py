"""A latent filter whose low-dimensional state generates the weights of a predictor (LatentTrack, arXiv 2602.00458).

h, z ─predict→ p(z) ─generate→ weights ─emit(x)→ prediction ─update(x, y)→ h, z …
"""

from latenttrack import metrics
from latenttrack.drivers.fit import Data, Fit, History, fit
from latenttrack.drivers.forecast import Forecast, forecast
from latenttrack.drivers.rollout import rollout
from latenttrack.interface import Aux, Outputs, StreamModel
from latenttrack.tracking.config import Config
from latenttrack.tracking.model import Model, Prior, State, build

__all__ = [
    "Aux",
    "Config",
    "Data",
    "Fit",
    "Forecast",
    "History",
    "Model",
    "Outputs",
    "Prior",
    "State",
    "StreamModel",
    "build",
    "fit",
    "forecast",
    "metrics",
    "rollout",
]
