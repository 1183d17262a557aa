"""The sizes and choices of a latent filter; all static."""

import dataclasses
from typing import Literal

from lowrank_filter.common import checks

Transition = Literal["structured", "unstructured"]
Points = Literal["random", "fixed"]
Conditioning = Literal["weights", "input"]
Adapt = Literal["filter"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and choices of :func:`latenttrack.build`. Hashable: equal configurations share one compilation.

    Attributes:
        latent_dim: d, the dimension of z.
        hidden_dim: H, the width of the summary h.
        encoder_dim: width of the features of (x, y) that enter the recurrent cell.
        generator_hidden: widths of the hypernetwork's hidden layers; its last one is the rank of the weights that are
            generated beside their shared base. Empty: the weights are linear in z.
        predictor_hidden: widths of the predictor's hidden layers.
        transition: "structured" has the prior depend on z_{t−1} and h_{t−1}, "unstructured" on h_{t−1} alone.
        summary: whether the predictor's first hidden layer sees h_{t−1} beside the generated weights.
        variance_floor: the smallest variance that a predictor can give, in units of y².
        posterior_samples, prior_samples: samples of z per step in the training loss, for its reconstruction and for
            its predictive part.
        points: how K samples of the prior are drawn. "random": anew at each step. "fixed": the same K standardised
            points at each step, from a scrambled Sobol sequence; predictions do not depend on the key, and a
            predictive loss is what a rollout with ``samples=prior_samples`` scores.
        conditioning: what z does to the predictor. "weights": generates its weights. "input": enters its first layer
            beside x and nothing is generated, so that the two together say what generating weights buys;
            ``generator_hidden`` is not used then.
        adapt: what goes on learning once training is over. "filter": a low-rank filter of the weights of a last layer
            more, from the predictor's last hidden layer and the summary, that moves each prediction and widens or
            narrows it, mixed with the prediction as it was by their evidence (:func:`latenttrack.adapted`); parameters
            and training are the same. None: nothing.
    """

    latent_dim: int = 8
    hidden_dim: int = 48
    encoder_dim: int = 16
    generator_hidden: tuple[int, ...] = (16,)
    predictor_hidden: tuple[int, ...] = (16,)
    transition: Transition = "structured"
    summary: bool = True
    variance_floor: float = 1e-4
    posterior_samples: int = 2
    prior_samples: int = 32
    points: Points = "fixed"
    conditioning: Conditioning = "weights"
    adapt: Adapt | None = None

    def __post_init__(self) -> None:
        """Raise ValueError on a size below one, an unknown choice, a floor that is negative or not static."""
        for name in ("latent_dim", "hidden_dim", "encoder_dim", "posterior_samples", "prior_samples"):
            checks.count(name, getattr(self, name), minimum=1)
        for name in ("generator_hidden", "predictor_hidden"):
            widths = getattr(self, name)
            if not isinstance(widths, tuple):
                raise TypeError(
                    f"{name}: expected a tuple of widths, got {widths!r}; write ({widths!r},) for one layer"
                )
            for width in widths:
                checks.count(name, width, minimum=1)
        checks.choice("conditioning", self.conditioning, ("weights", "input"))
        if self.adapt is not None:
            checks.choice("adapt", self.adapt, ("filter",))
        checks.choice("transition", self.transition, ("structured", "unstructured"))
        checks.choice("points", self.points, ("random", "fixed"))
        checks.static("variance_floor", self.variance_floor)
        checks.within("variance_floor", self.variance_floor, 0.0, float("inf"), "non-negative values")
        checks.flag("summary", self.summary)
