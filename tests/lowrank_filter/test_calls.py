"""Every public function × every kind of wrong argument: one error each, of three parts, that names the argument."""

import calls
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from calls import INF, NAN, Call, Traced

import lowrank_filter as lf

# Some of the names are those of the release before.
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated, gone in the next:DeprecationWarning")

PARAMS = {"b": jnp.zeros(2), "w": jnp.ones((3, 2))}
BELIEF = lf.init(PARAMS, rank=2)
STACK = jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), BELIEF)
X, Y = np.ones((4, 3), np.float32), np.array([0, 1, 1, 0])


def net(params, x):
    return x @ params["w"] + params["b"]


def with_nan(array):
    array = np.array(array, np.float32)
    array.flat[0] = NAN
    return array


VECTOR = {
    "wrong type": "parameters",
    "None": None,
    "wrong tree": {"w": jnp.ones((3, 2))},
    "flat": jnp.ones(8),
    "wrong shape": {"b": jnp.ones(2), "w": jnp.ones((2, 3))},
    "scalars": {"b": 1.0, "w": 1.0},
    "texts": {"b": "b", "w": "w"},
    "booleans": {"b": np.ones(2, bool), "w": np.ones((3, 2), bool)},
    "complex": {"b": np.ones(2, complex), "w": np.ones((3, 2), complex)},
    "wrong shape, traced": Traced({"b": np.ones(2, np.float32), "w": np.ones((2, 3), np.float32)}),
}
NOT_FINITE = {"NaN": {"b": jnp.full(2, NAN), "w": jnp.ones((3, 2))}, "infinity": PARAMS | {"b": jnp.full(2, INF)}}
NETWORK = {
    "wrong type": "parameters",
    "None": None,
    "number": 1.0,
    "empty": {},
    "integers": {"n": jnp.arange(3)},
    "booleans": {"n": jnp.ones(3, bool)},
    "complex": {"n": jnp.ones(3, complex)},
    "texts": {"n": "w"},
} | NOT_FINITE
POSITIVE_DIAGONAL = BELIEF.precision.diag
WRONG_PRECISION = {
    "wrong type": 3,
    "None": None,
    "dense matrix": jnp.eye(8),
    "class": lf.DiagLowRank,
    "belief": BELIEF,
    "factor of wrong shape": BELIEF.precision._replace(factor={"b": jnp.ones((2, 2)), "w": jnp.ones((2, 2, 3))}),
    "factor of wrong tree": BELIEF.precision._replace(factor=jnp.ones((2, 8))),
}
BAD_DIAGONALS = {
    name: BELIEF.precision._replace(diag=PARAMS | {"w": jnp.full((3, 2), value)})
    for name, value in (("zero", 0.0), ("negative", -1.0), ("NaN", NAN), ("infinity", INF))
}
# A factor's or diagonal's own words, where what is wrong lies inside the argument.
WRONG_BELIEF = {
    "wrong type": 3,
    "None": None,
    "parameters": PARAMS,
    "precision": BELIEF.precision,
    "plain tuple": tuple(BELIEF),
    "class": lf.Belief,
    "no precision": lf.Belief(PARAMS, None),
    "dense precision": lf.Belief(PARAMS, jnp.eye(8)),
    "mean of wrong tree": BELIEF._replace(mean={"w": jnp.ones((3, 2))}),
    "mean of wrong shape": BELIEF._replace(mean={"b": jnp.ones(2), "w": jnp.ones((2, 3))}),
    "mean of texts": BELIEF._replace(mean={"b": "b", "w": "w"}),
    "NaN": BELIEF._replace(mean=NOT_FINITE["NaN"]),
    "infinity": BELIEF._replace(mean=NOT_FINITE["infinity"]),
}
STRUCTURED = {"precision": WRONG_PRECISION, "bad": BAD_DIAGONALS}


