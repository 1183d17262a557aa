"""The sizes and choices of a Gaussian-process language model; all static."""

import dataclasses
from typing import Literal

from latenttrack.gaussian_process import checks

Encoder = Literal["causal", "bidirectional", "transformer"]
Decoder = Literal["pointwise", "convolutional", "autoregressive"]
LatentForm = Literal["sequential", "block", "parallel"]
Family = Literal["kalman", "mean_field"]
Kernel = Literal["iid", "ou", "matern32", "matern52", "sum", "coupled", "rbf"]

CHOICES = {
    "encoder": ("causal", "bidirectional", "transformer"),
    "decoder": ("pointwise", "convolutional", "autoregressive"),
    "latent": ("sequential", "block", "parallel"),
    "posterior": ("kalman", "mean_field"),
    "kernel": ("iid", "ou", "matern32", "matern52", "sum", "coupled", "rbf"),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and choices of :func:`gaussian_process.build`. Hashable: equal configurations share one compilation.

    Attributes:
        window: the most tokens of a sequence.
        width: D, of embeddings and layers.
        channels: C, of the latent process.
        encoder: from tokens to sites. "causal": a temporal convolutional network that sees x_{≤t} at t;
            "bidirectional": the same, seeing both sides; "transformer": with attention to both sides.
        dilations: of the convolutional encoder's blocks; of the transformer, one block each.
        decoder: from latents to logits. "pointwise": of z_t; "convolutional": of z_{≤t}, causal; "autoregressive":
            of z_t and the last ``context`` tokens. With "pointwise" and channels of positive correlation ρ, two tokens
            are alike given √ρ w of z = √ρ w + √(1 − ρ) ε: p(x_1, x_2) = E p(x_1 | w) p(x_2 | w) has no negative
            eigenvalue, and tokens that take turns are out of reach of every such model.
        context: tokens that an autoregressive decoder sees.
        latent: how posteriors and paths are computed; one law. "sequential": scans; "parallel": associative scans;
            "block": Cholesky factors of the whole window, one channel at a time.
        posterior: "kalman": q ∝ prior × sites; "mean_field": independent in time.
        kernel: of the prior, with learned length scales. "iid", "ou", "matern32", "matern52"; "sum": OU and Matérn 3/2
            of ten times the length scale; "coupled": one process of all channels; "rbf": dense squared exponential with
            learned variances, for ``latent="block"``.
        shortest, longest: the length scales of the first and last channel at the start, in tokens. Of a bound
            with a decoder that remembers, channels that begin slow collapse to the prior: 0.25 and 2 serve it better.
        regimes: K values of a discrete regime, a Markov chain that adds to the logits, marginalised by an exact forward
            pass; 1: none.
        free_bits: nats for each channel and token below which the divergence is not reduced (a floor, never a ceiling).
        embedding_penalty: weight of the mean square of the embeddings in the loss.
        label_smoothing: in the reconstruction of the loss.
        samples: draws of the latent in the loss's predictive part.
    """

    window: int = 64
    width: int = 64
    channels: int = 16
    encoder: Encoder = "causal"
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16)
    decoder: Decoder = "pointwise"
    context: int = 2
    latent: LatentForm = "sequential"
    posterior: Family = "kalman"
    kernel: Kernel = "ou"
    shortest: float = 0.5
    longest: float = 32.0
    regimes: int = 1
    free_bits: float = 0.0
    embedding_penalty: float = 0.0
    label_smoothing: float = 0.0
    samples: int = 4

    def __post_init__(self) -> None:
        """Raise on a size below one, an unknown choice, choices that do not go together."""
        for name in ("window", "width", "channels", "context", "regimes", "samples"):
            checks.count(name, getattr(self, name), minimum=1)
        for name, options in CHOICES.items():
            checks.choice(name, getattr(self, name), options)
        if not isinstance(self.dilations, tuple) or not self.dilations:
            raise TypeError(f"dilations: expected a tuple of counts, got {self.dilations!r}; write (1, 2, 4)")
        for dilation in self.dilations:
            checks.count("dilations", dilation, minimum=1)
        for name in ("shortest", "longest"):
            checks.number(name, getattr(self, name))
        for name in ("free_bits", "embedding_penalty", "label_smoothing"):
            checks.number(name, getattr(self, name), zero=True)
        if self.label_smoothing >= 1:
            raise ValueError(f"label_smoothing: expected a value in [0, 1), got {self.label_smoothing}; lower it")
        if self.kernel == "rbf" and self.latent != "block":
            raise ValueError(
                f'latent: expected "block" for the dense kernel "rbf", got {self.latent!r}; choose it, or a '
                "Matérn kernel"
            )
        if self.kernel == "coupled" and self.posterior == "mean_field" and self.latent == "block":
            raise ValueError(
                'latent: expected "sequential" or "parallel" for a coupled kernel with a mean field, got "block"; '
                "choose one of these"
            )

    @property
    def refusal(self) -> str | None:
        """Why there is no predictive score of x_t given x_{<t}, if there is none."""
        for name, value, wanted, reason in (
            ("encoder", self.encoder, ("causal",), "its sites see what is scored"),
            ("posterior", self.posterior, ("kalman",), "it keeps no belief of a past"),
            ("latent", self.latent, ("sequential", "parallel"), "it has no filter"),
        ):
            if value not in wanted:
                options = " or ".join(f'"{option}"' for option in wanted)
                return f'{name}: expected {options} for a predictive score, got "{value}"; {reason}, so choose another'
        return None
