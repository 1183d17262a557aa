"""What tables and pictures call each method and model; one of one's own is called by its name."""

_NOISES = {
    "none": "No process noise",
    "scalar": "The same for all weights",
    "convolutions": "On the convolutions",
    "dense": "On the dense layers",
    "relative": "Relative to each layer",
    "evidence": "By the evidence",
}
LABELS = {
    "sequential": "Sequential training",
    "anchor": "L2 anchor",
    "ewc": "EWC",
    "filter_last": "Low-rank filter, last model",
    "filter": "Low-rank filter",
    "smoother": "Smoother",
    "forecast": "Forecast, task unseen",
    "interpolated": "Smoother, task unseen",
    "layer": "Low rank for each layer",
    "unit": "Low rank for each unit",
    "kronecker": "Kronecker filter",
    "kronecker_filter_last": "Kronecker filter, last model",
    "kronecker_filter": "Kronecker filter",
    "kronecker_smoother": "Kronecker smoother",
    "osla": "OSLA, nearest product",
    "osla_sum": "OSLA, every task's factors",
    "neighbours": "Neighbours' average, task unseen",
    "kronecker_forecast": "Kronecker forecast, task unseen",
    "kronecker_neighbours": "Kronecker neighbours' average, task unseen",
    "kronecker_interpolated": "Kronecker smoother, task unseen",
    **_NOISES,
    **{f"{name}_own": f"{text}, at each task" for name, text in _NOISES.items()},
    "lofi": "LO-FI, one pass",
    "alone": "Each task alone",
    "joint": "Joint training",
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


def label(name: str) -> str:
    """The readable name of a method or a model, or its own name where there is no other."""
    return LABELS.get(name, name)
