"""Norms over trees, where squares leave the range of their dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nag_optax._arrays import array_norm, norm

WHOLE_RANGE = [0.0, 1.2e-38, 1e-30, 1e-19, 1.0, 1e19, 8e37, 9e37, 2.4e38]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("size", WHOLE_RANGE)
def test_norm_of_two_leaves_in_the_whole_range_of_float32(size: float, compiled: bool):
    tree = {"a": jnp.array([size], jnp.float32), "b": jnp.array([0.0, size], jnp.float32)}
    actual = (jax.jit(norm) if compiled else norm)(tree)
    np.testing.assert_allclose(float(actual), float(np.float32(size)) * 2**0.5, rtol=3e-7)


def test_beside_a_large_leaf_a_small_one_is_rounding():
    assert norm({"a": jnp.array([9e37]), "b": jnp.array([1.0])}) == np.float32(9e37)


def test_rows_each_by_itself():
    rows = jnp.array([[3e38, 0.0], [3e-30, 4e-30], [0.0, 0.0]])
    np.testing.assert_allclose(array_norm(rows, (1,)), np.array([3e38, 5e-30, 0.0], np.float32), rtol=3e-7)


def test_an_infinite_entry_makes_an_infinite_norm():
    assert norm([jnp.array([jnp.inf, 1.0])]) == jnp.inf
    assert jnp.isnan(norm([jnp.array([jnp.nan, 1.0])]))
