"""The options that a user types, on the command line or in a notebook, and their --help."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from nag_optax.train.registry import DATASETS, MODELS, OPTIMIZERS, PRESETS, defaults_of, inner_names, takers

TABLE = "(default: by dataset and model)"

# What an option takes, and no default where the text says it.
Float = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")]
Int = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
FloatInTable = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint=TABLE)]
IntInTable = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint=TABLE)]
Patterns = Annotated[
    tuple[str, ...],
    tyro.conf.UseAppendAction,
    tyro.conf.arg(metavar="PATTERN", help_behavior_hint="(default: none)"),
]

ScheduleName = Literal["constant", "cosine", "linear", "triangle"]
RestartName = Literal["gradient", "speed", "value"]
AugmentName = Literal["none", "crop-flip", "alternating-flip", "resized-crop"]
PrecisionName = Literal["float32", "bfloat16", "bfloat16-parameters", "auto"]


def one_of(names: Iterable[str], *, hint: str | None = None, help: str | None = None) -> Any:
    """The words for an option that takes one of these names, or another that is registered later."""
    return tyro.conf.arg(metavar="{" + ",".join(names) + "}", help=help, help_behavior_hint=hint)


def described(rows: Mapping[str, Any], own: str | None = None) -> str:
    """These rows of the registry for --help, and the name of a user's own."""
    lines = [f"{name}: {row.about}." for name, row in rows.items()]
    return "\n".join(lines if own is None else [*lines, f"Your own: {own}."])


def given_or(value: Any, default: Any) -> Any:
    return default if value is None else value


