"""The rows of the registry. They import nothing heavy, because `--help` reads them."""

import importlib
import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nag_optax.train.errors import InputError

Factory = str | Callable[..., Any]
"""A callable, or "package.module:name", which is imported when it is used."""


class Split(NamedTuple):
    """Images (N, height, width, channels), uint8 or float32 on their own scale; labels (N,), int32."""

    images: Any
    labels: Any

    def take(self, rows: Any) -> "Split":
        """These examples, chosen by an index of NumPy's or JAX's."""
        return Split(self.images[rows], self.labels[rows])


class Splits(NamedTuple):
    """The result of a dataset. The names, if there are any, belong to the labels 0, 1, …

    Where `test` is None, one sixth of the training images is held out by a hash of their places.
    """

    train: Split
    test: Split | None
    class_names: tuple[str, ...] | None = None


File = tuple[str, int]
"""The path of a picture below the folder of the data, and its size in bytes."""


class Request(NamedTuple):
    """The request to a dataset. With `train_only` the test part may be missing; then it is empty."""

    data_dir: Path | None = None
    image_size: int | None = None
    skip_unreadable: bool = False
    say: Callable[[str], None] = print
    """Prints one line, on what takes long or was left out."""
    watch: Callable[[Iterable[Any], int, str], Iterable[Any]] = lambda items, total, what: items
    """The same items, while a bar shows how many of them are done."""
    train_only: bool = False
    fits: Callable[[int], bool] = lambda _: True
    """Whether images of so many bytes in all are to be held in memory."""
    among: Callable[[list[File]], list[File]] = lambda files: files
    """Those of the files that are training images of this run."""
    labels: dict[str, int] | None = None
    """The labels of the classes that a model knows, by their names; None for a run that begins."""
    chosen: Callable[[Collection[int], Sequence[str]], Collection[int]] = lambda labels, names: labels
    """Those of the labels that the run takes, given the name of each."""


class HiddenLayer(NamedTuple):
    """The paths of a layer and of the next one, which takes its units: `conv1` or `block0/conv1`."""

    kernel: str
    norm: str | None
    next: str

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that hold the parameters of a unit."""
        return (self.kernel,) if self.norm is None else (self.kernel, self.norm)


class Model(NamedTuple):
    """A model, and what else the trainer can do with it.

    Attributes:
        make: takes the image shape (height, width, channels), the number of classes, and `rngs`; where
            there are `widths`, these too. Returns an nnx module, called as `model(images, train=, rngs=)`.
        about: a few words for --help.
        smallest_image: the least number of pixels a side.
        hidden_layers: the layers whose units --prune can remove.
        widths: the number of units of each of them.
        head: the name of the module that is made anew for other classes.
        embeddings: the modules that Muon leaves to AdamW, as it does the head.
        steps_per_report: the steps in one compiled scan, between two looks at the progress.
        steps_on_accelerator: the same where there is one; None for as many as on a CPU.
        in_lanes: whether a CPU trains several of them faster in one program than one after the other.
        prepare: takes the fresh module and some standardised training images, (N, height, width, channels),
            and changes the module, which begins with what they show.
    """

    make: Factory
    about: str = ""
    smallest_image: int = 1
    hidden_layers: tuple[HiddenLayer, ...] = ()
    widths: tuple[int, ...] = ()
    head: str = "head"
    embeddings: tuple[str, ...] = ()
    steps_per_report: int = 1
    steps_on_accelerator: int | None = None
    in_lanes: bool = False
    prepare: Factory | None = None


class Source(NamedTuple):
    """A dataset.

    Attributes:
        load: takes a `Request`, returns `Splits`.
        about: a few words for --help.
        model: the model that trains on it by default.
        data_dir: the place that --data-dir must name, in words; None if the data are built in.
        target: the test accuracy to which `nag-optax compare` counts steps.
    """

    load: Factory
    about: str = ""
    model: str = "cnn"
    data_dir: str | None = None
    target: float = 0.9


class Style(NamedTuple):
    """The style of a curve. Dashes tell it apart in black and white too, and marks tell points apart."""

    color: str
    dashes: Any
    marker: Any


class Optimizer(NamedTuple):
    """An optimizer: its name and style, its factory, its options and its learning rates.

    Attributes:
        make: takes the rate's schedule, and the options by name; around another one, that one alone.
        label: its name in tables and figures.
        style: the style of its curve.
        learning_rate: the rate where no search found one.
        searched: the rates that a search found, by dataset and model; see `SEARCHES`.
        options: the names of its options, with their defaults.
        pruned: the factory for --prune, which takes a prox in place of weight decay and gives exact zeros.
        scale_free: whether the rate is the length of a step, whatever the gradient's.
        of_run: what of the run `make` takes too, by name: `model`, the `Model`, or `num_steps`.
    """

    make: Factory
    label: str
    style: Style = Style("#555555", "-", "o")
    learning_rate: float = 0.001
    searched: dict[tuple[str, str], float] = {}
    options: dict[str, Any] = {}
    pruned: Factory | None = None
    scale_free: bool = True
    of_run: tuple[str, ...] = ()

    @property
    def goes_around(self) -> bool:
        """Whether it goes around another optimizer, to which all other options belong."""
        return "inner" in self.options


class Preset(NamedTuple):
    """Options that belong together, by the names of the fields of `Options`; and a few words for --help."""

    about: str
    options: dict[str, Any]


class Recipe(NamedTuple):
    """The defaults of a model on a dataset."""

    num_epochs: int = 10
    batch_size: int = 128
    schedule: str = "cosine"
    warmup_epochs: float = 1.0


def load_factory(factory: Factory, option: str = "") -> Callable[..., Any]:
    """The callable that "package.module:name" names, also in the working directory.

    An InputError begins with the `option` that named it.
    """
    if callable(factory):
        return factory
    module, _, name = factory.partition(":")
    if "" not in sys.path:
        sys.path.append("")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{option} {factory}: cannot be imported ({error})".lstrip()) from None


def check_call(what: str, call: str, function: Any, *args: Any, **kwargs: Any) -> None:
    """Refuses a function of a user's own that does not take these arguments, which `call` has in words."""
    if inspect.isclass(function):  # A metaclass such as Flax's takes anything.
        function, args = function.__init__, (None, *args)
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        raise InputError(f"{what}: {error}; the trainer calls {call}") from None
