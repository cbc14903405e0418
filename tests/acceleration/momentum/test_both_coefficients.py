"""Every optimizer that takes a rule uses γ as well as β."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nag_optax
from nag_optax import momentum
from tests import reference
from tests.helpers import START, quartic, quartic_gradient

BETA, GAMMA = 0.3, 0.4
RULE = momentum.MomentumRule(tuple, lambda state, step: ((BETA, GAMMA), state))

OPTIMIZERS = {
    "accelerate": optax.chain(optax.sgd(0.1), nag_optax.accelerate(RULE)),
    "scale_by_nesterov": optax.chain(nag_optax.scale_by_nesterov(RULE), optax.scale(-0.1)),
    "nag": nag_optax.nag(0.1, RULE),
    "nag of gradients": nag_optax.nag(0.1, RULE, accumulate="gradients"),
    "laprop": nag_optax.laprop(0.1, RULE),
    "fista": nag_optax.fista(0.1, momentum=RULE),
    "fista with backtracking": nag_optax.fista(momentum=RULE),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_lookahead(name: str, x64: None):
    """p⁺ = x⁺ + β·(x⁺ − x) + γ·(x⁺ − p), whatever led from p to x⁺."""
    optimizer = optax.with_extra_args_support(OPTIMIZERS[name])

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        grad = quartic_gradient(params)
        search = {"value": quartic(params), "grad": grad, "value_fn": quartic}
        updates, state = optimizer.update(grad, state, params, **search)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, nag_optax.eval_params(state, params, learning_rate=0.1))

    start = jnp.asarray(START)
    _, found = jax.lax.scan(step, (start, optimizer.init(start)), length=6)
    # From the second step on: in that the search still moves p.
    p, x = (np.asarray(points)[1:] for points in found)
    expected = x[1:] + BETA * (x[1:] - x[:-1]) + GAMMA * (x[1:] - p[:-1])
    np.testing.assert_allclose(p[1:], expected, rtol=0, atol=1e-14)
    assert np.abs(x[1:] - p[:-1]).max(axis=1).min() > 1e-2


def test_direction_of_muon(x64: None):
    """Gradients e₁e₁ᵀ and then e₂e₂ᵀ: w = (β + γ)·e₁e₁ᵀ, then β·w + (β + γ)·e₂e₂ᵀ."""
    optimizer = nag_optax.muon(0.1, RULE, shape_scaling=None)
    params = jnp.zeros((2, 2))
    _, state = optimizer.update(jnp.diag(jnp.array([1.0, 0.0])), optimizer.init(params), params)
    updates, _ = optimizer.update(jnp.diag(jnp.array([0.0, 1.0])), state, params)
    direction = np.diag([BETA * (BETA + GAMMA), 1 + BETA + GAMMA])
    polar = reference.newton_schulz(direction, 5, np.tile([3.4445, -4.7750, 2.0315], (5, 1)))
    np.testing.assert_allclose(updates, -0.1 * polar, rtol=0, atol=1e-12)
