"""A state holds no array of the caller: donated with the state, it would be gone."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import nag_optax
from nag_optax import momentum
from tests.cases import Case, over_cases


def addresses(*trees: Any) -> list[int]:
    return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(trees)]


@over_cases
def test_of_hyperparameters_and_arguments(case: Case):
    numbers = {name: jnp.asarray(number, float) for name, number in case.numbers.items()}
    optimizer, params, grads = case.make(**numbers), {"a": jnp.ones((3, 2))}, {"a": jnp.full((3, 2), 2.0)}
    value, state = jnp.array(1.0, float), optimizer.init(params)
    _, after = optimizer.update(grads, state, params, value=value)
    for own in (state, after):
        found = addresses(own, numbers, params, grads, value)
        assert len(set(found)) == len(found)


def _rule_of(array: jax.Array) -> momentum.MomentumRule:
    return momentum.MomentumRule(lambda: array, lambda state, step: ((0.5, 0.0), array), evaluation=array)


RULES = {
    "chambolle_dossal": momentum.chambolle_dossal,
    "gfista": lambda array: momentum.gfista(0.1, array, array),
    "ogm": lambda array: momentum.ogm(array.astype(jnp.int32)),
    "strongly_convex": momentum.strongly_convex,
    "triple_momentum": momentum.triple_momentum,
    "item": momentum.item,
    "sutskever": lambda array: momentum.sutskever(array / 4),
    "own": _rule_of,
}


@pytest.mark.parametrize("name", RULES)
def test_of_a_rule(name: str):
    array = jnp.array(3.0)
    for optimizer in (
        nag_optax.nag(0.1, RULES[name](array)),
        nag_optax.snoo(optax.sgd(0.1), 1, 0.7, RULES[name](array)),
    ):
        params = jnp.ones(2)
        state = optimizer.init(params)
        _, after = optimizer.update(params, state, params)
        for own in (state, after):
            found = addresses(own, array, params)
            assert len(set(found)) == len(found)


def test_of_a_prox():
    """One that answers with an array of its own, as a projection on a point does."""
    point = jnp.ones(2)
    optimizer = nag_optax.fista(0.1, lambda params, step_size: point)
    params = jnp.zeros(2)
    _, state = optimizer.update(params, optimizer.init(params), params)
    assert not set(addresses(point)) & set(addresses(state))


@pytest.mark.parametrize("restart", ["gradient", "speed", "value", None])
def test_of_a_search(restart: Any):
    optimizer, params = nag_optax.fista(restart=restart), jnp.ones(2)
    value, state = jnp.array(1.0, float), optimizer.init(params)
    _, after = optimizer.update(
        params, state, params, value=value, grad=params, value_fn=lambda p: jnp.sum(p**2) / 2
    )
    for own in (state, after):
        found = addresses(own, value, params)
        assert len(set(found)) == len(found)
