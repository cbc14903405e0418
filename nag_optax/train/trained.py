"""A trained model: the end of a run, which its folder alone gives back; it predicts, and is evaluated."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nag_optax.train.data import Statistics, load_dataset, resize, source_of
from nag_optax.train.errors import InputError, collected_signals, interrupted
from nag_optax.train.folder import SUMMARY, RunFolder
from nag_optax.train.follow import began_with
from nag_optax.train.metrics import logits_of
from nag_optax.train.options import EvaluateOptions, Options
from nag_optax.train.parallel import find_devices
from nag_optax.train.progress import busy, say, shown
from nag_optax.train.runner import train
from nag_optax.train.spec import resolve, with_data_at
from nag_optax.train.transfer import check_same_shapes, stored_run


@dataclass(frozen=True)
class Trained:
    """A trained model, and what it needs to classify images.

    Attributes:
        model: the module, at the iterate to evaluate. `model(images, train=False)` takes standardised images.
        class_names: the names of the classes, in the order of its outputs.
        metrics: the content of `summary.json`; empty for a run that has not ended.
        image_shape: (height, width, channels) of the images that it takes.
        mean: the mean of each channel of the training images, for standardising others.
        std: the standard deviation of each channel, likewise.
        image_size: the side to which images are resized; None for a run that kept their size.
        black: the number of each channel that stands for the 0 of a picture file.
        white: the number that stands for its 255.
    """

    model: Any
    class_names: tuple[str, ...]
    metrics: dict[str, Any]
    image_shape: tuple[int, int, int]
    mean: np.ndarray
    std: np.ndarray
    image_size: int | None = None
    black: Any = 0.0
    white: Any = 255.0

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The probability of each class, the softmax of the model's outputs.

        Args:
            images: (N, height, width, channels), or without channels where there is one, on the scale of
                the training images. A run with an `image_size` takes every height and width.

        Returns:
            (N, classes), float32.

        Raises:
            InputError: if the images have another shape.
        """
        images = self.shaped(np.asarray(images))
        graphdef, state = nnx.split(self.model)
        logits = logits_of(graphdef, (state,), Statistics(self.mean, self.std), images)
        return np.asarray(jax.nn.softmax(logits), np.float32)

    def shaped(self, images: np.ndarray, what: str = "images") -> np.ndarray:
        """The images in the shape that the model takes. An error calls them `what`."""
        height, width, channels = self.image_shape
        shape = (*images.shape, 1) if images.ndim == 3 else images.shape
        sized = self.image_size is not None or shape[1:3] == (height, width)
        if not (
            images.dtype.kind in "uif" and len(shape) == 4 and shape[3] == channels and sized and images.size
        ):
            without = f" or (N, {height}, {width})" if channels == 1 else ""
            raise InputError(
                f"{what}: has shape {images.shape} of {images.dtype}; must be numbers of shape "
                f"(N, {height}, {width}, {channels}){without}"
            )
        images = images.reshape(shape)
        return images if self.image_size is None else resize(images, self.image_size)


def run(options: Options, console: Console | None = None) -> Trained:
    """Trains a model, as `nag-optax train` does, and returns it.

    Args:
        options: the options of `nag-optax train`; None takes a default.
        console: where progress and result are shown; None is standard output.

    Returns:
        The model, at the iterate to evaluate, with its metrics.

    Raises:
        InputError: if an option or a file is wrong; nothing is overwritten then.
        Diverged: if the loss is no longer finite.
        Interrupted: after SIGINT or SIGTERM, once a checkpoint is saved.

    Examples:
        >>> import pathlib, tempfile
        >>> from rich.console import Console
        >>> from sklearn.datasets import load_digits
        >>> from nag_optax.train import Options, run
        >>> folder = pathlib.Path(tempfile.mkdtemp()) / "run"
        >>> with open("/dev/null", "w") as silent:
        ...     trained = run(Options(model="mlp", num_epochs=3, run_dir=folder), Console(file=silent))
        >>> trained.predict(load_digits().images[:5]).shape
        (5, 10)
    """
    if options.dry_run:
        raise InputError("--dry-run: is only for nag-optax train, because it leaves no model to return")
    train(options, console)
    return load(resolve(options).run_dir, device=options.device)


