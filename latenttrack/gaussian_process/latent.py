"""The latent of a language model in its forms, which share one law: posteriors and paths of all channels."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from latenttrack.gaussian_process import dense, inference, posteriors, sampling, state_space
from latenttrack.gaussian_process.config import Config
from latenttrack.gaussian_process.posteriors import MeanField, Posterior
from latenttrack.gaussian_process.state_space import StateSpace
from latenttrack.gaussian_process.steps import Belief, Site, move

Process = dict[str, Array]
JITTER = 1e-5


class Moments(NamedTuple):
    """Of all channels: means [T, C] and roots of the covariances across channels, [T, C] or [T, C, C]."""

    mean: Float[Array, "T C"]
    root: Float[Array, "..."]

    def draw(self, key: Key[Array, ""]) -> Float[Array, "T C"]:
        """Each step on its own."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        if self.root.ndim == 2:
            return self.mean + self.root * noise
        return self.mean + (self.root @ noise[..., None])[..., 0]


def models(config: Config, process: Process) -> StateSpace:
    """The prior: of each channel with a leading axis C, or one coupled model of them all."""
    if config.kernel == "coupled":
        return state_space.coupled(process["matrix"])
    if config.kernel == "iid":
        one = jnp.ones((config.channels, 1, 1))
        return StateSpace(0 * one, one, one)
    scales = jnp.exp(process["log_lengthscale"])
    return jax.vmap(lambda scale: _kernel(config, scale))(scales)


def _kernel(config: Config, scale: Array) -> StateSpace:
    if config.kernel == "sum":
        slow = state_space.matern(1.5, 10 * scale, 0.5)
        return state_space.add(state_space.matern(0.5, scale, 0.5), slow)
    return state_space.matern({"ou": 0.5, "matern32": 1.5, "matern52": 2.5}[config.kernel], scale)


def _coupled(config: Config) -> bool:
    return config.kernel == "coupled"


def _covariances(config: Config, process: Process, length: int) -> Float[Array, "C n n"]:
    """Dense, of each channel; of a coupled model one of all outputs."""
    if config.kernel == "rbf":
        lag = jnp.arange(length)[:, None] - jnp.arange(length)
        scales, variances = (jnp.exp(process[name])[:, None, None] for name in ("log_lengthscale", "log_variance"))
        return variances * jnp.exp(-0.5 * (lag / scales) ** 2) + JITTER * jnp.eye(length)
    prior = models(config, process)
    if _coupled(config):
        matrix = state_space.covariance(prior, length, config.channels)
        return matrix.reshape(1, length * config.channels, -1)
    return jax.vmap(lambda model: state_space.covariance(model, length))(prior)


def _apart(config: Config, value: Any) -> Any:
    """[T, C] as [C, T] of a dense form, or [1, T·C]."""
    return jax.tree.map(lambda part: part.reshape(1, -1) if _coupled(config) else part.T, value)


def _back(config: Config, value: Array) -> Array:
    return value.reshape(-1, config.channels) if _coupled(config) else value.T


def posterior(config: Config, process: Process, q: Site | MeanField) -> Posterior:
    """Moments [T, C], divergences and log evidences of the channels, [C] or [1]; of a mean field no evidence."""
    if config.latent == "block":
        return _dense_posterior(config, process, q)
    prior = models(config, process)
    parallel = config.latent == "parallel"
    if isinstance(q, MeanField):
        if _coupled(config):
            divergence = posteriors.divergence(prior, q, parallel=parallel)[None]
        else:
            each = jax.vmap(lambda model, field: posteriors.divergence(model, field, parallel=parallel))
            divergence = each(prior, jax.tree.map(jnp.transpose, q))
        return Posterior(*q, divergence, jnp.zeros_like(divergence))
    if _coupled(config):
        one = posteriors.posterior(prior, q, parallel=parallel)
        return Posterior(one.mean, one.variance, one.divergence[None], one.log_evidence[None])
    each = jax.vmap(lambda model, sites: posteriors.posterior(model, sites, parallel=parallel))
    mean, variance, divergence, evidence = each(prior, jax.tree.map(jnp.transpose, q))
    return Posterior(mean.T, variance.T, divergence, evidence)


