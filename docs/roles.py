"""Docstrings name things as :func:`smooth`; here that becomes a link to the page that describes it."""

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|attr|mod|data):`~?([\w.]+)`")
_PACKAGES = ("lowrank_filter", "latenttrack")


class Roles(griffe.Extension):
    """Rewrites each docstring as it is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """One object's docstring."""
        if obj.docstring:
            obj.docstring.value = _ROLE.sub(lambda match: _link(obj, match[1]), obj.docstring.value)


def _link(obj: griffe.Object, name: str) -> str:
    """A link where a public name of the object's own package, or of one around it, is meant."""
    package, _, rest = name.partition(".")
    wanted = rest if package in _PACKAGES and rest else name
    found: str | None = None
    module: Any = obj.module
    while module is not None:
        # An outer package's name is the one to show where it is the same thing.
        inner = f"{found}.{wanted}"
        if wanted in (module.exports or ()) and (found is None or module.imports.get(wanted) == inner):
            found = module.path
        module = module.parent
    if found is None:
        return f"[`{wanted}`][{name}]" if wanted != name else f"`{name}`"
    return f"[`{wanted}`][{found}.{wanted}]"
