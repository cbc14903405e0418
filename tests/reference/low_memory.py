"""State in one byte a number: the code, its inverse and the random numbers, in NumPy."""

import numpy as np

from tests.reference.common import Array


def counter_uniform(size: int, step: int, leaf: int) -> Array:
    """u of each index: a hash of index, step and leaf in 32 bits, its upper 24 as a fraction."""
    i = np.arange(size, dtype=np.uint64)
    h = (i * 0x9E3779B1 + step * 0x85EBCA77 + leaf * 0xC2B2AE3D) & 0xFFFFFFFF
    h ^= h >> np.uint64(16)
    h = h * 0x7FEB352D & 0xFFFFFFFF
    h ^= h >> np.uint64(15)
    h = h * 0x846CA68B & 0xFFFFFFFF
    h ^= h >> np.uint64(16)
    return ((h >> np.uint64(8)).astype(np.float32)) * np.float32(2.0**-24)


def encode(x: Array, u: Array, block: int, floor: bool = True) -> tuple[Array, Array]:
    """Codes in [−127, 127] and one scale a block of the flat float32 array x.

    y = 127·2z/(1 + |z|), z = x/max|x|;  q = ⌊y + u⌋;  with `floor`, q ≥ 1 where x > 0 in a block without
    a negative number.
    """
    codes, scales = np.zeros(x.size, np.int8), []
    for start in range(0, x.size, block):
        part = x[start : start + block].astype(np.float32)
        s = np.abs(part).max()
        z = part / (s if s > 0 else np.float32(1))
        q = np.floor(np.float32(254) * z / (np.float32(1) + np.abs(z)) + u[start : start + block])
        q = np.clip(q, -127, 127)
        if floor and (part >= 0).all():
            q = np.where(part > 0, np.maximum(q, 1), q)
        codes[start : start + block] = q
        scales.append(s)
    return codes, np.array(scales, np.float32)


def decode(codes: Array, scales: Array, block: int) -> Array:
    """x ≈ s·z/(2 − |z|), z = q/127."""
    q = codes.astype(np.float32)
    return np.repeat(scales, block)[: q.size] * (q / (np.float32(254) - np.abs(q)))


def to_bfloat16(x: Array, bits: Array) -> Array:
    """16 random bits added below the end of bfloat16's mantissa, then a cut; as float32."""
    raw = x.astype(np.float32).view(np.uint32)
    return ((raw + (bits & 0xFFFF).astype(np.uint32)) & np.uint32(0xFFFF0000)).view(np.float32)
