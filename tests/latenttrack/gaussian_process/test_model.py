"""The language model: one law of all forms, causal scores that sum to one, bounds, generation, refusals."""

import inspect
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from calls import PARTS
from suites import fast

from latenttrack import gaussian_process as gp
from latenttrack.gaussian_process import latent, regime

V, T, KEY = 5, 7, jax.random.key(0)
SIZES = {"window": T, "width": 8, "channels": 2, "dilations": (1,)}
TOKENS = jnp.asarray([1, 4, 0, 2, 2, 3, 1])


def made(vocabulary=V, **options):
    """A model and parameters that are not small, so that everything matters."""
    model = gp.build(gp.Config(**SIZES | options), vocabulary)

    @jax.jit
    def moved():
        return jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(7), leaf.shape), model.init(KEY))

    return model, moved()


SCORED = {
    "pointwise": {},
    "convolutional": {"decoder": "convolutional"},
    "autoregressive": {"decoder": "autoregressive"},
    "regimes": {"regimes": 3, "kernel": "matern32"},
    "coupled": {"kernel": "coupled", "latent": "parallel"},
}


@pytest.mark.parametrize("name", fast(SCORED, "regimes"))
def test_predictive_scores_are_causal_and_sum_to_one(name):
    model, params = made(**SCORED[name])
    horizon, when = 1 if name == "autoregressive" else 2, 3

    @jax.jit
    def all_at_once(params):
        changed = jax.vmap(lambda token: TOKENS.at[when].set(token))(jnp.arange(V))
        score = jax.vmap(lambda tokens: model.predictive(params, KEY, tokens, samples=3, horizon=horizon))
        return score(changed)

    scores = np.asarray(all_at_once(params))
    np.testing.assert_allclose(np.exp(scores[:, when]).sum(), 1, rtol=1e-5)
    np.testing.assert_array_equal(scores[:, :when], np.broadcast_to(scores[0, :when], (V, when)))
    same = slice(when + 1, when + horizon)
    np.testing.assert_array_equal(scores[:, same], np.broadcast_to(scores[0, same], scores[:, same].shape))
    assert (np.ptp(scores[:, when + horizon], axis=0) > 1e-4).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kernel", fast(["ou", "coupled"], "coupled"))
def test_all_forms_of_the_latent_are_one_law(kernel):
    process = made(kernel=kernel)[1].get("process")
    process = jax.tree.map(lambda leaf: leaf.astype(float), process)
    sites = gp.Site(
        *(f(jax.random.normal(key, (T, 2))) for f, key in zip((jnp.sin, jnp.exp), jax.random.split(KEY), strict=True))
    )
    forms = ("sequential", "parallel", "block")
    configs = [gp.Config(**SIZES, kernel=kernel, latent=form) for form in forms]

    @jax.jit
    def run(process, sites, keys):
        field = gp.MeanField(sites.mean, sites.precision)
        summaries = [latent.posterior(config, process, sites) for config in configs]
        fields = [latent.posterior(config, process, field).divergence for config in configs]
        draws = [jax.vmap(lambda key, c=config: latent.sample(c, process, key, T))(keys) for config in configs[::2]]
        return summaries, fields, draws, latent._covariances(configs[0], process, T)

    summaries, fields, draws, expected = run(process, sites, jax.random.split(KEY, 8000))
    for summary in summaries[1:]:
        for one, other in zip(summary, summaries[0], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-9)
    np.testing.assert_allclose(fields[0], fields[1], atol=1e-9)
    np.testing.assert_allclose(fields[0], fields[2], rtol=1e-3)
    expected = np.asarray(expected)
    expected = expected[0] if kernel == "coupled" else np.einsum("cst,cd->sctd", expected, np.eye(2)).reshape(14, 14)
    for paths in draws:
        np.testing.assert_allclose(np.cov(paths.reshape(8000, -1).T), expected, atol=0.09)


