"""A run, resolved: the options of a user with every default filled in, and checked."""

import dataclasses
import math
from ctypes import c_float
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from nag_optax.train.checks import ALLOWED, class_labels, flag, positive, prune_strength
from nag_optax.train.errors import InputError
from nag_optax.train.hints import given_or, matches
from nag_optax.train.options import Options, ScheduleName, allowed
from nag_optax.train.registry import (
    DATASETS,
    all_options,
    dataset_row,
    default_learning_rate,
    inner_names,
    model_row,
    optimizer_row,
    recipe,
    takers,
)
from nag_optax.train.rows import Model, Optimizer
from nag_optax.train.stored import Stored, load_stored


@dataclass(frozen=True, kw_only=True)
class Spec(Stored):
    """The fields of `Options`, where None is a choice; then what was worked out of them."""

    options = tuple(field.name for field in dataclasses.fields(Options))
    # How long a run is may change too: it is the same one up to there.
    how = frozenset(
        {"data_dir", "device", "num_devices", "shard_optimizer", "num_epochs", "target_accuracy", "patience"}
        | {"tensorboard", "resident", "data_workers"}
    )

    dataset: str
    data_dir: Path | None
    skip_unreadable: bool
    resident: str
    data_workers: int | None
    follow: bool
    model: str
    classes: str | None
    image_size: int | None
    init_from: Path | None
    freeze: tuple[str, ...]
    optimizer: str
    inner: str | None
    learning_rate: float
    momentum: float | None
    momentum_schedule: str
    schedule: ScheduleName
    warmup_epochs: float
    weight_decay: float
    smoothing: float
    clip_norm: float | None
    adaptive_step: bool
    restart: str | None
    prune: str | None
    num_epochs: int
    batch_size: int
    accumulate: int
    seed: int
    augment: str
    mixup: float
    label_smoothing: float
    precision: str
    low_memory: bool
    ema: float
    device: str
    num_devices: int
    shard_optimizer: bool
    coordinator: str | None
    num_processes: int | None
    process_id: int | None
    run_dir: Path
    resume: bool
    overwrite: bool
    validation: float
    target_accuracy: float | None
    patience: int | None
    tensorboard: bool
    dry_run: bool
    train_only: bool

    labels: tuple[int, ...] | None
    """The labels of the classes to train on; None for all."""
    prune_strength: float | None
    usual_learning_rate: float

    @property
    def optimizer_options(self) -> dict[str, Any]:
        """The options of the optimizer's factory beside the learning rate."""
        return {name: getattr(self, name) for name in all_options(self.optimizer_row, self.inner)}

    @property
    def bfloat16_parameters(self) -> bool:
        return self.precision == "bfloat16-parameters"

    @property
    def optimizer_row(self) -> Optimizer:
        return optimizer_row(self.optimizer)

    @property
    def model_row(self) -> Model:
        return model_row(self.model)


def resolve(options: Options) -> Spec:
    """Fills in every default, and checks every value; an InputError says what is allowed."""
    for name, hint in get_type_hints(Options).items():
        if not matches(value := getattr(options, name), hint):
            raise InputError(f"{flag(name)} {value}: must be {allowed(name)}")
    dataset, optimizer, inner = options.dataset, options.optimizer, options.inner
    model = options.model or dataset_row(dataset).model
    model_row(model)  # Names it if it is none.
    table, row = recipe(dataset, model), optimizer_row(optimizer)
    if inner is not None and ":" not in inner and inner not in inner_names():
        raise InputError(
            f"--inner {inner}: must be one of {', '.join(inner_names())}, or package.module:name"
        )
    defaults = all_options(row, inner)
    num_epochs = given_or(options.num_epochs, table.num_epochs)
    usual = default_learning_rate(row, inner, dataset, model)
    spec = Spec(
        **vars(options)
        | {
            "model": model,
            "resident": "no" if options.follow and options.resident == "auto" else options.resident,
            "inner": given_or(inner, defaults.get("inner")),
            "learning_rate": given_or(options.learning_rate, usual),
            "momentum": given_or(options.momentum, defaults.get("momentum")),
            "weight_decay": given_or(options.weight_decay, defaults.get("weight_decay", 0.0)),
            "schedule": given_or(options.schedule, table.schedule),
            "warmup_epochs": given_or(options.warmup_epochs, min(table.warmup_epochs, num_epochs / 10)),
            "num_epochs": num_epochs,
            "batch_size": given_or(options.batch_size, table.batch_size),
            "init_from": None if options.init_from is None else options.init_from.resolve(),
            "freeze": tuple(part.strip() for pattern in options.freeze for part in pattern.split(",")),
            "run_dir": options.run_dir or Path("runs") / f"{dataset}-{model}-{optimizer}-{options.seed}",
        },
        labels=None if options.classes is None else class_labels(options.classes),
        prune_strength=None if options.prune is None else prune_strength(options.prune),
        usual_learning_rate=usual,
    )
    _check_values(spec)
    _check_combinations(spec)
    _check_data_dir(spec)
    return spec


def load_spec(path: Path) -> Spec:
    """The run that `config.json` holds."""
    return load_stored(path, "run", lambda fields: spec_of(fields, path.parent))


def spec_of(fields: dict[str, Any], run_dir: Path) -> Spec:
    """The run whose options these are, as `to_dict` gives them."""
    fields = dict(fields)
    for name in ("data_dir", "init_from"):
        if fields[name] is not None:
            fields[name] = Path(fields[name])
    fields["freeze"] = tuple(fields["freeze"])
    return resolve(Options(**fields, run_dir=run_dir))


