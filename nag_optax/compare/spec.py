"""A comparison, resolved: the options of a user with every default filled in, and checked."""

import dataclasses
import json
from collections.abc import Callable
from ctypes import c_float
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from nag_optax.compare.options import DEFAULT_CONTENDERS, RESTARTED, CompareOptions, ProblemName, allowed
from nag_optax.train.checks import flag, positive
from nag_optax.train.errors import InputError
from nag_optax.train.hints import given_or, matches
from nag_optax.train.options import Options, ScheduleName
from nag_optax.train.registry import OPTIMIZERS, dataset_row
from nag_optax.train.spec import Spec
from nag_optax.train.spec import resolve as resolve_run
from nag_optax.train.stored import load_stored

# It orthogonalises matrices; the parameters of a problem are a vector.
_NOT_ON_PROBLEMS = ("muon",)
_ON_DATA = ("dataset", "data_dir", "model", "image_size", "num_epochs", "batch_size", "seeds", "target")
_OF_A_RUN = (
    *("dataset", "data_dir", "model", "image_size", "schedule"),
    *("num_epochs", "batch_size", "seed", "device"),
)
_NOT_THE_RUN = ("run_dir", "resume", "overwrite", "data_dir", "device")
_NOT_KEPT = ("run_dir", "resume", "overwrite")


@dataclass(frozen=True, kw_only=True)
class ComparisonSpec:
    """The fields of `CompareOptions` that every comparison has."""

    optimizers: tuple[str, ...]
    learning_rates: Literal["auto"] | tuple[float, ...]
    schedule: ScheduleName
    seed: int
    device: str
    run_dir: Path
    resume: bool
    overwrite: bool

    def to_json(self) -> str:
        """What `config.json` keeps."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """The same as numbers, strings and lists; None for an option of the other kind."""
        fields = {name: getattr(self, name, None) for name in _OPTIONS if name not in _NOT_KEPT}
        if (data_dir := fields["data_dir"]) is not None:
            fields["data_dir"] = str(data_dir.resolve())
        return fields

    def differences(self, other: "ComparisonSpec") -> list[str]:
        """The options, with both values, that make `other` another comparison than this one."""
        return [
            f"{flag(name)} {_shown(theirs)} (it holds {_shown(mine)})"
            for name in _OPTIONS
            if name not in _NOT_THE_RUN
            and (mine := getattr(self, name, None)) != (theirs := getattr(other, name, None))
        ]


@dataclass(frozen=True, kw_only=True)
class DataSpec(ComparisonSpec):
    """On images; each optimizer trains the run of `train`, with other learning rates and seeds."""

    dataset: str
    data_dir: Path | None
    model: str
    image_size: int | None
    num_epochs: int
    batch_size: int
    seeds: int
    target: float
    train: Spec


@dataclass(frozen=True, kw_only=True)
class ProblemSpec(ComparisonSpec):
    """On a function of two variables."""

    problem: ProblemName
    num_steps: int


_Kind = TypeVar("_Kind", DataSpec, ProblemSpec)
_OPTIONS = tuple(field.name for field in dataclasses.fields(CompareOptions))


def resolve(options: CompareOptions) -> DataSpec | ProblemSpec:
    """Fills in every default, and checks every value.

    Raises:
        InputError: names the option, its value and what is allowed.
    """
    _check_types(options)
    spec = _on_data(options) if options.problem is None else _on_problem(options, options.problem)
    _check_values(spec)
    return spec


def load_spec(path: Path) -> DataSpec | ProblemSpec:
    """The comparison that `config.json` holds.

    Raises:
        InputError: if the file is missing, damaged, or not a comparison's.
    """

    def make(fields: dict[str, Any]) -> DataSpec | ProblemSpec:
        if fields["data_dir"] is not None:
            fields["data_dir"] = Path(fields["data_dir"])
        fields["optimizers"] = tuple(fields["optimizers"])
        if fields["learning_rates"] != "auto":
            fields["learning_rates"] = tuple(fields["learning_rates"])
        return resolve(CompareOptions(**fields, run_dir=path.parent))

    return load_stored(path, "comparison", make)


def _on_data(options: CompareOptions) -> DataSpec:
    if options.num_steps is not None:
        raise InputError(f"--num-steps {options.num_steps}: goes with --problem; --num-epochs with a dataset")
    given: dict[str, Any] = {name: getattr(options, name) for name in _OF_A_RUN}
    given |= {"dataset": options.dataset or "digits", "model": options.model or "mlp"}
    train = resolve_run(Options(**given))
    values = vars(options) | {name: getattr(train, name) for name in _OF_A_RUN}
    values |= {
        "train": train,
        "optimizers": options.optimizers or DEFAULT_CONTENDERS,
        "seeds": given_or(options.seeds, 3),
        "target": given_or(options.target, dataset_row(train.dataset).target),
        "run_dir": options.run_dir or Path("runs") / f"compare-{train.dataset}-{train.model}",
    }
    return _made(DataSpec, values)


def _on_problem(options: CompareOptions, problem: ProblemName) -> ProblemSpec:
    for name in _ON_DATA:
        if (value := getattr(options, name)) is not None:
            raise InputError(f"{flag(name)} {value}: goes with a dataset; --problem {problem} has none")
    for name in _NOT_ON_PROBLEMS:
        if name in options.optimizers:
            raise InputError(
                f"--optimizers {name}: orthogonalises matrices; the parameters of "
                f"--problem {problem} are a vector"
            )
    values = vars(options) | {
        "optimizers": options.optimizers or tuple(n for n in DEFAULT_CONTENDERS if n not in _NOT_ON_PROBLEMS),
        "schedule": options.schedule or "constant",
        "num_steps": given_or(options.num_steps, 1000),
        "run_dir": options.run_dir or Path("runs") / f"compare-{problem}",
    }
    return _made(ProblemSpec, values)


def _made(kind: type[_Kind], values: dict[str, Any]) -> _Kind:
    """Of the values those that a comparison of that kind has."""
    return kind(**{field.name: values[field.name] for field in dataclasses.fields(kind)})


def _check_types(options: CompareOptions) -> None:
    for name, hint in get_type_hints(CompareOptions).items():
        value = getattr(options, name)
        if name == "optimizers":
            fits = isinstance(value, tuple) and all(v in (*OPTIMIZERS, RESTARTED) for v in value)
        elif name == "learning_rates":
            fits = value == "auto" or (
                isinstance(value, tuple) and all(isinstance(v, int | float) for v in value)
            )
        else:
            fits = matches(value, hint)
        if not fits:
            raise InputError(f"{flag(name)} {_shown(value)}: must be {allowed(name)}")


def _check_values(spec: ComparisonSpec) -> None:
    def need(condition: Callable[[Any], bool], name: str) -> None:
        value = getattr(spec, name, None)
        if value is not None and not condition(value):
            raise InputError(f"{flag(name)} {_shown(value)}: must be {allowed(name)}")

    need(lambda names: len(set(names)) == len(names), "optimizers")
    if spec.learning_rates != "auto":
        need(bool, "learning_rates")
        for rate in spec.learning_rates:
            if not positive(rate):
                raise InputError(f"--learning-rates {rate}: must be {allowed('learning_rates')}")
        need(lambda rates: len({c_float(rate).value for rate in rates}) == len(rates), "learning_rates")
    need(lambda count: 1 <= count <= 100, "seeds")
    need(lambda count: 1 <= count <= 1_000_000, "num_steps")
    need(lambda seed: 0 <= seed <= 2**32 - getattr(spec, "seeds", 1), "seed")
    need(lambda target: 0 < target <= 1, "target")


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
