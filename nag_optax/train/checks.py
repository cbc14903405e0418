"""Checks of a configuration's values: what each option allows, and which options go together."""

import math
import re
from ctypes import c_float
from typing import TYPE_CHECKING

from nag_optax.train.catalogue import takers
from nag_optax.train.errors import InputError

if TYPE_CHECKING:
    from nag_optax.train.config import TrainConfig

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
    "num_devices": "a whole number of at least 1",
    "seed": "a whole number from 0 to 4294967295",
}


def check_values(config: "TrainConfig") -> None:
    """Raises an InputError that names the option, its value and what is allowed."""

    def need(condition: bool, name: str) -> None:
        if not condition:
            value = getattr(config, name)
            shown = ",".join(value) if isinstance(value, tuple) else value
            raise InputError(f"{flag(name)} {shown}: must be {ALLOWED[name]}")

    assert config.warmup_epochs is not None and config.num_epochs is not None
    assert config.weight_decay is not None
    need(positive(config.learning_rate), "learning_rate")
    need(config.momentum is None or 0 <= c_float(config.momentum).value < 1, "momentum")
    need(math.isfinite(c_float(config.weight_decay).value) and config.weight_decay >= 0, "weight_decay")
    need(0 <= c_float(config.smoothing).value < 1, "smoothing")
    need(positive(config.clip_norm), "clip_norm")
    for name in ("num_epochs", "batch_size", "image_size", "num_devices"):
        need(positive(getattr(config, name)), name)
    if config.classes is not None:
        class_labels(config.classes)
    need(all(config.freeze), "freeze")
    need(config.image_size is None or config.image_size <= 1024, "image_size")
    need(0 <= config.seed < 2**32, "seed")
    need(0 <= config.warmup_epochs < config.num_epochs, "warmup_epochs")
    _check_combinations(config)


def _check_combinations(config: "TrainConfig") -> None:
    def only_with_takers(name: str, given: bool) -> None:
        whose = "inner" if config.inner is not None and name not in ("inner", "prune") else "optimizer"
        if given and (chosen := getattr(config, whose)) not in takers(name):
            raise InputError(
                f"{flag(name)} {getattr(config, name)}: --{whose} {chosen} has none; "
                f"it goes with --{whose} {' or '.join(takers(name))}"
            )

    only_with_takers("inner", config.inner is not None)
    only_with_takers("momentum", config.momentum is not None)
    only_with_takers("momentum_schedule", config.momentum_schedule != "constant")
    only_with_takers("restart", config.restart is not None)
    only_with_takers("weight_decay", config.weight_decay != 0)
    only_with_takers("prune", config.prune is not None)
    if config.prune is not None:
        prune_strength(config.prune)
        if config.weight_decay != 0:
            raise InputError(
                f"--weight-decay {config.weight_decay}: goes without --prune, which shrinks the units itself"
            )
    if config.init_from is not None and config.run_dir and config.init_from == config.run_dir.resolve():
        raise InputError(f"--init-from {config.init_from}: is the folder of this run; name another --run-dir")
    assert config.batch_size is not None
    if config.batch_size % config.num_devices:
        raise InputError(
            f"--batch-size {config.batch_size}: must be a multiple of --num-devices {config.num_devices}"
        )
    if config.dataset == "mnist" and config.data_dir is None:
        raise InputError("--data-dir: --dataset mnist needs the folder that holds its four IDX files")
    if config.dataset != "mnist" and config.data_dir is not None:
        raise InputError(
            f"--data-dir {config.data_dir}: --dataset {config.dataset} is built in; "
            "--data-dir goes with --dataset mnist"
        )


def prune_strength(prune: str) -> float:
    """STRENGTH of `group_l2=STRENGTH`.

    Raises:
        InputError: if the text is another one.
    """
    name, _, number = prune.partition("=")
    try:
        strength = float(number)
    except ValueError:
        strength = math.nan
    if name != "group_l2" or not positive(strength):
        raise InputError(f"--prune {prune}: must be {ALLOWED['prune']}")
    return strength


def class_labels(classes: str) -> tuple[int, ...]:
    """The labels of `0-4` or `0,2,7-9`, in increasing order.

    Raises:
        InputError: if the text is no such list, or names a label twice, or one alone.
    """
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
