"""Trees as bytes: four, two or one a number of an update, which is rounded at random, to the right mean."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nag_optax.parallel.options import Wire as Wire
from nag_optax.parallel.wire import ProtocolError
from nag_optax.transforms import codes
from nag_optax.transforms.stochastic_rounding import random_bits, to_bfloat16, uniform

BLOCK_SIZE = 128


class Array(NamedTuple):
    """Shape and dtype of an array on the wire."""

    shape: tuple[int, ...]
    dtype: Any

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


def names(tree: Any) -> list[list[Any]]:
    """The path, shape and dtype of each array of nested dicts, for a header."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [[[key.key for key in path], list(leaf.shape), str(leaf.dtype)] for path, leaf in flat]


def skeleton(named: list[list[Any]]) -> dict[Any, Any]:
    """The nested dicts of `names`, with arrays of zeros.

    Raises:
        ProtocolError: if it is not such a list.
    """
    tree: dict[Any, Any] = {}
    try:
        for path, shape, dtype in named:
            node = tree
            for key in path[:-1]:
                node = node.setdefault(key, {})
            node[path[-1]] = np.zeros([int(size) for size in shape], np.dtype(str(dtype)))
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise ProtocolError("it is not a list of arrays") from error
    return tree


def downlink(wire: Wire) -> Wire:
    """The format of the parameters, for a worker that sends its updates in this one.

    One byte a number is too coarse for parameters: an error of an update averages out, and an error of the
    point where the gradient is taken does not.
    """
    return "float32" if wire == "float32" else "bfloat16"


@jax.jit
def narrow(tree: Any) -> list[jax.Array]:
    """Parameters in bfloat16, rounded to the nearest number."""
    return [x.astype(jnp.bfloat16) for x in jax.tree.leaves(tree)]


def encoded(tree: Any, wire: Wire, step: int, seed: int) -> list[Any]:
    """The arrays of an update. `seed` tells the roundings of one worker from those of another."""
    if wire == "float32":
        return [np.asarray(x, np.float32) for x in jax.tree.leaves(tree)]
    return _rounded(tree, wire, jnp.int32(step), jnp.int32(seed))


@partial(jax.jit, static_argnums=1)
def _rounded(tree: Any, wire: Wire, step: jax.Array, seed: jax.Array) -> list[jax.Array]:
    arrays = []
    for k, x in enumerate(jax.tree.leaves(tree)):
        x = x.astype(jnp.float32)
        bits = random_bits(x.shape, step + seed * jnp.int32(1_000_003), k, 0)
        if wire == "bfloat16":
            arrays.append(to_bfloat16(x, bits))
        else:
            arrays += codes.encode(x, uniform(bits), BLOCK_SIZE, squares=False)
    return arrays


def decoded(arrays: Sequence[Any], like: Any, wire: Wire) -> Any:
    """The float32 tree of these arrays; `like` has its structure and shapes."""
    if wire == "int8":
        pairs = zip(arrays[::2], arrays[1::2], strict=True)
        leaves = [codes.decode(code, scales, BLOCK_SIZE) for code, scales in pairs]
    else:
        leaves = [x.astype(jnp.float32) for x in arrays]
    return jax.tree.structure(like).unflatten(leaves)


def layout(tree: Any, wire: Wire) -> list[Array]:
    """The arrays that `encoded` makes of a tree with these shapes."""
    found = []
    for leaf in jax.tree.leaves(tree):
        shape = tuple(leaf.shape)
        if wire == "int8":
            found += [
                Array(shape, np.int8),
                Array(codes.layout(shape, BLOCK_SIZE).scales, np.float32),
            ]
        else:
            found.append(Array(shape, jnp.bfloat16 if wire == "bfloat16" else np.float32))
    return found


def plain(tree: Any) -> list[Array]:
    """The arrays of a tree in their own dtypes."""
    return [Array(tuple(leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(tree)]


def size(arrays: list[Array]) -> int:
    return sum(array.nbytes for array in arrays)


def to_bytes(arrays: list[Any]) -> list[memoryview]:
    """The bytes of each array, where they lie."""
    return [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for array in arrays]


def from_bytes(body: memoryview, arrays: list[Array]) -> list[np.ndarray]:
    """The arrays of a body, which share its memory.

    Raises:
        ProtocolError: if it has another size.
    """
    if len(body) != size(arrays):
        raise ProtocolError(f"{len(body)} bytes where {size(arrays)} are due")
    found, start = [], 0
    for array in arrays:
        part = np.frombuffer(body, array.dtype, array.nbytes // np.dtype(array.dtype).itemsize, start)
        found.append(part.reshape(array.shape))
        start += array.nbytes
    return found
