"""Every optimizer of the package, once. One row here is all that the contract tests need."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import nag_optax
from tests.helpers import float_count, rising, wavering


@dataclasses.dataclass(frozen=True)
class Case:
    """An optimizer and what it promises.

    Attributes:
        name: its name in the test's id.
        factory: takes the hyperparameters, returns the transformation.
        hyperparameters: what the factory is called with. Numbers are also injected, traced, vmapped.
        buffers: parameter-sized arrays in the state, for each parameter.
        lean: as few bytes as `optax.sgd(nesterov=True)` moves, and no copy of a buffer.
        copies: of a parameter-sized array that a donated step may hold. The step that keeps x itself
            needs the old p and x for both of the new ones; one that keeps the gradient as well copies
            it, and XLA the old one, which two loops read.
        all_reduces: scalars that the update reduces over devices.
        exchanges: times that devices exchange parts of a leaf: a function of the whole matrix cannot be
            computed row by row.
        rounding: what float32 rounding may leave in a parameter, for an update that magnifies it.
        exhaustive: other rows run its code; it has a place in the exhaustive run alone.
    """

    name: str
    factory: Callable[..., optax.GradientTransformation]
    hyperparameters: Mapping[str, Any]
    buffers: int = 1
    lean: bool = True
    copies: int = 0
    all_reduces: int = 0
    exchanges: int = 0
    rounding: float = 0.0
    exhaustive: bool = False

    def make(self, **changed: Any) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(self.factory(**{**self.hyperparameters, **changed}))

    @property
    def numbers(self) -> Mapping[str, float]:
        return {k: v for k, v in self.hyperparameters.items() if isinstance(v, float)}

    @property
    def static(self) -> tuple[str, ...]:
        """Names that `inject_hyperparams` must leave alone: schedules and functions that are not a
        learning rate."""
        return tuple(k for k, v in self.hyperparameters.items() if callable(v) and k != "learning_rate")


def _case(name: str, factory: Callable, promises: dict[str, Any] | None = None, **kwargs: Any) -> Case:
    return Case(name, factory, MappingProxyType(kwargs), **(promises or {}))


def accelerated_sgd(
    learning_rate: optax.ScalarOrSchedule,
    momentum: nag_optax.momentum.Momentum,
    restart: Any = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformation:
    accelerate = nag_optax.accelerate(momentum, restart=restart, accumulator_dtype=accumulator_dtype)
    return optax.chain(optax.sgd(learning_rate), accelerate)


def wavering_nag(
    learning_rate: optax.ScalarOrSchedule, momentum: jax.typing.ArrayLike, accumulator_dtype: Any = None
) -> optax.GradientTransformation:
    return nag_optax.nag(learning_rate, wavering(momentum), accumulator_dtype=accumulator_dtype)


def nesterov_sgd(
    learning_rate: optax.ScalarOrSchedule,
    momentum: nag_optax.momentum.Momentum,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformation:
    nesterov = nag_optax.scale_by_nesterov(momentum, accumulator_dtype=accumulator_dtype)
    return optax.chain(nesterov, optax.scale_by_learning_rate(learning_rate))


def proximal_nag(
    learning_rate: optax.ScalarOrSchedule,
    momentum: nag_optax.momentum.Momentum,
    strength: jax.typing.ArrayLike,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformation:
    """Strength on the squares alone: the minimum stays near, and a complex parameter is two real ones."""
    return optax.chain(
        optax.sgd(learning_rate),
        nag_optax.proximal(nag_optax.prox.elastic_net(0.0, strength), learning_rate),
        nag_optax.accelerate(momentum, accumulator_dtype=accumulator_dtype),
    )


def muon_and_nag(
    learning_rate: optax.ScalarOrSchedule,
    momentum: nag_optax.momentum.Momentum,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformation:
    """With a fallback that has one buffer too, so that one number describes the state."""
    fallback = nag_optax.nag(learning_rate, momentum, accumulator_dtype=accumulator_dtype)
    return nag_optax.muon(
        learning_rate,
        momentum,
        fallback=fallback,
        shape_scaling="original",
        accumulator_dtype=accumulator_dtype,
    )


def gradient_norm_nag(
    learning_rate: optax.ScalarOrSchedule,
    momentum: nag_optax.momentum.Momentum,
    decay: jax.typing.ArrayLike,
    max_scale: jax.typing.ArrayLike,
    exponent: jax.typing.ArrayLike = 1.0,
    min_scale: jax.typing.ArrayLike = 0.1,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformation:
    return optax.chain(
        nag_optax.scale_by_gradient_norm(decay, exponent, min_scale, max_scale),
        nag_optax.nag(learning_rate, momentum, accumulator_dtype=accumulator_dtype),
    )


def conditioned_sgd(rule: Callable[..., nag_optax.momentum.MomentumRule]) -> Callable:
    """Of a rule that takes a condition number, which is then a hyperparameter like any other."""

    def factory(
        learning_rate: optax.ScalarOrSchedule, condition_number: Any, accumulator_dtype: Any = None
    ) -> optax.GradientTransformation:
        return accelerated_sgd(learning_rate, rule(condition_number), accumulator_dtype=accumulator_dtype)

    return factory


def snoo_sgd(
    learning_rate: optax.ScalarOrSchedule,
    outer_learning_rate: optax.ScalarOrSchedule,
    outer_momentum: nag_optax.momentum.Momentum,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformation:
    return nag_optax.snoo(
        optax.sgd(learning_rate),
        3,
        outer_learning_rate,
        outer_momentum,
        accumulator_dtype=accumulator_dtype,
    )


def ema_nesterov_sgd(
    learning_rate: optax.ScalarOrSchedule,
    lookahead: optax.ScalarOrSchedule,
    decay: optax.ScalarOrSchedule,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformation:
    inner = optax.sgd(learning_rate)
    return nag_optax.ema_nesterov(inner, lookahead, decay, accumulator_dtype=accumulator_dtype)


def gpa_sgd(
    learning_rate: optax.ScalarOrSchedule,
    mu_x: optax.ScalarOrSchedule,
    mu_y: optax.ScalarOrSchedule,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformation:
    return nag_optax.gpa(optax.sgd(learning_rate), mu_x, mu_y, accumulator_dtype=accumulator_dtype)


def low_memory_nag(
    learning_rate: optax.ScalarOrSchedule,
    momentum: nag_optax.momentum.Momentum,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformation:
    """Small arrays are not packed, and keep every promise. Packed ones have a test file of their own."""
    return nag_optax.low_memory(nag_optax.nag(learning_rate, momentum, accumulator_dtype=accumulator_dtype))


def _rising_momentum(count: jax.typing.ArrayLike) -> jax.Array:
    return 0.9 * rising(float_count(count))


def _matrices(params: optax.Params) -> Any:
    return jax.tree.map(lambda p: jnp.ndim(p) >= 2, params)


def _no_penalty(params: optax.Params, step_size: jax.typing.ArrayLike) -> optax.Params:
    """The prox of zero: the state is a prox's, and the minimum stays where it is."""
    del step_size
    return params


