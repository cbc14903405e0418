"""The optimizers of the command line: one row says all of one. Optax is imported in the factories, because
`--help` shows the rows."""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import optax

    Factory = Callable[..., optax.GradientTransformation]

RestartName = Literal["gradient", "speed", "value"]


class Style(NamedTuple):
    """How a curve is drawn. The dashes tell it apart in black and white too, the mark what is no curve."""

    color: str
    dashes: Any
    marker: Any


class Row(NamedTuple):
    """An optimizer: what it is called, how it is drawn and made, the options that go with it, its rates.

    A new one is a factory and a row of OPTIMIZERS: `nag-optax train` and `nag-optax compare` read them.
    """

    label: str
    style: Style
    make: "Factory"  # takes the rate's schedule, and the options by name
    learning_rates: dict[tuple[str, str], float]  # defaults, by dataset and model
    options: dict[str, Any] = {}  # and their defaults; never written to
    # The same for --prune: takes a prox too and no weight decay, and gives exact zeros. None: there is none.
    pruned: "Factory | None" = None
    scale_free: bool = True  # whether the learning rate is the length of a step, whatever the gradient's

    @property
    def goes_around(self) -> bool:
        """Whether it goes around another optimizer, to which all other options belong."""
        return "inner" in self.options

    def all_options(self, inner: str | None = None) -> dict[str, Any]:
        """The options, those of the optimizer inside included, and their defaults."""
        inside = OPTIMIZERS[inner or self.options["inner"]].options if self.goes_around else {}
        return self.options | inside


def default_learning_rate(optimizer: str, inner: str | None, dataset: str, model: str) -> float:
    """That of the table; around another inner optimizer than the usual one, that one's own."""
    row = OPTIMIZERS[optimizer]
    if row.goes_around and inner is not None and inner != row.options["inner"]:
        row = OPTIMIZERS[inner]
    return row.learning_rates[dataset, model]


def takers(option: str) -> tuple[str, ...]:
    """The optimizers that an option goes with, those around another one apart."""
    return tuple(
        name
        for name, row in OPTIMIZERS.items()
        if option in row.options or (option == "prune" and row.pruned is not None)
    )


def defaults_of(option: str) -> str:
    """The default of each optimizer that takes the option, in words."""
    names: dict[Any, list[str]] = {}
    for name in takers(option):
        names.setdefault(OPTIMIZERS[name].options[option], []).append(name)
    return "; ".join(f"{value:g} for {', '.join(who)}" for value, who in names.items())


def _plain(module: str, name: str) -> "Factory":
    """Of an optimizer that takes the options of its row as they are."""

    def make(rate: "optax.Schedule", **options: Any) -> "optax.GradientTransformation":
        if "weight_decay" in options:
            options["mask"] = _matrices
        return getattr(importlib.import_module(module), name)(rate, **options)

    return make


def _around(name: str) -> "Factory":
    """Of an optimizer of this package that goes around another one."""

    def make(rate: "optax.Schedule", *, inner: str, **options: Any) -> "optax.GradientTransformation":
        import nag_optax

        return getattr(nag_optax, name)(OPTIMIZERS[inner].make(rate, **options))

    return make


def _nag(
    rate: "optax.Schedule", *, weight_decay: float, restart: RestartName | None, **momentum: Any
) -> "optax.GradientTransformation":
    import nag_optax

    return nag_optax.nag(
        rate, _momentum(**momentum), weight_decay=weight_decay, mask=_matrices, restart=restart
    )


def _pruned_nag(
    rate: "optax.Schedule", prox: Any, *, restart: RestartName | None, **momentum: Any
) -> "optax.GradientTransformation":
    import nag_optax

    return nag_optax.fista(rate, prox, momentum=_momentum(**momentum), restart=restart)


def _sgd(rate: "optax.Schedule", *, weight_decay: float) -> "optax.GradientTransformation":
    import optax

    return optax.chain(_decay(weight_decay), optax.scale_by_learning_rate(rate))


def _pruned_sgd(rate: "optax.Schedule", prox: Any) -> "optax.GradientTransformation":
    import optax

    import nag_optax

    return optax.chain(optax.scale_by_learning_rate(rate), nag_optax.proximal(prox, rate))


def _heavy_ball(
    rate: "optax.Schedule", *, momentum: float, weight_decay: float
) -> "optax.GradientTransformation":
    import optax

    return optax.chain(optax.trace(momentum), _decay(weight_decay), optax.scale_by_learning_rate(rate))


def _laprop(
    rate: "optax.Schedule", *, weight_decay: float, restart: RestartName | None, **momentum: Any
) -> "optax.GradientTransformation":
    import nag_optax

    return nag_optax.laprop(
        rate, _momentum(**momentum), weight_decay=weight_decay, mask=_matrices, restart=restart
    )


def _muon(rate: "optax.Schedule", *, weight_decay: float, **momentum: Any) -> "optax.GradientTransformation":
    import optax

    import nag_optax

    return nag_optax.muon(
        rate,
        _momentum(**momentum),
        fallback=optax.adamw(rate, weight_decay=weight_decay, mask=_matrices),
        matrices=_is_hidden_matrix,
        weight_decay=weight_decay,
        mask=_matrices,
    )


