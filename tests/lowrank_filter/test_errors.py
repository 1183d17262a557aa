"""Bad calls: one clear error each, that says what was expected and what came."""

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from suites import fast

import lowrank_filter as lf

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated, gone in the next:DeprecationWarning")

PARAMS = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
BELIEF = lf.init(PARAMS, rank=2)
X, Y = np.ones((4, 3), np.float32), np.array([0, 1, 1, 0])
NAN = np.where(np.arange(4)[:, None] == 2, np.nan, X).astype(np.float32)
VECTOR = lf.DiagLowRank(jnp.ones(3), jnp.ones((2, 3)))


def net(params, x):
    return x @ params["w"] + params["b"]


def update(belief=BELIEF, apply_fn=net, likelihood=None, x=X, y=Y, **options):
    return lf.update(belief, apply_fn, likelihood or lf.Categorical(), x, y, **options)


def laplace(params=PARAMS, apply_fn=net, likelihood=None, x=X, y=Y, **options):
    return lf.laplace_update(BELIEF, params, apply_fn, likelihood or lf.Categorical(), x, y, **options)


def fit(apply_fn=net, likelihood=None, x=X, y=Y, **options):
    options = {"optimizer": optax.sgd(0.1), "steps": 1, **options}
    return lf.fit(BELIEF, apply_fn, likelihood or lf.Categorical(), x, y, **options)


def stack(count):
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * count), BELIEF)


def smooth(beliefs=3, sites=3, noise=0.1, *rest, **options):
    return lf.smooth(stack(beliefs), stack(sites).precision, noise, *rest, **options)


def layered(params, x):
    return (x @ params["one"]["kernel"] + params["one"]["bias"]) * params["scale"]


class Own(lf.Likelihood):
    """A loss alone."""

    def nll(self, output, target):
        return jnp.sum((output - target) ** 2)


def predicted(likelihood=None):
    return lf.Prediction(jnp.zeros((4, 2)), jnp.zeros((4, 2, 2)), likelihood or lf.Gaussian(1.0))


# Without the run-time checks of annotations that the tests add.
drawn = inspect.unwrap(lf.Prediction.sample_targets)

