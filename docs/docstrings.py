"""How mkdocstrings reads the docstrings of this package."""

import re

from griffe import Extension, Object

_SEVERAL = re.compile(r"(?m)^( +)(\*{0,2}\w+(?:, \*{0,2}\w+)+): (as .*)$")


class Docstrings(Extension):
    """Two habits of this package in the form that griffe knows."""

    def on_object(self, *, obj: Object, **kwargs: object) -> None:
        if obj.docstring:
            # A section of doctests; griffe takes the singular for an admonition.
            text = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
            # One line for arguments that are those of another function.
            obj.docstring.value = _SEVERAL.sub(_one_line_each, text)


def _one_line_each(line: re.Match[str]) -> str:
    indent, names, text = line.groups()
    return "\n".join(f"{indent}{name}: {text}" for name in names.split(", "))
