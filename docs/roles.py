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
    """A link where a public name of the object's package, or of one that is named before it, is meant."""
    package, _, rest = name.partition(".")
    if package in _PACKAGES and rest:
        return f"[`{rest}`][{name}]"
    if name in (obj.package.exports or ()):
        return f"[`{name}`][{obj.package.name}.{name}]"
    return f"`{name}`"