FILTER = lf.extended_filter(net, lf.Categorical(), rank=2)
STREAM = (FILTER, BELIEF)
ADAPTIVE = lf.adaptive_filter(FILTER)
CHANGING = lf.changepoint_filter(FILTER, 0.1)
COUNTS = lf.extended_filter(net, lf.Poisson(), rank=2, iterations=0)
UNITS = lf.init({"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}, rank=2, structure="unit")
LAYERED = {"one": {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}, "scale": jnp.ones(2)}
KRONECKER = lf.init(LAYERED, structure="kronecker")
HEADED = lf.init(LAYERED, structure={"one": lf.Dense(), "scale": lf.Frozen()})

CASES = {
    # init
    "init: no parameters": (lambda: lf.init({}, rank=1), ValueError, "at least one array"),
    "init: integers": (lambda: lf.init({"n": jnp.arange(3)}, rank=1), TypeError, r"\['n'\].*floating-point.*int32"),
    "init: a number": (lambda: lf.init(1.0, rank=1), TypeError, "floating-point.*float"),
    "init: NaN": (lambda: lf.init(jnp.asarray([1.0, np.nan]), rank=1), ValueError, "params: expected finite.*nan"),
    "init: negative rank": (lambda: lf.init(PARAMS, rank=-1), ValueError, "rank: expected.*>= 0, got -1"),
    "init: fractional rank": (lambda: lf.init(PARAMS, rank=1.5), ValueError, "rank: expected.*integer.*got 1.5"),
    "init: boolean rank": (lambda: lf.init(PARAMS, rank=True), ValueError, "rank: expected.*integer"),
    "init: zero precision": (lambda: lf.init(PARAMS, 0.0, rank=1), ValueError, "precision: expected positive.*0.0"),
    "init: negative precision": (
        lambda: lf.init(PARAMS, {"w": 1.0, "b": -2.0}, rank=1),
        ValueError,
        r"precision\['b'\]: expected positive values, got -2.0",
    ),
    "init: infinite precision": (lambda: lf.init(PARAMS, np.inf, rank=1), ValueError, "precision.*inf"),
    "init: wrong tree": (lambda: lf.init(PARAMS, {"w": 1.0}, rank=1), ValueError, "precision: expected.*prefix.*got"),
    "init: wrong shape": (
        lambda: lf.init(PARAMS, jnp.ones(7), rank=1),
        ValueError,
        r"precision.*broadcasts to.*got \(7,\)",
    ),
    "init: blocks": (
        lambda: lf.init(PARAMS, rank=1, structure="row"),
        ValueError,
        "structure: expected one of.*got 'row'",
    ),
    "init: layers of a network": (
        lambda: lf.LowRank(1, layers=lf.find_layers(PARAMS)),
        ValueError,
        'layers: expected blocks="layer"',
    ),
    "init: integers, Kronecker": (
        lambda: lf.init({"n": jnp.arange(3)}, structure="kronecker"),
        TypeError,
        "floating-point.*int32",
    ),
    "init: rank twice": (lambda: lf.init(PARAMS, structure=lf.LowRank(1), rank=1), ValueError, "rank: expected None"),
    "init: no structure": (lambda: lf.init(PARAMS, structure=3), TypeError, "structure: expected LowRank.*got 3; give"),
    "init: a name in a prefix": (
        lambda: lf.init(PARAMS, structure=dict.fromkeys(PARAMS, "layer")),
        TypeError,
        "got 'layer'.*network as a whole",
    ),
    "init: structure no prefix": (
        lambda: lf.init(PARAMS, structure={"other": lf.Diagonal()}),
        ValueError,
        "structure: expected a pytree prefix.*got.*give one",
    ),
    "init: all frozen": (
        lambda: lf.init(PARAMS, structure=lf.Frozen()),
        ValueError,
        "structure: .*not Frozen, got none",
    ),
    "init: a large dense part": (
        lambda: lf.init(jnp.ones(2001), structure=lf.Dense()),
        ValueError,
        r"structure: expected at most 2,000.*got 2,001.*use LowRank, or.*at_most=2001",
    ),
    "init: a part without structure": (
        lambda: lf.init({"a": PARAMS, "head": PARAMS}, structure={"a": lf.Diagonal()}),
        ValueError,
        r"structure: expected.*got.*, without \['head'\]\['b'\], \['head'\]\['w'\]; give one",
    ),
    "rank of a Kronecker belief": (
        lambda: lf.update(KRONECKER, layered, lf.Categorical(), X, Y, rank=2),
        ValueError,
        "rank: expected None for a Kronecker precision, got 2; leave it out",
    ),
    "rank of a Kronecker belief, laplace_update": (
        lambda: lf.laplace_update(KRONECKER, LAYERED, layered, lf.Categorical(), X, Y, rank=0),
        ValueError,
        "rank: expected None for a Kronecker precision, got 0; leave it out",
    ),
    "rank of a Kronecker belief, smooth": (
        lambda: lf.smooth(*jax.tree.map(lambda leaf: leaf[None], (KRONECKER, KRONECKER.precision)), 0.1, rank=1),
        ValueError,
        "rank: expected None for a Kronecker precision, got 1; leave it out",
    ),
    "metric of parts": (
        lambda: lf.update(HEADED, layered, lf.Categorical(), X, Y, metric="relative"),
        ValueError,
        "metric: expected None for a Parts precision, got 'relative'; leave it out",
    ),
    "filter: metric of a structure": (
        lambda: lf.extended_filter(net, lf.Categorical(), structure=lf.LowRank(2), metric="relative"),
        ValueError,
        "metric: expected None for structure=LowRank.*got 'relative'; leave it out",
    ),
    "laplace_update: frozen parameters moved": (
        lambda: lf.laplace_update(HEADED, jax.tree.map(lambda p: p + 1, LAYERED), layered, lf.Categorical(), X, Y),
        ValueError,
        r"params\['scale'\]: expected the frozen values of belief.mean, got others; train",
    ),
    "KroneckerFactored": (lambda: lf.KroneckerFactored(shared="sum"), ValueError, "shared: .*got 'sum'"),
    "LowRank: metric": (lambda: lf.LowRank(1, metric="l2"), ValueError, "metric: expected one of.*'l2'"),
    "LowRank: rank": (lambda: lf.LowRank(-1), ValueError, "rank: expected.*>= 0, got -1"),
    "Dense: at_most": (lambda: lf.Dense(at_most=0), ValueError, "at_most: expected.*>= 1, got 0"),
    "kronecker: noise for each parameter": (
        lambda: lf.predict(KRONECKER, jax.tree.map(lambda leaf: 0.1 * leaf, LAYERED)),
        ValueError,
        r"process_noise: expected one scalar for the layer of \['one'\]\['kernel'\].*got \(3, 2\), \(2,\).*\"unit\"",
    ),
    "kronecker: noise of kernel and bias": (
        lambda: lf.predict(KRONECKER, {"one": {"kernel": 0.1, "bias": 0.2}, "scale": 0.1}),
        ValueError,
        "process_noise: expected one scalar for the layer.*got 0.1, 0.2",
    ),
    "kronecker: transition": (
        lambda: lf.predict(KRONECKER, 0.1, {"one": {"kernel": 0.1, "bias": 0.2}, "scale": 0.1}),
        ValueError,
        "transition: expected one scalar for the layer",
    ),
    "kronecker: negative noise": (lambda: lf.predict(KRONECKER, -0.1), ValueError, "process_noise.*-0.1"),
    "kronecker: smoothed with noise for each parameter": (
        lambda: lf.smooth(
            jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), KRONECKER),
            jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), KRONECKER.precision),
            jax.tree.map(lambda leaf: 0.1 * leaf, LAYERED),
        ),
        ValueError,
        "process_noise: expected one scalar for the layer",
    ),
    "kronecker: solve": (lambda: lf.solve(KRONECKER.precision, jnp.ones(3)), ValueError, "vector: expected the tree"),
    "blocks: matvec": (
        lambda: lf.matvec(UNITS.precision, {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}),
        ValueError,
        r"vector\['kernel'\]: expected shape \(3, 2\), got \(2, 2\)",
    ),
    "blocks: negative diagonal": (
        lambda: lf.logdet(jax.tree.map(lambda leaf: -leaf, UNITS.precision)),
        ValueError,
        "diag.*expected positive values, got -1.0",
    ),
    # predict
    "predict: negative noise": (
        lambda: lf.predict(BELIEF, -0.1),
        ValueError,
        "process_noise: expected non-negative values, got -0.1",
    ),
    "predict: NaN noise": (lambda: lf.predict(BELIEF, np.nan), ValueError, "process_noise.*nan"),
    "predict: wrong tree": (lambda: lf.predict(BELIEF, {"x": 1.0}), ValueError, "process_noise: expected.*prefix"),
    "predict: wrong shape": (
        lambda: lf.predict(BELIEF, {"w": jnp.ones(3), "b": 0.0}),
        ValueError,
        r"process_noise.*\(3, 2\), got \(3,\)",
    ),
    "predict: NaN transition": (lambda: lf.predict(BELIEF, 0.1, np.nan), ValueError, "transition.*finite.*nan"),
    # operations
    "solve: wrong tree": (lambda: lf.solve(BELIEF.precision, {"w": X}), ValueError, "vector: expected the tree"),
    "solve: wrong shape": (lambda: lf.solve(VECTOR, jnp.ones(4)), ValueError, r"vector.*\(3,\), got \(4,\)"),
    "solve: zero diagonal": (
        lambda: lf.solve(VECTOR._replace(diag=jnp.zeros(3)), jnp.ones(3)),
        ValueError,
        "diag: expected positive",
    ),
    "matvec: factor of another shape": (
        lambda: lf.matvec(VECTOR._replace(factor=jnp.ones((2, 4))), jnp.ones(3)),
        ValueError,
        r"factor.*\(2, 3\), got \(2, 4\)",
    ),
    "logdet: negative diagonal": (
        lambda: lf.logdet(VECTOR._replace(diag=-jnp.ones(3))),
        ValueError,
        "diag: expected positive values, got -1.0",
    ),
    "inverse_diagonal: NaN": (
        lambda: lf.inverse_diagonal(VECTOR._replace(diag=jnp.full(3, np.nan))),
        ValueError,
        "diag.*nan",
    ),
    "truncate: negative rank": (lambda: lf.truncate(VECTOR, -1), ValueError, "rank.*-1"),
    "truncate: residual": (
        lambda: lf.truncate(VECTOR, 1, residual="keep"),
        ValueError,
        "residual: expected one of 'diagonal', 'drop', got 'keep'",
    ),
    "truncate: metric": (lambda: lf.truncate(VECTOR, 1, metric="l2"), ValueError, "metric: expected one of.*'l2'"),
    # belief
    "penalty: wrong tree": (lambda: lf.penalty(BELIEF, {"w": X}), ValueError, "params: expected the tree"),
    "penalty: wrong shape": (
        lambda: lf.penalty(BELIEF, {"w": jnp.ones((3, 3)), "b": jnp.ones(2)}),
        ValueError,
        r"\['w'\]: expected shape \(3, 2\), got \(3, 3\)",
    ),
    "sample: negative count": (lambda: lf.sample(jax.random.key(0), BELIEF, -1), ValueError, "n: expected.*-1"),
    # smooth
    "smooth: lengths differ": (lambda: smooth(3, 2), ValueError, r"beliefs, sites.*leading axes \[\(2,\), \(3,\)\]"),
    "smooth: no steps": (
        lambda: lf.smooth(*jax.tree.map(lambda leaf: leaf[:0], (stack(1), stack(1).precision)), 0.1),
        ValueError,
        "T >= 1",
    ),
    "smooth: not stacked": (
        lambda: lf.smooth(BELIEF, BELIEF.precision, 0.1),
        ValueError,
        "beliefs, sites: expected stacks",
    ),
    "smooth: negative noise": (lambda: smooth(3, 3, -1.0), ValueError, "process_noise.*-1.0"),
    "smooth: noise of another length": (lambda: smooth(3, 3, jnp.ones(4)), ValueError, r"T = 3.*\(4,\)"),
    "smooth: wrong tree": (lambda: smooth(3, 3, {"w": 0.1}), ValueError, "process_noise: expected.*prefix"),
    "smooth: NaN transition": (lambda: smooth(3, 3, 0.1, np.nan), ValueError, "transition.*nan"),
    "smooth: negative rank": (lambda: smooth(rank=-1), ValueError, "rank.*-1"),
    "smooth: metric": (lambda: smooth(metric="l2"), ValueError, "metric"),
    # predictive
    "predictive: empty": (lambda: lf.predictive(BELIEF, net, X[:0]), ValueError, "empty batch"),
    "predictive: outputs": (
        lambda: lf.predictive(BELIEF, lambda p, x: net(p, x)[:, 0], X),
        ValueError,
        r"apply_fn: expected outputs of shape \(4, C\).*\(4,\)",
    ),
    "predictive: a filter's state": (
        lambda: lf.predictive(ADAPTIVE.init(PARAMS), net, X),
        TypeError,
        "belief: expected a Belief, got AdaptiveBelief; give its .belief",
    ),
    "predictive: label too large": (
        lambda: lf.predictive(BELIEF, net, X, likelihood=lf.Categorical()).log_prob(np.array([0, 1, 2, 0])),
        ValueError,
        r"y: expected targets in the domain of Categorical.*y\[2\] = 2",
    ),
    "Prediction.sample_targets: no key": (
        lambda: drawn(predicted(), 0, 3),
        TypeError,
        "key: expected a jax.random.key, got int; make one",
    ),
    "Prediction.sample_targets: keys": (
        lambda: drawn(predicted(), jax.random.split(jax.random.key(0)), 3),
        ValueError,
        r"key: expected shape \(\), got \(2,\); vmap over more",
    ),
    "Prediction.sample_targets: number": (
        lambda: drawn(predicted(), jax.random.key(0), -1),
        ValueError,
        "n: expected a static integer >= 0, got -1; give 0 or more",
    ),
    "Prediction.sample_targets: traced number": (
        lambda: jax.jit(lambda n: drawn(predicted(), jax.random.key(0), n))(3),
        ValueError,
        "n: expected a static integer.*mark it static",
    ),
    "Prediction.sample: number": (
        lambda: predicted().sample(jax.random.key(0), 1.5),
        ValueError,
        "n: expected a static integer >= 0, got 1.5; give a Python integer",
    ),
    "Prediction.sample_targets: own likelihood": (
        lambda: drawn(predicted(Own()), jax.random.key(0), 3),
        NotImplementedError,
        r"Own: expected sample\(key, output\), a target.*got a class without it; define sample\(key, output\)",
    ),
    "Prediction.moments: own likelihood": (
        lambda: predicted(Own()).moments(),
        NotImplementedError,
        r"Own: expected moments\(output\), .*got a class without it; define moments\(output\)",
    ),
    "predictive: a mixture": (
        lambda: lf.predictive(CHANGING.init(PARAMS), net, X),
        TypeError,
        "belief: expected a Belief, got ChangepointBelief; call its .predictive, or give its .belief",
    ),
    "smooth: a filter's states": (
        lambda: lf.smooth(ADAPTIVE.init(PARAMS), BELIEF.precision, 0.1),
        TypeError,
        "beliefs: expected a Belief, got AdaptiveBelief; give their .belief",
    ),
    "predictive: not a function": (lambda: lf.predictive(BELIEF, "net", X), TypeError, "apply_fn: expected a function"),
    # something left out
    "update: no likelihood": (
        lambda: lf.update(BELIEF, net, X, Y),
        TypeError,
        r"update: expected \(belief, apply_fn, likelihood, x, y\), got \(Belief, function, array, array\); give all",
    ),
    "update: no likelihood, by name": (
        lambda: lf.update(BELIEF, net, x=X, y=Y, mask=None, health=True),
        TypeError,
        r"update: .*got \(Belief, function, x=array, y=array, mask=NoneType, health=bool\)",
    ),
    "laplace_update: no likelihood": (
        lambda: lf.laplace_update(BELIEF, PARAMS, net, X, Y),
        TypeError,
        r"likelihood: expected a Likelihood.*got an array of shape \(4, 3\); to bring",
    ),
    "laplace_update: no params": (
        lambda: lf.laplace_update(BELIEF, net, lf.Categorical(), X, Y),
        ValueError,
        "params: expected the tree structure.*got one function",
    ),
    "fit: no optimizer": (
        lambda: lf.fit(BELIEF, net, lf.Categorical(), X, Y, steps=1),
        TypeError,
        r"fit: expected \(.*, y, optimizer=, steps=\), got \(Belief, function, Categorical, array, array, steps=int\)",
    ),
    "predictive: no belief": (lambda: lf.predictive(net, X), TypeError, r"predictive: .*got \(function, array\)"),
    "smooth: no sites": (lambda: lf.smooth(stack(2), 0.1), TypeError, r"smooth: .*sites.*got \(Belief, float\)"),
    "stream: no belief": (
        lambda: lf.filter_stream(FILTER, X, Y),
        TypeError,
        r"filter_stream: expected \(filter, belief, x, y\), got \(Filter, array, array\)",
    ),
    "filter.init: no parameters": (lambda: FILTER.init(), TypeError, r"Filter.init\(\) missing .*'params'"),
    "filter.update: no targets": (lambda: FILTER.update(BELIEF, X), TypeError, r"Filter.update\(\) missing .*'y'"),
    "run_stream: no belief": (
        lambda: lf.run_stream(FILTER, [(X, Y)]),
        TypeError,
        r"run_stream: .*got \(Filter, list\)",
    ),
    # likelihoods
    "Gaussian: negative": (lambda: lf.Gaussian(-1.0), ValueError, "Gaussian covariance: expected positive.*got -1.0"),
    "Gaussian: zero within jit": (lambda: jax.jit(lambda: lf.Gaussian(0.0))(), ValueError, "covariance: .*got 0.0"),
    "Gaussian: NaN in a vector": (
        lambda: lf.Gaussian(jnp.asarray([1.0, np.nan])),
        ValueError,
        r"Gaussian covariance: expected positive values, got nan \(1 of 2 values\)",
    ),
    "Gaussian: infinity in a matrix": (lambda: lf.Gaussian(np.inf * X[:2, :2]), ValueError, "expected finite.*got inf"),
    # fit, filters
    "fit: optimizer": (lambda: fit(optimizer="adam"), TypeError, "optimizer: expected an optax.*str"),
    "fit: negative steps": (lambda: fit(steps=-1), ValueError, "steps.*-1"),
    "fit: too large a batch": (
        lambda: fit(batch_size=5, key=jax.random.key(0)),
        ValueError,
        "at most 4 examples, .*got 5",
    ),
    "fit: no batch": (lambda: fit(batch_size=0, key=jax.random.key(0)), ValueError, "batch_size.*>= 1, got 0"),
    "fit: no key": (lambda: fit(batch_size=2), ValueError, "key: expected a jax.random.key"),
    "fit: start": (lambda: fit(params={"w": X}), ValueError, "params: expected the tree"),
    "laplace_update: params": (lambda: laplace(params={"w": X}), ValueError, "params: expected the tree"),
    "laplace_update: NaN params": (
        lambda: laplace(params={"w": jnp.full((3, 2), np.nan), "b": jnp.zeros(2)}),
        ValueError,
        "params.*nan",
    ),
    "laplace_update: no y": (lambda: laplace(y=None), TypeError, "y: expected targets, got None.*an iterable"),
    "laplace_update: no batch": (lambda: laplace(x=[], y=None), ValueError, "x: expected at least one batch, got none"),
    "laplace_update: no pairs": (lambda: laplace(x=[X], y=None), TypeError, r"x\[0\]: expected a batch \(x, y\)"),
    "update: complex inputs": (lambda: update(x=X + 1j), TypeError, "x: expected real numbers, got complex"),
    "laplace_update: a bad batch": (
        lambda: laplace(x=[(X, Y), (X, -Y - 1)], y=None),
        ValueError,
        r"x\[1\], a batch: y",
    ),
    "laplace_update: mask beside batches": (
        lambda: laplace(x=[(X, Y)], y=None, mask=jnp.ones(2, bool)),
        ValueError,
        "mask, weights: expected y",
    ),
    "laplace_update: batch size": (lambda: laplace(batch_size=0), ValueError, "batch_size.*>= 1, got 0"),
    "laplace_update: iterations": (lambda: laplace(iterations=-1), ValueError, "iterations.*-1"),
    "laplace_update: roots": (lambda: laplace(roots=0), ValueError, "roots.*>= 1, got 0"),
    "laplace_update: curvature scale": (lambda: laplace(curvature_scale=0.0), ValueError, "curvature_scale.*positive"),
    "filter: metric": (lambda: lf.extended_filter(net, lf.Categorical(), rank=1, metric="l2"), ValueError, "metric"),
    "filter: rank": (
        lambda: lf.laplace_filter(net, lf.Categorical(), optax.sgd(0.1), rank=-1, steps=1),
        ValueError,
        "rank.*-1",
    ),
    "filter: structure": (
        lambda: lf.extended_filter(net, lf.Categorical(), rank=1, structure="row"),
        ValueError,
        "structure: expected one of.*'row'",
    ),
    "stream: history": (
        lambda: lf.filter_stream(*STREAM, X, Y, history="some"),
        ValueError,
        "history: expected one of 'final', 'means', 'all', got 'some'",
    ),
    "stream: chunk size": (lambda: lf.filter_stream(*STREAM, X, Y, chunk_size=0), ValueError, "chunk_size.*got 0"),
    "stream: empty": (lambda: lf.filter_stream(*STREAM, X[:0], Y[:0]), ValueError, "at least one example"),
    "stream: lengths": (lambda: lf.filter_stream(*STREAM, X, Y[:3]), ValueError, "one leading axis"),
    "stream: mask": (lambda: lf.filter_stream(*STREAM, X, Y, mask=np.ones(3, bool)), ValueError, "one leading axis"),
    "stream: label too large": (
        lambda: lf.filter_stream(*STREAM, X, np.array([0, 1, 2, 0])),
        ValueError,
        r"y: expected targets in the domain of Categorical.*got 1 outside it \(first: y\[2\] = 2\); correct them",
    ),
    "stream: label negative, adaptive": (
        lambda: lf.filter_stream(ADAPTIVE, ADAPTIVE.init(PARAMS), X, np.array([0, -1, 1, 0]), chunk_size=3),
        ValueError,
        r"y: expected targets.*y\[1\] = -1",
    ),
    "stream: labels not integer, change points": (
        lambda: lf.filter_stream(CHANGING, CHANGING.init(PARAMS), X, Y / 2),
        TypeError,
        r"y: expected integer labels of shape \(4,\)",
    ),
    "stream: labels as text": (
        lambda: lf.filter_stream(*STREAM, X, np.array(["a", "b", "b", "a"])),
        TypeError,
        r"y: expected an array of numbers, got text; .*numpy.unique",
    ),
    "run_stream: labels as text": (
        lambda: lf.run_stream(*STREAM, [(X, np.array(["a", "b", "b", "a"]))]),
        TypeError,
        r"batches\[0\]: expected arrays of numbers, got .*labels alike in all batches",
    ),
    "stream: a part of a count": (
        lambda: lf.filter_stream(COUNTS, COUNTS.init(PARAMS), X, np.array([[np.nan, 1], [1, 2.5], [-1, 0], [0, 1]])),
        ValueError,
        r"y: expected targets in the domain of Poisson.*got 2 outside it \(first: y\[1\]",
    ),
    "init: a part of a count": (
        lambda: COUNTS.init(PARAMS, X, np.array([[np.nan, 1], [1, 2.5], [-1, 0], [0, 1]])),
        ValueError,
        r"y: expected targets in the domain of Poisson.*got 2 outside it",
    ),
    "stream: belief of another rank": (
        lambda: lf.filter_stream(FILTER, lf.init(PARAMS, rank=3), X, Y),
        ValueError,
        r"belief: expected the rank.*factor\['b'\] float32\[2, 2\].*got .*factor\['b'\] float32\[3, 2\].*; start from",
    ),
    "adaptive: a belief": (
        lambda: lf.filter_stream(ADAPTIVE, BELIEF, X, Y),
        TypeError,
        "belief: expected an AdaptiveBelief, got Belief; start from the adaptive filter's own init",
    ),
    "adaptive: no noise": (
        lambda: lf.adaptive_filter(FILTER, process_noise=None),
        ValueError,
        "process_noise: expected one number.*got None; give where to start",
    ),
    "adaptive: transition": (
        lambda: lf.adaptive_filter(FILTER, transition=1.0),
        ValueError,
        r"transition: expected values in \(0, 1\) to start from, got 1.0; give one below 1, or None",
    ),
    "change points: a belief": (
        lambda: CHANGING.step(BELIEF, X, Y),
        TypeError,
        "belief: expected a ChangepointBelief, got Belief; start from the changepoint filter's own init",
    ),
}

