"""The networks of a latent filter: encoder and recurrent cell, prior, posterior, hypernetwork."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Float

from latenttrack.algebra import recurrence
from latenttrack.tracking import generated_weights
from latenttrack.tracking.config import Config

Theta = tuple[tuple[Array, Array], ...]


class Transition(NamedTuple):
    """z_t | z_{t−1} ~ N(A z_{t−1} + offset, diag variance); A is None where the prior does not see z_{t−1}."""

    matrix: Float[Array, "d d"] | None
    offset: Float[Array, "*batch d"]
    variance: Float[Array, "*batch d"]


class Network(linen.Module):
    """Parameters and the parts that use them; the functions of :class:`latenttrack.Model` are built of these."""

    config: Config
    x_dim: int
    y_dim: int

    def setup(self) -> None:
        """Declare the parameters; the products over tensors of generated weights are written out in ``emissions``."""
        c = self.config
        d, h = c.latent_dim, c.hidden_dim
        dense, narrow = linen.initializers.lecun_normal(), linen.initializers.normal(0.01)
        self.encoder = linen.Dense(c.encoder_dim)
        self.projection = linen.Dense(3 * h)
        self.recurrent = self.param("recurrent", linen.initializers.orthogonal(), (h, 3 * h))
        self.posterior_head = linen.Dense(2 * d, bias_init=_halves(0.0, -1.0))
        self.prior_head = linen.Dense(2 * d, kernel_init=narrow, bias_init=_halves(0.0, -0.5))
        if c.transition == "structured":
            self.matrix = self.param("matrix", lambda _, shape: 0.9 * jnp.eye(*shape), (d, d))
        widths = (self.x_dim, *c.predictor_hidden, 2 * self.y_dim)
        self.bases = [
            (
                self.param(f"base_{i}", dense, (n, m)),
                self.param(f"base_bias_{i}", linen.initializers.zeros, (m,)),
            )
            for i, (n, m) in enumerate(itertools.pairwise(widths))
        ]
        if c.conditioning == "input":
            self.latent = self.param("latent", linen.initializers.normal(d**-0.5), (d, widths[1]))
        else:
            self.hyper = [linen.Dense(width) for width in c.generator_hidden]
            rank = c.generator_hidden[-1] if c.generator_hidden else d
            # Each direction moves the weights as far as the base is large, once the code is of order one.
            self.directions = [
                (
                    self.param(f"direction_{i}", linen.initializers.normal((rank * n) ** -0.5), (rank, n, m)),
                    self.param(f"direction_bias_{i}", linen.initializers.normal(rank**-0.5), (rank, m)),
                )
                for i, (n, m) in enumerate(itertools.pairwise(widths))
            ]
        if c.summary:
            self.summary = self.param("summary", linen.initializers.normal(h**-0.5), (h, widths[1]))

    def __call__(self) -> None:
        """Touch every parameter once, for ``init``."""
        hidden = jnp.zeros(self.config.hidden_dim)
        self.project(jnp.zeros(self.x_dim), jnp.zeros(self.y_dim))
        self.posterior(hidden)
        self.transition(hidden)
        self.weights(jnp.zeros(self.config.latent_dim), hidden)

    def project(self, x: Float[Array, "*batch x"], y: Float[Array, "*batch y"]) -> Float[Array, "*batch gates"]:
        """The input's part of the recurrent cell's gates."""
        return self.projection(jnp.tanh(self.encoder(jnp.concatenate([x, y], axis=-1))))

    def advance(self, hidden: Float[Array, " H"], x: Float[Array, " x"], y: Float[Array, " y"]) -> Float[Array, " H"]:
        """h_t = GRU(h_{t−1}, e(x_t, y_t))."""
        return recurrence.step(self.recurrent, hidden, self.project(x, y))

    def summaries(
        self, hidden: Float[Array, " H"], xs: Float[Array, "T x"], ys: Float[Array, "T y"], observed: Float[Array, " T"]
    ) -> Float[Array, "T H"]:
        """The same over a window; the input's part is one product before the scan."""
        return recurrence.recur(self.recurrent, hidden, self.project(xs, ys), observed)

    def posterior(self, hidden: Float[Array, "*batch H"]) -> tuple[Float[Array, "*batch d"], Float[Array, "*batch d"]]:
        """Mean and standard deviation of q(z_t | h_t)."""
        mean, raw = jnp.split(self.posterior_head(hidden), 2, axis=-1)
        return mean, _scale(raw)

    def transition(self, hidden: Float[Array, "*batch H"]) -> Transition:
        """The prior's parts that depend on h_{t−1}."""
        offset, raw = jnp.split(self.prior_head(hidden), 2, axis=-1)
        matrix = self.matrix if self.config.transition == "structured" else None
        return Transition(matrix, offset, jnp.square(_scale(raw)))

    def code(self, z: Float[Array, "*batch d"]) -> Float[Array, "*batch r"]:
        """The hypernetwork's last hidden layer: coordinates of the generated weights along their directions."""
        for layer in self.hyper:
            z = jnp.tanh(layer(z))
        return z

    def weights(self, z: Float[Array, " d"], hidden: Float[Array, " H"]) -> Theta:
        """θ = θ₀ + Σ_r code_r(z) W_r; the summary's part, and that of z as an input, shift the first bias."""
        if self.config.conditioning == "input":
            (weight, bias), *rest = self.bases
            theta = ((weight, bias + z @ self.latent), *rest)
        else:
            code = self.code(z)
            theta = tuple(
                (base + jnp.einsum("r,rnm->nm", code, direction), bias + code @ direction_bias)
                for (base, bias), (direction, direction_bias) in zip(self.bases, self.directions, strict=True)
            )
        if self.config.summary:
            (weight, bias), *rest = theta
            theta = ((weight, bias + hidden @ self.summary), *rest)
        return theta

    def features(
        self, z: Float[Array, " d"], hidden: Float[Array, " H"], x: Float[Array, " x"]
    ) -> Float[Array, " features"]:
        """What the predictor's last layer sees, the summary, and 1."""
        return _with_one(jnp.concatenate([_last_hidden(self.weights(z, hidden), x), hidden]))

    def emissions(
        self, z: Float[Array, "*batch S d"], hidden: Float[Array, "*batch H"], x: Float[Array, "*batch x"]
    ) -> tuple[Float[Array, "*batch S y"], Float[Array, "*batch S y"]]:
        """``emit(weights(z, hidden), x)`` for S samples that share x and h.

        Base and biases are one more direction and one more input, so that a layer is one product. At the first layer
        x is contracted with the directions, and only then with the codes of the samples.
        """
        if self.config.conditioning == "input":
            (weight, bias), *rest = self.bases
            shared = x @ weight + bias
            if self.config.summary:
                shared = shared + hidden @ self.summary
            active = shared[..., None, :] + z @ self.latent
            for weight, bias in rest:
                active = jnp.tanh(active) @ weight + bias
            return head(active, self.config.variance_floor)
        code = self.code(z)
        first, *rest = (
            jnp.concatenate([jnp.append(direction, shift[:, None], 1), jnp.append(base, bias[None], 0)[None]])
            for (base, bias), (direction, shift) in zip(self.bases, self.directions, strict=True)
        )
        sliced = jnp.einsum("...n,rnm->...rm", _with_one(x), first)
        shift = sliced[..., -1, :]
        if self.config.summary:
            shift = shift + hidden @ self.summary
        active = code @ sliced[..., :-1, :] + shift[..., None, :]
        for layer in rest:
            active = generated_weights.generated(_with_one(code), _with_one(jnp.tanh(active)), layer)
        return head(active, self.config.variance_floor)