@dataclass(frozen=True)
class Options:
    """Train a Flax model on images, and keep everything about the run in one folder."""

    # None stands for a default that `resolve` fills in, by preset, dataset, model and optimizer.

    preset: Annotated[
        str | None,
        one_of(
            PRESETS,
            help="Options that belong together, as defaults: what you give counts.\n" + described(PRESETS),
            hint="(default: none)",
        ),
    ] = None
    """A name for several options at once, such as airbench. An option that you give counts instead."""
    dataset: Annotated[
        str | None,
        one_of(DATASETS, help=described(DATASETS, "package.module:function"), hint="(default: digits)"),
    ] = None
    """The images, by name, or package.module:function."""
    data_dir: OptionalPath = None
    """Folder of the images, or file of the arrays, for every --dataset but digits."""
    skip_unreadable: bool = False
    """Leave out the pictures that cannot be decoded, and say how many."""
    resident: Literal["auto", "yes", "no"] = "auto"
    """yes: keep all training images on the device, decoded. no: stream them, batch by batch.
    auto: keep them if they take at most a quarter of the device's memory and of the machine's."""
    data_workers: Annotated[
        Int, tyro.conf.arg(help_behavior_hint="(default: one less than the cores, at most 16)")
    ] = None
    """Processes that decode streamed pictures. 0 uses threads of this process instead."""
    follow: bool = False
    """At the beginning of each epoch, take in the pictures that have arrived in the training folder.
    An epoch keeps its number of steps: it has the new pictures and some of the others. All are streamed."""
    model: Annotated[
        str | None,
        one_of(MODELS, help=described(MODELS, "package.module:factory"), hint="(default: by dataset)"),
    ] = None
    """The network, by name, or package.module:factory."""
    classes: Annotated[str | None, tyro.conf.arg(metavar="NAMES", help_behavior_hint="(default: all)")] = None
    """Train and evaluate on these classes alone, by their names or labels, such as cat,dog or 0,2,7-9."""
    image_size: Int = None
    """Resize images to N x N pixels; by default they keep their size.
    Pictures in a folder are scaled until the shorter side has N pixels, and the middle is kept."""

    init_from: Annotated[Path | None, tyro.conf.arg(metavar="RUN_DIR", help_behavior_hint="")] = None
    """Start from the weights of another run of the same model and image size.
    If the classes differ, the head is new. Images are standardised as in that run."""
    freeze: Patterns = ()
    """Keep the parameters of these paths, such as conv1/kernel, norm1 or conv*,norm*. May be repeated.
    A frozen batch normalisation keeps its statistics too, and normalises with them."""

    optimizer: Annotated[str | None, one_of(OPTIMIZERS, hint="(default: nag)")] = None
    """sgd, momentum, adam and adamw come from Optax, the others from this package.
    snoo, ema_nesterov and gpa go around another optimizer, --inner.
    Your own is package.module:factory, called with the learning rate's schedule."""
    inner: Annotated[str | None, one_of(inner_names(), hint="(default: adamw)")] = None
    """The optimizer inside snoo, ema_nesterov or gpa. It takes the other options."""
    learning_rate: Annotated[
        Float, tyro.conf.arg(help_behavior_hint="(default: by dataset, model and optimizer)")
    ] = None
    """Peak learning rate, above 0."""
    momentum: Annotated[
        Float, tyro.conf.arg(help=f"Momentum, in [0, 1); by default {defaults_of('momentum')}.")
    ] = None
    """Momentum, in [0, 1). The default depends on the optimizer."""
    momentum_schedule: Annotated[
        Literal["constant", "sutskever"],
        tyro.conf.arg(
            help="sutskever: raise the momentum every 250 steps, up to --momentum. "
            f"For {', '.join(takers('momentum_schedule'))}."
        ),
    ] = "constant"
    """sutskever: raise the momentum every 250 steps, up to --momentum."""
    schedule: Annotated[ScheduleName | None, one_of(get_args(ScheduleName), hint=TABLE)] = None
    """How the learning rate decays, to 0 at the end.
    triangle: it rises from a fifth of its peak, and decays linearly to 7 % of it."""
    warmup_epochs: FloatInTable = None
    """Epochs in which the learning rate rises linearly to its peak.
    By default it is at most a tenth of all, and 23 % of them for triangle."""
    weight_decay: Annotated[
        Float,
        tyro.conf.arg(
            help="Decoupled weight decay of weight matrices and kernels, at least 0; "
            f"by default {defaults_of('weight_decay')}."
        ),
    ] = None
    """Decoupled weight decay of weight matrices and kernels, at least 0."""
    smoothing: float = 0.0
    """Decay of an exponential moving average of the gradients, in [0, 1); 0 turns it off."""
    clip_norm: Float = None
    """Clip the gradients to this global norm, above 0."""
    adaptive_step: bool = False
    """Take shorter steps while the gradients' norm is above its running average, and longer ones below."""
    restart: Annotated[
        RestartName | None,
        tyro.conf.arg(
            metavar="{gradient,speed,value}",
            help=f"Drop the momentum of {' or '.join(takers('restart'))} when it points uphill (gradient), "
            "when it slows down (speed), or when the loss rose (value).",
            help_behavior_hint="(default: never)",
        ),
    ] = None
    """Drop the momentum when it points uphill, when it slows down, or when the loss rose."""
    prune: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="group_l2=STRENGTH",
            help="Penalise the norm of each hidden unit, a channel of a convolution or a unit of a dense "
            "layer.\nWhole units become exactly zero; the result without them is shown too. "
            f"For {', '.join(takers('prune'))}.",
            help_behavior_hint="(default: none)",
        ),
    ] = None
    """group_l2=STRENGTH: penalise the norm of each hidden unit, so that whole units become exactly zero."""
    num_epochs: IntInTable = None
    """Passes over the training data, at least 1."""
    batch_size: IntInTable = None
    """Examples in a step, over all devices, at least 1."""
    accumulate: int = 1
    """Split each batch into so many parts, at least 1, and run one after the other, which saves memory.
    A step still uses --batch-size examples. Batch normalisation sees one part at a time."""
    seed: int = 0
    """Seed of the initialisation, the order of the data, dropout and augmentation; at least 0."""

    augment: Annotated[AugmentName | None, one_of(get_args(AugmentName), hint="(default: none)")] = None
    """crop-flip: move images by up to an eighth of the side, and mirror half of them.
    alternating-flip: move them by up to a sixteenth, and mirror each of them in every other epoch.
    resized-crop: take a random part of each image, resize it, and mirror half of them."""
    mixup: float = 0.0
    """Train on mixtures of two images, with shares drawn from Beta(A, A). A is at least 0; 0 turns it off."""
    label_smoothing: Annotated[Float, tyro.conf.arg(help_behavior_hint="(default: 0.0)")] = None
    """The part of each label that is spread over all classes, in [0, 1)."""
    precision: Annotated[PrecisionName | None, one_of(get_args(PrecisionName), hint="(default: float32)")] = (
        None
    )
    """bfloat16: compute in bfloat16, with float32 parameters.
    bfloat16-parameters: keep the parameters in bfloat16 too, rounded stochastically.
    auto: bfloat16 on a GPU or TPU, float32 on a CPU.
    Evaluation is in float32."""
    low_memory: bool = False
    """Keep the optimizer's state in one byte a number."""
    ema: float = 0.0
    """Evaluate a moving average of the parameters with this decay, in [0, 1); 0 turns it off."""

    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to train; auto takes the best that JAX finds."""
    num_devices: int = 1
    """Local devices of each process, among which each batch is split, at least 1."""
    shard_optimizer: bool = False
    """Split the optimizer's state over the devices too. Each device has all parameters."""

    coordinator: Annotated[
        str | None, tyro.conf.arg(metavar="HOST:PORT|auto", help_behavior_hint="(default: one process)")
    ] = None
    """Train as one of several processes, which all run this command. Process 0 listens at HOST:PORT.
    auto: ask the cluster for all of this: Slurm, Open MPI or a TPU pod."""
    num_processes: Int = None
    """Number of processes, at least 1."""
    process_id: Int = None
    """Number of this process, from 0."""

    run_dir: OptionalPath = None
    """Folder of the run, by default runs/<dataset>-<model>-<optimizer>-<seed>."""
    resume: bool = False
    """Continue the run in --run-dir from its newest checkpoint, with the options it was started with.
    A larger --num-epochs makes it longer."""
    overwrite: bool = False
    """Replace the run that --run-dir holds."""
    validation: float = 0.0
    """Hold out this share of the training images, in [0, 1), and evaluate it after each epoch.
    The checkpoint with the best accuracy on it is kept, and nag-optax evaluate takes that one."""
    evaluate_every: Annotated[Int, tyro.conf.arg(help_behavior_hint="(default: 1)")] = None
    """Evaluate after every so many epochs, at least 1, and after the last one.
    The lines of the run's metrics are those of these epochs."""
    target_accuracy: Float = None
    """Stop at this accuracy on the --validation images, in (0, 1]."""
    patience: Int = None
    """Stop after this many epochs without a better accuracy on the --validation images, at least 1."""
    tensorboard: bool = False
    """Write the numbers of each epoch for TensorBoard too, into the folder of the run."""
    dry_run: bool = False
    """Say what would be trained, and stop before the first step. Nothing is written."""
    train_only: bool = False
    """Do not evaluate on the test split."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Print the accuracy of a run."""

    run_dir: Annotated[Path, tyro.conf.arg(metavar="RUN_DIR")]
    """Folder of the run, as nag-optax train wrote it."""
    data_dir: OptionalPath = None
    """Place of the data, if it is no longer where it was."""
    skip_unreadable: bool = False
    """Leave out the pictures that cannot be decoded, and say how many; a run that did so does it again."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to evaluate; auto takes the best that JAX finds."""


