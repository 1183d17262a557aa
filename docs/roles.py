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
    module: Any = obj.module
    while module is not None:
        if wanted in (module.exports or ()):
            # A function that is named like its file is documented as what is in it.
            inside = f"{wanted}." if (module.filepath.parent / f"{wanted}.py").exists() else ""
            return f"[`{wanted}`][{module.path}.{inside}{wanted}]"
        module = module.parent
    return f"[`{wanted}`][{name}]" if wanted != name else f"`{name}`"
