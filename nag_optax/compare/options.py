"""What a user of `nag-optax compare` types: the options and their --help."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import tyro

from nag_optax.train.hints import Float, Int, IntInTable, OptionalPath, one_of
from nag_optax.train.options import ScheduleName
from nag_optax.train.options import allowed as allowed_to_train
from nag_optax.train.registry import DATASETS, MODELS, OPTIMIZERS

RESTARTED = "nag-restart"
ProblemName = Literal["quadratic", "rosenbrock", "logistic"]

# What goes around another optimizer, or is a variant of one of these, is compared on demand.
DEFAULT_CONTENDERS = ("sgd", "momentum", "nag", RESTARTED, "adam", "nadamw", "adan", "muon")


@dataclass(frozen=True)
class CompareOptions:
    """Train one model from the same seeds with several optimizers, each at its best learning rate."""

    # None stands for a default that `resolve` fills in, by the other options.

    dataset: Annotated[str | None, one_of(DATASETS, hint="(default: digits)")] = None
    """Images to train on, as in nag-optax train."""
    data_dir: OptionalPath = None
    """Folder of the images, for a --dataset that is not built in."""
    model: Annotated[str | None, one_of(MODELS, hint="(default: mlp)")] = None
    """As in nag-optax train. Many runs of the mlp train at once; on a CPU those of the others do not."""
    image_size: Int = None
    """Resize images to N x N pixels; by default they keep their size."""
    problem: Annotated[
        ProblemName | None,
        tyro.conf.arg(metavar="{quadratic,rosenbrock,logistic}", help_behavior_hint=""),
    ] = None
    """Minimise this function of two variables instead, and draw the paths over its contours."""

    optimizers: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="NAME ...",
            help=f"Of {', '.join((*OPTIMIZERS, RESTARTED))}.",
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
        ScheduleName | None,
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


_ALLOWED = {
    "optimizers": f"different names of {', '.join((*OPTIMIZERS, RESTARTED))}",
    "learning_rates": "auto, or different finite float32 numbers above 0",
    "seeds": "a whole number from 1 to 100",
    "num_steps": "a whole number from 1 to 1000000",
    "target": "a test accuracy in (0, 1]",
    "problem": f"one of {', '.join(get_args(ProblemName))}",
}


def allowed(name: str) -> str:
    """What the option of that name takes, in words."""
    return _ALLOWED[name] if name in _ALLOWED else allowed_to_train(name)
