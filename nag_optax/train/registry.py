"""Every model, dataset and optimizer of the trainer by its name. One row says all about one.

A new one is one factory and one row, here or by `register_model`, `register_dataset` and
`register_optimizer`; `nag-optax train` and `nag-optax compare` read them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from nag_optax.train.errors import InputError
from nag_optax.train.rows import Factory, HiddenLayer, Model, Optimizer, Preset, Recipe, Source, Style

_Row = TypeVar("_Row", Model, Source, Optimizer)


def _residual(blocks: tuple[int, ...], bottleneck: bool) -> dict[str, Any]:
    """The hidden layers of a residual network: all convolutions of a block but the last, and their widths."""
    pairs = [("conv1", "norm1", "conv2"), ("conv2", "norm2", "conv3")][: 2 if bottleneck else 1]
    names = [(stage, f"stage{stage}_block{i}") for stage, count in enumerate(blocks) for i in range(count)]
    layers = [HiddenLayer(*(f"{name}/{part}" for part in pair)) for _, name in names for pair in pairs]
    widths = [64 * 2**stage for stage, _ in names for _ in pairs]
    return {"hidden_layers": tuple(layers), "widths": tuple(widths)}


MODELS = {
    "mlp": Model(
        "nag_optax.train.models.mlp:MLP",
        "one hidden layer of 128",
        hidden_layers=(HiddenLayer("hidden", None, "head"),),
        widths=(128,),
        steps_per_report=100,
        in_lanes=True,
    ),
    "cnn": Model(
        "nag_optax.train.models.cnn:CNN",
        "two convolutions of 64, a dense layer of 512, batch norm",
        smallest_image=4,  # Two halvings by pooling leave at least one pixel.
        hidden_layers=(
            HiddenLayer("conv1", "norm1", "conv2"),
            HiddenLayer("conv2", "norm2", "dense"),
            HiddenLayer("dense", "norm3", "head"),
        ),
        widths=(64, 64, 512),
        steps_per_report=25,
    ),
    "resnet18": Model(
        "nag_optax.train.models.resnet:resnet18",
        "residual network of 18 layers",
        **_residual((2, 2, 2, 2), False),
    ),
    "resnet50": Model(
        "nag_optax.train.models.resnet:resnet50",
        "residual network of 50 layers",
        **_residual((3, 4, 6, 3), True),
    ),
    "vit": Model(
        "nag_optax.train.models.vit:ViT",
        "a small vision transformer, 6 blocks of width 192",
        hidden_layers=tuple(HiddenLayer(f"block{i}/up", None, f"block{i}/down") for i in range(6)),
        widths=(768,) * 6,
        embeddings=("patch",),
        steps_per_report=5,
    ),
    "airbench": Model(
        "nag_optax.train.models.airbench:Airbench",
        "the fast network for CIFAR-10, six convolutions of 64 to 256 behind whitened patches",
        smallest_image=13,  # The third block has images of 3 pixels a side.
        steps_on_accelerator=500,
        prepare="nag_optax.train.models.airbench:whiten",
    ),
}

DATASETS = {
    "digits": Source("nag_optax.train.data.digits:load", "scikit-learn's 1,797 digits", target=0.97),
    "mnist": Source(
        "nag_optax.train.data.idx:load",
        "any set of four IDX files, as MNIST's and EMNIST's",
        model="mlp",
        data_dir="the folder that holds its four IDX files",
        target=0.97,
    ),
    "cifar10": Source(
        "nag_optax.train.data.cifar:load_10",
        "the binary files of CIFAR-10",
        data_dir="the folder that holds data_batch_1.bin",
    ),
    "cifar100": Source(
        "nag_optax.train.data.cifar:load_100",
        "the binary files of CIFAR-100",
        data_dir="the folder that holds train.bin",
    ),
    "folder": Source(
        "nag_optax.train.data.folder:load",
        "pictures in train/CLASS, and test/CLASS or val/CLASS; without these, one sixth is held out",
        data_dir="the folder that holds a folder of pictures for each class",
    ),
    "arrays": Source(
        "nag_optax.train.data.arrays:load",
        "an .npz file with train_images, train_labels, test_images, test_labels, or Keras's x_train, …",
        data_dir="the .npz file",
    ),
}

RECIPES = {
    ("digits", "mlp"): Recipe(60, 32, "cosine", 1.0),
    ("digits", "cnn"): Recipe(12, 32, "linear", 1.0),
    ("mnist", "mlp"): Recipe(5, 64, "linear", 0.5),
    ("mnist", "cnn"): Recipe(3, 64, "linear", 0.3),
}
"""Recipes by dataset and model, where the defaults of `Recipe` are not the best known."""

SEARCHES = {
    ("digits", "mlp"): "benchmarks/results/tuning-digits-mlp.json",
    ("digits", "cnn"): "benchmarks/results/tuning-digits-cnn.json",
    ("mnist", "mlp"): "benchmarks/results/tuning-mnist-mlp.json",
}
"""The search that found the learning rates of a dataset and model; a test compares them."""


_HERE = "nag_optax.train.optimizers"
_DOTTED, _DASHED, _DASH_DOT = (0, (1, 1)), (0, (5, 1)), (0, (6, 1, 1, 1))
_DECAY: dict[str, Any] = {"weight_decay": 0.0}
_HEAVY_BALL = {"momentum": 0.9, **_DECAY}
_ACCELERATED = {**_HEAVY_BALL, "momentum_schedule": "constant", "restart": None}
_MUON = {"momentum": 0.95, "momentum_schedule": "constant", **_DECAY}
_ADAMW, _AROUND = {"weight_decay": 1e-4}, {"inner": "adamw"}


def _tuned(
    make: str, label: str, style: Sequence[Any], rates: Sequence[float], options: Any = None, **fields: Any
) -> Optimizer:
    """A row; its rate where no search found one comes first in the rates, then those of `SEARCHES`."""
    usual, *searched = rates
    found = dict(zip(SEARCHES, searched, strict=True))
    make = make if ":" in make else f"{_HERE}:{make}"
    return Optimizer(make, label, Style(*style), usual, found, options or {}, **fields)


# The palette of nag_optax.plot, then colours that lie far from these and from each other for colour-blind
# readers too. Written out, because --help imports no figures.
OPTIMIZERS = {
    "nag": _tuned(
        "nag",
        "NAG",
        ("#0072B2", "-", "D"),
        (0.05, 0.1, 0.07, 0.03),
        _ACCELERATED,
        pruned=f"{_HERE}:pruned_nag",
        scale_free=False,
    ),
    "sgd": _tuned(
        "sgd",
        "gradient descent",
        ("#000000", _DOTTED, "o"),
        (0.3, 1.0, 1.0, 0.3),
        _DECAY,
        pruned=f"{_HERE}:pruned_sgd",
        scale_free=False,
    ),
    "momentum": _tuned(
        "heavy_ball",
        "heavy-ball momentum",
        ("#E69F00", _DASHED, "s"),
        (0.05, 0.1, 0.1, 0.03),
        _HEAVY_BALL,
        scale_free=False,
    ),
    "adam": _tuned("optax:adam", "Adam", ("#D55E00", _DASHED, "^"), (0.001, 0.01, 0.1, 0.003)),
    "adamw": _tuned("adamw", "AdamW", ("#872D00", _DOTTED, "<"), (0.001, 0.01, 0.01, 0.003), _ADAMW),
    "nadam": _tuned("nag_optax:nadam", "NAdam", ("#783C78", _DASHED, ">"), (0.001, 0.01, 0.01, 0.003)),
    "nadamw": _tuned("nadamw", "NAdamW", ("#CC79A7", "-", "v"), (0.001, 0.01, 0.01, 0.003), _ADAMW),
    "laprop": _tuned("laprop", "LaProp", ("#8800FF", "-", "X"), (0.0003, 0.001, 0.001, 0.0003), _ACCELERATED),
    "adan": _tuned("adan", "Adan", ("#009E73", "-", "P"), (0.003, 0.03, 0.03, 0.003), _DECAY),
    "muon": _tuned(
        "muon", "Muon", ("#595959", "-", "h"), (0.001, 0.003, 0.01, 0.001), _MUON, of_run=("model",)
    ),
    "snoo": _tuned(
        "nag_optax:snoo",
        "SNOO around AdamW",
        ("#C3A54B", _DASH_DOT, (4, 1, 0)),
        (0.001, 0.01, 0.03, 0.003),
        _AROUND,
    ),
    "ema_nesterov": _tuned(
        "nag_optax:ema_nesterov",
        "EMA-Nesterov around AdamW",
        ("#3C3CA5", "-", "*"),
        (0.001, 0.003, 0.003, 0.001),
        _AROUND,
    ),
    "gpa": _tuned(
        "nag_optax:gpa", "GPA around AdamW", ("#003C1E", _DASH_DOT, "p"), (0.001, 0.01, 0.003, 0.003), _AROUND
    ),
}

TUNED = {
    "nag-lookahead": Optimizer(
        "nag_optax.train.models.airbench:nag_with_lookahead",
        "NAG in Lookahead",
        learning_rate=1.5,
        options={"momentum": 0.85, "weight_decay": 0.0153 / 11.5},
        of_run=("num_steps",),
    ),
}
"""Optimizers of a preset, which are tuned for it alone and not compared with others."""

PRESETS = {
    "airbench": Preset(
        "the fast training on CIFAR-10 of arXiv:2404.00498, in one compiled program on a GPU",
        {
            **{"dataset": "cifar10", "model": "airbench", "optimizer": "nag-lookahead"},
            **{"schedule": "triangle", "num_epochs": 10, "batch_size": 1024},
            **{"augment": "alternating-flip", "label_smoothing": 0.2},
            **{"precision": "auto", "evaluate_every": 10},
        },
    )
}


def register_model(name: str, make: Factory, **fields: Any) -> None:
    """Makes a model known by a name, to `Options` and to the command line of this process.

    Args:
        name: the name for `--model`. A row of that name is replaced.
        make: the factory, as `Model` describes it.
        **fields: other fields of `Model`, by name.

    Examples:
        >>> import nag_optax.train
        >>> nag_optax.train.register_model("net", "my_package.models:Net", smallest_image=8)
    """
    MODELS[name] = Model(make, **fields)


def register_dataset(name: str, load: Factory, **fields: Any) -> None:
    """Makes a dataset known by a name; see `register_model` and `Source`."""
    DATASETS[name] = Source(load, **fields)


def register_optimizer(name: str, make: Factory, **fields: Any) -> None:
    """Makes an optimizer known by a name; see `register_model` and `Optimizer`."""
    OPTIMIZERS[name] = Optimizer(make, **{"label": name, **fields})


def model_row(name: str) -> Model:
    """The row of a model, also of a user's own, "package.module:factory"."""
    return Model(name) if ":" in name else _row("--model", MODELS, name)