def _dense_posterior(config: Config, process: Process, q: Site | MeanField) -> Posterior:
    covariances = _covariances(config, process, len(q[0]))
    apart = _apart(config, q)
    if isinstance(q, MeanField):
        divergence = jax.lax.map(lambda pair: dense.divergence(*pair), (covariances, apart))
        return Posterior(*q, divergence, jnp.zeros_like(divergence))
    mean, variance, divergence, evidence = jax.lax.map(lambda pair: dense.posterior(*pair), (covariances, apart))
    return Posterior(_back(config, mean), _back(config, variance), divergence, evidence)


def sample(
    config: Config, process: Process, key: Key[Array, ""], length: int, q: Site | MeanField | None = None
) -> Float[Array, "T C"]:
    """A joint path of the prior, or of q; sites of fewer steps are continued."""
    if isinstance(q, MeanField):
        return q.mean + jnp.sqrt(q.variance) * jax.random.normal(key, q.mean.shape, q.mean.dtype)
    if q is not None:
        q = Site(*(jnp.pad(part, ((0, length - len(part)), (0, 0))) for part in q))
    if config.latent == "block":
        covariances = _covariances(config, process, length)
        covariances = covariances + JITTER * jnp.eye(covariances.shape[-1])
        keys = jax.random.split(key, len(covariances))
        apart = None if q is None else _apart(config, q)
        return _back(config, jax.lax.map(lambda each: dense.sample(*each), (covariances, keys, apart)))
    prior = models(config, process)
    parallel = config.latent == "parallel"
    if _coupled(config):
        outputs = config.channels if q is None else None
        return sampling.sample(prior, key, length, sites=q, outputs=outputs, parallel=parallel)
    keys = jax.random.split(key, config.channels)
    if q is None:
        return jax.vmap(lambda m, k: sampling.sample(m, k, length, parallel=parallel))(prior, keys).T
    each = jax.vmap(lambda m, k, sites: sampling.sample(m, k, length, sites=sites, parallel=parallel))
    return each(prior, keys, jax.tree.map(jnp.transpose, q)).T


def log_ratio(
    config: Config, process: Process, q: Site | MeanField, summary: Posterior, z: Float[Array, "T C"]
) -> Float[Array, ""]:
    """log p(z) − log q(z); of sites log Z + ½ Σ λ (y − z)²."""
    if isinstance(q, Site):
        return summary.log_evidence.sum() + 0.5 * (q.precision * (q.mean - z) ** 2).sum()
    own = -0.5 * ((z - q.mean) ** 2 / q.variance + jnp.log(2 * jnp.pi * q.variance)).sum()
    if config.latent == "block":
        covariances = _covariances(config, process, len(z))
        each = jax.lax.map(lambda pair: dense.log_prob(*pair), (covariances, _apart(config, z)))
        return each.sum() - own
    prior = models(config, process)
    if _coupled(config):
        return posteriors.log_prob(prior, z) - own
    return jax.vmap(posteriors.log_prob)(prior, z.T).sum() - own


def ahead(config: Config, process: Process, sites: Site, horizon: int | Array) -> Moments:
    """Moments of z_t given the sites ≤ t − horizon; of the first ones the prior's."""
    prior = models(config, process)
    parallel = config.latent == "parallel"
    width = config.channels if _coupled(config) else 1

    def beliefs(model: StateSpace, sites: Site) -> Belief:
        _, filtered, _ = inference.filter(model, sites, parallel=parallel)
        start = inference.init(model)
        source = jnp.arange(len(filtered.mean)) - horizon

        def known(early: Array, late: Array) -> Array:
            return jnp.where(source.reshape(-1, *(1,) * early.ndim) >= 0, late, early)

        past = jax.tree.map(lambda part: part[jnp.maximum(source, 0)], filtered)
        moved = jax.lax.fori_loop(0, horizon, lambda _, belief: move(belief, model.transition, model.noise_root), past)
        # The prior is stationary: it need not be moved.
        moved = jax.tree.map(known, start, moved)
        return Belief(moved.mean[:, :width], moved.covariance[:, :width, :width])

    if _coupled(config):
        mean, covariance = beliefs(prior, sites)
        jitter = 1e-6 * jnp.eye(width, dtype=mean.dtype)
        return Moments(mean, jnp.linalg.cholesky(covariance + jitter))
    mean, covariance = jax.vmap(beliefs)(prior, jax.tree.map(jnp.transpose, sites))
    return Moments(mean[..., 0].T, jnp.sqrt(jnp.maximum(covariance[..., 0, 0], 1e-12)).T)
