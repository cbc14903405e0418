"""How mkdocstrings reads the docstrings of this package."""

import re
from pathlib import Path

from griffe import Extension, Object

_PAGES = "".join(page.read_text() for page in Path(__file__).with_name("api").glob("*.md"))
_PUBLIC = re.findall(r"(?m)^::: nag_optax\.(\w+)$", _PAGES)
_NAME = re.compile(rf"(?<!`)`({'|'.join(_PUBLIC)})`(?!`)")
_SEVERAL = re.compile(r"(?m)^( +)(\*{0,2}\w+(?:, \*{0,2}\w+)+): (as .*)$")


class Docstrings(Extension):
    """Habits of this package in the form that griffe knows, and links between public names."""

    def on_object(self, *, obj: Object, **kwargs: object) -> None:
        if not obj.docstring:
            return
        # A section of doctests; griffe takes the singular for an admonition.
        text = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
        # One line for arguments that are those of another function.
        text = _SEVERAL.sub(_one_line_each, text)
        if obj.is_attribute:  # The stars of a pattern, as in conv*,norm*, are no emphasis.
            text = re.sub(r"(?<=\w)\*(?=[,.])", r"\\*", text)

        def link(name: re.Match[str]) -> str:
            return name[0] if name[1] == obj.name else f"[{name[0]}][nag_optax.{name[1]}]"

        obj.docstring.value = _NAME.sub(link, text)


def _one_line_each(line: re.Match[str]) -> str:
    indent, names, text = line.groups()
    return "\n".join(f"{indent}{name}: {text}" for name in names.split(", "))
