"""The optimizers of the command line: one row says all of one. Optax is imported in the factories, because
`--help` shows the rows."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import optax

    from nag_optax.train.config import TrainConfig

    Factory = Callable[[TrainConfig, optax.Schedule], optax.GradientTransformation]
    PrunedFactory = Callable[[TrainConfig, optax.Schedule, Any], optax.GradientTransformation]


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
    make: "Factory"
    learning_rates: dict[tuple[str, str], float]  # defaults, by dataset and model
    options: dict[str, Any] = {}  # and their defaults; never written to
    pruned: "PrunedFactory | None" = None  # with a prox, and exact zeros; None: no --prune
    scale_free: bool = True  # whether the learning rate is the length of a step, whatever the gradient's

    @property
    def goes_around(self) -> bool:
        """Whether it goes around another optimizer, to which all other options belong."""
        return "inner" in self.options


def options_of(optimizer: str, inner: str | None) -> dict[str, Any]:
    """The options that go with an optimizer, those of the one inside it included, and their defaults."""
    own = OPTIMIZERS[optimizer].options
    return own | OPTIMIZERS[inner or own["inner"]].options if OPTIMIZERS[optimizer].goes_around else own


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


def _nag(config: "TrainConfig", rate: "optax.Schedule") -> "optax.GradientTransformation":
    import nag_optax

    assert config.weight_decay is not None
    return nag_optax.nag(
        rate, _momentum(config), weight_decay=config.weight_decay, mask=_matrices, restart=config.restart
    )


def _pruned_nag(config: "TrainConfig", rate: "optax.Schedule", prox: Any) -> "optax.GradientTransformation":
    import nag_optax

    return nag_optax.fista(rate, prox, momentum=_momentum(config), restart=config.restart)


def _sgd(config: "TrainConfig", rate: "optax.Schedule") -> "optax.GradientTransformation":
    import optax

    return optax.chain(_decay(config), optax.scale_by_learning_rate(rate))


def _pruned_sgd(config: "TrainConfig", rate: "optax.Schedule", prox: Any) -> "optax.GradientTransformation":
    import optax

    import nag_optax

    del config
    return optax.chain(optax.scale_by_learning_rate(rate), nag_optax.proximal(prox, rate))


def _heavy_ball(config: "TrainConfig", rate: "optax.Schedule") -> "optax.GradientTransformation":
    import optax

    assert config.momentum is not None
    return optax.chain(optax.trace(config.momentum), _decay(config), optax.scale_by_learning_rate(rate))


def _adam(config: "TrainConfig", rate: "optax.Schedule") -> "optax.GradientTransformation":
    import optax

    del config
    return optax.adam(rate)


def _adamw(config: "TrainConfig", rate: "optax.Schedule") -> "optax.GradientTransformation":
    import optax

    assert config.weight_decay is not None
    return optax.adamw(rate, weight_decay=config.weight_decay, mask=_matrices)


def _nadam(config: "TrainConfig", rate: "optax.Schedule") -> "optax.GradientTransformation":
    import nag_optax

    del config
    return nag_optax.nadam(rate)


def _nadamw(config: "TrainConfig", rate: "optax.Schedule") -> "optax.GradientTransformation":
    import nag_optax

    assert config.weight_decay is not None
    return nag_optax.nadamw(rate, weight_decay=config.weight_decay, mask=_matrices)


def _laprop(config: "TrainConfig", rate: "optax.Schedule") -> "optax.GradientTransformation":
    import nag_optax

    assert config.weight_decay is not None
    return nag_optax.laprop(
        rate, _momentum(config), weight_decay=config.weight_decay, mask=_matrices, restart=config.restart
    )


def _adan(config: "TrainConfig", rate: "optax.Schedule") -> "optax.GradientTransformation":
    import nag_optax

    assert config.weight_decay is not None
    return nag_optax.adan(rate, weight_decay=config.weight_decay, mask=_matrices)


def _muon(config: "TrainConfig", rate: "optax.Schedule") -> "optax.GradientTransformation":
    import nag_optax

    assert config.weight_decay is not None
    return nag_optax.muon(
        rate,
        _momentum(config),
        fallback=_adamw(config, rate),
        matrices=_is_hidden_matrix,
        weight_decay=config.weight_decay,
        mask=_matrices,
    )


def _snoo(config: "TrainConfig", rate: "optax.Schedule") -> "optax.GradientTransformation":
    import nag_optax

    return nag_optax.snoo(_inner(config, rate))


def _ema_nesterov(config: "TrainConfig", rate: "optax.Schedule") -> "optax.GradientTransformation":
    import nag_optax

    return nag_optax.ema_nesterov(_inner(config, rate))


def _gpa(config: "TrainConfig", rate: "optax.Schedule") -> "optax.GradientTransformation":
    import nag_optax

    return nag_optax.gpa(_inner(config, rate))


def _inner(config: "TrainConfig", rate: "optax.Schedule") -> "optax.GradientTransformation":
    assert config.inner is not None
    return OPTIMIZERS[config.inner].make(config, rate)


def _momentum(config: "TrainConfig") -> Any:
    import nag_optax

    assert config.momentum is not None
    sutskever = config.momentum_schedule == "sutskever"
    return nag_optax.momentum.sutskever(config.momentum) if sutskever else config.momentum


def _decay(config: "TrainConfig") -> "optax.GradientTransformation":
    import optax

    assert config.weight_decay is not None
    return optax.add_decayed_weights(config.weight_decay, mask=_matrices)


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
    "adam": Row("Adam", Style("#D55E00", _DASHED, "^"), _adam, _rates(mlp=(0.01, 0.003), cnn=0.1)),
    "adamw": Row(
        "AdamW",
        Style("#872D00", _DOTTED, "<"),
        _adamw,
        _rates(mlp=(0.01, 0.003), cnn=0.01),
        {"weight_decay": 1e-4},
    ),
    "nadam": Row("NAdam", Style("#783C78", _DASHED, ">"), _nadam, _rates(mlp=(0.01, 0.003), cnn=0.01)),
    "nadamw": Row(
        "NAdamW",
        Style("#CC79A7", "-", "v"),
        _nadamw,
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
        _adan,
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
        _snoo,
        _rates(mlp=(0.01, 0.003), cnn=0.03),
        {"inner": "adamw"},
    ),
    "ema_nesterov": Row(
        "EMA-Nesterov around AdamW",
        Style("#3C3CA5", "-", "*"),
        _ema_nesterov,
        _rates(mlp=(0.003, 0.001), cnn=0.003),
        {"inner": "adamw"},
    ),
    "gpa": Row(
        "GPA around AdamW",
        Style("#003C1E", _DASH_DOT, "p"),
        _gpa,
        _rates(mlp=(0.01, 0.003), cnn=0.003),
        {"inner": "adamw"},
    ),
}
INNER = tuple(name for name, row in OPTIMIZERS.items() if not row.goes_around)