def prefix(*, zero, negative, optional=False, shaped=True):
    """A scalar or pytree prefix of the parameters."""
    wrong = {"NaN": NAN, "infinity": INF, "text": "1", "bool": True, "complex": 1j, "object": object()}
    wrong |= {"NaN in one leaf": {"b": NAN, "w": 1.0}}
    if shaped:
        wrong |= {
            "wrong tree": {"x": 1.0},
            "wrong shape": jnp.ones(7),
            "wrong shape of one leaf": {"b": 1.0, "w": jnp.ones(3)},
            "list": [1.0, 1.0, 1.0],
            "wrong shape, traced": Traced(np.ones(7, np.float32)),
        }
        if not optional:
            wrong["None"] = None
    if not zero:
        wrong["zero"] = 0.0
    if not negative:
        wrong["negative"] = -1.0
    return wrong


APPLY = {"number": 3, "text": "net", "None": None, "array": jnp.ones(3)}
MODEL = APPLY | {
    "another arity": lambda x: x,
    "flat outputs": lambda p, x: net(p, x)[:, 0],
    "scalar output": lambda p, x: jnp.sum(net(p, x)),
    "two outputs": lambda p, x: (net(p, x), net(p, x)),
    "no output": lambda p, x: None,
    "another parameter": lambda p, x: x @ p["kernel"],
    "a wrong product": lambda p, x: x.T @ p["w"],
    "a branch on values": lambda p, x: net(p, x) if jnp.sum(x) > 0 else x,
}
LIKELIHOOD = {"text": "categorical", "class": lf.Categorical, "None": None, "function": jnp.sum}
INPUTS = {
    "text": "x",
    "scalar": np.float32(1.0),
    "None": None,
    "object": object(),
    "empty": X[:0],
    "one example": X[0],
    "wrong width": X[:, :2],
    "too many axes": X[None, None],
    "lengths that differ": {"a": X, "b": X[:2]},
    "tree": {"a": X},
    "wrong width, traced": Traced(X[:, :2]),
}
BAD_INPUTS = {"NaN": with_nan(X), "infinity": X * INF}
TARGETS = {
    "text": "y",
    "None": None,
    "scalar": 1,
    "object": object(),
    "wrong length": Y[:3],
    "floats": Y.astype(np.float32),
    "booleans": Y.astype(bool),
    "one-hot": np.eye(2, dtype=int)[Y],
    "label never possible": Y + 5,
    "negative label": -1 - Y,
    "tree": {"a": Y},
    "wrong length, traced": Traced(Y[:3]),
}
LAYERS = {
    "number": 3,
    "text": "w",
    "one layer": lf.Layer("['w']", "['b']", (1,)),
    "paths": ["['w']"],
    "unknown path": [lf.Layer("['kernel']", None, (1,))],
    "unknown bias": [lf.Layer("['w']", "['bias']", (1,))],
    "no such axis": [lf.Layer("['w']", "['b']", (5,))],
    "all axes": [lf.Layer("['w']", None, (0, 1))],
    "wrong outputs": [lf.Layer("['w']", "['b']", (0,))],
    "twice": [lf.Layer("['w']", None, (1,)), lf.Layer("['w']", None, (1,))],
}
FILTER = lf.extended_filter(net, lf.Categorical(), rank=2)
WRONG_FILTER = {"text": "ekf", "None": None, "function": lf.update, "class": lf.Filter}
HEALTH = lf.Health(*jnp.ones((4, 5)))

RANK, OPTIONAL_RANK, CHOICE = calls.count(0), calls.count(0, optional=True), calls.choice()
NAMED = {kind: wrong for kind, wrong in CHOICE.items() if wrong is not None}
POSITIVE = calls.number()
WEIGHTS = {
    "text": "w",
    "object": object(),
    "wrong length": np.ones(3),
    "two axes": np.ones((4, 2)),
    "negative": np.array([1.0, -1, 1, 1]),
    "NaN": with_nan(np.ones(4)),
    "wrong length, traced": Traced(np.ones(3, np.float32)),
}
EXAMPLES = {"x": INPUTS | BAD_INPUTS, "y": TARGETS, "mask": calls.mask(4), "weights": WEIGHTS}
BATCH = {"apply_fn": MODEL, "likelihood": LIKELIHOOD, **EXAMPLES}
GOOD_BATCH = {"apply_fn": net, "likelihood": lf.Categorical(), "x": X, "y": Y}
TRUNCATION = {"residual": NAMED, "metric": NAMED}
BELIEFS = WRONG_BELIEF | {f"{name} precision": BELIEF._replace(precision=p) for name, p in BAD_DIAGONALS.items()}
PRECISION = WRONG_PRECISION | BAD_DIAGONALS
CENTER = prefix(zero=True, negative=True, optional=True)
OPEN_CENTER = prefix(zero=True, negative=True, optional=True, shaped=False)
DYNAMICS = {
    "process_noise": prefix(zero=True, negative=False),
    "transition": prefix(zero=True, negative=True),
    "center": CENTER,
}
OPEN_DYNAMICS = {
    "precision": prefix(zero=False, negative=False, shaped=False),
    "process_noise": prefix(zero=True, negative=False, shaped=False),
    "transition": prefix(zero=True, negative=True, shaped=False),
    "center": OPEN_CENTER,
}


