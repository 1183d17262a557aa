"""Every public function × every kind of wrong argument: one error each, of three parts, that names the argument."""

import calls
import jax
import jax.numpy as jnp
import latent
import numpy as np
import pytest
from calls import INF, NAN, Call, Traced

import latenttrack as lt
from latenttrack import next_latent

CONFIG = lt.Config(**latent.SIZES | {"generator_hidden": (), "predictor_hidden": ()})
MODEL = lt.build(CONFIG, latent.X, latent.Y)
KEY, T = jax.random.key(0), 40
PARAMS = MODEL.init(KEY)
STATE = MODEL.initial_state(PARAMS)
Z = jnp.zeros(CONFIG.latent_dim)
THETA = MODEL.generate(PARAMS, Z)
XS, YS = jnp.zeros((T, latent.X)), jnp.zeros((T, latent.Y))
OUTPUTS = lt.Outputs(jnp.zeros((T, 3, latent.Y)), jnp.ones((T, 3, latent.Y)), jnp.zeros(T))


def like(tree, *, optional=False):
    """A pytree that a function of the model returned."""
    leaves, structure = jax.tree.flatten(tree)
    wrong = {
        "text": "it",
        "number": 1.0,
        "empty": {},
        "wrong tree": [tree],
        "wrong shapes": structure.unflatten([jnp.zeros((*leaf.shape, 2), leaf.dtype) for leaf in leaves]),
        "wrong dtypes": structure.unflatten([np.zeros(leaf.shape, complex) for leaf in leaves]),
        "Python numbers": structure.unflatten([0.0] * len(leaves)),
        "wrong shapes, traced": Traced(
            structure.unflatten([np.zeros((*leaf.shape, 2), leaf.dtype) for leaf in leaves])
        ),
    }
    return wrong | ({} if optional else {"None": None})


def vector(size):
    return {
        "text": "x",
        "None": None,
        "object": object(),
        "scalar": 1.0,
        "wrong width": jnp.ones(size + 1),
        "two axes": jnp.ones((2, size)),
        "complex": np.ones(size, complex),
        "booleans": np.ones(size, bool),
        "wrong width, traced": Traced(np.ones(size + 1, np.float32)),
    }


def series(width, *, optional=False, visible=True, alone=False):
    wrong = {
        "text": "xs",
        "object": object(),
        "number": 1.0,
        "one axis": jnp.ones(T),
        "three axes": jnp.ones((1, T, width)),
        "complex": np.ones((T, width), complex),
        "booleans": np.ones((T, width), bool),
    }
    if not alone:
        wrong |= {"wrong length": jnp.ones((7, width)), "wrong length, traced": Traced(np.ones((7, width), np.float32))}
    if width in (latent.X, latent.Y) and not alone:
        wrong["wrong width"] = jnp.ones((T, width + 4))
    if visible:
        bad = np.ones((T, width), np.float32)
        bad[3] = NAN
        wrong |= {"NaN": bad, "infinity": bad * INF}
    return wrong | ({} if optional else {"None": None})


def components():
    return {
        "text": "mean",
        "None": None,
        "object": object(),
        "two axes": YS,
        "wrong length": OUTPUTS.mean[:7],
        "wrong width": jnp.ones((T, 3, 5)),
        "wrong width, traced": Traced(np.ones((T, 3, 5), np.float32)),
        "booleans": np.ones((T, 3, latent.Y), bool),
    }


