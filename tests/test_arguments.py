"""A Python number is what float32 makes of it, unless x64 is enabled."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nag_optax import (
    accelerate,
    fista,
    minimize,
    momentum,
    nadam,
    nag,
    orthogonalize,
    prox,
    snoo,
)

# Finite and in range as they are written.
LOST: dict[str, tuple[Callable[[], Any], str]] = {
    "rate": (lambda: nag(1e40), "learning_rate must be .*; got 1e\\+40, which is inf in float32"),
    "NumPy": (lambda: nag(np.float64(1e39)), "learning_rate must be .* which is inf in float32"),
    "search": (lambda: fista(1e40), "learning_rate must be .* which is inf in float32"),
    "decay": (lambda: nag(0.1, weight_decay=1e40), "weight_decay must be .* which is inf in float32"),
    "momentum": (
        lambda: nag(0.1, 0.99999999999),
        r"momentum must be a number in \[0, 1\).*; got 0.99999999999, which is 1 in float32",
    ),
    "b2": (lambda: nadam(0.1, b2=1 - 1e-9), "b2 must be .* which is 1 in float32"),
    "eps": (lambda: orthogonalize(eps=1e-50), "eps must be .* got 1e-50, which is 0 in float32"),
    "condition number": (
        lambda: momentum.item(1e40),
        "condition_number must be .* which is inf in float32",
    ),
    "strength": (lambda: prox.l1(1e40), "strength must be .* got 1e\\+40, which is infinite in float32"),
    "strengths": (lambda: prox.l1(np.array([1.0, 1e40])), "strength must be .* is infinite in float32"),
}


@pytest.mark.parametrize("name", LOST)
def test_refused_in_single_precision(name: str):
    make, message = LOST[name]
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", LOST)
def test_taken_in_double_precision(name: str, x64: None):
    make, _ = LOST[name]
    assert make() is not None


def test_what_float32_rounds_within_its_range_is_taken():
    accelerate(0.1)
    accelerate(np.float32(0.9999999))
    nag(1e-50, weight_decay=3e38)
    nadam(0.1, eps=0)
    # 2³¹ − 1 is no float32, and stays an integer.
    momentum.ogm(2**31 - 1)
    box = prox.box(-float("inf"), float("inf"))
    solution = minimize(
        lambda x: (x - 1) ** 2, np.zeros([], np.float32), prox=box, tol=0, max_steps=2**31 - 1
    )
    assert abs(float(solution.value)) < 1e-9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: snoo(nag(0.1), jax.random.key(0)), r"sync_period must be an integer .*; got .* dtype key<"),
        (lambda: nag(jnp.array(0.1j)), "learning_rate must be a number .*; got .* dtype complex64"),
        (lambda: nadam(0.1, b2=jnp.array(True)), "b2 must be a number .*; got .* dtype bool"),
    ],
    ids=["key", "complex", "bool"],
)
def test_a_scalar_array_that_is_no_real_number_is_refused(make: Callable[[], Any], message: str):
    with pytest.raises(TypeError, match=message):
        make()
