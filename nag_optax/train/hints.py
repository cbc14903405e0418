"""Kinds of options, and how they read in --help."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import tyro

TABLE = "(default: by dataset and model)"

# What an option takes, and no default where the text says it.
Float = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")]
Int = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
FloatInTable = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint=TABLE)]
IntInTable = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint=TABLE)]


def one_of(names: Iterable[str], *, hint: str | None = None, help: str | None = None) -> Any:
    """The words for an option that takes one of these names, or another that is registered later."""
    return tyro.conf.arg(metavar="{" + ",".join(names) + "}", help=help, help_behavior_hint=hint)


def described(rows: Mapping[str, Any], own: str) -> str:
    """These rows of the registry for --help, and the name of a user's own."""
    lines = [f"{name}: {row.about}." for name, row in rows.items()]
    return "\n".join([*lines, f"Your own: {own}."])


def given_or(value: Any, default: Any) -> Any:
    return default if value is None else value


def choices(hint: Any) -> tuple[Any, ...]:
    """The values that a Literal allows, optional or not. Another hint has none."""
    return next((get_args(part) for part in (hint, *get_args(hint)) if get_origin(part) is Literal), ())
