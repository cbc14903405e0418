"""Derivatives are finite, and right, at the ends of a range that belong to it."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nag_optax import fista, momentum
from tests.cases import CASES, Case, over
from tests.helpers import sphere, step_function

# An array, which no Python check sees; the derivative is that from inside the range.
LOWER = {
    "learning_rate": 0.0,
    "momentum": 0.0,
    "b1": 0.0,
    "b2": 0.0,
    "b3": 0.0,
    "eps": 0.0,
    "weight_decay": 0.0,
    "momentum_decay": 0.0,
    "decay": 0.0,
    "exponent": 0.0,
    "min_scale": 0.0,
    "max_scale": 1.0,
    "strength": 0.0,
    "condition_number": 1.0,
    "lookahead": 0.0,
    "mu_x": 0.0,
    "mu_y": 0.0,
    "outer_learning_rate": 0.0,
    "outer_momentum": 0.0,
}


def numbers_of(case: Case) -> dict[str, float]:
    """Those given, and those that have a default."""
    defaults = {k: v.default for k, v in inspect.signature(case.factory).parameters.items()}
    given = {**defaults, **case.hyperparameters}
    return {name: float(given[name]) for name in LOWER if isinstance(given.get(name), float)}


def assert_derivative_from_inside(fun: Callable, numbers: dict[str, float], name: str, end: float) -> None:
    """All derivatives are finite, and the one by `name` agrees with a small step into the range."""
    h = 1e-6 if end in (LOWER.get(name), 0.0) else -1e-6
    (value, slopes), (beyond, _) = (fun({**numbers, name: end + step}) for step in (0.0, h))
    assert all(np.isfinite(slope) for slope in jax.tree.leaves(slopes)), (name, slopes)
    np.testing.assert_allclose(slopes[name], (beyond - value) / h, rtol=1e-3, atol=1e-5, err_msg=name)


# One of those that differ in nothing but a rule, a schedule or a restart.
DISTINCT = {(case.factory, *numbers_of(case)): case for case in CASES}


@over(DISTINCT.values())
def test_of_hyperparameters(case: Case, x64: None):
    numbers = numbers_of(case)
    params = jnp.array([[1.0, -2.0], [0.5, 0.1]])

    @jax.jit
    @jax.value_and_grad
    def after_three_steps(numbers: dict[str, jax.Array]) -> jax.Array:
        optimizer = case.make(**numbers, accumulator_dtype=None)
        carry = params, optimizer.init(params)
        for scale in (1.0, 0.9, 3.0):
            carry = step_function(optimizer, lambda p: scale * sphere(p - 0.3))(*carry)  # noqa: B023
        return jnp.sum(carry[0])

    for name in numbers:
        assert_derivative_from_inside(after_three_steps, numbers, name, LOWER[name])
    if "mu_y" in numbers:
        assert_derivative_from_inside(after_three_steps, numbers, "mu_y", 1.0)


@over(DISTINCT.values())
def test_no_false_alarm_of_debug_nans(case: Case):
    """Step by step outside jit, where JAX looks at the result of every operation."""
    numbers, params = numbers_of(case), jnp.array([[1.0, -2.0], [0.5, 0.0]])
    with jax.debug_nans(True):
        for name in numbers:
            optimizer = case.make(**{**numbers, name: jnp.asarray(LOWER[name])})
            carry = params, optimizer.init(params)
            for _ in range(2):
                carry = step_function(optimizer, sphere)(*carry)


def test_no_false_alarm_of_a_search_at_the_minimum():
    """Where no step is left to take, its curvature is 0/0."""
    optimizer, params = fista(), jnp.zeros(2)
    state = optimizer.init(params)
    with jax.debug_nans(True):
        for _ in range(2):
            value, grad = jax.value_and_grad(sphere)(params)
            updates, state = optimizer.update(grad, state, params, value=value, grad=grad, value_fn=sphere)
            np.testing.assert_array_equal(updates, 0.0)


RULES: dict[str, tuple[Callable[..., momentum.MomentumRule], dict[str, float], str, float]] = {
    "chambolle_dossal": (momentum.chambolle_dossal, {"a": 3.0}, "a", 2.0),
    "gfista-convex": (
        momentum.gfista,
        {"step_size": 0.5, "strong_convexity": 0.1, "prox_strong_convexity": 0.1},
        "strong_convexity",
        0.0,
    ),
    "gfista-no-prox": (
        momentum.gfista,
        {"step_size": 0.5, "strong_convexity": 0.1, "prox_strong_convexity": 0.1},
        "prox_strong_convexity",
        0.0,
    ),
    "gfista-one-step": (
        momentum.gfista,
        {"step_size": 0.5, "strong_convexity": 1.0},
        "strong_convexity",
        2.0,
    ),
    "strongly_convex": (momentum.strongly_convex, {"condition_number": 9.0}, "condition_number", 1.0),
    "triple_momentum": (momentum.triple_momentum, {"condition_number": 9.0}, "condition_number", 1.0),
    "item": (momentum.item, {"condition_number": 9.0}, "condition_number", 1.0),
    "sutskever": (momentum.sutskever, {"max_momentum": 0.9}, "max_momentum", 0.0),
}


@pytest.mark.parametrize("name", RULES)
def test_of_rules(name: str, x64: None):
    make, numbers, argument, end = RULES[name]

    @jax.jit
    @jax.value_and_grad
    def coefficients(numbers: dict[str, jax.Array]) -> jax.Array:
        rule = make(**numbers)
        state, total = rule.init(), jnp.zeros([])
        for _ in range(3):
            (beta, gamma), state = rule.coefficients(state)
            e: Any = rule.evaluation(state) if callable(rule.evaluation) else rule.evaluation
            total += beta + 2 * jnp.asarray(gamma) + 3 * jnp.asarray(e)
        return total

    assert_derivative_from_inside(coefficients, numbers, argument, end)