WIDTHS = {"number": 16, "None": None, "list": [16], "zero": (4, 0), "fraction": (4.5,), "bool": (True,), "text": "16"}
SCORES = {"text": "nll", "None": None, "object": object(), "number": 1.0, "booleans": np.ones((2, 5), bool)}
THRESHOLD = {k: calls.number()[k] for k in ("NaN", "text", "bool", "complex", "object", "wrong shape", "None")}
LEVEL = calls.number(zero=True) | {"above one": 1.5}
LEVELS = {k: v for k, v in LEVEL.items() if "wrong shape" not in k} | {"matrix": jnp.full((2, 2), 0.5)}
Q, QUANTILES = jnp.asarray([0.1, 0.5, 0.9]), jnp.zeros((3, T, latent.Y))
QUANTILED = {
    "text": "it",
    "None": None,
    "two axes": YS,
    "wrong count": QUANTILES[:2],
    "wrong width": QUANTILES[..., :1],
}
PATHS = {"ys": {k: v for k, v in series(latent.Y, visible=False).items() if k != "wrong width"} | {"wrong width": XS}}
CHANNELS = {"text": "all", "steps": np.ones(T, bool), "wrong width": np.ones((T, 3), bool), "NaN": YS * NAN}
MATRIX = {
    "text": "A",
    "vector": jnp.ones(3),
    "wrong size": jnp.eye(4),
    "wrong size, traced": Traced(np.eye(4)),
    "complex": np.eye(3, dtype=complex),
}
PITS = {"text": "pit", "None": None, "object": object(), "booleans": np.ones((T, latent.Y), bool)}
STREAM = {"xs": XS, "ys": YS}
STREAMS = {"xs": series(latent.X), "ys": series(latent.Y), "mask": calls.mask(T)}
SCORED = {"ys": series(latent.Y, visible=False), "mean": components(), "variance": components()}


class Bare:
    """A model whose outputs' width cannot be known beforehand."""

    init, initial_state, rollout, loss = MODEL.init, MODEL.initial_state, MODEL.rollout, MODEL.loss


