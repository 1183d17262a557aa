"""Wrong calls of the kernels: one error of three parts each, that names the argument, before anything is computed."""

import inspect
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calls import PARTS

from latenttrack import gaussian_process

# Without the run-time checks of annotations that the tests add.
gp = types.SimpleNamespace(
    **{name: inspect.unwrap(getattr(gaussian_process, name)) for name in gaussian_process.__all__}
)

MODEL, KEY = gp.matern(0.5, 3.0), jax.random.key(0)
SITES = gp.Site(np.ones(5), np.ones(5))
IRREGULAR = gp.matern(1.5, 3.0, step=np.ones(6))
NAN = np.asarray([1, np.nan, 1, 1, 1])
CASES = {
    "order": (lambda: gp.matern(2, 1.0), "order: expected one of .5, 1.5, 2.5, got 2"),
    "negative length scale": (lambda: gp.matern(0.5, -1.0), "lengthscale: expected positive.*got -1"),
    "length scales": (lambda: gp.matern(0.5, np.ones(3)), "lengthscale: expected one number.*vmap"),
    "text": (lambda: gp.rbf("3"), "lengthscale: expected"),
    "variance": (lambda: gp.matern(0.5, 1.0, 0.0), "variance: expected positive"),
    "unsorted times": (lambda: gp.matern(0.5, 1.0, step=np.diff([0.0, 2, 1])), "step: .*got -1.0.*sort the times"),
    "step": (lambda: gp.matern(0.5, 1.0, step=0.0), "step: expected positive"),
    "step matrix": (lambda: gp.matern(0.5, 1.0, step=np.ones((2, 2))), r"step: expected .*\(2, 2\)"),
    "rbf order": (lambda: gp.rbf(1.0, order=9), "order: expected at most 8, got 9"),
    "nothing to add": (gp.add, "models: expected at least one"),
    "different steps": (lambda: gp.multiply(IRREGULAR, gp.matern(0.5, 1.0, step=np.ones(3))), r"models: .*\[3, 6\]"),
    "no model": (lambda: gp.add(MODEL, 3), r"models\[1\]: expected a StateSpace, got int"),
    "coupling": (lambda: gp.coupled(np.ones((2, 3))), r"matrix: expected shape \(S, S\), got \(2, 3\)"),
    "coupling of NaN": (lambda: gp.coupled(np.full((2, 2), np.nan)), "matrix: expected finite"),
    "covariance": (lambda: gp.covariance(MODEL, [2, 1]), r"times: expected sorted.*\[2. 1.\]"),
    "covariance of none": (lambda: gp.covariance(MODEL, 0), "times: expected a static integer >= 1"),
    "covariance too long": (lambda: gp.covariance(IRREGULAR, 9), "times: expected at most 6"),
    "traced times": (lambda: jax.jit(lambda t: gp.covariance(MODEL, t))(np.ones(3)), "times: expected static"),
    "broken model": (
        lambda: gp.init(gp.StateSpace(np.ones((2, 2)), np.ones((3, 1)), np.eye(2))),
        r"model: expected transition \(S, S\).*\(3, 1\)",
    ),
    "model": (lambda: gp.posterior({}, SITES), "model: expected a StateSpace, got dict"),
    "a pair": (lambda: gp.posterior(MODEL, (np.ones(5), np.ones(5))), "sites: expected a Site, got tuple"),
    "lengths": (lambda: gp.posterior(MODEL, gp.Site(np.ones(5), np.ones(4))), r"sites.precision: .*\(5,\).*\(4,\)"),
    "a number": (lambda: gp.posterior(MODEL, gp.Site(np.ones(5), 1.0)), r"sites.precision: .*got \(\); repeat"),
    "a batch": (lambda: gp.smooth(MODEL, gp.Site(np.ones((3, 5)), np.ones((3, 5)))), r"sites.mean: .*\(3, 5\).*vmap"),
    "negative precision": (lambda: gp.filter(MODEL, gp.Site(np.ones(5), -np.ones(5))), "sites.precision: .*-1.0"),
    "NaN": (lambda: gp.posterior(MODEL, gp.Site(NAN, np.ones(5))), "sites.mean: expected finite.*precision 0"),
    "infinite precision": (lambda: gp.posterior(MODEL, gp.Site(NAN, np.full(5, np.inf))), "sites.precision: .*inf"),
    "steps": (lambda: gp.posterior(IRREGULAR, SITES), "sites.mean: expected 7 steps.*got 5"),
    "traced": (lambda: jax.jit(gp.smooth)(IRREGULAR, SITES), "sites.mean: expected 7 steps.*got 5"),
    "parallel": (lambda: gp.smooth(MODEL, SITES, parallel=1), "parallel: expected a static True or False, got 1"),
    "belief": (lambda: gp.predict(MODEL, gp.init(IRREGULAR)), r"belief: expected shapes \(1,\)"),
    "site": (lambda: gp.update(gp.init(MODEL), SITES.mean), "site: expected a Site"),
    "all sites": (lambda: gp.update(gp.init(MODEL), gp.Site(np.ones((2, 1)), np.ones((2, 1)))), "site: .*scan or vmap"),
    "posterior": (lambda: gp.divergence(MODEL, 1.0), "posterior: expected a Site or a MeanField, got float"),
    "no variance": (lambda: gp.divergence(MODEL, gp.MeanField(np.ones(5), np.zeros(5))), "posterior.variance: .*posit"),
    "noise": (lambda: gp.log_prob(MODEL, np.ones(5), noise=0.0), "noise: expected positive"),
    "values": (lambda: gp.log_prob(MODEL, NAN), "values: expected finite.*mask"),
    "mask": (lambda: gp.log_prob(MODEL, np.ones(5), mask=np.ones(4, bool)), r"mask: expected .*\(5,\).*\(4,\)"),
    "key": (lambda: gp.sample(MODEL, 0, 5), "key: expected a jax.random.key"),
    "no steps": (lambda: gp.sample(MODEL, KEY, 0), "steps: expected a static integer >= 1"),
    "too few steps": (lambda: gp.sample(MODEL, KEY, 3, sites=SITES), "sites: expected at most steps = 3"),
    "two wishes": (lambda: gp.sample(MODEL, KEY, 9, sites=SITES, given=np.ones(3)), "sites: expected one of"),
    "outputs": (lambda: gp.sample(MODEL, KEY, 9, outputs=2), "outputs: expected at most the 1"),
    "past the end": (lambda: gp.sample(IRREGULAR, KEY, 3, given=np.ones(5)), "steps: expected 7 steps.*got 8"),
    "complex": (
        lambda: gp.log_prob(MODEL, np.ones(5, complex)),
        "values: expected an array of real numbers, got compl",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_refused_in_three_parts(name):
    call, pattern = CASES[name]
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    message = str(caught.value)
    assert re.search(pattern, message), message
    assert PARTS.match(message), message


def test_values_that_cannot_be_seen_go_through():
    jax.eval_shape(lambda scale: gp.posterior(gp.matern(0.5, scale), SITES), jnp.asarray(-1.0))
