"""``python -m experiments NAME [options]``."""

import argparse
import dataclasses
import time

import tyro
from rich.console import Console

from experiments.claim import read_json, write_json
from experiments.jena import Jena
from experiments.jena_ablation import JenaAblation
from experiments.presets import Experiment, Preset
from experiments.sequences.camelyon import Camelyon
from experiments.sequences.long import LongSequence
from experiments.sequences.noise import NoiseStructure
from experiments.sequences.other_networks import OtherNetworks
from experiments.sequences.permuted import PermutedDigits, PermutedMnist
from experiments.sequences.rank import Rank
from experiments.sequences.rotated_digits import RotatedDigits
from experiments.sequences.rotated_mnist import RotatedMnist
from experiments.sequences.shifts import Shifts
from experiments.streams_others import Streams
from experiments.structure_comparison import StructureComparison
from experiments.truncation_cost import TruncationCost
from lowrank_filter.drivers.exclusive import alone

EXPERIMENTS: dict[str, type[Experiment]] = {
    "rotated-digits": RotatedDigits,
    "permuted-digits": PermutedDigits,
    "permuted-mnist": PermutedMnist,
    "long": LongSequence,
    "rotated-mnist": RotatedMnist,
    "structures": StructureComparison,
    "noise": NoiseStructure,
    "truncation": TruncationCost,
    "rank": Rank,
    "shifts": Shifts,
    "networks": OtherNetworks,
}
"""One line for each experiment with tasks."""

ASKED_FOR = {"camelyon": Camelyon()}
"""Those whose data has to be put into a folder by hand."""

STREAMS = {"jena": Jena(), "jena-ablation": JenaAblation(), "streams": Streams()}
"""Those with time series, whose presets are their own."""


@dataclasses.dataclass(frozen=True)
class All(Experiment):
    """Every experiment, one after the other; a run that was interrupted goes on where it stopped."""

    def run(self, console: Console) -> None:
        """Run those that have not finished yet."""
        with alone(self.output):
            self._run(console)

    def _run(self, console: Console) -> None:
        path = self.output / "all.json"
        state = read_json(path, {}) if self.resume else {}
        seconds: dict[str, float] = {}
        if state.get("preset") == self.preset and set(EXPERIMENTS) - set(state["seconds"]):
            seconds = state["seconds"]
        for name, experiment in EXPERIMENTS.items():
            if name in seconds:
                continue
            console.rule(name)
            began = time.perf_counter()
            experiment.of(self.preset, output=self.output, resume=self.resume).run(console)
            seconds[name] = time.perf_counter() - began
            write_json(path, {"preset": self.preset, "seconds": seconds})


def main() -> None:
    """Parse the command line and run one experiment."""
    # The preset decides the defaults that --help shows and that the other options replace.
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--preset", default="minutes")
    preset: Preset = "published" if parser.parse_known_args()[0].preset == "published" else "minutes"
    choices = tyro.extras.subcommand_type_from_defaults(
        {name: experiment.of(preset) for name, experiment in (EXPERIMENTS | {"all": All}).items()} | ASKED_FOR | STREAMS
    )
    experiment = tyro.cli(
        choices,
        prog="python -m experiments",
        description="Experiments with filters of weights and latent filters; each writes a table to results/NAME/.",
    )
    experiment.run(Console())


if __name__ == "__main__":
    main()
