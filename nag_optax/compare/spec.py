"""The options of a comparison and their --help; and the comparison, resolved and checked."""

import dataclasses
from collections import ChainMap
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from nag_optax.train.checks import RULES, Rule, check, flag, is_positive, whole
from nag_optax.train.errors import InputError
from nag_optax.train.folder import Folder
from nag_optax.train.options import Float, Int, IntInTable, OptionalPath, Options, ScheduleName, one_of
from nag_optax.train.registry import DATASETS, MODELS, OPTIMIZERS, dataset_row, optimizer_row
from nag_optax.train.rows import Optimizer, Style
from nag_optax.train.spec import Spec, Stored, default_folder, load_stored
from nag_optax.train.spec import resolve as resolve_run

CONTENDERS = ChainMap(
    {
        "nag-restart": OPTIMIZERS["nag"]._replace(
            label="NAG with restart",
            make="nag_optax.train.optimizers:nag_restart",
            options={},
            style=Style("#56B4E9", "-", "d"),
        )
    },
    OPTIMIZERS,
)
"""The rows of the optimizers of `nag-optax train`, those registered later too, and one more."""


def contender(name: str) -> Optimizer:
    """The row of a contender, also of a user's own, "package.module:factory"."""
    return optimizer_row(name) if ":" in name else CONTENDERS[name]


ProblemName = Literal["quadratic", "rosenbrock", "logistic"]
GAPS = {"0.001": 1e-3, "1e-06": 1e-6}
"""A comparison counts the steps to these shares of the gap at the start."""
GOAL = "1e-06"
"""The fewest steps to this one are best."""

COMPARISON, TABLE, FIGURE, RESULTS = "comparison.json", "comparison.md", "comparison.png", "optimizers"

# What goes around another optimizer, or is a variant of one of these, is compared on demand.
DEFAULT_CONTENDERS = ("sgd", "momentum", "nag", "nag-restart", "adam", "nadamw", "adan", "muon")


@dataclass(frozen=True)
class CompareOptions:
    """Train one model with several optimizers, each at its best learning rate."""

    # None stands for a default that `resolve` fills in, by the other options.

    dataset: Annotated[str | None, one_of(DATASETS, hint="(default: digits)")] = None
    """Images to train on, as in nag-optax train."""
    data_dir: OptionalPath = None
    """Folder of the images, or file of the arrays, for every --dataset but digits."""
    model: Annotated[str | None, one_of(MODELS, hint="(default: mlp)")] = None
    """As in nag-optax train. Many runs of the mlp train at once. On a CPU other models train one by one."""
    image_size: Int = None
    """Resize images to N x N pixels; by default they keep their size."""
    problem: Annotated[
        ProblemName | None, tyro.conf.arg(metavar="{quadratic,rosenbrock,logistic}", help_behavior_hint="")
    ] = None
    """Minimise this function of two variables instead, and draw the paths over its contours."""

    optimizers: Annotated[
        tuple[str, ...] | None,
        tyro.conf.arg(
            metavar="NAME ...",
            help=f"Some of {', '.join(CONTENDERS)}, or your own, package.module:factory.",
            help_behavior_hint=f"(default: {' '.join(DEFAULT_CONTENDERS)}; muon not with --problem)",
        ),
    ] = None
    """Some of the optimizers of nag-optax train, nag-restart, or your own, package.module:factory."""
    learning_rates: Annotated[
        Literal["auto"] | tuple[float, ...],
        tyro.conf.arg(metavar="auto|FLOAT ...", help_behavior_hint="(default: auto)"),
    ] = "auto"
    """Peak learning rates to try. A sixth of the training images is held out to choose the best.
    auto: each optimizer has a grid of its own, which grows while its edge is best."""
    schedule: Annotated[
        ScheduleName | None,
        one_of(get_args(ScheduleName), hint="(default: by dataset and model; constant for a problem)"),
    ] = None
    """How the learning rate decays, as in nag-optax train."""
    num_epochs: IntInTable = None
    """Passes over the training data, at least 1."""
    batch_size: IntInTable = None
    """Examples in a step, at least 1."""
    num_steps: Annotated[Int, tyro.conf.arg(help_behavior_hint="(default: 1000)")] = None
    """Steps on a --problem, at least 1."""
    seeds: Annotated[Int, tyro.conf.arg(help_behavior_hint="(default: 3)")] = None
    """Runs at each learning rate, each with its own initialisation, order of the data and dropout."""
    seed: int = 0
    """The first of the seeds; the others follow it."""
    target: Annotated[Float, tyro.conf.arg(help_behavior_hint="(default: by dataset)")] = None
    """Test accuracy in (0, 1] to which steps and seconds are counted."""
    skip_unreadable: bool = False
    """Leave out the pictures that cannot be decoded, and say how many."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to train; auto takes the best that JAX finds."""

    run_dir: OptionalPath = None
    """Folder of the comparison, by default runs/compare-<dataset>-<model> or runs/compare-<problem>."""
    resume: bool = False
    """Go on with the comparison in --run-dir, and do not run again what is finished."""
    overwrite: bool = False
    """Replace the comparison that --run-dir holds."""