# The same checks of a batch for all that take one.
BATCH = {
    "rank": ({"rank": -1}, ValueError, "rank.*-1"),
    "residual": ({"residual": "keep"}, ValueError, "residual: expected one of.*'keep'"),
    "temperature": ({"temperature": 0.0}, ValueError, "temperature: expected positive values, got 0.0"),
    "negative temperature": ({"temperature": -1.0}, ValueError, "temperature.*-1.0"),
    "not a function": ({"apply_fn": 3}, TypeError, "apply_fn: expected a function.*int"),
    "another function": ({"apply_fn": lambda x: x}, ValueError, "apply_fn: expected a function of"),
    "flat outputs": ({"apply_fn": lambda p, x: net(p, x)[:, 0]}, ValueError, r"apply_fn.*\(4, C\).*\(4,\)"),
    "likelihood": ({"likelihood": "categorical"}, TypeError, "likelihood: expected a Likelihood.*'categorical'"),
    "likelihood class": ({"likelihood": lf.Categorical}, TypeError, "likelihood: expected a Likelihood"),
    "empty batch": ({"x": X[:0], "y": Y[:0]}, ValueError, "empty batch"),
    "lengths": ({"y": Y[:3]}, ValueError, r"y: expected a leading axis of 4.*\(3,\)"),
    "scalar x": ({"x": np.float32(1.0)}, ValueError, "x: expected one leading axis"),
    "NaN": ({"x": NAN}, ValueError, r"x: expected finite values, got 1 example with.*x\[2\].*mask="),
    "infinity twice": (
        {"x": X * np.array([[1], [np.inf], [1], [np.inf]])},
        ValueError,
        "got 2 examples with NaN or inf",
    ),
    "label too large": ({"y": np.array([0, 1, 2, 0])}, ValueError, r"y: expected targets.*1 outside.*y\[2\] = 2"),
    "label negative": ({"y": np.array([0, -1, 1, 0])}, ValueError, r"y: expected targets.*y\[1\] = -1"),
    "labels not integer": ({"y": Y.astype(np.float32)}, TypeError, r"y: expected integer labels.*float32.*astype"),
    "labels one-hot": ({"y": np.eye(2, dtype=np.float32)[Y]}, TypeError, r"y: expected integer labels.*argmax"),
    "a list of numbers": ({"x": X.tolist()}, TypeError, r"x: expected an array.*list of \d+ numbers.*jnp.asarray"),
    "one-hot labels": ({"y": np.eye(2, dtype=int)[Y]}, ValueError, r"y: .*\(4,\).*got \(4, 2\); .*argmax"),
    "labels as text": (
        {"y": ["a", "b", "b", "a"]},
        TypeError,
        r"y: .*got text; .*numpy.unique\(y, return_inverse=True",
    ),
    "labels as objects": (
        {"y": np.array(["a", "b", "b", "a"], object)},
        TypeError,
        "y: expected.*got text; .*numbered",
    ),
    "labels in a column": ({"y": Y[:, None]}, ValueError, r"y: .*\(4,\).*got \(4, 1\); give y\[:, 0\]"),
    "mask": ({"mask": np.ones(3, bool)}, ValueError, r"mask: expected shape \(4,\).*\(3,\)"),
    "one class": (
        {"apply_fn": lambda p, x: net(p, x)[:, :1]},
        ValueError,
        "Categorical: expected at least 2 outputs.*got 1",
    ),
    "covariance shape": (
        {"likelihood": lf.Gaussian(jnp.ones(3)), "y": X[:, :2]},
        ValueError,
        r"Gaussian: expected a covariance.*got \(3,\)",
    ),
    "covariance negative": ({"likelihood": lf.Gaussian(-1), "y": X[:, :2]}, ValueError, "covariance.*positive.*-1"),
    "covariance indefinite": (
        {"likelihood": lf.Gaussian(jnp.asarray([[1.0, 2.0], [2.0, 1.0]])), "y": X[:, :2]},
        ValueError,
        "positive definite",
    ),
    "target shape": ({"likelihood": lf.Gaussian(1.0), "y": X}, ValueError, r"y: expected shape \(4, 2\).*\(4, 3\)"),
    "NaN target": ({"likelihood": lf.Gaussian(1.0), "y": NAN[:, :2]}, ValueError, r"y: expected targets.*y\[2\]"),
    "Bernoulli target": ({"likelihood": lf.Bernoulli(), "y": 2 * X[:, :2]}, ValueError, r"domain of Bernoulli.*y\[0\]"),
    "Poisson target": ({"likelihood": lf.Poisson(), "y": -X[:, :2]}, ValueError, r"domain of Poisson.*y\[0\]"),
    "odd outputs": (
        {"likelihood": lf.HeteroscedasticGaussian(), "apply_fn": lambda p, x: net(p, x)[:, :1]},
        ValueError,
        "even number of outputs.*got 1",
    ),
}
CALLS = {"update": update, "laplace_update": laplace, "fit": fit}


