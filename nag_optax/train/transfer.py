"""A checkpoint's facts about its data; `--init-from`, which starts from its weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nag_optax.train.checkpoints import Checkpoints
from nag_optax.train.data import Dataset, Statistics
from nag_optax.train.errors import InputError
from nag_optax.train.folder import CHECKPOINTS, CONFIG
from nag_optax.train.loop import Loop
from nag_optax.train.parallel import Device
from nag_optax.train.rows import Split
from nag_optax.train.spec import Spec, load_spec
from nag_optax.train.step import TrainState


def facts_of(dataset: Dataset) -> dict[str, Any]:
    """The facts about the data in a checkpoint, so that its weights can be used without the data."""
    return {
        "image_shape": list(dataset.image_shape),
        "classes": list(dataset.classes),
        "class_names": list(dataset.class_names),
        "train_images": len(dataset.train.labels),
        "digest": dataset.digest,
        "mean": dataset.statistics.mean.tolist(),
        "std": dataset.statistics.std.tolist(),
        "black": np.asarray(dataset.black).tolist(),
        "white": np.asarray(dataset.white).tolist(),
    }


def check_same_data(dataset: Dataset, facts: dict[str, Any], where: str) -> None:
    """Refuses to go on with a run on other training data, which would be another run."""
    check_same_shapes(dataset, facts, where)
    if dataset.digest != facts["digest"]:
        raise InputError(f"{where}: has other training images or labels than the run")


def check_same_shapes(dataset: Dataset, facts: dict[str, Any], where: str) -> None:
    """Refuses data that the run's model does not take; `where` is the option that chose them."""
    here = facts_of(dataset)
    for name, what, between in (("image_shape", "images of", " x "), ("class_names", "the classes", ", ")):
        ours, theirs = (between.join(map(str, of[name])) for of in (here, facts))
        if ours != theirs:
            raise InputError(f"{where}: has {what} {ours}; the run was trained on {theirs}")


class StoredRun(NamedTuple):
    """A run from its folder alone. Of the data its loop has the shapes and the statistics."""

    spec: Spec
    facts: dict[str, Any]
    loop: Loop
    state: TrainState


def stored_run(folder: Path, devices: list[Device], say: Callable[[str], None]) -> StoredRun:
    """The best checkpoint of a run, else its newest. The data are not needed."""
    spec = load_spec(folder / CONFIG)
    checkpoints = Checkpoints(folder / CHECKPOINTS)
    if (facts := checkpoints.data_facts()) is not None:
        split = Split(np.zeros((1, *facts["image_shape"]), np.uint8), np.zeros(1, np.int32))
        dataset = Dataset(split, split, tuple(facts["classes"]), Statistics.of(facts), facts["digest"])
        loop = Loop(spec, dataset, devices)
        if (restored := checkpoints.restore(loop.init(), say, best=True)) is not None:
            return StoredRun(spec, facts, loop, restored.state)
    raise InputError(f"{folder}: holds no complete checkpoint; train it with nag-optax train")


def starting_weights(
    folder: Path, loop: Loop, devices: list[Device], say: Callable[[str], None]
) -> tuple[tuple[Any, Any], dict[str, Any]]:
    """Parameters and batch statistics of a run's best checkpoint, else its newest; the facts about its data.

    The parameters are those at the iterate to evaluate, with a new head if the classes differ.
    """
    try:
        spec, facts, source, state = stored_run(folder, devices, say)
    except InputError as error:
        raise InputError(f"--init-from {error}") from None
    if spec.model != loop.model:
        raise InputError(f"--init-from {folder}: holds --model {spec.model}; this run has {loop.model}")
    ours, theirs = (" x ".join(map(str, shape)) for shape in (loop.dataset.image_shape, facts["image_shape"]))
    if ours != theirs:
        raise InputError(
            f"--init-from {folder}: was trained on images of {theirs}; these are {ours}; "
            f"--image-size {facts['image_shape'][0]} may help"
        )
    params, model_state = source.eval_state(state)
    name = spec.model_row.head
    if facts["class_names"] == list(loop.dataset.class_names):
        head = "with its head"
    elif name not in params:
        raise InputError(
            f"--init-from {folder}: was trained on other classes, and --model {spec.model} has no module "
            f"{name} to make anew; register the model with the name of its head"
        )
    else:
        params = params | {name: loop.init().params[name]}
        head = "with a new head, for other classes"
    say(f"starting from {folder}, step {int(state.step)}, {head}; images are standardised as there")
    return (params, model_state), facts
