"""What a compiled program says of itself: bytes, copies, temporary memory, compile time."""

import re
import time
from collections.abc import Collection
from math import prod
from typing import Any, NamedTuple

# `%copy.1 = f32[64,128]{1,0} copy(...)`; copy-start returns a tuple.
_COPY = re.compile(r"= \(?\w+\[([\d,]*)\][^=\n]* copy(?:-start)?\(")


class Program(NamedTuple):
    """A compiled step.

    Attributes:
        run: the executable.
        bytes_accessed: what its operations read and write, as XLA's cost analysis counts them.
        copies: copies in the compiled program of arrays as large as a leaf of the tree.
        argument_bytes: memory of the arguments.
        temporary_bytes: memory that a call allocates beside its arguments and results.
        trace_seconds: tracing and lowering.
        compile_seconds: XLA's compilation.
    """

    run: Any
    bytes_accessed: float
    copies: int
    argument_bytes: int
    temporary_bytes: int
    trace_seconds: float
    compile_seconds: float


def compiled(function: Any, *args: Any, sizes: Collection[int]) -> Program:
    """Compiles the jitted function for the arguments; `sizes` are those of the leaves."""
    start = time.perf_counter()
    lowered = function.lower(*args)
    traced = time.perf_counter()
    executable = lowered.compile()
    done = time.perf_counter()
    memory = executable.memory_analysis()
    return Program(
        run=executable,
        bytes_accessed=executable.cost_analysis()["bytes accessed"],
        copies=count_copies(executable.as_text(), sizes),
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        trace_seconds=traced - start,
        compile_seconds=done - traced,
    )


def count_copies(hlo: str, sizes: Collection[int]) -> int:
    """Copies in an HLO text whose element count is one of the sizes."""
    shapes = [[int(n) for n in dims.split(",") if n] for dims in _COPY.findall(hlo)]
    return sum(prod(shape) in sizes for shape in shapes)
