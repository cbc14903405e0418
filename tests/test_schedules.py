"""Wherever a schedule may stand, a function of another kind is refused by name."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
import pytest

import nag_optax
from nag_optax import adan, ema_nesterov, fista, gpa, muon, nadam, nadamw, nag, proximal, snoo
from nag_optax.prox import l1

PLACES: dict[str, Callable[[Any], Any]] = {
    "nag learning_rate": nag,
    "nag momentum": lambda value: nag(0.1, value),
    "nag weight_decay": lambda value: nag(0.1, weight_decay=value),
    "nag-gradients weight_decay": lambda value: nag(0.1, weight_decay=value, accumulate="gradients"),
    "nadam learning_rate": nadam,
    "nadam b1": lambda value: nadam(0.1, value),
    "nadam b2": lambda value: nadam(0.1, b2=value),
    "nadamw weight_decay": lambda value: nadamw(0.1, weight_decay=value),
    "adan b3": lambda value: adan(0.1, b3=value),
    "adan weight_decay": lambda value: adan(0.1, weight_decay=value),
    "adan learning_rate": lambda value: adan(value, weight_decay=0.1),
    "muon learning_rate": muon,
    "muon weight_decay": lambda value: muon(0.1, weight_decay=value),
    "snoo outer_learning_rate": lambda value: snoo(optax.sgd(0.1), 2, value),
    "snoo outer_momentum": lambda value: snoo(optax.sgd(0.1), 2, 0.7, value),
    "ema_nesterov lookahead": lambda value: ema_nesterov(optax.sgd(0.1), value),
    "ema_nesterov decay": lambda value: ema_nesterov(optax.sgd(0.1), 0.5, value),
    "gpa mu_x": lambda value: gpa(optax.sgd(0.1), value),
    "gpa mu_y": lambda value: gpa(optax.sgd(0.1), 0.9, value),
    "fista learning_rate": lambda value: fista(value, l1(1.0)),
    "proximal step_size": lambda value: proximal(l1(1.0), value),
}
over_places = pytest.mark.parametrize("place", PLACES)


def updated(optimizer: Any) -> Any:
    params = jnp.ones((2, 2))
    return optimizer.update(params, optimizer.init(params), params)[0]


@over_places
def test_returns_no_number(place: str):
    """`nag(optax.sgd)`: called with a step it returns an optimizer."""
    with pytest.raises(
        TypeError, match=f"^{place.split()[1]} must be a number or .*; sgd returned a Gradient"
    ):
        updated(PLACES[place](optax.sgd))


@over_places
def test_takes_more_than_the_step(place: str):
    message = f"^{place.split()[1]} must be a number.*cosine_decay_schedule is no schedule.*'decay_steps'"
    with pytest.raises(TypeError, match=message):
        PLACES[place](optax.cosine_decay_schedule)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "None"),
        ((0.9, 0.1), r"\(0.9, 0.1\)"),
        ("0.9", "'0.9'"),
        (jnp.ones(3), r"an array of float32\[3\]"),
        (jnp.array(1j), r"an array of complex64\[\]"),
        (0.5j, "0.5j"),
    ],
    ids=str,
)
def test_names_what_was_returned(value: Any, shown: str):
    with pytest.raises(TypeError, match=f"momentum must be a number .* <lambda> returned {shown}$"):
        updated(nag_optax.accelerate(lambda count: value))
