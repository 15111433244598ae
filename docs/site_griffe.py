"""What griffe, which reads the docstrings for the docs site, does not know of our code.

Settings are declared with `option`, and docstrings may name several arguments in a line.
"""

from __future__ import annotations

import dataclasses
import re
from importlib import import_module
from typing import Any

import griffe

SEVERAL = re.compile(r"^( +)(\w+(?:, \w+)+): (.*(?:\n\1 +.*)*)", re.MULTILINE)
"""Arguments that share a description: `height, width: of the image`."""


class Settings(griffe.Extension):
    """Lists the settings of a configuration; gives every argument of a docstring a line of its own."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """List the settings of a class in its docstring."""
        calls = (attribute.value for attribute in cls.attributes.values())
        if cls.docstring is not None and any(
            getattr(call, "canonical_name", "") == "option" for call in calls
        ):
            fields = dataclasses.fields(getattr(import_module(cls.module.path), cls.name))
            lines = [f"    {field.name}: {described(field, cls)}" for field in fields]
            cls.docstring.value += "\n\nAttributes:\n" + "\n".join(lines)

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Repeat the description of several arguments for each of them."""
        if func.docstring is not None:
            func.docstring.value = SEVERAL.sub(separate, func.docstring.value)


def described(field: dataclasses.Field[Any], cls: griffe.Class) -> str:
    """The help of a setting with its default and its range."""
    about = field.metadata
    if "help" not in about:
        attribute = cls.attributes.get(field.name)
        own = attribute.docstring if attribute is not None else None
        return " ".join(own.value.split()) if own else "See the type."
    words = [about["help"]]
    if about["choices"]:
        words.append(f"One of {', '.join(map(str, about['choices']))}.")
    words += [f"At least {about['minimum']}."] if about["minimum"] is not None else []
    words += [f"At most {about['maximum']}."] if about["maximum"] is not None else []
    words.append(f"Default: {about['auto']}." if about["auto"] else f"Default: `{field.default!r}`.")
    return " ".join(words)


def separate(match: re.Match[str]) -> str:
    """Repeat a description for each argument."""
    indent, names, text = match.groups()
    return "\n".join(f"{indent}{name}: {text}" for name in names.split(", "))
