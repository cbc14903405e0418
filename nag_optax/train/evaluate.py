"""`nag-optax evaluate`: the accuracy of a finished run, and predictions for other images."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from nag_optax.train.checkpoints import Checkpoints
from nag_optax.train.data import Dataset, load_dataset, resize, source_of
from nag_optax.train.devices import find_devices
from nag_optax.train.errors import InputError
from nag_optax.train.folder import CHECKPOINTS, CONFIG
from nag_optax.train.loop import Loop
from nag_optax.train.options import EvaluateOptions
from nag_optax.train.progress import shown
from nag_optax.train.signals import collected_signals, interrupted
from nag_optax.train.spec import load_spec
from nag_optax.train.transfer import check_same_shapes, standardised_as


def evaluate(options: EvaluateOptions, console: Console | None = None) -> dict[str, Any]:
    """Prints and returns the accuracy and loss of a run's best checkpoint, else the newest, on each split.

    Raises:
        InputError: if the folder holds no run, or a file is missing, damaged or of another shape.
        Interrupted: after SIGINT or SIGTERM; nothing is written then.
    """
    with collected_signals() as interrupts:
        return _evaluate(options, console or Console(), interrupts)


def _evaluate(options: EvaluateOptions, console: Console, interrupts: list[int]) -> dict[str, Any]:
    run = load_spec(options.run_dir / CONFIG)
    if options.data_dir is not None and run.data_dir is not None:
        run = dataclasses.replace(run, data_dir=options.data_dir)
    devices = find_devices(options.device, 1)
    to_predict = options.predict
    images = None if to_predict is None else _read_images(to_predict)
    checkpoints = Checkpoints(options.run_dir / CHECKPOINTS)
    facts = checkpoints.data_facts()
    # Other data may lack a class.
    dataset = load_dataset(run, None if facts is None else facts["classes"], console)
    if images is not None:
        images = _fitted(images, to_predict, dataset, run.image_size)
    if facts is not None:
        check_same_shapes(dataset, facts, source_of(run))
        dataset = standardised_as(dataset, facts)
    loop = Loop(run, dataset, devices)

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    restored = checkpoints.restore(loop.init(), say, best=True)
    if restored is None:
        raise InputError(f"{options.run_dir}: holds no complete checkpoint; train it with nag-optax train")

    epochs = restored.step / loop.steps_per_epoch
    table = Table(title=f"{options.run_dir}, epoch {epochs:g} of {run.num_epochs}", title_justify="left")
    for column in ("split", "accuracy", "loss", "images"):
        table.add_column(column, justify="left" if column == "split" else "right")
    results: dict[str, Any] = {}
    held_out = () if dataset.validation is None else (("validation", dataset.validation),)
    for name, split in (("train", dataset.train), *held_out, ("test", dataset.test)):
        if interrupts:
            raise interrupted(interrupts, "")
        metrics = loop.evaluate(restored.state, split)
        results[f"{name}_accuracy"], results[f"{name}_loss"] = metrics.accuracy, metrics.loss
        table.add_row(name, f"{metrics.accuracy:.2%}", shown(metrics.loss), str(len(split.labels)))
    console.print(table)

    if images is not None and to_predict is not None:
        if interrupts:
            raise interrupted(interrupts, "; no predictions were written")
        path = to_predict.with_name(to_predict.stem + "-predictions.npy")
        labels = np.array(dataset.classes, np.int32)
        predictions = labels[np.asarray(loop.logits(restored.state, images).argmax(-1))]
        _write(path, predictions)
        say(f"{len(predictions)} predictions written to {path}")
        results["predictions"] = str(path)
    return results


def _write(path: Path, array: np.ndarray) -> None:
    """Complete, or not at all: a file of an earlier run stays until then."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            np.save(file, array)
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error})") from None


def _read_images(path: Path) -> np.ndarray:
    try:
        images = np.load(path, allow_pickle=False)
    except OSError as error:
        raise InputError(f"--predict {path}: cannot be read ({error})") from None
    except (ValueError, EOFError):  # NumPy's own text is of pickles, and of how to allow them.
        raise InputError(
            f"--predict {path}: is no .npy file; it must be an array that numpy.save wrote, of images "
            "(N, height, width) or (N, height, width, channels)"
        ) from None
    if not isinstance(images, np.ndarray) or images.dtype.kind not in "uif":
        raise InputError(f"--predict {path}: must hold one array of numbers, integers or floats")
    if images.size == 0:
        raise InputError(f"--predict {path}: holds no images; its shape is {images.shape}")
    if not (np.abs(images) <= np.finfo(np.float32).max).all():
        raise InputError(f"--predict {path}: holds values that are no finite float32")
    return images


def _fitted(images: np.ndarray, path: Path | None, dataset: Dataset, image_size: int | None) -> np.ndarray:
    """(N, height, width, channels) as the model takes them, or an error that says what it takes."""
    given, channels = images.shape, dataset.image_shape[2]
    if images.ndim == 3 and channels == 1:
        images = images[..., None]
    if images.ndim == 4 and images.shape[3] == channels:
        images = images.astype(np.float32)
        if image_size is not None:
            images = resize(images, image_size)
        if images.shape[1:] == dataset.image_shape:
            return images
    height, width, channels = dataset.image_shape
    raise InputError(
        f"--predict {path}: has shape {given}; must be (N, {height}, {width}, {channels})"
        + (f" or (N, {height}, {width})" if channels == 1 else "")
    )