def dataset_row(name: str) -> Source:
    """The row of a dataset, also of a user's own; see `model_row`."""
    return Source(name) if ":" in name else _row("--dataset", DATASETS, name)


def optimizer_row(name: str) -> Optimizer:
    """The row of an optimizer, also of a user's own; see `model_row`."""
    return Optimizer(name, name) if ":" in name else _row("--optimizer", OPTIMIZERS | TUNED, name)


def preset_row(name: str) -> Preset:
    if name not in PRESETS:
        raise InputError(f"--preset {name}: must be one of {', '.join(PRESETS)}")
    return PRESETS[name]


def _row(option: str, rows: Mapping[str, _Row], name: str) -> _Row:
    if name not in rows:
        raise InputError(f"{option} {name}: must be one of {', '.join(rows)}, or package.module:name")
    return rows[name]


def recipe(dataset: str, model: str) -> Recipe:
    return RECIPES.get((dataset, model), Recipe())


def inner_names() -> tuple[str, ...]:
    """The optimizers that another one can go around."""
    return tuple(name for name, row in OPTIMIZERS.items() if not row.goes_around)


def all_options(optimizer: Optimizer, inner: str | None = None) -> dict[str, Any]:
    """The options of the optimizer and of the one inside of it, and their defaults."""
    inside = optimizer_row(inner or optimizer.options["inner"]).options if optimizer.goes_around else {}
    return optimizer.options | inside


def default_learning_rate(optimizer: Optimizer, inner: str | None, dataset: str, model: str) -> float:
    """The searched rate, else the optimizer's own. Around an unusual inner optimizer it is that one's."""
    if optimizer.goes_around and inner is not None and inner != optimizer.options["inner"]:
        optimizer = optimizer_row(inner)
    return optimizer.searched.get((dataset, model), optimizer.learning_rate)


def takes(optimizer: Optimizer, option: str) -> bool:
    """Whether an option goes with the optimizer itself."""
    return option in optimizer.options or (option == "prune" and optimizer.pruned is not None)


def takers(option: str) -> tuple[str, ...]:
    """The optimizers that an option goes with, without those around another one."""
    return tuple(name for name, row in OPTIMIZERS.items() if takes(row, option))


def defaults_of(option: str) -> str:
    """The default of each optimizer that takes the option, in words."""
    names: dict[Any, list[str]] = {}
    for name in takers(option):
        names.setdefault(OPTIMIZERS[name].options[option], []).append(name)
    return "; ".join(f"{value:g} for {', '.join(who)}" for value, who in names.items())
