"""`config.json`: the configuration that a folder holds, of a run or of a comparison."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from nag_optax.train.checks import flag, shown
from nag_optax.train.errors import InputError, reason

_Config = TypeVar("_Config")

# A field that the configuration of this kind has, and that of the other has not.
_MARKS = {"run": "optimizer", "comparison": "optimizers"}

# What a command says, and a configuration does not.
_NOT_KEPT = ("run_dir", "resume", "overwrite", "dry_run", "coordinator", "num_processes", "process_id")


class Stored:
    """A resolved configuration, with the fields of the options that a user types."""

    options: ClassVar[tuple[str, ...]]
    """The names of the options."""
    how: ClassVar[frozenset[str]]
    """Options that may change when a run is resumed: they make no other run."""

    def to_dict(self) -> dict[str, Any]:
        """The options as `config.json` keeps them."""
        values = {name: getattr(self, name) for name in self.options if name not in _NOT_KEPT}
        return {n: str(v.resolve()) if isinstance(v, Path) else v for n, v in values.items()}

    def to_json(self) -> str:
        """The content of `config.json`."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def differences(self, other: "Stored") -> list[str]:
        """The options, with both values, that make `other` another one than this."""
        return [
            f"{flag(name)} {shown(theirs)} (it holds {shown(mine)})"
            for name in self.options
            if name not in self.how | set(_NOT_KEPT)
            and (mine := getattr(self, name)) != (theirs := getattr(other, name))
        ]


def load_stored(path: Path, kind: str, make: Callable[[dict[str, Any]], _Config]) -> _Config:
    """The configuration of a run or a comparison that `make` makes of the fields in a `config.json`."""
    try:
        fields = json.loads(path.read_text())
        if _MARKS[kind] in fields:
            return make(fields)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; name the folder of a {kind}") from None
    except (OSError, ValueError, TypeError, InputError) as error:
        raise InputError(f"{path}: not a readable configuration of a {kind} ({reason(error)})") from None
    for other, mark in _MARKS.items():
        if mark in fields:
            raise InputError(f"{path.parent}: holds a {other}, not a {kind}")
    raise InputError(f"{path}: not a readable configuration of a {kind}")