def load(run_dir: Path | str, *, device: str = "auto", say: Callable[[str], None] = print) -> Trained:
    """The model of a run, from its folder alone; it needs no training data.

    Args:
        run_dir: the folder that `run` or `nag-optax train` wrote; the run may still go on.
        device: the place to load it: auto, cpu, gpu or tpu.
        say: called with one line for each damaged checkpoint that is passed over.

    Returns:
        The model of its best checkpoint, else of its newest, at the iterate to evaluate.

    Raises:
        InputError: if the folder holds no run, or no complete checkpoint.

    Examples:
        >>> import pathlib, tempfile
        >>> from rich.console import Console
        >>> from nag_optax.train import Options, load, run
        >>> folder = pathlib.Path(tempfile.mkdtemp()) / "run"
        >>> with open("/dev/null", "w") as silent:
        ...     _ = run(Options(model="mlp", num_epochs=1, run_dir=folder), Console(file=silent))
        >>> load(folder).class_names[:3]
        ('0', '1', '2')
    """
    stored = stored_run(Path(run_dir), find_devices(device, 1), say)
    facts = stored.facts
    height, width, channels = facts["image_shape"]
    return Trained(
        model=stored.loop.module(stored.state),
        class_names=tuple(facts["class_names"]),
        metrics=RunFolder(stored.spec).read(SUMMARY) or {},
        image_shape=(height, width, channels),
        **stored.loop.dataset.statistics._asdict(),
        image_size=stored.spec.image_size,
        black=np.array(facts.get("black", 0.0), np.float32),
        white=np.array(facts.get("white", 255.0), np.float32),
    )


def evaluate(options: EvaluateOptions, console: Console | None = None) -> dict[str, Any]:
    """Prints and returns the accuracy and loss of a run's best checkpoint, else the newest, on each split."""
    console = console or Console()
    with collected_signals() as interrupts:
        devices = find_devices(options.device, 1)
        with busy(console, "reading the model"):
            spec, facts, loop, state = stored_run(options.run_dir, devices, partial(say, console))
        spec = with_data_at(spec, options.data_dir)
        spec = dataclasses.replace(spec, skip_unreadable=spec.skip_unreadable or options.skip_unreadable)
        of_the_run = {}
        if record := RunFolder(spec).pictures():  # What came later must not choose the held-out images anew.
            of_the_run["among"] = partial(began_with, record)
        dataset = load_dataset(spec, facts, console, devices[0], **of_the_run)
        check_same_shapes(dataset, facts, source_of(spec))
        loop.dataset = dataset._replace(statistics=loop.dataset.statistics)

        def look() -> None:
            if interrupts:
                raise interrupted(interrupts, "")

        epochs = int(state.step) / -(-facts["train_images"] // spec.batch_size)
        title = f"{escape(str(options.run_dir))}, epoch {epochs:g} of {spec.num_epochs}"
        table = Table(title=title, title_justify="left")
        for column in ("split", "accuracy", "loss", "images"):
            table.add_column(column, justify="left" if column == "split" else "right")
        results: dict[str, Any] = {}
        splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
        for name, split in splits.items():
            if split is None or not len(split.labels):  # A run with --train-only may have no test split.
                continue
            with busy(console, f"evaluating {name} images"):
                metrics = loop.evaluate(state, split, look)
            results[f"{name}_accuracy"], results[f"{name}_loss"] = metrics.accuracy, metrics.loss
            table.add_row(name, f"{metrics.accuracy:.2%}", shown(metrics.loss), str(len(split.labels)))
        console.print(table)
        return results
