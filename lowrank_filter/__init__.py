"""Bayesian filtering and smoothing of neural-network weights with diagonal-plus-low-rank precisions.

params ─init→ belief ─predict→ belief ─update(data)→ belief … ─smooth→ beliefs
"""

from importlib import metadata

from lowrank_filter.algebra.blocks import Blocks
from lowrank_filter.algebra.diag_low_rank import DiagLowRank
from lowrank_filter.algebra.full_matrix import FullMatrix
from lowrank_filter.algebra.kronecker import Kronecker
from lowrank_filter.algebra.operations import inverse_diagonal, logdet, matvec, solve, truncate
from lowrank_filter.algebra.partition import Layer, find_layers
from lowrank_filter.algebra.parts import Parts
from lowrank_filter.algebra.precision import Precision
from lowrank_filter.algebra.structures import Dense, Diagonal, Frozen, KroneckerFactored, LowRank
from lowrank_filter.common.pieces import OtherRunError
from lowrank_filter.common.registered import registered
from lowrank_filter.drivers.adaptive import AdaptiveBelief, adaptive_filter
from lowrank_filter.drivers.changepoint import ChangepointBelief, changepoint_filter
from lowrank_filter.drivers.filters import Filter, extended_filter, laplace_filter
from lowrank_filter.drivers.fit import fit
from lowrank_filter.drivers.run_stream import run_stream
from lowrank_filter.drivers.stream import Stream, filter_stream
from lowrank_filter.kernels.belief import Belief, init, kronecker_init, penalty, sample, store, zero_site
from lowrank_filter.kernels.health import Health, sliding_health
from lowrank_filter.kernels.laplace import laplace_update
from lowrank_filter.kernels.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    Likelihood,
    Poisson,
    TargetUnits,
)
from lowrank_filter.kernels.predict import predict
from lowrank_filter.kernels.prediction import Prediction
from lowrank_filter.kernels.predictive import Predictive, predictive
from lowrank_filter.kernels.prior import scaled
from lowrank_filter.kernels.smooth import smooth
from lowrank_filter.kernels.update import Info, update

__version__ = metadata.version("weightfilter")

__all__ = [
    "AdaptiveBelief",
    "Belief",
    "Bernoulli",
    "Blocks",
    "Categorical",
    "ChangepointBelief",
    "Dense",
    "DiagLowRank",
    "Diagonal",
    "Filter",
    "Frozen",
    "FullMatrix",
    "Gaussian",
    "Health",
    "HeteroscedasticGaussian",
    "Info",
    "Kronecker",
    "KroneckerFactored",
    "Layer",
    "Likelihood",
    "LowRank",
    "OtherRunError",
    "Parts",
    "Poisson",
    "Precision",
    "Prediction",
    "Predictive",
    "Stream",
    "TargetUnits",
    "adaptive_filter",
    "changepoint_filter",
    "extended_filter",
    "filter_stream",
    "find_layers",
    "fit",
    "init",
    "inverse_diagonal",
    "kronecker_init",
    "laplace_filter",
    "laplace_update",
    "logdet",
    "matvec",
    "penalty",
    "predict",
    "predictive",
    "registered",
    "run_stream",
    "sample",
    "scaled",
    "sliding_health",
    "smooth",
    "solve",
    "store",
    "truncate",
    "update",
    "zero_site",
]
