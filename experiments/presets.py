"""Two sizes of every experiment: minutes on two cores, and as published."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from rich.console import Console

from experiments import options

Preset = Literal["minutes", "published"]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment on the command line: its fields are its options, its defaults the preset "minutes"."""

    published: ClassVar[Mapping[str, Any]] = {}
    """The defaults that differ under the preset "published"."""

    preset: Preset = "minutes"
    """Where the other options' defaults come from: minutes on two cores, or sizes as published."""
    output: Path = Path("results")
    """Folder for the results."""
    resume: bool = True
    """Go on where an interrupted run with the same settings stopped; otherwise forget what it kept."""

    def __post_init__(self) -> None:
        """Raise ValueError on an option out of its range."""
        options.check(self)

    @classmethod
    def of(cls, preset: Preset, **given: Any) -> Self:
        """The experiment with a preset's defaults."""
        return cls(**{"preset": preset, **(cls.published if preset == "published" else {}), **given})

    def depends(self) -> dict[str, Any]:
        """The options on which results depend."""
        apart = ("preset", "output", "resume")
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in apart}
        return {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}

    def place(self, console: Console) -> dict[str, Any]:
        """For ``compare``: where to write and print, whether to go on, and all options, on which results depend."""
        return {"output": self.output, "console": console, "resume": self.resume, "options": self.depends()}

    def run(self, console: Console) -> None:
        """Run, write and draw."""
        raise NotImplementedError(f"{type(self).__name__}: define run(console)")
