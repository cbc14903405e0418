"""The values that each option allows, and the values of options that are texts."""

import math
from collections.abc import Callable, Mapping
from ctypes import c_float
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from nag_optax.train.errors import InputError


class Rule(NamedTuple):
    """A test of a value, and the allowed values in words."""

    fits: Callable[[Any], bool]
    words: str


def whole(least: int, most: float = math.inf) -> Rule:
    """A whole number in a range."""
    words = f"from {least} to {most}" if most < math.inf else f"of at least {least}"
    return Rule(lambda value: isinstance(value, int) and least <= value <= most, f"a whole number {words}")


def is_positive(value: float) -> bool:
    """Whether a float32 holds it as a finite number above 0."""
    return 0 < c_float(value).value < math.inf


POSITIVE = Rule(is_positive, "a finite float32 above 0")
NOT_NEGATIVE = Rule(lambda value: 0 <= c_float(value).value < math.inf, "a finite float32 of at least 0")
BELOW_ONE = Rule(lambda value: 0 <= c_float(value).value < 1, "a float32 in [0, 1)")


def _is_address(value: str) -> bool:
    _, colon, port = value.rpartition(":")
    return value == "auto" or bool(colon and port.isdecimal() and 0 < int(port) < 2**16)


RULES = {
    "data_workers": whole(0, 1000),
    "image_size": whole(1, 1024),
    "learning_rate": POSITIVE,
    "momentum": BELOW_ONE,
    "weight_decay": NOT_NEGATIVE,
    "smoothing": BELOW_ONE,
    "clip_norm": POSITIVE,
    "num_epochs": whole(1),
    "batch_size": whole(1),
    "accumulate": whole(1),
    "seed": whole(0, 2**32 - 1),
    "mixup": NOT_NEGATIVE,
    "label_smoothing": BELOW_ONE,
    "ema": BELOW_ONE,
    "num_devices": whole(1),
    "coordinator": Rule(_is_address, "HOST:PORT, with a port from 1 to 65535, or auto"),
    "num_processes": whole(1),
    "process_id": whole(0),
    "validation": Rule(lambda value: 0 <= value < 1, "a number in [0, 1)"),
    "target_accuracy": Rule(lambda value: 0 < value <= 1, "a number in (0, 1]"),
    "patience": whole(1),
    "evaluate_every": whole(1),
}


def check(options: Any, rules: Mapping[str, Rule] = RULES) -> None:
    """Refuses a value that a rule or the hint of its option does not allow. None stands for a default."""
    allowed = {name: _choices(hint) for name, hint in get_type_hints(type(options)).items()}
    for name, value in vars(options).items():
        if value is None:
            continue
        if name in rules:
            rule = rules[name]
        elif names := allowed[name]:
            rule = Rule(names.__contains__, f"one of {', '.join(names)}")
        else:
            continue
        if not rule.fits(value):
            raise InputError(f"{flag(name)} {shown(value)}: must be {rule.words}")


def prune_strength(prune: str) -> float:
    """STRENGTH of `group_l2=STRENGTH`."""
    name, _, number = prune.partition("=")
    try:
        strength = float(number)
    except ValueError:
        strength = math.nan
    if name != "group_l2" or not is_positive(strength):
        raise InputError(f"--prune {prune}: must be group_l2=STRENGTH, with STRENGTH {POSITIVE.words}")
    return strength


def flag(name: str) -> str:
    """The option that a field stands for."""
    return "--" + name.replace("_", "-")


def shown(value: Any) -> str:
    """A value as a user types it."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value) or '""'


def _choices(hint: Any) -> tuple[Any, ...]:
    """The values that a Literal allows, optional or not. Another hint has none."""
    return next((get_args(part) for part in (hint, *get_args(hint)) if get_origin(part) is Literal), ())
