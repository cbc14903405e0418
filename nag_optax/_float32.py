"""A Python number as float32 holds it. Without JAX, which the command line imports late."""

import math
import struct


def float32(value: float) -> float:
    """As the step will see it: 0.9999999999 is 1 there, 1e39 infinite."""
    try:
        return struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
