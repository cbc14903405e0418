"""Bytes an update, and what they become again."""

import jax
import numpy as np
import pytest

from nag_optax.parallel import payload, wire
from tests.helpers import assert_trees_equal

TREE = {
    "a": {"kernel": np.random.default_rng(0).standard_normal((40, 50)).astype(np.float32)},
    "b": np.ones(3, np.float32),
}


def round_trip(tree, format: payload.Wire, step: int = 0, seed: int = 0):
    body = b"".join(payload.to_bytes(payload.encoded(tree, format, step, seed)))
    arrays = payload.from_bytes(memoryview(body), payload.layout(tree, format))
    return body, payload.decoded(arrays, tree, format)


@pytest.mark.parametrize(("format", "bytes_a_number"), [("float32", 4), ("bfloat16", 2), ("int8", 1)])
def test_an_update_has_the_bytes_of_its_format(format, bytes_a_number):
    """One byte a number, and a float32 for each block of 128."""
    body, tree = round_trip(TREE, format)
    scales = 4 * (16 + 1) if format == "int8" else 0  # 2000 numbers are 15.6 blocks
    assert len(body) == 2003 * bytes_a_number + scales
    assert jax.tree.structure(tree) == jax.tree.structure(TREE)
    if format == "float32":
        assert_trees_equal(jax.tree.map(np.asarray, tree), TREE)


@pytest.mark.parametrize("format", ["bfloat16", "int8"])
def test_the_rounding_is_right_on_average(format):
    """A rounding deviates by at most half the distance of two codes, the mean of 200 by a 14th of that."""
    found = np.stack([np.asarray(round_trip(TREE, format, step, 7)[1]["a"]["kernel"]) for step in range(200)])
    exact = TREE["a"]["kernel"]
    largest = np.abs(exact).max()
    if format == "bfloat16":
        gap, bias = np.exp2(np.floor(np.log2(np.abs(exact))) - 7), 0.0
    else:  # Of q/(254 − |q|) at |q| = 127: its slope, and an eighth of its curvature.
        gap, bias = largest * 254 / 127**2, largest * 2 * 254 / 127**3 / 8
    assert (np.abs(found.mean(0) - exact) < 5 * (gap / 2) / np.sqrt(200) + bias).all()
    assert (found.std(0) > 0).mean() > 0.9
    other = np.asarray(round_trip(TREE, format, 0, 8)[1]["a"]["kernel"])
    assert (other != found[0]).any()


def test_a_small_number_among_positive_ones_is_right_on_average():
    """A state would keep it above 0. In a gradient that is an error of one sign, at every step."""
    tree, code = {"a": np.array([1.0, 1e-3, 1e-5, 0.0], np.float32)}, 1 / 253
    found = np.stack([np.asarray(round_trip(tree, "int8", step, 7)[1]["a"]) for step in range(200)])
    # Each is 0 or the least code, with the deviation of such a coin.
    deviation = np.sqrt(tree["a"] * code / 200)
    assert (np.abs(found.mean(0) - tree["a"])[1:] <= 5 * deviation[1:]).all()


def test_the_tree_is_rebuilt_from_its_header():
    like = payload.skeleton(payload.names(TREE))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), like) == jax.tree.map(
        lambda x: (x.shape, x.dtype), TREE
    )


@pytest.mark.parametrize("named", [[["a"]], [[["a"], [-1], "float32"]], [[["a"], [2], "no dtype"]], 3])
def test_a_header_that_is_none_is_refused(named):
    with pytest.raises(wire.ProtocolError):
        payload.skeleton(named)


def test_a_body_of_another_size_is_refused():
    with pytest.raises(wire.ProtocolError, match="8011 bytes where 8012 are due"):
        payload.from_bytes(memoryview(bytes(8011)), payload.layout(TREE, "float32"))
