"""Each likelihood: S Sᵀ against the Hessian or the Fisher information, S u against the gradient, the density's mass."""

import dataclasses

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from suites import fast

import lowrank_filter as lf

COVARIANCE = jnp.asarray([[0.5, 0.2, 0.0], [0.2, 0.4, 0.1], [0.0, 0.1, 0.3]])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Laplacian(lf.Likelihood):
    """A smoothed absolute error; only the negative log likelihood is given."""

    scale: float

    def nll(self, output, target):
        return jnp.sum(jnp.sqrt(1 + ((output - target) / self.scale) ** 2))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OwnGaussian(lf.Likelihood):
    """A unit Gaussian: the Hessian is the identity, all its eigenvalues are equal."""

    def nll(self, output, target):
        return 0.5 * jnp.sum((output - target) ** 2) + 0.5 * len(output) * jnp.log(2 * jnp.pi)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OwnCategorical(lf.Likelihood):
    def nll(self, output, target):
        return jax.nn.logsumexp(output) - output[target]

    def targets(self, outputs):
        return ()


EXACT = {
    "categorical": (lf.Categorical(), 1),
    "gaussian scalar": (lf.Gaussian(0.3), [0.1, 2.0, -1.0]),
    "gaussian vector": (lf.Gaussian(jnp.asarray([0.1, 0.2, 0.3])), [0.1, 2.0, -1.0]),
    "gaussian matrix": (lf.Gaussian(COVARIANCE), [0.1, 2.0, -1.0]),
    "bernoulli": (lf.Bernoulli(), [0.0, 1.0, 0.3]),
    "poisson": (lf.Poisson(), [0.0, 1.0, 4.0]),
    "own, derived": (Laplacian(2.0), [0.1, 2.0, -1.0]),
    "own, equal eigenvalues": (OwnGaussian(), [0.1, 2.0, -1.0]),
    "own, singular": (OwnCategorical(), 2),
}
OUTPUT = np.array([0.3, -1.2, 0.8])


@jax.jit
def local(likelihood, output, target):
    root, score = likelihood.root(output, target), likelihood.whitened_score(output, target)
    return root, score, jax.grad(likelihood.nll)(output, target), jax.hessian(likelihood.nll)(output, target)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", EXACT)
def test_root_and_score(name):
    likelihood, target = EXACT[name]
    root, score, gradient, hessian = (
        np.asarray(a) for a in local(likelihood, jnp.asarray(OUTPUT), jnp.asarray(target))
    )
    assert dense.relative_error(root @ root.T, hessian) < 1e-10
    assert dense.relative_error(root @ score, gradient) < 1e-10


@pytest.mark.usefixtures("x64")
def test_heteroscedastic_is_the_fisher_information():
    likelihood, output = lf.HeteroscedasticGaussian(), jnp.asarray([0.3, -1.2, 0.8, -0.5])
    target = jnp.asarray([0.5, 2.0])
    root = likelihood.root(output, target)
    # E[∇∇ᵀ] over y by Gauss-Hermite quadrature, exact for the quartics that occur.
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    grid = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)
    weight = np.outer(weights, weights).ravel() / (2 * np.pi)
    y = np.asarray(output[:2]) + grid * np.exp(np.asarray(output[2:]) / 2)
    gradients = np.asarray(jax.vmap(jax.grad(likelihood.nll), (None, 0))(output, y))
    assert dense.relative_error(root @ root.T, np.einsum("n,ni,nj->ij", weight, gradients, gradients)) < 1e-10
    gradient = jax.grad(likelihood.nll)(output, target)
    assert dense.relative_error(root @ likelihood.whitened_score(output, target), gradient) < 1e-10


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("likelihood", "support", "step"),
    [
        (lf.Categorical(), np.arange(3), 1.0),
        (lf.Poisson(), np.arange(60.0)[:, None], 1.0),
        (lf.Bernoulli(), np.arange(2.0)[:, None], 1.0),
        (lf.Gaussian(0.3), np.linspace(-8, 8, 4001)[:, None], 0.004),
        (lf.HeteroscedasticGaussian(), np.linspace(-12, 12, 4001)[:, None], 0.006),
    ],
    ids=lambda value: type(value).__name__,
)
def test_probabilities_sum_to_one(likelihood, support, step):
    outputs = {"Categorical": 3, "HeteroscedasticGaussian": 2}.get(type(likelihood).__name__, 1)
    nll = jax.vmap(likelihood.nll, (None, 0))(jnp.asarray(OUTPUT[:outputs]), jnp.asarray(support))
    assert abs(float(jnp.exp(-nll).sum()) * step - 1) < 1e-6