LAWS = {
    "kalman": {"kernel": "ou"},
    "mean field": {"posterior": "mean_field", "encoder": "bidirectional"},
    "regimes": {"regimes": 2, "decoder": "convolutional"},
    "autoregressive": {"decoder": "autoregressive", "kernel": "sum"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
def test_importance_weights_and_generation_agree_with_the_prior(name):
    """log p(x) of every x of two tokens, by draws of the prior, of q, and by counting what is generated."""
    options = SIZES | {"window": 2, "channels": 1, "shortest": 1.0, "longest": 1.0} | LAWS[name]
    model, params = made(3, **options)
    pairs = jnp.asarray(list(itertools.product(range(3), repeat=2)))
    config = gp.Config(**options)
    # Where q is narrower than what it stands for by much, weights have no variance that a mean could be trusted by.
    spread = 1.0 if name == "mean field" else -1.0
    kernel, bias = 0.2 * params["sites"]["kernel"], jnp.asarray([0.3, spread])
    params = params | {"sites": {"kernel": kernel, "bias": bias}}

    @jax.jit
    def run(params):
        def plain(key, tokens):
            z = latent.sample(config, params["process"], key, 2)
            logits = jax.nn.log_softmax(model.decode(params, z, tokens), -1)
            if config.regimes == 1:
                return logits[jnp.arange(2), tokens].sum()
            first, switch = jax.nn.log_softmax(params["first"]), jax.nn.log_softmax(params["switch"], -1)
            paths = first[:, None] + switch + logits[0, :, tokens[0]][:, None] + logits[1, :, tokens[1]]
            return jax.nn.logsumexp(paths)

        keys = jax.random.split(KEY, 4000)
        prior = jax.vmap(lambda x: jax.nn.logsumexp(jax.vmap(lambda key: plain(key, x))(keys)) - jnp.log(4000))(pairs)
        bounds = jax.vmap(lambda x: model.bound(params, KEY, x, samples=2000))(pairs)
        generated = jax.vmap(lambda key: model.generate(params, key, 2))(keys)
        counts = (generated[:, None] == pairs).all(-1).mean(0)
        return prior, bounds, counts

    prior, bounds, counts = run(params)
    np.testing.assert_allclose(np.exp(prior).sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(bounds.iwae, prior, atol=0.12)
    assert (bounds.elbo <= bounds.iwae + 0.05).all()
    np.testing.assert_allclose(counts, np.exp(prior), atol=0.035)


def test_loss_mixes_its_parts_and_has_finite_gradients():
    model, params = made(free_bits=0.3, embedding_penalty=1.0, label_smoothing=0.1)

    @jax.jit
    def run(params):
        mixed = jax.value_and_grad(lambda p: model.loss(p, KEY, TOKENS, beta=0.5, predictive=0.25), has_aux=True)
        return mixed(params), model.loss(params, KEY, TOKENS, beta=0.5), model.loss(params, KEY, TOKENS, predictive=1)

    ((total, aux), gradient), (alone, own), (ahead, other) = run(params)
    penalty = float((params["embedding"] ** 2).mean())
    np.testing.assert_allclose(alone - penalty, own.reconstruction + 0.5 * own.kl, rtol=1e-5)
    np.testing.assert_allclose(ahead - penalty, other.predictive, rtol=1e-5)
    np.testing.assert_allclose(total - penalty, 0.75 * (alone - penalty) + 0.25 * (ahead - penalty), rtol=1e-5)
    assert aux.kl >= 2 * 0.3
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_free_bits_are_a_floor_below_which_the_divergence_has_no_gradient():
    model, params = made(free_bits=0.3)

    def floored(process):
        return model.loss(params | {"process": process}, KEY, TOKENS)[1].kl

    run = jax.jit(lambda process: (model.bound(params, KEY, TOKENS), jax.value_and_grad(floored)(process)))
    bound, (value, gradient) = run(params["process"])
    own = np.asarray(bound.divergence) / T
    assert own.min() < 0.3 < own.max()
    np.testing.assert_allclose(value, np.maximum(own, 0.3).sum(), rtol=1e-5)
    np.testing.assert_array_equal(np.asarray(gradient["log_lengthscale"]) != 0, own > 0.3)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_two_tokens_have_a_direction_only_where_channels_are_coupled():
    """p(x_1, x_2) = p(x_2, x_1) of independent reversible channels and a decoder of each step alone; by quadrature."""
    model, params = made(3, window=2)
    params = jax.tree.map(lambda leaf: 2 * leaf.astype(float), params)
    points, weights = np.polynomial.hermite_e.hermegauss(12)
    grid = np.stack(np.meshgrid(*[points] * 4), -1).reshape(-1, 4)
    mass = np.prod(np.stack(np.meshgrid(*[weights] * 4), -1).reshape(-1, 4), -1) / np.sqrt(2 * np.pi) ** 4
    decode = jax.jit(jax.vmap(lambda z: jax.nn.softmax(model.decode(params, z))))

    def skew(covariance):
        # The symmetric root commutes with exchanging the steps, so that the error of quadrature has no direction.
        values, vectors = np.linalg.eigh(covariance)
        z = grid @ (vectors * np.sqrt(values)) @ vectors.T
        likely = decode(z.reshape(-1, 2, 2))
        joint = np.einsum("n,ni,nj->ij", mass, likely[:, 0], likely[:, 1])
        np.testing.assert_allclose(joint.sum(), 1, rtol=1e-6)
        return np.abs(joint - joint.T).max()

    apart = [gp.covariance(model, 2) for model in (gp.matern(1.5, 1.0), gp.matern(0.5, 4.0))]
    assert skew(np.einsum("cst,cd->sctd", apart, np.eye(2)).reshape(4, 4)) < 1e-12
    assert skew(np.asarray(gp.covariance(gp.coupled(np.asarray([[1.0, 2.0], [-2.0, 0.5]])), 2, 2)).reshape(4, 4)) > 1e-3


@pytest.mark.parametrize("spread", [1.0, 10.0])
def test_scores_of_regimes_are_those_of_all_logits(spread):
    """Also where experts are so sure of different tokens that their product underflows: then less, not more."""
    rng = np.random.default_rng(0)
    logits, table = (spread * rng.normal(size=(n, V)).astype(np.float32) for n in (T, 3))
    every = scipy.special.log_softmax(logits[:, None] + table, -1)
    score = jax.jit(regime.scores, static_argnums=3)
    for smoothing in (0.0, 0.1):
        own = np.take_along_axis(every, np.asarray(TOKENS)[:, None, None], -1)[..., 0]
        expected = (1 - smoothing) * own + smoothing * every.mean(-1)
        np.testing.assert_allclose(score(logits, table, TOKENS, smoothing), expected, rtol=1e-4, atol=1e-4)
    far = score(jnp.asarray([[0.0, -200.0]]), jnp.asarray([[-200.0, 0.0]]), jnp.asarray([0]), 0.0)
    assert float(far[0, 0]) < np.log(0.5)


def test_a_prompt_moves_what_is_generated():
    model, params = made(regimes=2)
    run = jax.jit(jax.vmap(lambda key, prompt: model.generate(params, key, 3, prompt), (0, None)))
    first, second = (run(jax.random.split(KEY, 3000), jnp.asarray([token] * 4)) for token in (1, 3))
    assert first.shape == (3000, 3)
    frequencies = [np.bincount(tokens[:, 0], minlength=V) / 3000 for tokens in (first, second)]
    assert np.abs(frequencies[0] - frequencies[1]).max() > 0.05


def bare(**options):
    """Without the run-time checks of annotations that the tests add."""
    return gp.Model(*map(inspect.unwrap, gp.build(gp.Config(**SIZES | options), V)))


def zeros(model):
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(model.init, KEY))


SMALL = bare()
PARAMS = zeros(SMALL)


def predictive(horizon=1, **options):
    model = bare(**options)
    return lambda: model.predictive(zeros(model), KEY, TOKENS, horizon=horizon)


def config(**options):
    return lambda: gp.Config(**options)


WRONG = {
    "bidirectional": (predictive(encoder="bidirectional"), 'encoder: .*predictive.*got "bidirectional"'),
    "transformer": (predictive(encoder="transformer"), 'encoder: .*predictive.*got "transformer"'),
    "mean field": (predictive(posterior="mean_field"), 'posterior: .*predictive.*got "mean_field"'),
    "block": (predictive(latent="block"), 'latent: .*predictive.*got "block"'),
    "loss": (
        lambda: bare(latent="block").loss(PARAMS, KEY, TOKENS, predictive=0.5),
        'latent: .*got "block"',
    ),
    "horizon": (predictive(2, decoder="autoregressive"), "horizon: expected 1"),
    "tokens out of range": (lambda: SMALL.encode(PARAMS, [1, 5]), r"tokens: expected integers in 0 ... 4, got 1 ... 5"),
    "window": (lambda: SMALL.bound(PARAMS, KEY, jnp.zeros(8, int)), "tokens: expected at most the window of 7.*got 8"),
    "batch": (lambda: SMALL.loss(PARAMS, KEY, jnp.zeros((2, 7), int)), r"tokens: .*\(2, 7\).*vmap"),
    "floats": (lambda: SMALL.encode(PARAMS, jnp.zeros(7)), "tokens: expected an array of integers"),
    "steps": (lambda: SMALL.generate(PARAMS, KEY, 4, TOKENS[:4]), r"steps: .*window of 7.*4 \+ 4"),
    "z": (lambda: SMALL.decode(PARAMS, jnp.zeros((7, 3))), r"z: expected shape \(T, 2\)"),
    "params": (lambda: SMALL.encode({}, TOKENS), "params: expected the structure"),
    "key": (lambda: SMALL.init(0), "key: expected a jax.random.key"),
    "share": (lambda: SMALL.loss(PARAMS, KEY, TOKENS, predictive=1.5), r"predictive: expected a static number in"),
    "beta": (lambda: SMALL.loss(PARAMS, KEY, TOKENS, beta=-1.0), "beta: expected non-negative"),
    "vocabulary": (lambda: inspect.unwrap(gp.build)(gp.Config(), 1), "vocabulary: expected a static integer >= 2"),
    "config": (lambda: inspect.unwrap(gp.build)({}, 10), "config: expected a Config"),
    "dense kernel": (config(kernel="rbf"), 'latent: expected "block"'),
    "kernel": (config(kernel="matern"), "kernel: expected one of"),
    "channels": (config(channels=0), "channels: expected a static integer >= 1"),
    "dilations": (config(dilations=3), "dilations: expected a tuple"),
    "free bits": (config(free_bits=-1.0), "free_bits: expected non-negative"),
    "smoothing": (config(label_smoothing=1.0), r"label_smoothing: expected a value in \[0, 1\)"),
    "shortest": (config(shortest=0.0), "shortest: expected positive"),
}


@pytest.mark.parametrize("name", WRONG)
def test_refused_in_three_parts(name):
    call, pattern = WRONG[name]
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    message = str(caught.value)
    assert re.search(pattern, message), message
    assert PARTS.match(message), message