def _momentum(momentum: float, momentum_schedule: str) -> Any:
    import nag_optax

    return nag_optax.momentum.sutskever(momentum) if momentum_schedule == "sutskever" else momentum


def _decay(weight_decay: float) -> "optax.GradientTransformation":
    import optax

    return optax.add_decayed_weights(weight_decay, mask=_matrices)


def _matrices(params: Any) -> Any:
    """Weight decay is for kernels: biases and the scales of normalisation stay free."""
    import jax

    return jax.tree.map(lambda p: p.ndim > 1, params)


def _is_hidden_matrix(path: Any, leaf: Any) -> bool:
    """Where Muon applies as published: every kernel, of a convolution too, but that of the head."""
    import jax

    return leaf.ndim > 1 and jax.tree_util.keystr(path[:1], simple=True) != "head"


def _rates(*, mlp: tuple[float, float], cnn: float) -> dict[tuple[str, str], float]:
    """Of the mlp for digits and for MNIST, and of the cnn, which is searched on digits alone."""
    return {
        ("digits", "mlp"): mlp[0],
        ("digits", "cnn"): cnn,
        ("mnist", "mlp"): mlp[1],
        ("mnist", "cnn"): cnn,
    }


_DOTTED, _DASHED, _DASH_DOT = (0, (1, 1)), (0, (5, 1)), (0, (6, 1, 1, 1))

# The palette of nag_optax.plot, then colours that lie far from these and from each other for colour-blind
# readers too. Written out, because --help imports no figures.
OPTIMIZERS = {
    "nag": Row(
        "NAG",
        Style("#0072B2", "-", "D"),
        _nag,
        _rates(mlp=(0.1, 0.03), cnn=0.07),
        {"momentum": 0.9, "momentum_schedule": "constant", "restart": None, "weight_decay": 0.0},
        _pruned_nag,
        scale_free=False,
    ),
    "sgd": Row(
        "gradient descent",
        Style("#000000", _DOTTED, "o"),
        _sgd,
        _rates(mlp=(1.0, 0.3), cnn=1.0),
        {"weight_decay": 0.0},
        _pruned_sgd,
        scale_free=False,
    ),
    "momentum": Row(
        "heavy-ball momentum",
        Style("#E69F00", _DASHED, "s"),
        _heavy_ball,
        _rates(mlp=(0.1, 0.03), cnn=0.1),
        {"momentum": 0.9, "weight_decay": 0.0},
        scale_free=False,
    ),
    "adam": Row(
        "Adam", Style("#D55E00", _DASHED, "^"), _plain("optax", "adam"), _rates(mlp=(0.01, 0.003), cnn=0.1)
    ),
    "adamw": Row(
        "AdamW",
        Style("#872D00", _DOTTED, "<"),
        _plain("optax", "adamw"),
        _rates(mlp=(0.01, 0.003), cnn=0.01),
        {"weight_decay": 1e-4},
    ),
    "nadam": Row(
        "NAdam",
        Style("#783C78", _DASHED, ">"),
        _plain("nag_optax", "nadam"),
        _rates(mlp=(0.01, 0.003), cnn=0.01),
    ),
    "nadamw": Row(
        "NAdamW",
        Style("#CC79A7", "-", "v"),
        _plain("nag_optax", "nadamw"),
        _rates(mlp=(0.01, 0.003), cnn=0.01),
        {"weight_decay": 1e-4},
    ),
    "laprop": Row(
        "LaProp",
        Style("#8800FF", "-", "X"),
        _laprop,
        _rates(mlp=(0.001, 0.0003), cnn=0.001),
        {"momentum": 0.9, "momentum_schedule": "constant", "restart": None, "weight_decay": 0.0},
    ),
    "adan": Row(
        "Adan",
        Style("#009E73", "-", "P"),
        _plain("nag_optax", "adan"),
        _rates(mlp=(0.03, 0.003), cnn=0.03),
        {"weight_decay": 0.0},
    ),
    "muon": Row(
        "Muon",
        Style("#595959", "-", "h"),
        _muon,
        _rates(mlp=(0.003, 0.001), cnn=0.01),
        {"momentum": 0.95, "momentum_schedule": "constant", "weight_decay": 0.0},
    ),
    "snoo": Row(
        "SNOO around AdamW",
        Style("#C3A54B", _DASH_DOT, (4, 1, 0)),
        _around("snoo"),
        _rates(mlp=(0.01, 0.003), cnn=0.03),
        {"inner": "adamw"},
    ),
    "ema_nesterov": Row(
        "EMA-Nesterov around AdamW",
        Style("#3C3CA5", "-", "*"),
        _around("ema_nesterov"),
        _rates(mlp=(0.003, 0.001), cnn=0.003),
        {"inner": "adamw"},
    ),
    "gpa": Row(
        "GPA around AdamW",
        Style("#003C1E", _DASH_DOT, "p"),
        _around("gpa"),
        _rates(mlp=(0.01, 0.003), cnn=0.003),
        {"inner": "adamw"},
    ),
}
INNER = tuple(name for name, row in OPTIMIZERS.items() if not row.goes_around)
