"""Backtracking inside of wrappers: the gradient of another function, and a part of the parameters."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nag_optax import eval_params, fista, prox

SEARCH = fista(prox=prox.l1(0.5))
PARAMS = {"w": jnp.array([3.0, 0.5]), "c": jnp.array([1.0])}


def distance(params: Any) -> jax.Array:
    return 0.5 * jnp.sum((params["w"] - 2 * params["c"]) ** 2)


def first_update(optimizer: Any) -> Any:
    value, grad = jax.value_and_grad(distance)(PARAMS)
    state = optimizer.init(PARAMS)
    return optimizer.update(grad, state, PARAMS, value=value, grad=grad, value_fn=distance)


@pytest.mark.parametrize(
    "optimizer",
    [
        # Its mean is of several functions, and value_fn the last of them.
        optax.MultiSteps(SEARCH, 2),
        optax.chain(optax.clip(0.1), SEARCH),
        optax.chain(optax.add_decayed_weights(0.1), SEARCH),
    ],
    ids=["accumulated", "clipped", "decayed"],
)
def test_an_update_that_is_not_the_gradient_is_refused(optimizer: Any, standard_promotion: None):
    for update in (first_update, jax.jit(first_update, static_argnums=0)):
        with pytest.raises(
            ValueError, match=r"same array as the update and as grad; got two at \['c'\]"
        ) as error:
            update(optimizer)
        # JAX adds lines of its own to an error inside a cond.
        assert len(str(error.value).splitlines()[0]) < 400


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.partition({"trained": SEARCH, "frozen": optax.set_to_zero()}, {"w": "trained", "c": "frozen"}),
        optax.masked(SEARCH, {"w": True, "c": False}),
    ],
    ids=["partition", "masked"],
)
def test_a_part_of_the_parameters_is_refused(optimizer: Any):
    with pytest.raises(ValueError, match="value_fn, which takes all parameters") as error:
        first_update(optimizer)
    assert len(str(error.value)) < 400 and "MaskedNode" not in str(error.value)


@pytest.mark.parametrize("rate", [None, 0.1], ids=["search", "rate"])
def test_a_parameter_without_a_gradient_stays(rate: float | None):
    """At every step, in the search and in the iterate: min ½‖w − 2‖² + ‖w‖⁴/10 + ½‖w‖₁ with c = 1."""
    optimizer = fista(rate, prox.l1(0.5))

    def loss(params: Any) -> jax.Array:
        return distance(params) + 0.1 * jnp.sum(params["w"] ** 4)

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        value, grad = jax.value_and_grad(loss)(params)
        updates = {**grad, "c": None}
        updates, state = optimizer.update(updates, state, params, value=value, grad=grad, value_fn=loss)
        assert updates["c"] is None
        params = {**params, "w": params["w"] + updates["w"]}
        return (params, state), eval_params(state, params)

    params = {**PARAMS, "none": None}
    iterates = jax.jit(lambda: jax.lax.scan(step, (params, optimizer.init(params)), length=100)[1])()
    assert iterates["none"] is None
    np.testing.assert_array_equal(iterates["c"], 1.0)
    w = np.max(np.roots([0.4, 0.0, 1.0, -1.5]).real)
    np.testing.assert_allclose(iterates["w"][-1], w, rtol=1e-5)