TABLE = {
    "Config": Call(
        lt.Config,
        {},
        {
            **{
                name: calls.count(1)
                for name in ("latent_dim", "hidden_dim", "encoder_dim", "posterior_samples", "prior_samples")
            },
            "generator_hidden": WIDTHS,
            "predictor_hidden": WIDTHS,
            "transition": calls.choice(),
            "summary": calls.flag(),
            "variance_floor": {k: v for k, v in calls.number(zero=True).items() if "traced" not in k}
            | {"tracer": Traced(1e-4)},
            "points": calls.choice(),
            "conditioning": calls.choice(),
            "adapt": {k: v for k, v in calls.choice().items() if k != "None"},
        },
    ),
    "build": Call(
        lt.build,
        {"config": CONFIG, "x_dim": 3, "y_dim": 2},
        {
            "config": {"None": None, "text": "structured", "mapping": latent.SIZES, "class": lt.Config},
            "x_dim": calls.count(0),
            "y_dim": calls.count(1),
        },
    ),
    "adapted": Call(
        lt.adapted,
        {"model": MODEL, "features": lambda params, state, x: jnp.ones(1), "width": 1, "y_dim": 2},
        {
            "model": {"None": None, "text": "lt", "number": 1, "without a loss": {"init": MODEL.init}},
            "features": {"None": None, "text": "features", "number": 1, "array": jnp.ones(1)},
            "width": calls.count(1),
            "y_dim": calls.count(1),
        },
    ),
    "fit": Call(
        lt.fit,
        {"model": MODEL, "key": KEY, **STREAM, "window": 8, "batch": 2, "updates": 2, "evaluate_every": 1},
        {
            "model": {"None": None, "text": "lt", "number": 1, "without a loss": {"init": MODEL.init}},
            "key": calls.key(many=True),
            **STREAMS,
            "xs": STREAMS["xs"] | {"too short": XS[:20]},
            "validation": {
                "text": "validation",
                "number": 1,
                "one array": (XS,),
                "four": (XS, YS, None, None),
                "wrong width": (XS, XS),
                "wrong lengths": (XS, YS[:7]),
                "NaN": (XS * NAN, YS),
            },
            "updates": calls.count(1),
            "window": calls.count(1),
            "batch": calls.count(1),
            "learning_rate": calls.number(zero=True),
            "clip": calls.number(),
            "beta": calls.number(zero=True),
            "warmup": calls.number(zero=True),
            "recency": calls.number() | {"above one": 1.5},
            "options": {"text": "predictive", "number": 0.5, "unknown option": {"other": 1.0}},
            "evaluate_every": calls.count(1) | {"no divisor": 3},
            "samples": calls.count(1),
            "burn_in": calls.count(0),
            "optimizer": calls.optimizer(optional=True),
            "seeds": calls.choice(),
            "windows": calls.choice(),
            "checkpoint": calls.folder(),
            "progress": {"text": "print", "number": 1, "bool": True},
        },
    ),
    "rollout": Call(
        lt.rollout,
        {"model": MODEL, "params": PARAMS, "key": KEY, **STREAM},
        {
            "model": {"None": None, "text": "lt", "number": 1, "class": dict},
            "params": like(PARAMS),
            "key": calls.key(),
            **STREAMS,
            "state": like(STATE, optional=True),
            "samples": calls.count(1),
            "checkpoint": calls.folder(),
            "checkpoint_every": calls.count(1),
        },
    ),
    "forecast": Call(
        lt.forecast,
        {"model": MODEL, "params": PARAMS, "key": KEY, "state": STATE, "xs": XS},
        {
            "model": {"None": None, "text": "lt", "number": 1, "class": dict},
            "params": like(PARAMS),
            "key": calls.key(),
            "state": like(STATE),
            "xs": series(latent.X, alone=True) | {"wrong width": jnp.ones((T, 7)), "no step": XS[:0]},
            "samples": calls.count(1),
            "components": calls.count(1),
            "y_dim": calls.count(1, optional=True),
        },
    ),
    "init": Call(MODEL.init, {"key": KEY}, {"key": calls.key()}),
    "initial_state": Call(MODEL.initial_state, {"params": PARAMS}, {"params": like(PARAMS)}),
    "predict": Call(
        MODEL.predict, {"params": PARAMS, "state": STATE}, {"params": like(PARAMS), "state": like(STATE)}
    ),
    "model.generate": Call(
        MODEL.generate,
        {"params": PARAMS, "z": Z},
        {"params": like(PARAMS), "z": vector(CONFIG.latent_dim), "state": like(STATE, optional=True)},
    ),
    "emit": Call(MODEL.emit, {"theta": THETA, "x": XS[0]}, {"theta": like(THETA), "x": vector(latent.X)}),
    "features": Call(
        MODEL.features,
        {"params": PARAMS, "state": STATE, "x": XS[0]},
        {"params": like(PARAMS), "state": like(STATE), "x": vector(latent.X)},
    ),
    "update": Call(
        MODEL.update,
        {"params": PARAMS, "state": STATE, "x": XS[0], "y": YS[0]},
        {
            "params": like(PARAMS),
            "state": like(STATE),
            "x": vector(latent.X),
            "y": vector(latent.Y),
            "mask": {"text": "seen", "vector": np.ones(2, bool), "fraction": 0.5, "object": object()},
            "channels": {"text": "all", "scalar": True, "wrong width": np.ones(3, bool), "fractions": np.full(2, 0.5)},
        },
    ),
    "model.rollout": Call(
        MODEL.rollout,
        {"params": PARAMS, "key": KEY, **STREAM, "samples": 2},
        {
            "params": like(PARAMS),
            "key": calls.key(),
            **STREAMS,
            "state": like(STATE, optional=True),
            "samples": calls.count(1),
            "channels": CHANNELS,
        },
    ),
    "loss": Call(
        MODEL.loss,
        {"params": PARAMS, "key": KEY, **STREAM, "state": STATE},
        {
            "params": like(PARAMS),
            "key": calls.key(),
            **STREAMS,
            "state": like(STATE),
            "beta": calls.number(zero=True),
            "weights": {
                "text": "w", "number": 1.0, "wrong length": jnp.ones(7), "two axes": YS, "booleans": np.ones(T, bool),
            },
            "predictive": LEVEL,
            "channels": CHANNELS,
        },
    ),
    "discriminative_update": Call(
        lt.discriminative_update,
        {"mean": jnp.zeros(3), "covariance": jnp.eye(3), "transition": 0.5 * jnp.eye(3), "noise": jnp.eye(3),
         "estimate": jnp.zeros(3), "uncertainty": jnp.eye(3)},
        {
            "mean": {"text": "x", "None": None, "scalar": 1.0, "two axes": jnp.ones((2, 3)), "empty": jnp.ones(0)},
            **{name: MATRIX | {"None": None} for name in ("covariance", "transition", "noise", "uncertainty")},
            "estimate": vector(3),
            "stationary": MATRIX,
            "mask": {"text": "seen", "vector": np.ones(2, bool), "fraction": 0.5},
        },
    ),
    "stationary_covariance": Call(
        lt.stationary_covariance,
        {"transition": 0.5 * jnp.eye(3), "noise": jnp.eye(3)},
        {
            "transition": {"text": "A", "None": None, "vector": jnp.ones(3), "not square": jnp.ones((3, 2)),
                           "expanding": jnp.eye(3)},
            "noise": MATRIX | {"None": None},
        },
    ),
    "metrics.nll": Call(lt.metrics.nll, {"ys": YS, "mean": OUTPUTS.mean, "variance": OUTPUTS.variance}, SCORED),
    "metrics.squared_error": Call(
        lt.metrics.squared_error, {"ys": YS, "mean": OUTPUTS.mean}, {"ys": SCORED["ys"], "mean": SCORED["mean"]}
    ),
    "metrics.crps": Call(
        lt.metrics.crps,
        {"ys": YS, "mean": OUTPUTS.mean, "variance": OUTPUTS.variance},
        SCORED | {"batch_size": calls.count(1)},
    ),
    "metrics.pit": Call(lt.metrics.pit, {"ys": YS, "mean": OUTPUTS.mean, "variance": OUTPUTS.variance}, SCORED),
    "metrics.coverage": Call(lt.metrics.coverage, {"pits": YS, "level": 0.9}, {"pits": PITS, "level": LEVEL}),
    "metrics.calibration_error": Call(
        lt.metrics.calibration_error,
        {"pits": YS},
        {"pits": PITS | {"one axis": YS[:, 0]}, "mask": calls.mask(T), "levels": calls.count(1)},
    ),
    "metrics.uncertainty": Call(
        lt.metrics.uncertainty,
        {"mean": OUTPUTS.mean, "variance": OUTPUTS.variance},
        {"mean": {k: v for k, v in components().items() if "wrong" not in k}, "variance": components()},
    ),
    "metrics.quantile": Call(
        lt.metrics.quantile,
        {"mean": OUTPUTS.mean, "variance": OUTPUTS.variance, "q": 0.5},
        {"mean": {k: v for k, v in components().items() if "wrong" not in k}, "variance": components(), "q": LEVELS},
    ),
    "metrics.interval": Call(
        lt.metrics.interval,
        {"mean": OUTPUTS.mean, "variance": OUTPUTS.variance, "level": 0.8},
        {"mean": {k: v for k, v in components().items() if "wrong" not in k}, "variance": components(), "level": LEVEL},
    ),
    "metrics.quantile_loss": Call(
        lt.metrics.quantile_loss,
        {"ys": YS, "quantiles": QUANTILES, "q": Q},
        {"ys": PATHS["ys"], "quantiles": QUANTILED, "q": LEVELS | {"scalar": 0.5}},
    ),
    "metrics.weighted_quantile_loss": Call(
        lt.metrics.weighted_quantile_loss,
        {"ys": YS, "quantiles": QUANTILES, "q": Q},
        {"ys": PATHS["ys"], "quantiles": QUANTILED, "q": LEVELS | {"scalar": 0.5}, "mask": calls.mask(T)},
    ),
    "metrics.mase": Call(
        lt.metrics.mase,
        {"ys": YS, "points": YS, "history": YS},
        {
            "ys": PATHS["ys"],
            "points": series(latent.Y, visible=False),
            "history": series(latent.Y, visible=False, alone=True) | {"too short": YS[:1], "wrong width": XS},
            "season": calls.count(1),
            "mask": calls.mask(T),
        },
    ),
    "metrics.horizon_coverage": Call(
        lt.metrics.horizon_coverage,
        {"ys": YS[None], "lower": YS[None], "upper": YS[None]},
        {
            "ys": {k: v for k, v in SCORES.items() if k != "booleans"} | {"two axes": YS, "wrong shape": YS[None, :7]},
            "lower": SCORES | {"two axes": YS, "wrong shape": YS[None, :7]},
            "upper": SCORES | {"two axes": YS, "wrong shape": YS[None, :7]},
            "mask": {"wrong shape": np.ones(T, bool), "text": "all", "fractions": np.full((1, T), 0.5)},
        },
    ),
    "metrics.energy_score": Call(
        lt.metrics.energy_score,
        {"ys": YS, "samples": jnp.zeros((5, T, latent.Y))},
        {
            "ys": PATHS["ys"],
            "samples": {"text": "it", "None": None, "two axes": YS, "wrong shape": jnp.ones((5, 7, latent.Y))},
            "batch_size": calls.count(1),
        },
    ),
    "metrics.failure_rate": Call(
        lt.metrics.failure_rate, {"nlls": jnp.ones((2, 5))}, {"nlls": SCORES, "threshold": THRESHOLD}
    ),
    "metrics.first_shares": Call(
        lt.metrics.first_shares, {"nlls": jnp.ones((2, 5))}, {"nlls": SCORES | {"one model": jnp.ones(5)}}
    ),
    "metrics.spikes": Call(lt.metrics.spikes, {"nlls": jnp.ones((2, 5))}, {"nlls": SCORES, "threshold": THRESHOLD}),
    "metrics.summary": Call(
        lt.metrics.summary,
        {"outputs": OUTPUTS, "ys": YS},
        {
            "outputs": {"None": None, "text": "outputs", "tuple": tuple(OUTPUTS), "class": lt.Outputs},
            "ys": series(latent.Y, visible=False),
            "mask": calls.mask(T),
        },
    ),
    "metrics.health": Call(
        lt.metrics.health,
        {"outputs": OUTPUTS, "ys": YS},
        {
            "outputs": {"None": None, "text": "outputs", "tuple": tuple(OUTPUTS), "class": lt.Outputs},
            "ys": series(latent.Y, visible=False),
            "mask": calls.mask(T),
            "window": calls.count(1),
        },
    ),
}  # fmt: skip
# Containers, and the module of the metrics; what they hold is checked where it is used.
WITHOUT = {
    "Adapted",
    "AdaptedState",
    "Aux",
    "Data",
    "DiscriminativeBelief",
    "Fit",
    "Forecast",
    "Forecaster",
    "History",
    "Model",
    "Outputs",
    "Prior",
    "State",
    "StreamModel",
    "metrics",
}
# Of token sequences; refused in tests/latenttrack/next_latent/test_errors.py.
OF_TOKENS = set(next_latent.__all__)
CONTAINERS_OF_METRICS = {"metrics.Summary", "metrics.Health"}


def own(module):
    return {
        f"metrics.{name}": value
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }


def test_the_table_has_every_public_name_and_parameter():
    public = {name: getattr(lt, name) for name in lt.__all__} | own(lt.metrics)
    public |= {f"model.{name}" if name in public else name: part for name, part in MODEL._asdict().items()}
    calls.assert_complete(TABLE, public, WITHOUT | OF_TOKENS | CONTAINERS_OF_METRICS)


@pytest.mark.parametrize("name", TABLE)
def test_the_good_call_goes_through(name):
    calls.assert_good(TABLE[name])


@pytest.mark.parametrize(("call", "parameter", "wrong"), calls.cases(TABLE))
def test_refused(call, parameter, wrong):
    calls.assert_refused(call, parameter, wrong)