def gaussian(covariance):
    return lf.update(BELIEF, net, lf.Gaussian(covariance), X, X[:, :2])


TABLE = {
    "init": Call(
        lf.init,
        {"params": PARAMS, "precision": 1.0, "rank": 2, "structure": "unit"},
        {
            "params": NETWORK,
            "precision": prefix(zero=False, negative=False),
            "rank": OPTIONAL_RANK,
            "structure": NAMED | {"a name in a prefix": {"b": "layer", "w": "layer"}, "no prefix": [lf.Diagonal()]},
            "blocks": NAMED,
            "layers": LAYERS,
        },
    ),
    "kronecker_init": Call(
        lf.kronecker_init,
        {"params": PARAMS},
        {
            "params": NETWORK,
            "precision": prefix(zero=False, negative=False),
            "shared": CHOICE,
            "layers": LAYERS,
        },
    ),
    "LowRank": Call(
        lambda **given: lf.init(PARAMS, structure=lf.LowRank(**given)),
        {"rank": 2, "blocks": "unit"},
        {"rank": RANK, "residual": CHOICE, "metric": CHOICE, "blocks": CHOICE, "layers": LAYERS},
    ),
    "Dense": Call(lf.Dense, {}, {"at_most": RANK}),
    "KroneckerFactored": Call(
        lambda **given: lf.init(PARAMS, structure=lf.KroneckerFactored(**given)),
        {},
        {"shared": CHOICE, "layers": LAYERS},
    ),
    "find_layers": Call(
        lf.find_layers, {"params": PARAMS}, {"params": {k: v for k, v in NETWORK.items() if k not in NOT_FINITE}}
    ),
    "predict": Call(lf.predict, {"belief": BELIEF, "process_noise": 0.1}, {"belief": BELIEFS, **DYNAMICS}),
    "update": Call(
        lf.update,
        {"belief": BELIEF, **GOOD_BATCH, "process_noise": 0.1},
        {
            "belief": BELIEFS,
            **BATCH,
            "rank": OPTIONAL_RANK,
            **TRUNCATION,
            "temperature": POSITIVE,
            "process_noise": prefix(zero=True, negative=False, optional=True),
            "transition": prefix(zero=True, negative=True),
            "center": CENTER,
            "outlier_threshold": calls.number(optional=True),
            "health": calls.flag(),
            "iterations": calls.count(0),
        },
    ),
    "laplace_update": Call(
        lf.laplace_update,
        {"belief": BELIEF, "params": PARAMS, **GOOD_BATCH},
        {
            "belief": BELIEFS,
            "params": VECTOR | NOT_FINITE,
            **BATCH,
            "rank": OPTIONAL_RANK,
            **TRUNCATION,
            "temperature": POSITIVE,
            "curvature_scale": POSITIVE,
            "batch_size": calls.count(1),
            "iterations": calls.count(0, optional=True),
            "roots": calls.count(1, optional=True),
        },
    ),
    "fit": Call(
        lf.fit,
        {"belief": BELIEF, **GOOD_BATCH, "optimizer": optax.sgd(0.1), "steps": 1},
        {
            "belief": BELIEFS,
            **BATCH,
            "optimizer": calls.optimizer(),
            "steps": calls.count(0),
            "batch_size": calls.count(1, optional=True) | {"too large": 5, "no key": 2},
            "key": calls.key(optional=True),
            "params": {k: v for k, v in VECTOR.items() if k != "None"} | NOT_FINITE,
            "temperature": POSITIVE,
            "checkpoint": calls.folder(),
            "checkpoint_every": calls.count(1),
            "progress": calls.hook(),
        },
    ),
    "smooth": Call(
        lf.smooth,
        {"beliefs": STACK, "sites": STACK.precision, "process_noise": 0.1},
        {
            "beliefs": {k: WRONG_BELIEF[k] for k in ("wrong type", "None", "parameters", "plain tuple", "no precision")}
            | {"not stacked": BELIEF, "another length": jax.tree.map(lambda leaf: leaf[:2], STACK)},
            "sites": {k: WRONG_PRECISION[k] for k in ("wrong type", "None", "dense matrix", "belief")}
            | {
                "another structure": jax.tree.map(
                    lambda leaf: jnp.stack([leaf] * 4), lf.init(PARAMS, structure="kronecker").precision
                ),
                "one step": BELIEF.precision,
            },
            "process_noise": prefix(zero=True, negative=False),
            "transition": prefix(zero=True, negative=True),
            "center": CENTER,
            "rank": OPTIONAL_RANK,
            **TRUNCATION,
        },
    ),
    "penalty": Call(lf.penalty, {"belief": BELIEF, "params": PARAMS}, {"belief": BELIEFS, "params": VECTOR}),
    "sample": Call(
        lf.sample,
        {"key": jax.random.key(0), "belief": BELIEF, "n": 2},
        {"key": calls.key(), "belief": BELIEFS, "n": calls.count(0)},
    ),
    "zero_site": Call(lf.zero_site, {"belief": BELIEF}, {"belief": BELIEFS}),
    "scaled": Call(
        lambda **given: lf.init(PARAMS, lf.scaled(**given), rank=1),
        {"apply_fn": net, "x": X, "y": Y, "likelihood": lf.Categorical()},
        {
            "apply_fn": MODEL,
            "x": INPUTS,
            "y": {k: v for k, v in TARGETS.items() if "label" not in k and v is not None},
            "likelihood": LIKELIHOOD,
            "mask": calls.mask(4),
            "variance": calls.number(optional=True),
            "per_layer": calls.flag(),
        },
    ),
    "predictive": Call(
        lf.predictive,
        {"belief": BELIEF, "apply_fn": net, "x": X},
        {
            "belief": BELIEFS,
            "apply_fn": MODEL,
            "x": INPUTS,
            "likelihood": {k: v for k, v in LIKELIHOOD.items() if v is not None},
            "batch_size": calls.count(1),
        },
    ),
    "matvec": Call(
        lf.matvec, {"precision": BELIEF.precision, "vector": PARAMS}, {"precision": WRONG_PRECISION, "vector": VECTOR}
    ),
    "solve": Call(
        lf.solve, {"precision": BELIEF.precision, "vector": PARAMS}, {"precision": PRECISION, "vector": VECTOR}
    ),
    "logdet": Call(lf.logdet, {"precision": BELIEF.precision}, {"precision": PRECISION}),
    "inverse_diagonal": Call(lf.inverse_diagonal, {"precision": BELIEF.precision}, {"precision": PRECISION}),
    "truncate": Call(
        lf.truncate,
        {"precision": BELIEF.precision, "rank": 1},
        {"precision": PRECISION, "rank": RANK, **TRUNCATION},
    ),
    "extended_filter": Call(
        lf.extended_filter,
        {"apply_fn": net, "likelihood": lf.Categorical(), "rank": 2},
        {
            "apply_fn": APPLY,
            "likelihood": LIKELIHOOD,
            "rank": OPTIONAL_RANK,
            "structure": NAMED,
            **OPEN_DYNAMICS,
            **TRUNCATION,
            "temperature": POSITIVE,
            "outlier_threshold": calls.number(optional=True),
            "health": calls.flag(),
            "iterations": calls.count(0),
        },
    ),
    "laplace_filter": Call(
        lf.laplace_filter,
        {"apply_fn": net, "likelihood": lf.Categorical(), "optimizer": optax.sgd(0.1), "steps": 1, "rank": 2},
        {
            "apply_fn": APPLY,
            "likelihood": LIKELIHOOD,
            "optimizer": calls.optimizer(),
            "steps": calls.count(0),
            "rank": OPTIONAL_RANK,
            "structure": NAMED,
            "fit_batch_size": calls.count(1, optional=True),
            **OPEN_DYNAMICS,
            **TRUNCATION,
            "temperature": POSITIVE,
            "curvature_scale": POSITIVE,
            "batch_size": calls.count(1),
            "key": calls.key(optional=True),
        },
    ),
    "adaptive_filter": Call(
        lf.adaptive_filter,
        {"filter": FILTER},
        {
            "filter": WRONG_FILTER,
            "learning_rate": POSITIVE,
            "process_noise": OPEN_DYNAMICS["precision"] | {"an array": jnp.ones(7)},
            "transition": OPEN_DYNAMICS["precision"] | {"an array": jnp.full(7, 0.5), "one": 1.0, "above one": 1.5},
        },
    ),
    "changepoint_filter": Call(
        lf.changepoint_filter,
        {"filter": FILTER, "hazard": 0.1},
        {
            "filter": WRONG_FILTER,
            "hazard": calls.number(zero=True) | {"above one": 1.5},
            "hypotheses": calls.count(1),
            "reset": CHOICE,
        },
    ),
    "filter_stream": Call(
        lf.filter_stream,
        {"filter": FILTER, "belief": BELIEF, "x": X, "y": Y},
        {
            "filter": WRONG_FILTER,
            "belief": BELIEFS | {"another rank": lf.init(PARAMS, rank=3)},
            "x": INPUTS,
            "y": {k: v for k, v in TARGETS.items() if "label" not in k},
            "mask": calls.mask(4),
            "weights": WEIGHTS,
            "process_noise": prefix(zero=True, negative=False, optional=True),
            "transition": prefix(zero=True, negative=True, optional=True),
            "center": CENTER,
            "chunk_size": calls.count(1),
            "history": CHOICE,
            "checkpoint": calls.folder(),
            "checkpoint_every": calls.count(1),
            "progress": calls.hook(),
        },
    ),
    "store": Call(
        lf.store,
        {"belief": BELIEF, "dtype": jnp.bfloat16},
        {
            "belief": BELIEFS | {"no factor": lf.init(PARAMS, structure="kronecker")},
            "dtype": {"None": None, "text": "words", "integers": int, "number": 16, "complex": complex},
        },
    ),
    "sliding_health": Call(
        lf.sliding_health,
        {"health": HEALTH, "window": 3},
        {
            "health": {"None": None, "number": 1.0, "array": jnp.ones(5), "one step": lf.Health(*jnp.ones(4)),
                       "lengths that differ": HEALTH._replace(condition=jnp.ones(4))},
            "window": calls.count(1),
        },
    ),
    "Gaussian": Call(
        gaussian,
        {"covariance": 1.0},
        {
            "covariance": {k: v for k, v in calls.number().items() if "traced" not in k}
            | {
                "matrix of wrong shape": jnp.eye(3),
                "indefinite": jnp.asarray([[1.0, 2.0], [2.0, 1.0]]),
                "NaN in a matrix": jnp.full((2, 2), NAN),
                "wrong shape, traced": Traced(np.ones(3, np.float32)),
            }
        },
    ),
}  # fmt: skip
# Containers, which are pytrees and take what JAX puts into them: what they hold is checked where they are used. And
# likelihoods without a parameter. run_stream, which is the host's, and registered have tests of their own.
WITHOUT = {
    "AdaptiveBelief", "Belief", "Bernoulli", "Blocks", "Categorical", "ChangepointBelief", "DiagLowRank", "Diagonal",
    "Filter", "Frozen", "FullMatrix", "Health", "HeteroscedasticGaussian", "Info", "Kronecker", "Layer", "Likelihood",
    "OtherRunError", "Parts", "Poisson", "Prediction", "Precision", "Predictive", "Stream", "TargetUnits",
    "registered", "run_stream",
}  # fmt: skip


def test_the_table_has_every_public_name_and_parameter():
    calls.assert_complete(TABLE, {name: getattr(lf, name) for name in lf.__all__}, WITHOUT)


@pytest.mark.parametrize("name", TABLE)
def test_the_good_call_goes_through(name):
    calls.assert_good(TABLE[name])


@pytest.mark.parametrize(("call", "parameter", "wrong"), calls.cases(TABLE))
def test_refused(call, parameter, wrong):
    calls.assert_refused(call, parameter, wrong)