_OF_A_RUN = [f.name for f in dataclasses.fields(CompareOptions) if hasattr(Options, f.name)]
_ON_DATA = (
    *("dataset", "data_dir", "skip_unreadable", "model", "image_size"),
    *("num_epochs", "batch_size", "seeds", "target"),
)


_RULES = RULES | {
    "optimizers": Rule(
        lambda names: all(":" in name or name in CONTENDERS for name in names),
        f"names of {', '.join(CONTENDERS)}, or package.module:factory",
    ),
    "learning_rates": Rule(
        lambda rates: rates == "auto" or (rates and all(map(is_positive, rates))),
        "auto, or finite float32 numbers above 0",
    ),
    "seeds": whole(1, 100),
    "num_steps": whole(1, 1_000_000),
    "target": Rule(lambda value: 0 < value <= 1, "a test accuracy in (0, 1]"),
}


@dataclass(frozen=True, kw_only=True)
class ComparisonSpec(Stored, CompareOptions):
    """The options that every comparison has. `field()` takes the default of None away."""

    options = tuple(option.name for option in dataclasses.fields(CompareOptions))
    how = frozenset({"data_dir", "device"})

    optimizers: tuple[str, ...] = field()
    schedule: ScheduleName = field()
    run_dir: Path = field()


@dataclass(frozen=True, kw_only=True)
class DataSpec(ComparisonSpec):
    """A comparison on images. Each optimizer trains the run of `train` at other rates and seeds."""

    seeds: int = field()
    target: float = field()
    train: Spec


@dataclass(frozen=True, kw_only=True)
class ProblemSpec(ComparisonSpec):
    """A comparison on a function of two variables."""

    problem: ProblemName = field()
    num_steps: int = field()


def resolve(options: CompareOptions) -> DataSpec | ProblemSpec:
    """Fills in every default and checks every value. An InputError says what is allowed."""
    check(options, _RULES)
    return _on_data(options) if options.problem is None else _on_problem(options, options.problem)


def load_spec(path: Path) -> DataSpec | ProblemSpec:
    """The comparison that `config.json` holds."""
    make = partial(CompareOptions, run_dir=path.parent)
    return load_stored(path, "comparison", "optimizers", lambda fields: resolve(make(**fields)))


class ComparisonFolder(Folder):
    """The files of one comparison, with each optimizer's result as soon as it is known."""

    kind = "comparison"
    resolve = staticmethod(resolve)
    load = staticmethod(load_spec)
    files = (COMPARISON, TABLE, FIGURE, RESULTS)


def _on_data(options: CompareOptions) -> DataSpec:
    if options.num_steps is not None:
        raise InputError(
            f"--num-steps {options.num_steps}: is only for --problem; a dataset takes --num-epochs"
        )
    given: dict[str, Any] = {name: getattr(options, name) for name in _OF_A_RUN}
    given |= {"dataset": options.dataset or "digits", "model": options.model or "mlp", "resident": "yes"}
    train = resolve_run(Options(**given))
    resolved: dict[str, Any] = {name: getattr(train, name) for name in _OF_A_RUN} | {
        "train": train,
        "optimizers": options.optimizers or DEFAULT_CONTENDERS,
        "seeds": options.seeds or 3,
        "target": options.target or dataset_row(train.dataset).target,
        "run_dir": options.run_dir or default_folder("compare", train.dataset, train.model),
    }
    return DataSpec(**vars(options) | resolved)


def _on_problem(options: CompareOptions, problem: ProblemName) -> ProblemSpec:
    for name in _ON_DATA:
        if (value := getattr(options, name)) not in (None, False):
            raise InputError(f"{flag(name)} {value}: is for a dataset; --problem {problem} has none")
    if "muon" in (options.optimizers or ()):
        what = f"orthogonalises matrices; the parameters of --problem {problem} are a vector"
        raise InputError(f"--optimizers muon: {what}")
    resolved: dict[str, Any] = {
        "optimizers": options.optimizers or tuple(n for n in DEFAULT_CONTENDERS if n != "muon"),
        "schedule": options.schedule or "constant",
        "num_steps": options.num_steps or 1000,
        "run_dir": options.run_dir or default_folder("compare", problem),
    }
    return ProblemSpec(**vars(options) | resolved)