@pytest.mark.usefixtures("x64")
def test_gaussian_matrix_covariance_is_the_multivariate_density():
    residual = OUTPUT - 1
    nll = lf.Gaussian(COVARIANCE).nll(jnp.asarray(OUTPUT), jnp.ones(3))
    assert dense.relative_error(-nll, dense.gaussian_log_density(residual, np.asarray(COVARIANCE))) < 1e-6


EXTREME = {
    "categorical, sure and right": (lf.Categorical(), [300.0, 0.0, 0.0], 0),
    "categorical, sure and wrong": (lf.Categorical(), [300.0, 0.0, 0.0], 1),
    "categorical, large logits": (lf.Categorical(), [1e30, 0.0, -1e30], 0),
    "bernoulli, sure and right": (lf.Bernoulli(), [300.0, -300.0], [1.0, 0.0]),
    "bernoulli, sure and wrong": (lf.Bernoulli(), [300.0, -300.0], [0.0, 1.0]),
    "poisson, rate near zero": (lf.Poisson(), [-300.0], [3.0]),
    "poisson, rate large": (lf.Poisson(), [40.0], [3.0]),
    "heteroscedastic, tiny variance": (lf.HeteroscedasticGaussian(), [0.0, -40.0], [0.0]),
    "heteroscedastic, huge variance": (lf.HeteroscedasticGaussian(), [0.0, 80.0], [1.0]),
}


@pytest.mark.parametrize("name", EXTREME)
def test_extreme_outputs_in_float32(name):
    likelihood, output, target = EXTREME[name]
    root, score, gradient, _ = local(likelihood, jnp.asarray(output, jnp.float32), jnp.asarray(target))
    assert np.isfinite(root).all() and np.isfinite(score).all()
    assert dense.relative_error(root @ score, gradient) < 1e-5


QUICK = ("categorical, large logits", "poisson, rate large", "heteroscedastic, tiny variance")


@pytest.mark.parametrize("name", fast(EXTREME, *QUICK))
def test_update_on_extreme_outputs_in_float32(name):
    likelihood, output, target = EXTREME[name]
    belief = lf.init(jnp.asarray(output, jnp.float32), rank=3)
    y = jnp.asarray(target)[None]
    updated, info = jax.jit(lambda: lf.update(belief, lambda p, x: x * p, likelihood, jnp.ones((1, 1)), y))()
    assert info.invalid == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((updated, info)))


@pytest.mark.parametrize(
    ("likelihood", "output", "target"),
    [(lf.Poisson(), 87.0, 3.0), (lf.Poisson(), 200.0, 3.0), (lf.HeteroscedasticGaussian(), -87.0, 0.0)],
    ids=["rate 1e37", "rate overflows", "precision 1e37"],
)
def test_an_overflowing_example_is_counted_and_does_not_leak(likelihood, output, target):
    """float32 ends at 3e38: an example whose curvature overflows is invalid, not a NaN in the belief."""
    start = jnp.asarray([0.0, output] if isinstance(likelihood, lf.HeteroscedasticGaussian) else [output])
    belief = lf.init(start, rank=1)
    x = jnp.full((1, 1), 3.0)
    apply_fn = lambda p, x: x * p - 2 * jax.lax.stop_gradient(p)  # noqa: E731
    updated, info = lf.update(belief, apply_fn, likelihood, x, jnp.asarray([[target]]), iterations=0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((updated, info)))


def linear(params, x):
    return x @ params.reshape(3, 2)


@pytest.mark.usefixtures("x64")
def test_an_own_likelihood_gives_the_built_ones_update():
    rng = np.random.default_rng(0)
    belief = lf.init(jnp.asarray(rng.normal(size=6)), rank=6)
    x, y = jnp.asarray(rng.normal(size=(4, 3))), jnp.asarray(rng.integers(0, 2, 4))
    own, built = (
        jax.jit(lambda chosen=likelihood: lf.update(belief, linear, chosen, x, y, iterations=0)[0])()
        for likelihood in (OwnCategorical(), lf.Categorical())
    )
    assert dense.relative_error(own.mean, built.mean) < 1e-9
    assert dense.relative_error(dense.matrix(*own.precision), dense.matrix(*built.precision)) < 1e-9


