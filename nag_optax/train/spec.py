"""A run, resolved: the options of a user with every default filled in, checked, and kept in `config.json`."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from nag_optax.train.checks import check, flag, prune_strength, shown
from nag_optax.train.errors import InputError, reason
from nag_optax.train.options import AugmentName, Options, PrecisionName, ScheduleName
from nag_optax.train.registry import (
    DATASETS,
    all_options,
    dataset_row,
    default_learning_rate,
    inner_names,
    model_row,
    optimizer_row,
    preset_row,
    recipe,
    takers,
    takes,
)
from nag_optax.train.rows import Model, Optimizer

_Config = TypeVar("_Config")

# The defaults of options that a preset may set, where it does not.
_PLAIN = {
    **{"dataset": "digits", "optimizer": "nag", "augment": "none", "label_smoothing": 0.0},
    **{"precision": "float32", "evaluate_every": 1},
}

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
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def differences(self, other: "Stored") -> list[str]:
        """The options, with both values, that make `other` another one than this."""
        return [
            f"{flag(name)} {shown(theirs)} (it holds {shown(mine)})"
            for name in self.options
            if name not in self.how | set(_NOT_KEPT)
            and (mine := getattr(self, name)) != (theirs := getattr(other, name))
        ]


def load_stored(path: Path, kind: str, mark: str, make: Callable[[dict[str, Any]], _Config]) -> _Config:
    """The configuration of a run or a comparison that `make` makes of the fields in a `config.json`.

    The `mark` is a field that the other kind does not have.
    """
    try:
        fields = json.loads(path.read_text())
        if mark not in fields:
            raise ValueError(f"it has no {mark}")
        # JSON has no tuples.
        return make({name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()})
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; name the folder of a {kind}") from None
    except (OSError, ValueError, TypeError, AttributeError, InputError) as error:
        raise InputError(f"{path}: not a readable configuration of a {kind} ({reason(error)})") from None


@dataclass(frozen=True, kw_only=True)
class Spec(Stored, Options):
    """The options of a run. Those below have a value, as `field()` takes the default of None away."""

    options = tuple(option.name for option in dataclasses.fields(Options))
    # How long a run is may change too: it is the same one up to there.
    how = frozenset(
        {"data_dir", "device", "num_devices", "shard_optimizer", "num_epochs", "target_accuracy", "patience"}
        | {"tensorboard", "resident", "data_workers"}
    )

    dataset: str = field()
    model: str = field()
    optimizer: str = field()
    learning_rate: float = field()
    schedule: ScheduleName = field()
    warmup_epochs: float = field()
    weight_decay: float = field()
    num_epochs: int = field()
    batch_size: int = field()
    augment: AugmentName = field()
    label_smoothing: float = field()
    precision: PrecisionName = field()
    evaluate_every: int = field()
    run_dir: Path = field()
    default_batch: bool = field(default=False, compare=False)
    """Whether nobody named the batch size."""

    @property
    def optimizer_options(self) -> dict[str, Any]:
        """The options of the optimizer's factory beside the learning rate."""
        return {name: getattr(self, name) for name in all_options(self.optimizer_row, self.inner)}

    @property
    def usual_learning_rate(self) -> float:
        return default_learning_rate(self.optimizer_row, self.inner, self.dataset, self.model)

    @property
    def prune_strength(self) -> float | None:
        return None if self.prune is None else prune_strength(self.prune)

    @property
    def bfloat16_parameters(self) -> bool:
        return self.precision == "bfloat16-parameters"

    @property
    def optimizer_row(self) -> Optimizer:
        return optimizer_row(self.optimizer)

    @property
    def model_row(self) -> Model:
        return model_row(self.model)


def default_folder(*parts: object) -> Path:
    """The folder of this name. A dot takes the place of a colon, which `scp` would take for a host."""
    return Path("runs", "-".join(map(str, parts)).replace(":", "."))


