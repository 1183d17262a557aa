"""What an experiment is: options, a run that is kept as it goes, and what its results look like."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from experiments.run import cache, options, report, results
from experiments.run.report import Table
from lowrank_filter.common.lock import alone

Content = Mapping[str, Any]
Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment on the command line: its fields are its options, their values its preset "default".

    A subclass defines ``run``, and where what it writes is more than scores of methods, ``tables`` and ``pictures``.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Other presets by name: the defaults that differ."""
    by_hand: ClassVar[bool] = False
    """Whether its data has to be put somewhere by hand; ``all`` leaves it out."""

    preset: str = "default"
    """Where the other options' defaults come from."""
    output: Path = Path("experiments/results")
    """Folder for the results."""
    resume: bool = True
    """Go on with what was computed before; otherwise forget it."""

    def __post_init__(self) -> None:
        """Raise ValueError on an option out of its range."""
        options.check(self)
        if self.preset not in ("default", *self.presets):
            known = ", ".join(("default", *self.presets))
            raise ValueError(f"preset: expected one of {known}, got {self.preset!r}; --help shows every option")

    @classmethod
    def of(cls, preset: str, **given: Any) -> Self:
        """The experiment with a preset's defaults."""
        return cls(**{"preset": preset, **cls.presets.get(preset, {}), **given})

    def depends(self) -> dict[str, Any]:
        """The options on which results depend."""
        apart = ("preset", "output", "resume")
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in apart}
        return {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}

    def run(self, console: Console) -> None:
        """Compute and write."""
        raise NotImplementedError(f"{type(self).__name__}: define run(console)")

    @classmethod
    def tables(cls, content: Content) -> dict[str, Table | str]:
        """The page's parts by name, in order: tables, and text between them."""
        return {"scores": report.scores(content)}

    @classmethod
    def pictures(cls, content: Content, arrays: Arrays) -> dict[str, Callable[[], Figure]]:
        """The page's pictures by name, in order, as far as what they need is there."""
        return {}

    @contextlib.contextmanager
    def study(
        self,
        console: Console,
        name: str,
        title: str,
        *,
        data: Any = (),
        introduction: str = "",
        depends: Content | None = None,
        **settings: Any,
    ) -> Iterator["Study"]:
        """Work on results in ``output/name``, alone in that folder.

        Args:
            console: for progress and tables.
            name: of the folder.
            title: of the page.
            data: arrays that results depend on.
            introduction: stands below the title.
            depends: what every value in the cache depends on beside data and code; by default the settings.
            settings: written into ``results.json``.

        Raises:
            RuntimeError: another run is at work in the folder.
        """
        module = type(self).__module__
        head = {"experiment": name, "title": title, "introduction": introduction}
        head |= {"catalogue": module.rpartition(".")[2].replace("_", "-")}
        folder = self.output / name
        whole = {"settings": settings if depends is None else depends}
        with alone(folder):
            kept = cache.Cache(folder / "cache", whole | {"data": cache.data(data), "code": cache.code(module)})
            if not self.resume:
                kept.clear()
            columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            with Progress(*columns, console=console) as progress:
                yield Study(type(self), folder, kept, progress, head, settings)


class Study:
    """One run into one folder: what it keeps, how far it is, and what it found.

    Attributes:
        folder: of the results.
        cache: what has been computed already.
        seconds: wall-clock time of each part, that of earlier runs included whose values this one found.
    """

    def __init__(
        self,
        kind: type[Experiment],
        folder: Path,
        kept: cache.Cache,
        progress: Progress,
        head: Content,
        settings: Content,
    ) -> None:
        """Nothing is written yet."""
        self.folder, self.cache, self.seconds = folder, kept, {}
        self._kind, self._progress, self._head, self._settings = kind, progress, head, settings
        self._scores: list[tuple[str, str, str, float]] = []

    @contextlib.contextmanager
    def part(self, label: str, total: int = 1) -> Iterator[Callable[[], None]]:
        """Show and time a part of so many steps; yields what is called after each."""
        bar, began, before = self._progress.add_task(label, total=total), time.perf_counter(), self.cache.earlier
        yield lambda: self._progress.advance(bar)
        self.seconds[label] = time.perf_counter() - began + self.cache.earlier - before

    def add(self, method: str, variant: str = "", **scores: float) -> None:
        """Add the scores of one seed of a method; ``finish`` without content writes them all."""
        self._scores += [(variant, method, metric, float(value)) for metric, value in scores.items()]

    def write(self, content: Content | None = None) -> None:
        """Write ``results.json`` of what was found, by default of what was added: a long run can be looked at."""
        found = results.collect(self._scores) if content is None else dict(content)
        whole = {**self._head, "settings": self._settings, "versions": results.versions(), "seconds": self.seconds}
        results.write(whole | found, self.folder / "results.json")

    def finish(self, content: Content | None = None, arrays: Arrays | None = None) -> Path:
        """Write ``results.json``, what pictures need, the page and the pictures, and print the tables.

        Args:
            content: what was found; by default what was added.
            arrays: small arrays that pictures need beside it; written to a file of their own.

        Returns:
            The folder.
        """
        self.write(content)
        if arrays is not None:
            with results.written_whole(self.folder / "arrays.npz") as file:
                np.savez_compressed(file, **dict(arrays))  # type: ignore[arg-type]
        report.write(self._kind, self.folder)
        self._progress.stop()
        report.show(self._kind, self.folder, self._progress.console)
        return self.folder
