"""The allowed values of each option, in words, and the values of options that are texts."""

import math
import re
from ctypes import c_float

from nag_optax.train.errors import InputError

ALLOWED = {
    "learning_rate": "a finite float32 above 0",
    "momentum": "a float32 in [0, 1)",
    "weight_decay": "a finite float32 of at least 0",
    "smoothing": "a float32 in [0, 1)",
    "clip_norm": "a finite float32 above 0",
    "classes": "different labels and ranges, at least two in all, such as 0-4 or 0,2,7-9",
    "freeze": "paths of parameters, such as conv1/kernel or conv*",
    "prune": "group_l2=STRENGTH, with STRENGTH a finite float32 above 0",
    "warmup_epochs": "a number of at least 0 and less than the number of epochs",
    "num_epochs": "a whole number of at least 1",
    "batch_size": "a whole number of at least 1",
    "image_size": "a whole number from 1 to 1024",
    "mixup": "a finite float32 of at least 0",
    "label_smoothing": "a float32 in [0, 1)",
    "ema": "a float32 in [0, 1)",
    "accumulate": "a whole number of at least 1",
    "validation": "a number in [0, 1)",
    "target_accuracy": "a number in (0, 1]",
    "patience": "a whole number of at least 1",
    "data_workers": "a whole number from 0 to 1000",
    "num_devices": "a whole number of at least 1",
    "coordinator": "HOST:PORT, with a port from 1 to 65535, or auto",
    "num_processes": "a whole number of at least 1",
    "process_id": "a whole number from 0 to one less than --num-processes",
    "seed": "a whole number from 0 to 4294967295",
}


def prune_strength(prune: str) -> float:
    """STRENGTH of `group_l2=STRENGTH`."""
    name, _, number = prune.partition("=")
    try:
        strength = float(number)
    except ValueError:
        strength = math.nan
    if name != "group_l2" or not positive(strength):
        raise InputError(f"--prune {prune}: must be {ALLOWED['prune']}")
    return strength


def class_labels(classes: str) -> tuple[int, ...]:
    """The labels of `0-4` or `0,2,7-9`, in increasing order."""
    labels: list[int] = []
    for part in classes.split(","):
        # Labels are bytes: a range cannot be long.
        found = re.fullmatch(r"\s*(\d{1,3})(?:\s*-\s*(\d{1,3}))?\s*", part, re.ASCII)
        if found is None:
            break
        first, last = int(found[1]), int(found[2] or found[1])
        labels += range(first, last + 1) or [first, first]
    else:
        if len(set(labels)) == len(labels) > 1:
            return tuple(sorted(labels))
    raise InputError(f"--classes {classes}: must be {ALLOWED['classes']}")


def flag(name: str) -> str:
    """The option of a field."""
    return "--" + name.replace("_", "-")


def positive(value: float | None) -> bool:
    return value is None or (math.isfinite(c_float(value).value) and c_float(value).value > 0)
