"""The configuration of a comparison: command line, notebook argument and `config.json` in one dataclass."""

import dataclasses
import json
from collections.abc import Callable
from ctypes import c_float
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_type_hints

import tyro

from nag_optax.train.catalogue import OPTIMIZERS
from nag_optax.train.checks import flag, positive
from nag_optax.train.errors import InputError
from nag_optax.train.hints import Float, Int, IntInTable, OptionalPath, given_or, matches
from nag_optax.train.options import DatasetName, ModelName, Options
from nag_optax.train.options import allowed as allowed_to_train
from nag_optax.train.spec import Spec, resolve
from nag_optax.train.stored import load_stored

RESTARTED = "nag-restart"
CONTENDER_NAMES = (*OPTIMIZERS, RESTARTED)
if TYPE_CHECKING:
    ContenderName = str
else:
    ContenderName = Literal[CONTENDER_NAMES]
ProblemName = Literal["quadratic", "rosenbrock", "logistic"]
Schedule = Literal["constant", "cosine", "linear"]

# What goes around another optimizer, or is a variant of one of these, is compared on demand.
DEFAULT_CONTENDERS = ("sgd", "momentum", "nag", RESTARTED, "adam", "nadamw", "adan", "muon")
# It orthogonalises matrices; the parameters of a problem are a vector.
NOT_ON_PROBLEMS = ("muon",)
# Reached by most optimizers well before the end, so that it tells the fast from the slow.
TARGETS: dict[str, float] = {"digits": 0.97, "mnist": 0.97}

_ON_DATA = ("dataset", "data_dir", "model", "image_size", "num_epochs", "batch_size", "seeds", "target")
_NOT_THE_RUN = ("run_dir", "resume", "overwrite", "data_dir", "device")
_NOT_KEPT = ("run_dir", "resume", "overwrite")


