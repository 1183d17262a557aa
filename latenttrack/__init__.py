"""A latent filter whose low-dimensional state generates the weights of a predictor (LatentTrack, arXiv 2602.00458).

h, z ─predict→ p(z) ─generate→ weights ─emit(x)→ prediction ─update(x, y)→ h, z …
"""

from latenttrack.config import Config
from latenttrack.drivers.fit import Fit, fit
from latenttrack.kernels.interface import Aux, Outputs, StreamModel
from latenttrack.kernels.model import Model, Prior, State, build

__all__ = ["Aux", "Config", "Fit", "Model", "Outputs", "Prior", "State", "StreamModel", "build", "fit"]
