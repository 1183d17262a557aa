"""What kernels were told for each call and a structure says once: ``rank=``, ``residual=`` and ``metric=``."""

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from lowrank_filter.algebra.blocks import Blocks
from lowrank_filter.algebra.diag_low_rank import DiagLowRank, low_rank_parts, with_policy
from lowrank_filter.algebra.operations import truncation_options
from lowrank_filter.common import checks

Kernel = TypeVar("Kernel", bound=Callable)
CHOICES = ("rank", "residual", "metric")


def with_choices(kernel: Kernel) -> Kernel:
    """The kernel, which takes these for one more release; the beliefs that it returns have the policy they had."""

    @functools.wraps(kernel)
    def called(*args: Any, **kwargs: Any) -> Any:
        given = {name: kwargs.pop(name) for name in CHOICES if name in kwargs}
        given = {name: value for name, value in given.items() if value is not None}
        precision = getattr(next(iter([*args, *kwargs.values()]), None), "precision", None)
        if not given or precision is None:
            return kernel(*args, **kwargs)
        _check(precision, given)
        warnings.warn(
            f"{', '.join(f'{name}=' for name in given)}: deprecated, gone in the next release; leave out what "
            "init(params, rank=...) said, and say the rest there by structure=LowRank(rank, residual=..., metric=...)",
            DeprecationWarning,
            stacklevel=2,
        )
        args, kwargs = with_policy((args, kwargs), **given)
        return with_policy(kernel(*args, **kwargs), **low_rank_parts(precision)[0].policy._asdict())

    signature = inspect.signature(kernel)
    choices = (inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in CHOICES)
    del called.__wrapped__  # of another signature
    called.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *choices])  # type: ignore[attr-defined]
    return called  # type: ignore[return-value]


def _check(precision: Any, given: dict[str, Any]) -> None:
    checks.rank(given.get("rank", 0))
    truncation_options(**{name: value for name, value in given.items() if name != "rank"})
    if not isinstance(precision, DiagLowRank | Blocks):
        name, value = next(iter(given.items()))
        raise ValueError(
            f"{name}: expected None for a {type(precision).__name__} precision, got {value!r}; leave it out: a "
            "structure has its own from init, or has none"
        )