@pytest.mark.usefixtures("x64")
def test_the_gradient_of_an_own_likelihood_with_equal_eigenvalues_is_right():
    """eigh's own derivative is NaN there."""
    rng = np.random.default_rng(1)
    x, y = jnp.asarray(rng.normal(size=(4, 3))), jnp.asarray(rng.normal(size=(4, 2)))
    start = jnp.asarray(rng.normal(size=6))

    def evidence(likelihood, t):
        return lf.update(lf.init(start + t, rank=2), linear, likelihood, x, y, iterations=0)[1].log_evidence

    own, built = (
        jax.jit(jax.grad(lambda t, chosen=likelihood: evidence(chosen, t)))(0.0)
        for likelihood in (OwnGaussian(), lf.Gaussian(1.0))
    )
    assert dense.relative_error(own, built) < 1e-9


def test_without_nll_the_error_says_what_to_do():
    class Nothing(lf.Likelihood):
        pass

    with pytest.raises(NotImplementedError, match="define nll"):
        Nothing().nll(jnp.zeros(2), jnp.zeros(2))


@pytest.mark.parametrize("count", [0.0, 1.0, 15.0, 16.0, 100.0, 1e4, 1e6, 1e7])
@pytest.mark.parametrize("deviations", [-2.0, 0.0, 1.0])
def test_a_count_of_millions_keeps_its_loss_in_float32(count, deviations):
    """Against float64 at the same float32 log rate, by the plain formula with scipy's log gamma function."""
    log_rate = np.float32(np.log(count + 1) + deviations / np.sqrt(count + 1))
    came = lf.Poisson().nll(jnp.asarray([log_rate]), jnp.asarray([count], jnp.float32))
    wide = np.float64(log_rate)
    exact = np.exp(wide) - count * wide + scipy.special.gammaln(count + 1)
    assert came.dtype == jnp.float32
    # A log rate's own rounding is worth that much.
    assert abs(float(came) - exact) < 1e-5 * abs(exact) + 1e-3 * (count > 1e5) * (1 + abs(deviations))


def test_counts_at_their_own_rate():
    for count, exact in ((1e6, 7.8266940), (1e7, 8.9779866)):
        log_rate = jnp.asarray([np.log(count)], jnp.float32)
        assert abs(float(lf.Poisson().nll(log_rate, jnp.asarray([count], jnp.float32))) - exact) < 1e-3


@jax.jit
def took(y):
    belief = lf.init(jnp.zeros(2), rank=1)
    arguments = (lambda p, x: x @ p[:, None], lf.Poisson(), jnp.ones((3, 2)), y)
    return lf.update(belief, *arguments, iterations=0)[1]


@pytest.mark.parametrize("target", [0.5, -1.0, np.nan, np.inf, 2.0000002])
def test_what_is_no_count_is_refused(target):
    belief = lf.init(jnp.zeros(2), rank=1)
    x, y = jnp.ones((3, 2)), jnp.asarray([1.0, target, 3.0])
    with pytest.raises(ValueError, match="domain of Poisson"):
        lf.update(belief, lambda p, x: x @ p[:, None], lf.Poisson(), x, y)
    assert took(y).invalid == 1


def test_labels_end_one_below_the_number_of_classes():
    inside = [bool(lf.Categorical().in_domain(jnp.asarray(label), 3)) for label in (-1, 0, 2, 3)]
    assert inside == [False, True, True, False]


def test_what_transformations_put_into_a_gaussian_is_not_checked():
    def loss(likelihood):
        return likelihood.nll(jnp.asarray(OUTPUT), jnp.zeros(3))

    stack = lf.Gaussian(jnp.stack([COVARIANCE, -COVARIANCE]) + 3 * jnp.eye(3))
    each = jax.vmap(loss, in_axes=(lf.Gaussian(0),))(stack)
    np.testing.assert_allclose(each[0], loss(lf.Gaussian(stack.covariance[0])), rtol=1e-6)
    made = jax.jit(jax.grad(lambda variance: loss(lf.Gaussian(variance))))(0.3)
    np.testing.assert_allclose(made, jax.grad(loss)(lf.Gaussian(0.3)).covariance, rtol=1e-6)
    assert jax.tree.map(jnp.negative, lf.Gaussian(0.3)).covariance == -0.3
    assert jax.tree.map(lambda _: None, lf.Gaussian(0.3)).covariance is None
    assert isinstance(lf.Gaussian(jax.ShapeDtypeStruct((), float)).covariance, jax.ShapeDtypeStruct)