@pytest.mark.parametrize("case", CASES)
def test_bad_call(case):
    call, error, message = CASES[case]
    with pytest.raises(error, match=f"(?s){message}"):
        call()


@pytest.mark.parametrize("case", BATCH)
@pytest.mark.parametrize("name", CALLS)
def test_bad_batch(name, case):
    options, error, message = BATCH[case]
    if name == "fit" and case in ("rank", "residual"):
        pytest.skip("fit does not truncate")
    with pytest.raises(error, match=f"(?s){message}"):
        CALLS[name](**options)


@pytest.mark.parametrize("name", fast(["update", "fit"], "fit"))
def test_a_bad_example_that_is_masked_is_no_error(name):
    CALLS[name](x=NAN, y=np.array([0, 1, 7, 0]), mask=np.array([True, True, False, True]))


def test_a_missing_number_of_a_stream_is_no_error():
    y = np.array([[np.nan, 1], [1, 2], [3, 0], [0.5, 1]])
    _, steps = lf.filter_stream(COUNTS, COUNTS.init(PARAMS, X), X, y, mask=np.array([True, True, True, False]))
    np.testing.assert_array_equal(steps.info.invalid, [1, 0, 0, 0])


def test_a_traced_rank_says_that_it_must_be_static():
    with pytest.raises(ValueError, match="mark it static"):
        jax.jit(lambda rank: lf.truncate(VECTOR, rank))(1)


def test_shapes_are_checked_under_tracing_too():
    with pytest.raises(ValueError, match=r"process_noise.*got \(7,\)"):
        jax.jit(lf.predict)(BELIEF, jnp.ones(7))


def test_a_belief_of_another_rank_is_an_error_alone():
    """Not a warning of what an update would have cut."""
    with warnings.catch_warnings(action="error"), pytest.raises(ValueError, match="belief: expected the rank"):
        lf.filter_stream(FILTER, lf.init(PARAMS, rank=3), X, Y)