def _with_one(x: Float[Array, "*batch n"]) -> Float[Array, "*batch n+1"]:
    return jnp.concatenate([x, jnp.ones_like(x, shape=(*x.shape[:-1], 1))], axis=-1)


def emit(theta: Theta, x: Float[Array, " x"], variance_floor: float) -> tuple[Float[Array, " y"], Float[Array, " y"]]:
    """Mean and variance of the predictor f_θ(x)."""
    weight, bias = theta[-1]
    return head(_last_hidden(theta, x) @ weight + bias, variance_floor)


def _last_hidden(theta: Theta, x: Float[Array, " x"]) -> Float[Array, " hidden"]:
    """What the last layer of the predictor sees."""
    for weight, bias in theta[:-1]:
        x = jnp.tanh(x @ weight + bias)
    return x


def head(
    outputs: Float[Array, "*batch outputs"], variance_floor: float
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Mean, and variance as a square above the floor: it cannot overflow as an exponential does."""
    mean, raw = jnp.split(outputs, 2, axis=-1)
    return mean, variance_floor + jnp.square(jax.nn.softplus(raw))


def _scale(raw: Array) -> Array:
    """A standard deviation that is bounded below, so that no divergence is infinite."""
    return 1e-3 + jax.nn.softplus(raw)


def _halves(first: float, second: float) -> linen.initializers.Initializer:
    def init(_: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jnp.where(jnp.arange(shape[0]) < shape[0] // 2, first, second).astype(dtype)

    return init
