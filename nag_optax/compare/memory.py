"""How many runs one program can hold."""

import os
from typing import Any

from nag_optax.train.devices import Device


def lanes_that_fit(program: Any, device: Device) -> int:
    """Half the memory, divided by what one lane's program holds."""
    if program is None:  # This backend does not tell.
        return 1
    lane = program.argument_size_in_bytes + program.output_size_in_bytes + program.temp_size_in_bytes
    return max(1, _memory(device) // 2 // lane)


def _memory(device: Device) -> int:
    """Bytes that a program may hold."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 4 * 2**30
