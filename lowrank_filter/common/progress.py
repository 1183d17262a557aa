"""How far a long run is: a bar where rich is installed, a line now and then where it is not, or a caller's function."""

import contextlib
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

Hook = Callable[[int, Any], None]
Report = Callable[[int, Any, Any], None]

_SECONDS = 0.2
_SECONDS_BETWEEN_LINES = 10.0


def check(progress: Any) -> None:
    """True, False or a function.

    Raises:
        TypeError: something else.
    """
    if not isinstance(progress, bool) and not callable(progress):
        raise TypeError(
            f"progress: expected True, False or a function (done, values), got {type(progress).__name__}; True shows "
            "a bar"
        )


@contextlib.contextmanager
def reporting(progress: bool | Hook, name: str, total: int | None) -> Iterator[Report]:
    """A function ``report(done, values, loss)`` that tells a hook the values, or shows the loss.

    The loss may still be under way on a device: it is waited for only when it is shown.
    """
    if progress is False:
        yield lambda done, values, loss: None
    elif progress is not True:
        yield lambda done, values, loss: progress(done, values)
    else:
        show, seconds = _bar, _SECONDS
        if importlib.util.find_spec("rich") is None:
            show, seconds = _lines, _SECONDS_BETWEEN_LINES
        with show(name, total) as draw:
            yield _now_and_then(draw, seconds, total)


def _now_and_then(draw: Callable[[int, float], None], seconds: float, total: int | None) -> Report:
    last = time.monotonic()

    def report(done: int, values: Any, loss: Any) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds or done == total:
            draw(done, float(loss))
            last = time.monotonic()

    return report


@contextlib.contextmanager
def _bar(name: str, total: int | None) -> Iterator[Callable[[int, float], None]]:
    from rich import console, progress  # noqa: PLC0415  not a dependency

    columns = [
        *(progress.TextColumn(name), progress.BarColumn(), progress.MofNCompleteColumn()),
        *(progress.TimeElapsedColumn(), progress.TextColumn("{task.fields[loss]}")),
    ]
    with progress.Progress(*columns, console=console.Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total, loss="")
        yield lambda done, loss: bar.update(task, completed=done, loss=f"loss {loss:.4g}")


@contextlib.contextmanager
def _lines(name: str, total: int | None) -> Iterator[Callable[[int, float], None]]:
    start = time.monotonic()
    of = "" if total is None else f" of {total}"

    def draw(done: int, loss: float) -> None:
        print(f"{name}: {done}{of}, {time.monotonic() - start:.0f} s, loss {loss:.4g}", file=sys.stderr, flush=True)

    yield draw