def resolve(options: Options) -> Spec:
    """Fills in every default and checks every value. An InputError says what is allowed."""
    preset = {} if options.preset is None else preset_row(options.preset).options
    given = {name: value for name, value in vars(options).items() if value is not None}
    filled = _PLAIN | preset | given
    check(Options(**filled))
    dataset, optimizer, inner = filled["dataset"], filled["optimizer"], options.inner
    model = filled.get("model", dataset_row(dataset).model)
    model_row(model)  # Names it if it is none.
    table, row = recipe(dataset, model), optimizer_row(optimizer)
    if inner is not None and ":" not in inner and inner not in inner_names():
        raise InputError(
            f"--inner {inner}: must be one of {', '.join(inner_names())}, or package.module:name"
        )
    resolved: dict[str, Any] = {
        "model": model,
        "learning_rate": default_learning_rate(row, inner, dataset, model),
        "weight_decay": 0.0,
        "run_dir": default_folder(dataset, model, optimizer, options.seed),
        **table._asdict(),
        **all_options(row, inner),
        **filled,
        "freeze": tuple(part.strip() for pattern in options.freeze for part in pattern.split(",")),
    }
    if "warmup_epochs" not in filled:
        triangle, epochs = resolved["schedule"] == "triangle", resolved["num_epochs"]
        resolved["warmup_epochs"] = 0.23 * epochs if triangle else min(table.warmup_epochs, epochs / 10)
    for name in {"data_dir", "run_dir", "init_from"} & resolved.keys():
        resolved[name] = Path(resolved[name])
    if "init_from" in resolved:
        resolved["init_from"] = resolved["init_from"].resolve()
    if options.follow:
        resolved["resident"] = "no"
    spec = Spec(**resolved, default_batch="batch_size" not in given)
    for complaint in _complaints(spec):
        raise InputError(complaint)
    check_batch(spec, spec.num_processes or 1)
    return spec


def load_spec(path: Path) -> Spec:
    """The run that `config.json` holds."""
    return load_stored(
        path, "run", "optimizer", lambda fields: resolve(Options(**fields, run_dir=path.parent))
    )


def _complaints(spec: Spec) -> Iterator[str]:
    """A line for each pair of options that do not go together."""
    if not 0 <= spec.warmup_epochs < spec.num_epochs:
        yield f"--warmup-epochs {spec.warmup_epochs}: must be at least 0, and less than the number of epochs"
    given = {
        "inner": spec.inner is not None,
        "momentum": spec.momentum is not None,
        "momentum_schedule": spec.momentum_schedule != "constant",
        "restart": spec.restart is not None,
        "weight_decay": spec.weight_decay != 0,
        "prune": spec.prune is not None,
    }
    for name in (name for name, is_given in given.items() if is_given):
        whose = "inner" if spec.inner is not None and name not in ("inner", "prune") else "optimizer"
        if not takes(optimizer_row(chosen := getattr(spec, whose)), name):
            others = " or ".join(takers(name))
            yield (
                f"{flag(name)} {getattr(spec, name)}: --{whose} {chosen} has none; "
                f"it is for --{whose} {others}"
            )
    if spec.prune is not None:
        prune_strength(spec.prune)
        if spec.weight_decay != 0:
            yield f"--weight-decay {spec.weight_decay}: cannot be combined with --prune, which shrinks units"
        if not spec.model_row.hidden_layers:
            yield f"--prune {spec.prune}: the registry names no hidden layers of --model {spec.model}"
    if spec.follow and spec.dataset != "folder":
        yield f"--follow: is only for --dataset folder, not for --dataset {spec.dataset}"
    if spec.follow and spec.coordinator is not None:
        yield "--follow: cannot be combined with --coordinator: one process looks into the folder"
    for name in ("target_accuracy", "patience"):
        if not spec.validation and (value := getattr(spec, name)) is not None:
            yield f"{flag(name)} {value}: needs --validation, whose images it looks at"
    if spec.coordinator is None and (spec.num_processes, spec.process_id) != (None, None):
        yield "--num-processes and --process-id: need --coordinator HOST:PORT"  # Or each would train alone.
    yield from _place_problems(spec)


def _place_problems(spec: Spec) -> Iterator[str]:
    if ":" in spec.dataset:  # A user's own may take --data-dir or not.
        return
    needed = dataset_row(spec.dataset).data_dir
    if needed is not None and spec.data_dir is None:
        yield f"--data-dir: --dataset {spec.dataset} needs {needed}"
    if needed is None and spec.data_dir is not None:
        others = " or ".join(name for name, row in DATASETS.items() if row.data_dir is not None)
        yield (
            f"--data-dir {spec.data_dir}: --dataset {spec.dataset} is built in; "
            f"--data-dir is for --dataset {others}"
        )


def with_data_at(spec: Spec, data_dir: Path | None) -> Spec:
    """The run with its data in this place, if one is given."""
    if data_dir is None:
        return spec
    spec = dataclasses.replace(spec, data_dir=data_dir)
    for problem in _place_problems(spec):
        raise InputError(problem)
    return spec


def fit_batch(spec: Spec, count: int, say: Callable[[str], None], num_processes: int = 1) -> Spec:
    """The run with a batch of at most `count` images: the default gives way, and a user's own is refused."""
    if spec.batch_size <= count:
        return spec
    parts = spec.num_devices * num_processes * spec.accumulate
    if not spec.default_batch or count < parts:
        raise InputError(
            f"--batch-size {spec.batch_size}: must be at most {count}, the number of images to train on"
        )
    size = count // parts * parts
    say(f"batches of {size} images instead of {spec.batch_size}: there are only {count} to train on")
    return dataclasses.replace(spec, batch_size=size)


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