_RESTART = {"lean": False, "all_reduces": 1}
_EXHAUSTIVE = {"exhaustive": True}

CASES = (
    _case("accelerate", accelerated_sgd, _EXHAUSTIVE, learning_rate=0.05, momentum=0.9),
    _case("accelerate-schedule", accelerated_sgd, _EXHAUSTIVE, learning_rate=0.05, momentum=_rising_momentum),
    _case(
        "accelerate-sutskever",
        accelerated_sgd,
        _EXHAUSTIVE,
        learning_rate=0.05,
        momentum=nag_optax.momentum.sutskever(0.95),
    ),
    _case(
        "accelerate-fista",
        accelerated_sgd,
        _EXHAUSTIVE,
        learning_rate=0.05,
        momentum=nag_optax.momentum.fista(),
    ),
    # Its steps may not exceed 1/L at all; a restart forgives those that do.
    _case(
        "accelerate-ogm",
        accelerated_sgd,
        _RESTART | _EXHAUSTIVE,
        learning_rate=0.05,
        momentum=nag_optax.momentum.ogm(),
        restart="gradient",
    ),
    _case(
        "accelerate-triple_momentum",
        conditioned_sgd(nag_optax.momentum.triple_momentum),
        _EXHAUSTIVE,
        learning_rate=0.05,
        condition_number=20.0,
    ),
    _case(
        "accelerate-item",
        conditioned_sgd(nag_optax.momentum.item),
        learning_rate=0.05,
        condition_number=20.0,
    ),
    _case(
        "accelerate-gradient",
        accelerated_sgd,
        _RESTART | _EXHAUSTIVE,
        learning_rate=0.05,
        momentum=0.9,
        restart="gradient",
    ),
    _case(
        "accelerate-speed",
        accelerated_sgd,
        _RESTART | _EXHAUSTIVE,
        learning_rate=0.05,
        momentum=0.9,
        restart="speed",
    ),
    _case(
        "accelerate-value",
        accelerated_sgd,
        {"lean": False},
        learning_rate=0.05,
        momentum=nag_optax.momentum.sutskever(0.95),
        restart="value",
    ),
    _case("scale_by_nesterov", nesterov_sgd, learning_rate=0.05, momentum=0.9),
    _case("nag", nag_optax.nag, learning_rate=0.05, momentum=0.9),
    _case(
        "nag-schedules",
        nag_optax.nag,
        learning_rate=optax.exponential_decay(0.05, 1000, 0.5),
        momentum=_rising_momentum,
    ),
    # Its rule sees the step.
    _case("nag-wavering", wavering_nag, _RESTART | _EXHAUSTIVE, learning_rate=0.05, momentum=0.9),
    _case(
        "nag-gradients", nag_optax.nag, _EXHAUSTIVE, learning_rate=0.05, momentum=0.9, accumulate="gradients"
    ),
    _case(
        "nag-gradients-restart",
        nag_optax.nag,
        _RESTART | _EXHAUSTIVE,
        learning_rate=0.05,
        momentum=0.9,
        accumulate="gradients",
        restart="gradient",
    ),
    _case(
        "nag-decay",
        nag_optax.nag,
        {"lean": False, "exhaustive": True},
        learning_rate=0.05,
        momentum=0.9,
        weight_decay=1e-4,
        mask=_matrices,
    ),
    _case(
        "nag-gradients-decay",
        nag_optax.nag,
        {"lean": False, "exhaustive": True},
        learning_rate=0.05,
        momentum=0.9,
        weight_decay=1e-4,
        accumulate="gradients",
    ),
    _case("proximal", proximal_nag, {"lean": False}, learning_rate=0.05, momentum=0.9, strength=1e-4),
    _case("low_memory", low_memory_nag, {"lean": False}, learning_rate=0.05, momentum=0.9),
    _case("nag-plain", nag_optax.nag, {"buffers": 0}, learning_rate=0.05, momentum=0.0),
    _case(
        "nag-float32-buffer",
        nag_optax.nag,
        _EXHAUSTIVE,
        learning_rate=0.05,
        momentum=0.9,
        accumulator_dtype=jnp.float32,
    ),
    # The default b2 forgets the steep start in thousands of steps.
    _case(
        "nadam",
        nag_optax.nadam,
        {"lean": False, "buffers": 2, "exhaustive": True},
        learning_rate=0.05,
        b2=0.99,
        variant="dozat",
        momentum_decay=4e-3,
    ),
    _case(
        "nadamw-schedules",
        nag_optax.nadamw,
        {"lean": False, "buffers": 2},
        learning_rate=optax.exponential_decay(0.05, 1000, 0.5),
        b1=_rising_momentum,
        b2=0.99,
        weight_decay=1e-4,
        mask=_matrices,
        variant="optax",
    ),
    _case(
        "laprop",
        nag_optax.laprop,
        {"lean": False, "buffers": 2},
        learning_rate=optax.exponential_decay(0.3, 1, 0.97),
        momentum=0.9,
        b2=0.99,
        weight_decay=1e-4,
        mask=_matrices,
    ),
    _case(
        "adan",
        nag_optax.adan,
        {"lean": False, "buffers": 4, "copies": 2},
        learning_rate=0.05,
        b1=0.9,
        weight_decay=1e-4,
        mask=_matrices,
    ),
    _case(
        "adan-restart",
        nag_optax.adan,
        {"lean": False, "buffers": 4, "copies": 2, "exhaustive": True},
        learning_rate=0.05,
        b1=0.9,
        restart_every=100,
    ),
    _case("fista", nag_optax.fista, _RESTART | _EXHAUSTIVE, learning_rate=0.05),
    _case(
        "fista-prox",
        nag_optax.fista,
        {"lean": False, "all_reduces": 1, "copies": 2},
        learning_rate=0.05,
        prox=_no_penalty,
    ),
    _case(
        "fista-prox-plain",
        nag_optax.fista,
        {"lean": False, "copies": 2, "exhaustive": True},
        learning_rate=0.05,
        prox=_no_penalty,
        momentum=0.0,
        restart=None,
    ),
    # Its steps have one length whatever the gradient, so the learning rate must decay.
    _case(
        "muon",
        muon_and_nag,
        # Five Newton–Schulz steps have slope 3.4445⁵ at zero; four steps of at most 0.3 follow each other.
        {"lean": False, "exchanges": 2, "rounding": 3.4445**5 * 4 * 0.3 * 2.0**-24},
        learning_rate=optax.exponential_decay(0.3, 1, 0.97),
        momentum=0.9,
    ),
    _case(
        "scale_by_gradient_norm",
        gradient_norm_nag,
        {"lean": False, "all_reduces": 1},
        learning_rate=0.05,
        momentum=0.5,
        decay=0.9,
        max_scale=4.0,
    ),
    _case(
        "snoo",
        snoo_sgd,
        {"lean": False, "buffers": 2},
        learning_rate=0.05,
        outer_learning_rate=0.9,
        outer_momentum=0.8,
    ),
    _case("ema_nesterov", ema_nesterov_sgd, learning_rate=0.05, lookahead=0.5, decay=0.9),
    _case("gpa", gpa_sgd, learning_rate=0.1, mu_x=0.9, mu_y=0.7),
)


def over(cases: Iterable[Case]) -> pytest.MarkDecorator:
    """A test of each of these; those whose code others run are left to the exhaustive run."""
    marks = {True: [pytest.mark.exhaustive], False: []}
    return pytest.mark.parametrize(
        "case", [pytest.param(case, id=case.name, marks=marks[case.exhaustive]) for case in cases]
    )


over_cases = over(CASES)
