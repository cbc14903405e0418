"""`partition`: each leaf goes to one of two transformations, whatever the tree holds."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from nag_optax import scale_by_nesterov
from nag_optax.transforms.partition import partition
from tests.helpers import assert_trees_close, assert_trees_equal

PARAMS = {"a": {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}, "c": jnp.ones(3), "none": None}


@pytest.mark.parametrize(
    "choose",
    [
        {"a": True, "c": False, "none": False},
        {"a": {"w": True, "b": True}, "c": False, "none": None},
        lambda params: jax.tree.map(lambda p: p.shape[0] == 2, params),
    ],
    ids=["prefix", "tree", "function"],
)
def test_each_leaf_goes_one_way(choose: Any):
    optimizer = partition(choose, optax.scale(2.0), optax.scale(3.0))
    updates, _ = jax.jit(optimizer.update)(PARAMS, optimizer.init(PARAMS), PARAMS)
    expected = {"a": jax.tree.map(lambda p: 2 * p, PARAMS["a"]), "c": 3 * PARAMS["c"], "none": None}
    assert_trees_equal(updates, expected)


def test_state_is_of_the_own_leaves_alone():
    optimizer = partition({"a": True, "c": False, "none": False}, scale_by_nesterov(), scale_by_nesterov())
    state: Any = optimizer.init(PARAMS)
    shapes = [[p.shape for p in jax.tree.leaves(part.offset)] for part in state]
    assert shapes == [[(2,), (2, 2)], [(3,)]]


def test_the_mask_sees_the_parameters():
    """The update of the one that it asks about is None."""
    seen = []

    def choose(params: Any) -> Any:
        seen.append(jax.tree.map(jnp.shape, params))
        return jax.tree.map(lambda p: p.ndim == 2, params)

    optimizer = partition(choose, scale_by_nesterov(), optax.scale(3.0))
    state: Any = optimizer.init(PARAMS)
    grads = {**PARAMS, "a": {"w": None, "b": jnp.ones(2)}}
    updates, after = optimizer.update(grads, state, PARAMS)
    assert seen[0] == seen[1]
    assert_trees_equal(
        updates, {"a": {"w": None, "b": jnp.full(2, 3.0)}, "c": jnp.full(3, 3.0), "none": None}
    )
    assert_trees_equal(after.chosen.offset, state.chosen.offset)


def test_parameters_and_extra_arguments_arrive():
    def update(updates: Any, state: Any, params: Any = None, *, factor: float, **extra: Any) -> Any:
        return jax.tree.map(lambda u, p: factor * (u + p), updates, params), state

    inner = optax.GradientTransformationExtraArgs(lambda params: (), update)
    optimizer = partition({"a": True, "c": False, "none": True}, inner, inner)
    updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS, factor=5.0, unknown=1)
    assert_trees_close(updates, jax.tree.map(lambda p: 10 * p, PARAMS), rtol=1e-6)


def test_without_parameters_the_updates_tell():
    optimizer = partition(
        lambda p: jax.tree.map(lambda x: x.ndim == 2, p), optax.scale(2.0), optax.scale(3.0)
    )
    updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS))
    assert_trees_equal(updates["a"], {"w": jnp.full((2, 2), 2.0), "b": jnp.full(2, 3.0)})


def test_map_params_with_a_tree_as_mask():
    """It calls init with a placeholder that no tree fits."""
    optimizer = partition({"a": True, "c": False, "none": False}, scale_by_nesterov(), scale_by_nesterov())
    mapped = optax.tree.map_params(optimizer, lambda leaf: leaf + 1.0, optimizer.init(PARAMS))
    assert_trees_equal(mapped.chosen.offset["a"], PARAMS["a"])
    assert_trees_equal(mapped.others.offset["c"], PARAMS["c"])


def test_refuses_trees_that_do_not_fit():
    optimizer = partition({"a": True}, optax.scale(2.0), optax.scale(3.0), "matrices")
    message = "^matrices must be a tree of booleans that the parameters extend; it has none for .*'c'"
    with pytest.raises(ValueError, match=message):
        optimizer.init(PARAMS)
    optimizer = partition(lambda params: True, optax.scale(2.0), optax.scale(3.0))
    with pytest.raises(ValueError, match="^the updates and the parameters have different trees"):
        optimizer.update({"a": jnp.ones(2)}, optimizer.init(PARAMS), PARAMS)
