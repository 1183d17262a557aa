"""``python -m experiments NAME [options]``."""

from typing import Annotated

import tyro
from rich.console import Console

from experiments.jena import Jena
from experiments.jena_ablation import JenaAblation
from experiments.permuted import PermutedDigits, PermutedMnist
from experiments.rotated_digits import RotatedDigits
from experiments.streams_others import Streams

Experiment = (
    Annotated[RotatedDigits, tyro.conf.subcommand("rotated-digits")]
    | Annotated[PermutedDigits, tyro.conf.subcommand("permuted-digits")]
    | Annotated[PermutedMnist, tyro.conf.subcommand("permuted-mnist")]
    | Annotated[Jena, tyro.conf.subcommand("jena")]
    | Annotated[JenaAblation, tyro.conf.subcommand("jena-ablation")]
    | Annotated[Streams, tyro.conf.subcommand("streams")]
)


def main() -> None:
    """Parse the command line and run one experiment."""
    experiment: Experiment = tyro.cli(  # type: ignore[assignment]
        Experiment,  # type: ignore[arg-type]
        prog="python -m experiments",
        description="Experiments with filters of neural-network weights. Each prints a table and writes results/NAME/.",
    )
    experiment.run(Console())


if __name__ == "__main__":
    main()
