"""Datasets: images and labels, a held-out test split, the training set's statistics.

Each source has a file of its own. All of them share the numbering of classes and the checks here.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from nag_optax.train.data.parts import in_test_part, readable, split_off
from nag_optax.train.data.pictures import Pictures, sample
from nag_optax.train.errors import InputError
from nag_optax.train.parallel import Device, stays_resident
from nag_optax.train.progress import busy, say, watched
from nag_optax.train.registry import dataset_row
from nag_optax.train.rows import Request, Split, Splits, check_call, load_factory
from nag_optax.train.spec import Spec

_SAMPLED = 2048
"""So many pictures of a folder give the mean and the deviation of all."""


class Statistics(NamedTuple):
    """The mean and deviation of each channel. A compiled program takes them as arguments."""

    mean: Any
    std: Any

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Statistics":
        """Those among the facts about a model's data."""
        return cls(np.array(facts["mean"], np.float32), np.array(facts["std"], np.float32))

    def standardise(self, images: jax.Array) -> jax.Array:
        """The images in float32. Those behind the statistics have mean 0 and deviation 1 in each channel."""
        return (images.astype(jnp.float32) - self.mean) / self.std


class Dataset(NamedTuple):
    """Two splits, and the statistics of the training images."""

    train: Split
    test: Split
    classes: tuple[int, ...]  # the label in the files of each class
    statistics: Statistics
    digest: str
    """A digest of all training images and labels, before images are resized or held out.

    The names and sizes of the files stand for the pictures in a folder.
    """
    validation: Split | None = None
    class_names: tuple[str, ...] = ()
    """The name of each class, or its label where the source has no names."""
    streamed: bool = False
    """Whether the images are brought to the devices batch by batch."""
    black: Any = 0.0
    """The number of each channel that stands for the 0 of a picture file."""
    white: Any = 255.0
    """The number that stands for its 255."""

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    @property
    def sizes(self) -> str:
        """How many images and classes there are, in words."""
        splits = {"training": self.train, "validation": self.validation, "test": self.test}
        counts = [f"{len(split.labels):,} {name}" for name, split in splits.items() if split is not None]
        return f"{', '.join(counts[:-1])} and {counts[-1]} images of {self.num_classes} classes"

    def sample(self) -> np.ndarray:
        """Some standardised training images of two million pixels in all, always the same ones."""
        images, (height, width, _) = self.train.images, self.image_shape
        rows = sample(len(images), max(1, 2**21 // (height * width)))
        return np.asarray(self.statistics.standardise(jnp.asarray(images[rows])))


def load_dataset(
    spec: Spec,
    facts: Mapping[str, Any] | None = None,
    console: Console | None = None,
    device: Device | None = None,
    **of_the_run: Any,
) -> Dataset:
    """The dataset of a run. The classes are those of the `facts` about a model's data, if they are given."""
    load = load_factory(dataset_row(spec.dataset).load, "--dataset")
    resident = partial(stays_resident, spec.resident, device or jax.local_devices()[0])
    console = console or Console()
    source = source_of(spec)

    def choose(labels: Any, names: Sequence[str] | None) -> Sequence[int]:
        if spec.classes is None:
            return labels
        return _chosen(spec, labels, names) if facts is None else facts["classes"]

    request = Request(
        spec.data_dir,
        spec.image_size,
        spec.skip_unreadable,
        say=partial(say, console),
        watch=partial(watched, console),
        train_only=spec.train_only,
        fits=resident,
        labels=None if facts is None else dict(zip(facts["class_names"], facts["classes"], strict=True)),
        chosen=choose,
        **of_the_run,
    )
    train, test, names = _parts(load, request, source)
    if spec.classes is not None:
        chosen = choose(train.labels, names)
        train, test = (split.take(np.isin(split.labels, chosen)) for split in (train, test))
    classes = tuple(np.unique(train.labels).tolist() if facts is None else facts["classes"])
    class_names = _names(classes, names)
    if len(classes) < 2:
        raise InputError(
            f"{source}: the classes of its training images are {_listed(class_names) or 'none'}; must be two "
            "at least"
        )
    unknown = np.setdiff1d(np.concatenate([train.labels, test.labels]), classes).tolist()
    if unknown:
        raise InputError(
            f"{source}: holds images of {_listed(_names(unknown, names))}, which the model does not learn; "
            f"its classes are {', '.join(class_names)}. Add training images, or name classes with --classes"
        )
    train, test = (
        Split(images, np.searchsorted(classes, labels).astype(np.int32)) for images, labels in (train, test)
    )
    digest = _digest(train)  # What a resize gives may differ between devices in the last bit.
    black, white = _ends_of(train.images)
    if spec.image_size is not None:
        with busy(console, "resizing images"):
            train, test = (Split(resize(s.images, spec.image_size), s.labels) for s in (train, test))
    validation = None
    if spec.validation:
        train, validation = split_off(train, round(spec.validation * len(train.labels)))
    seen = train.images
    if isinstance(seen, Pictures):  # Whether they are decoded or not: the numbers are the same.
        seen = seen[sample(len(seen), _SAMPLED)].decoded(request.watch)
    train, test, validation = _in_memory(train), _in_memory(test), validation and _in_memory(validation)
    streamed = isinstance(train.images, Pictures) or not resident(train.images.nbytes)
    statistics = statistics_of(seen)
    return Dataset(train, test, classes, statistics, digest, validation, class_names, streamed, black, white)


def _parts(load: Callable[[Request], Any], request: Request, source: str) -> tuple[Split, Split, Any]:
    """The training part, the test part, and the names of the labels. A user's own source is checked too."""
    call = "load(request), which returns (train, test, names)"
    check_call(source, call, load, request)
    with readable():
        loaded = load(request)
    if not isinstance(loaded, tuple | list):
        raise InputError(f"{source}: returns {type(loaded).__name__}; the trainer calls {call}")
    train, test, names = Splits(*loaded)
    train = _checked(train, f"{source}, training part")
    if test is not None:
        test = _checked(test, f"{source}, test part")
    elif request.train_only:
        test = train.take([])
    else:
        held_out = np.array([in_test_part(str(row)) for row in range(len(train.labels))], bool)
        train, test = train.take(~held_out), train.take(held_out)
    shape, of_test = train.images.shape[1:], test.images.shape[1:]
    if shape != of_test:
        raise InputError(f"{source}: training images are {shape}, test images {of_test}; must have one shape")
    if not len(test.labels) and not request.train_only:
        raise InputError(f"{source}: holds no test images; add some, or say --train-only")
    return train, test, names


def _checked(split: Any, where: str) -> Split:
    """The part with images (N, height, width, channels) in uint8 or float32, and N labels."""
    images, labels = split
    if isinstance(images, Pictures):
        return Split(images, labels)
    images, labels = np.asarray(images), np.asarray(labels)
    if labels.shape == (len(images), 1):  # As Keras has those of CIFAR.
        labels = labels[:, 0]
    if (
        images.ndim not in (3, 4)
        or images.dtype.kind not in "uif"
        or labels.shape != images.shape[:1]
        or labels.dtype.kind not in "ui"
        or labels.min(initial=0) < 0
    ):
        raise InputError(
            f"{where}: has images of shape {images.shape} and {images.dtype}, and labels of shape "
            f"{labels.shape} and {labels.dtype}; must be numbers of shape (N, height, width) or (N, height, "
            "width, channels), and N whole numbers of at least 0"
        )
    images = images if images.ndim == 4 else images[..., None]
    return Split(images if images.dtype == np.uint8 else as_float32(images, where), labels)


def as_float32(images: np.ndarray, where: str) -> np.ndarray:
    """The images in float32, if it holds them."""
    if not (np.abs(images) <= np.finfo(np.float32).max).all():
        raise InputError(f"{where}: holds values that are no finite float32")
    return images.astype(np.float32)


def _in_memory(split: Split) -> Split:
    """The split with the pixels of its pictures, if they are decoded already."""
    if isinstance(split.images, Pictures) and split.images.pixels is not None:
        return split._replace(images=split.images.pixels)
    return split


def _names(classes: Sequence[int], names: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(str(i) if names is None or i >= len(names) else names[i] for i in classes)


def _ends_of(images: Any) -> tuple[Any, Any]:
    """0 and 255 where the images have the scale of picture files, else the least and the largest numbers."""
    if isinstance(images, Pictures):
        return 0.0, 255.0
    # Dark pictures have the scale too. Digits end at 16.
    if images.min() >= 0 and 32 <= images.max() <= 255:
        return 0.0, 255.0
    return images.min((0, 1, 2)), images.max((0, 1, 2))


def statistics_of(images: np.ndarray) -> Statistics:
    # In float64: a float32 sum over millions of pixels is wrong in the third digit.
    mean = images.mean((0, 1, 2), dtype=np.float64).astype(np.float32)
    std = images.std((0, 1, 2), dtype=np.float64).astype(np.float32)
    return Statistics(mean, np.maximum(std, 1e-6))


def source_of(spec: Spec) -> str:
    """The option that chose the dataset, and its value."""
    return f"--dataset {spec.dataset}" if spec.data_dir is None else f"--data-dir {spec.data_dir}"


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Images (N, size, size, channels), float32, bilinear and antialiased, in pieces to spare memory."""
    n, height, width, channels = images.shape
    if (height, width) == (size, size):
        return images
    if not n:
        return np.zeros((0, size, size, channels), np.float32)
    shape = (size, size, channels)
    scale = jax.jit(jax.vmap(lambda image: jax.image.resize(image.astype(jnp.float32), shape, "linear")))
    pieces = [np.asarray(scale(images[i : i + 4096])) for i in range(0, n, 4096)]
    return np.concatenate(pieces)


def _digest(split: Split) -> str:
    images = split.images
    if isinstance(images, Pictures):
        names = np.frombuffer(b"\0".join(images.names.tolist()), np.uint8)
        arrays = (names, images.sizes, split.labels)
    else:
        arrays = split
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _chosen(spec: Spec, labels: Any, names: Sequence[str] | None) -> list[int]:
    """The labels that --classes chooses by their names, by themselves, or by a range of them."""
    there = np.unique(labels).tolist()
    known = {str(label): label for label in there} | dict(zip(_names(there, names), there, strict=True))
    chosen = []
    for part in str(spec.classes).split(","):
        first, _, last = part.strip().partition("-")
        of_part = [part.strip()]
        if of_part[0] not in known and first.isdecimal() and last.isdecimal():
            of_part = [str(label) for label in range(int(first), int(last) + 1)] or of_part
        chosen += of_part
    if unknown := [name for name in chosen if name not in known]:
        raise InputError(
            f"--classes {spec.classes}: --dataset {spec.dataset} has no {_listed(unknown)}; "
            f"its classes are {', '.join(_names(there, names))}"
        )
    return [known[name] for name in chosen]


def _listed(labels: Sequence[Any]) -> str:
    return ", ".join(map(str, labels[:5])) + (f" and {len(labels) - 5} more" if labels[5:] else "")
