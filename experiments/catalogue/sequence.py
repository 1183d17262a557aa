"""Any methods on any sequence of tasks: one's own beside the others."""

import dataclasses
from typing import ClassVar

from rich.console import Console

from experiments.continual import learners, sequences
from experiments.continual.comparison import Comparison
from experiments.continual.summary import Pair
from experiments.run.options import Count


@dataclasses.dataclass(frozen=True)
class AnySequence(Comparison):
    """Methods by the names in continual/learners on a sequence by its name in continual/sequences."""

    by_hand: ClassVar = True  # nothing that the others do not show

    on: str = "rotated-digits"
    """The sequence."""
    methods: tuple[str, ...] = ("sequential", "ewc", "filter")
    """The methods; the first report of each is compared with that of the first."""
    seeds: Count = 3
    """Number of seeds."""

    def run(self, console: Console) -> None:
        """Compute and write."""
        for name, asked, known in (
            ("on", (self.on,), sequences.known()),
            ("methods", self.methods, learners.known()),
        ):
            if unknown := [each for each in asked if each not in known]:
                raise ValueError(f"{name}: expected names of {', '.join(known)}, got {', '.join(unknown)}; correct it")
        setup = sequences.known()[self.on]
        chosen = [learners.known()[name] for name in self.methods]
        first, *others = [next(iter(method.reports)) for method in chosen]
        self.compare(
            console,
            f"sequence-{self.on}",
            f"{self.on}: test accuracy, %",
            methods=chosen,
            network=setup.network,
            training=setup.training,
            tasks=setup.tasks(range(self.seeds)),
            settings={"sequence": self.on},
            pairs=[Pair(other, first) for other in others],
        )
