"""One byte a number: blocks that share a scale, and a code that is finer near zero.

    s = max|x| over the block,   z = x/s,   y = 127·2z/(1 + |z|),   q = ⌊y + u⌋ in [−127, 127]
    x ≈ s·q/(254 − |q|)

u is uniform in [0, 1), so that the mean of q is y. In a state, a block without a negative number never
rounds a positive one to 0: it may hold averages of squares, by whose roots an optimizer divides.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

LARGEST = 127


class Layout(NamedTuple):
    """How an array is cut into blocks of neighbours in memory.

    Attributes:
        blocked: shape of the array in blocks, (…, number of blocks, block size).
        scales: shape of the scales; it has as many axes as the array, and a mesh splits both alike.
        padding: numbers that fill the last block, where the array is no whole number of blocks.
    """

    blocked: tuple[int, ...]
    scales: tuple[int, ...]
    padding: int


def layout(shape: tuple[int, ...], block_size: int) -> Layout:
    """As few of the last axes as fill whole blocks are cut together, so that a split axis stays one."""
    for axis in reversed(range(len(shape))):
        tail = math.prod(shape[axis:])
        if tail % block_size == 0:
            counts = (*shape[:axis], tail // block_size)
            return Layout((*counts, block_size), counts + (1,) * (len(shape) - axis - 1), 0)
    size = math.prod(shape)
    count = -(-size // block_size)
    return Layout((count, block_size), (count,) + (1,) * (len(shape) - 1), count * block_size - size)


def encode(
    x: jax.Array, noise: jax.Array, block_size: int, *, squares: bool = True
) -> tuple[jax.Array, jax.Array]:
    """(codes, scales) of a float32 array; `noise` is u, of its shape.

    Without `squares` the mean is right for a block without a negative number too.
    """
    cut = layout(x.shape, block_size)
    blocks, noise = _in_blocks(x, cut), _in_blocks(noise, cut)
    low, high = _extremes(blocks)
    scales = jnp.maximum(jnp.abs(low), jnp.abs(high))
    z = blocks / jnp.where(scales > 0, scales, 1)
    # 254 comes first. A product before the sum would be fused with it, and round by device.
    y = (2 * LARGEST) * z / (1 + jnp.abs(z))
    least = _least(blocks, low) if squares else -LARGEST
    codes = jnp.clip(jnp.floor(y + noise).astype(jnp.int32), least, LARGEST)
    return _from_blocks(codes.astype(jnp.int8), cut, x.shape), scales.reshape(cut.scales)


def decode(codes: jax.Array, scales: jax.Array, block_size: int) -> jax.Array:
    """The float32 array of these codes."""
    cut = layout(codes.shape, block_size)
    if scales.shape != cut.scales:
        # Outside of the vmap that made them: a lane fills its own last block.
        return jax.vmap(functools.partial(decode, block_size=block_size))(codes, scales)
    q = _in_blocks(codes, cut).astype(jnp.float32)
    z = _quotient(q, 2 * LARGEST - jnp.abs(q))
    return _from_blocks(scales.reshape(*cut.blocked[:-1], 1) * z, cut, codes.shape)


def _quotient(q: jax.Array, d: jax.Array) -> jax.Array:
    """q/d for d in [127, 254], by products and sums alone, to two roundings; q = d gives 1.

    XLA repeats cheap operations wherever they are needed, but keeps an array of quotients, four times as
    large as the codes. A parabola is within 1 % of 1/d, and two Newton steps square that twice.
    """
    r = 1.67026627e-2 + d * (-9.01836065e-5 + d * 1.57801566e-7)
    for _ in range(2):
        r = r + r * (1 - d * r)
    return q * r


def _extremes(blocks: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The least and the largest number of each block.

    In one reduction: XLA computes its operand on the way, where it would keep the array for two.
    """

    def wider(a: Any, b: Any) -> tuple[jax.Array, jax.Array]:
        return jnp.minimum(a[0], b[0]), jnp.maximum(a[1], b[1])

    none = jnp.array(jnp.inf, blocks.dtype), jnp.array(-jnp.inf, blocks.dtype)
    low, high = jax.lax.reduce((blocks, blocks), none, wider, (blocks.ndim - 1,))
    return low[..., None], high[..., None]


def _least(blocks: jax.Array, low: jax.Array) -> jax.Array:
    """The least code of each number; 1 for a positive one among squares."""
    return jnp.where((low >= 0) & (blocks > 0), 1, -LARGEST)


def _in_blocks(x: jax.Array, cut: Layout) -> jax.Array:
    if cut.padding:
        x = jnp.pad(x.reshape(-1), (0, cut.padding))
    return x.reshape(cut.blocked)


def _from_blocks(blocks: jax.Array, cut: Layout, shape: tuple[int, ...]) -> jax.Array:
    if cut.padding:
        blocks = blocks.reshape(-1)[: -cut.padding]
    return blocks.reshape(shape)


def block_size_within(x: Any, block_size: int) -> int:
    """The largest size up to `block_size` whose blocks end where a device's part of x does.

    Blocks that lie across two devices would need an exchange at every step.
    """
    shard = _shard_shape(x)
    split = [axis for axis, (part, whole) in enumerate(zip(shard, x.shape, strict=True)) if part != whole]
    if not split:
        return min(block_size, x.size)
    # Only axes behind the last split one count, because JAX joins no split axis with another.
    tail = math.prod(shard[split[-1] + 1 :] or shard[-1:])
    return next(size for size in range(min(block_size, tail), 0, -1) if tail % size == 0)


def _shard_shape(x: Any) -> tuple[int, ...]:
    # The type knows explicit axes, also of a traced x. A concrete array knows automatic ones.
    for sharding in (jax.typeof(x).sharding, getattr(x, "sharding", None)):
        # Inside `shard_map` x is a device's part, and its type names no axis.
        if sharding is None or not any(getattr(sharding, "spec", [True])):
            continue
        if (shape := sharding.shard_shape(x.shape)) != x.shape:
            return shape
    return x.shape
