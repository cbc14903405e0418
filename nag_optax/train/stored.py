"""`config.json`: the configuration that a folder holds, of a run or of a comparison."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from nag_optax.train.checks import flag
from nag_optax.train.errors import InputError

_Config = TypeVar("_Config")

# A field that the configuration of this kind has, and that of the other has not.
_MARKS = {"run": "optimizer", "comparison": "optimizers"}

# What a command says, and a configuration does not.
_NOT_KEPT = ("run_dir", "resume", "overwrite", "dry_run", "coordinator", "num_processes", "process_id")


class Stored:
    """A resolved configuration, with the fields of the options that a user types."""

    options: ClassVar[tuple[str, ...]]
    """The names of the options; a configuration of a kind may lack some."""
    how: ClassVar[frozenset[str]]
    """Options of how it is carried out: configurations that differ only here are the same."""

    def to_dict(self) -> dict[str, Any]:
        """The options as `config.json` keeps them; None for one that this kind lacks."""
        values = {name: getattr(self, name, None) for name in self.options if name not in _NOT_KEPT}
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
            and (mine := getattr(self, name, None)) != (theirs := getattr(other, name, None))
        ]


def shown(value: Any) -> str:
    """A value as it is typed."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def load_stored(path: Path, kind: str, make: Callable[[dict[str, Any]], _Config]) -> _Config:
    """The result of `make` for the fields of a `config.json`."""
    if path.parent.is_file():
        raise InputError(f"{path.parent}: is a file; name the folder of a {kind}")
    unreadable = f"{path}: not a readable configuration of a {kind}"
    try:
        fields = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; name the folder of a {kind}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{unreadable} ({error})") from None
    if not isinstance(fields, dict):
        raise InputError(f"{unreadable} (it holds no object)")
    for other, mark in _MARKS.items():
        if other != kind and mark in fields and _MARKS[kind] not in fields:
            raise InputError(f"{path.parent}: holds a {other}, not a {kind}")
    try:
        return make(fields)
    except KeyError as error:
        raise InputError(f"{unreadable} (it has no {error})") from None
    except (ValueError, TypeError, InputError) as error:
        raise InputError(f"{unreadable} ({error})") from None