@dataclass(frozen=True)
class PredictOptions:
    """Print the class and the probabilities of images as a CSV."""

    run_dir: Annotated[Path, tyro.conf.arg(metavar="RUN_DIR")]
    """Folder of the run, as nag-optax train wrote it."""
    paths: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="PATH ...", help_behavior_hint="(required)")]
    """Pictures, folders of pictures, and .npy files of images on the scale of the training images."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Write the CSV there, completely or not at all; by default it is printed."""
    skip_unreadable: bool = False
    """Leave out the pictures that cannot be decoded, and say how many."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to predict; auto takes the best that JAX finds."""


@dataclass(frozen=True)
class ExportOptions:
    """Write a run for a device without JAX: device.py needs NumPy and IREE alone."""

    run_dir: Annotated[Path, tyro.conf.arg(metavar="RUN_DIR")]
    """Folder of the run, as nag-optax train wrote it."""
    what: Literal["predict", "train-step"] = "predict"
    """predict: the model alone, with its weights in the program.
    train-step: a step of the run's optimizer from a fresh state, and the model that reads that state."""
    target: Literal["cpu", "host", "arm64", "stablehlo"] = "cpu"
    """cpu: every processor of this machine's kind. host: this machine's own instructions, which are faster.
    arm64: every 64-bit ARM processor with Linux. stablehlo: for JAX alone, with any batch size."""
    batch_size: Annotated[Int, tyro.conf.arg(help_behavior_hint="(default: 32)")] = None
    """Images that the program takes at once, at least 1. IREE compiles for one size."""
    freeze: Patterns = ()
    """Keep the parameters of these paths, as in nag-optax train. They become constants of the program."""
    learning_rate: Annotated[Float, tyro.conf.arg(help_behavior_hint="(default: the run's)")] = None
    """Learning rate of each step, above 0."""
    low_memory: bool = False
    """Keep the optimizer's state in one byte a number, as a run with --low-memory does in any case."""
    output: OptionalPath = None
    """New folder of the files, by default export in the folder of the run."""
