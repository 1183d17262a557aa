"""Gaussian processes as linear-Gaussian state-space models: filtering, smoothing, sampling and divergences in O(T).

sites ─filter→ beliefs ─smooth→ posterior ─decode→ tokens or values
"""

from latenttrack.gaussian_process.config import Config
from latenttrack.gaussian_process.inference import filter, init, predict, smooth, update
from latenttrack.gaussian_process.model import Bound, Model, build
from latenttrack.gaussian_process.posteriors import MeanField, Posterior, divergence, log_prob, posterior
from latenttrack.gaussian_process.sampling import sample
from latenttrack.gaussian_process.state_space import StateSpace, add, coupled, covariance, matern, multiply, rbf
from latenttrack.gaussian_process.steps import Belief, Site

__all__ = [
    "Belief",
    "Bound",
    "Config",
    "MeanField",
    "Model",
    "Posterior",
    "Site",
    "StateSpace",
    "add",
    "build",
    "coupled",
    "covariance",
    "divergence",
    "filter",
    "init",
    "log_prob",
    "matern",
    "multiply",
    "posterior",
    "predict",
    "rbf",
    "sample",
    "smooth",
    "update",
]