def _check_values(spec: Spec) -> None:
    def need(condition: bool, name: str) -> None:
        if not condition:
            value = getattr(spec, name)
            shown = ",".join(value) if isinstance(value, tuple) else value
            raise InputError(f"{flag(name)} {shown}: must be {ALLOWED[name]}")

    need(positive(spec.learning_rate), "learning_rate")
    need(spec.momentum is None or 0 <= c_float(spec.momentum).value < 1, "momentum")
    for name in ("weight_decay", "mixup"):
        value = getattr(spec, name)
        need(math.isfinite(c_float(value).value) and value >= 0, name)
    for name in ("smoothing", "label_smoothing", "ema"):
        need(0 <= c_float(getattr(spec, name)).value < 1, name)
    need(positive(spec.clip_norm), "clip_norm")
    for name in ("num_epochs", "batch_size", "image_size", "num_devices", "accumulate", "patience"):
        need(positive(getattr(spec, name)), name)
    _, colon, port = (spec.coordinator or "").rpartition(":")
    address = colon and port.isdecimal() and 0 < int(port) < 2**16
    need(spec.coordinator in (None, "auto") or bool(address), "coordinator")
    need(positive(spec.num_processes), "num_processes")
    need(spec.process_id is None or 0 <= spec.process_id < (spec.num_processes or 1), "process_id")
    need(spec.data_workers is None or 0 <= spec.data_workers <= 1000, "data_workers")
    need(all(spec.freeze), "freeze")
    need(spec.image_size is None or spec.image_size <= 1024, "image_size")
    need(0 <= spec.seed < 2**32, "seed")
    need(0 <= spec.validation < 1, "validation")
    need(spec.target_accuracy is None or 0 < spec.target_accuracy <= 1, "target_accuracy")
    need(0 <= spec.warmup_epochs < spec.num_epochs, "warmup_epochs")


def _check_combinations(spec: Spec) -> None:
    def only_with_takers(name: str, given: bool) -> None:
        whose = "inner" if spec.inner is not None and name not in ("inner", "prune") else "optimizer"
        if given and (chosen := getattr(spec, whose)) not in takers(name):
            raise InputError(
                f"{flag(name)} {getattr(spec, name)}: --{whose} {chosen} has none; "
                f"it goes with --{whose} {' or '.join(takers(name))}"
            )

    only_with_takers("inner", spec.inner is not None)
    only_with_takers("momentum", spec.momentum is not None)
    only_with_takers("momentum_schedule", spec.momentum_schedule != "constant")
    only_with_takers("restart", spec.restart is not None)
    only_with_takers("weight_decay", spec.weight_decay != 0)
    only_with_takers("prune", spec.prune is not None)
    if spec.follow and spec.dataset != "folder":
        raise InputError(f"--follow: goes with --dataset folder, not with --dataset {spec.dataset}")
    if spec.follow and spec.resident == "yes":
        raise InputError("--follow: goes without --resident yes, as what arrives is streamed")
    if spec.follow and (spec.coordinator is not None or spec.num_processes is not None):
        raise InputError("--follow: goes without --coordinator; one process looks into the folder")
    if spec.prune is not None and spec.weight_decay != 0:
        raise InputError(
            f"--weight-decay {spec.weight_decay}: goes without --prune, which shrinks the units itself"
        )
    if spec.init_from is not None and spec.init_from == spec.run_dir.resolve():
        raise InputError(f"--init-from {spec.init_from}: is the folder of this run; name another --run-dir")
    for name in ("target_accuracy", "patience"):
        if not spec.validation and (value := getattr(spec, name)) is not None:
            raise InputError(f"{flag(name)} {value}: goes with --validation, whose images it looks at")
    if spec.prune is not None and spec.ema:
        raise InputError(f"--ema {spec.ema}: goes without --prune, as an average has no unit at exactly zero")
    for name in ("num_processes", "process_id"):
        value, address = getattr(spec, name), spec.coordinator not in (None, "auto")
        if address and value is None:
            raise InputError(f"--coordinator {spec.coordinator}: needs {flag(name)}, {ALLOWED[name]}")
        if value is not None and not address:
            raise InputError(f"{flag(name)} {value}: goes with --coordinator HOST:PORT")
    check_batch(spec, spec.num_processes or 1)
    if spec.prune is not None and not spec.model_row.hidden_layers:
        raise InputError(f"--prune {spec.prune}: the registry names no hidden layers of --model {spec.model}")


def check_batch(spec: Spec, num_processes: int) -> None:
    """Refuses a batch that cannot be split."""
    parts = {
        "--num-devices": spec.num_devices,
        "--num-processes": num_processes,
        "--accumulate": spec.accumulate,
    }
    if spec.batch_size % math.prod(parts.values()):
        product = " times ".join(f"{name} {count}" for name, count in parts.items() if count > 1)
        raise InputError(f"--batch-size {spec.batch_size}: must be a multiple of {product}")


def _check_data_dir(spec: Spec) -> None:
    if ":" in spec.dataset:  # A user's own may take one or not.
        return
    needed = dataset_row(spec.dataset).data_dir
    if needed is not None and spec.data_dir is None:
        raise InputError(f"--data-dir: --dataset {spec.dataset} needs {needed}")
    if needed is None and spec.data_dir is not None:
        others = [name for name, row in DATASETS.items() if row.data_dir is not None]
        raise InputError(
            f"--data-dir {spec.data_dir}: --dataset {spec.dataset} is built in; "
            f"--data-dir goes with --dataset {' or '.join(others)}"
        )
