"""What is known of a model of a stream: how it is built and how it is chosen."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model of a stream.

    Attributes:
        build: (x_dim, y_dim, steps of the training span, **options) → model.
        options: sizes and choices of the model; results depend on them.
        samples_prior: whether its objective has a part of prior samples, whose share is then chosen too.
        trained: whether gradients train it; else it filters the training span, if it has a ``grid``.
        side_by_side: whether its seeds and windows train as one batch: many small decompositions are slow one by one.
        grid: values for the entries of its parameters, for a model that is not trained.
    """

    build: Callable[..., Any]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    samples_prior: bool = False
    trained: bool = True
    side_by_side: bool = False
    grid: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)

    def model(self, x_dim: int, steps: int) -> Any:
        """For a stream of so many inputs and one target, and a training span of so many steps."""
        return self.build(x_dim, 1, steps, **self.options)

    def depends(self) -> dict[str, Any]:
        """What results depend on."""
        return {**vars(self), "build": f"{self.build.__module__}.{self.build.__qualname__}"}