@dataclass(frozen=True)
class CompareConfig:
    """Train one model from the same seeds with several optimizers, each at its best learning rate."""

    # None stands for a default that depends on other options.

    dataset: Annotated[
        DatasetName | None, tyro.conf.arg(metavar="{digits,mnist}", help_behavior_hint="(default: digits)")
    ] = None
    """Images to train on, as in nag-optax train."""
    data_dir: OptionalPath = None
    """Folder with the four IDX files, gzipped or not; for --dataset mnist."""
    model: Annotated[
        ModelName | None, tyro.conf.arg(metavar="{mlp,cnn}", help_behavior_hint="(default: mlp)")
    ] = None
    """As in nag-optax train. Many runs of the mlp train at once; on a CPU those of the cnn do not."""
    image_size: Int = None
    """Resize images to N x N pixels; by default they keep their size."""
    problem: Annotated[
        ProblemName | None,
        tyro.conf.arg(metavar="{quadratic,rosenbrock,logistic}", help_behavior_hint=""),
    ] = None
    """Minimise this function of two variables instead, and draw the paths over its contours."""

    optimizers: Annotated[
        tuple[ContenderName, ...],
        tyro.conf.arg(
            metavar="NAME ...",
            help=f"Of {', '.join(CONTENDER_NAMES)}.",
            help_behavior_hint=f"(default: {' '.join(DEFAULT_CONTENDERS)}; muon not with --problem)",
        ),
    ] = ()
    learning_rates: Annotated[
        Literal["auto"] | tuple[float, ...],
        tyro.conf.arg(metavar="auto|FLOAT ...", help_behavior_hint="(default: auto)"),
    ] = "auto"
    """Peak learning rates to try; a sixth of the training images, held out, chooses.
    auto: a grid of each optimizer's own, extended while its edge is best."""
    schedule: Annotated[
        Schedule | None,
        tyro.conf.arg(
            metavar="{constant,cosine,linear}",
            help_behavior_hint="(default: by dataset and model; constant for a problem)",
        ),
    ] = None
    """How the learning rate decays, to 0 at the end."""
    num_epochs: IntInTable = None
    """Passes over the training data, at least 1."""
    batch_size: IntInTable = None
    """Examples a step, at least 1."""
    num_steps: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 1000)")] = (
        None
    )
    """Steps on the problem, at least 1; for --problem."""
    seeds: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 3)")] = None
    """Runs at each learning rate: initialisation, order of the data and dropout of their own."""
    seed: int = 0
    """The first of the seeds; the others follow it."""
    target: Annotated[Float, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(default: 0.97)")] = None
    """Test accuracy in (0, 1] to which steps and seconds are counted."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to train; auto takes the best that JAX finds."""

    run_dir: OptionalPath = None
    """Folder of the comparison, by default runs/compare-<dataset>-<model> or runs/compare-<problem>."""
    resume: bool = False
    """Go on with the comparison in --run-dir; optimizers that are finished are not run again."""
    overwrite: bool = False
    """Replace the comparison that --run-dir holds."""

    def resolved(self) -> "CompareConfig":
        """Every None that stands for a default filled in, and every value checked.

        Raises:
            InputError: names the option, its value and what is allowed.
        """
        self._check_types()
        names = DEFAULT_CONTENDERS
        if self.problem is not None:
            config = self._resolved_for_problem()
            names = tuple(name for name in names if name not in NOT_ON_PROBLEMS)
        else:
            config = self._resolved_for_data()
        config = dataclasses.replace(config, optimizers=self.optimizers or names)
        config._check_values()
        return config

    def train_spec(self) -> Spec:
        """The same run for `nag_optax.train`, with a learning rate of 1: what the grid multiplies."""
        assert self.dataset is not None
        options = Options(
            dataset=self.dataset,
            data_dir=self.data_dir,
            model=self.model,
            image_size=self.image_size,
            optimizer="sgd",
            learning_rate=1.0,
            schedule=self.schedule,
            num_epochs=self.num_epochs,
            batch_size=self.batch_size,
            seed=self.seed,
            device=self.device,
        )
        return resolve(options)

    def to_json(self) -> str:
        """What `config.json` keeps."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """The same as numbers, strings and lists."""
        fields = {k: v for k, v in dataclasses.asdict(self).items() if k not in _NOT_KEPT}
        if self.data_dir is not None:
            fields["data_dir"] = str(self.data_dir.resolve())
        return fields

    def differences(self, other: "CompareConfig") -> list[str]:
        """The options, with both values, that make `other` another comparison than this one."""
        return [
            f"{flag(field.name)} {_shown(theirs)} (it holds {_shown(mine)})"
            for field in dataclasses.fields(self)
            if field.name not in _NOT_THE_RUN
            and (mine := getattr(self, field.name)) != (theirs := getattr(other, field.name))
        ]

    def _resolved_for_data(self) -> "CompareConfig":
        if self.num_steps is not None:
            raise InputError(
                f"--num-steps {self.num_steps}: goes with --problem; --num-epochs with a dataset"
            )
        dataset, model = self.dataset or "digits", self.model or "mlp"
        train = dataclasses.replace(self, dataset=dataset, model=model).train_spec()
        return dataclasses.replace(
            self,
            dataset=dataset,
            model=model,
            schedule=train.schedule,
            num_epochs=train.num_epochs,
            batch_size=train.batch_size,
            seeds=given_or(self.seeds, 3),
            target=given_or(self.target, TARGETS[dataset]),
            run_dir=self.run_dir or Path("runs") / f"compare-{dataset}-{model}",
        )

    def _resolved_for_problem(self) -> "CompareConfig":
        for name in _ON_DATA:
            if (value := getattr(self, name)) is not None:
                raise InputError(
                    f"{flag(name)} {value}: goes with a dataset; --problem {self.problem} has none"
                )
        for name in NOT_ON_PROBLEMS:
            if name in self.optimizers:
                raise InputError(
                    f"--optimizers {name}: orthogonalises matrices; the parameters of "
                    f"--problem {self.problem} are a vector"
                )
        return dataclasses.replace(
            self,
            schedule=self.schedule or "constant",
            num_steps=given_or(self.num_steps, 1000),
            run_dir=self.run_dir or Path("runs") / f"compare-{self.problem}",
        )

    def _check_types(self) -> None:
        for name, hint in get_type_hints(CompareConfig).items():
            value = getattr(self, name)
            if name == "optimizers":
                fits = isinstance(value, tuple) and all(v in CONTENDER_NAMES for v in value)
            elif name == "learning_rates":
                fits = value == "auto" or (
                    isinstance(value, tuple) and all(isinstance(v, int | float) for v in value)
                )
            else:
                fits = matches(value, hint)
            if not fits:
                raise InputError(f"{flag(name)} {_shown(value)}: must be {allowed(name)}")

    def _check_values(self) -> None:
        def need(condition: Callable[[Any], bool], name: str) -> None:
            value = getattr(self, name)
            if value is not None and not condition(value):
                raise InputError(f"{flag(name)} {_shown(value)}: must be {allowed(name)}")

        need(lambda names: len(set(names)) == len(names), "optimizers")
        if self.learning_rates != "auto":
            need(bool, "learning_rates")
            for rate in self.learning_rates:
                if not positive(rate):
                    raise InputError(f"--learning-rates {rate}: must be {allowed('learning_rates')}")
            need(lambda rates: len({c_float(rate).value for rate in rates}) == len(rates), "learning_rates")
        need(lambda count: 1 <= count <= 100, "seeds")
        need(lambda count: 1 <= count <= 1_000_000, "num_steps")
        need(lambda seed: 0 <= seed <= 2**32 - given_or(self.seeds, 1), "seed")
        need(lambda target: 0 < target <= 1, "target")


_ALLOWED = {
    "optimizers": f"different names of {', '.join(CONTENDER_NAMES)}",
    "learning_rates": "auto, or different finite float32 numbers above 0",
    "seeds": "a whole number from 1 to 100",
    "num_steps": "a whole number from 1 to 1000000",
    "target": "a test accuracy in (0, 1]",
    "problem": f"one of {', '.join(get_args(ProblemName))}",
}


def allowed(name: str) -> str:
    """What the option of that name takes, in words."""
    return _ALLOWED[name] if name in _ALLOWED else allowed_to_train(name)


def load_config(path: Path) -> CompareConfig:
    """The configuration that a comparison's `config.json` holds.

    Raises:
        InputError: if the file is missing, damaged, or not a comparison's.
    """

    def make(fields: dict[str, Any]) -> CompareConfig:
        if fields["data_dir"] is not None:
            fields["data_dir"] = Path(fields["data_dir"])
        fields["optimizers"] = tuple(fields["optimizers"])
        if fields["learning_rates"] != "auto":
            fields["learning_rates"] = tuple(fields["learning_rates"])
        return CompareConfig(**fields, run_dir=path.parent).resolved()

    return load_stored(path, "comparison", make)


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
