"""What a compiled program says of itself: bytes, copies, temporary memory, compile time."""

import os
import re
import time
from collections.abc import Collection
from math import prod
from typing import Any, NamedTuple

# `%copy.1 = f32[64,128]{1,0} copy(...)`; copy-start returns a tuple.
# `%fusion.1 = f32[64]{0} fusion(...)`; the type may be a tuple.
_INSTRUCTION = re.compile(r"= (?:\(.*?\)|\S+) ([a-z][\w-]*)\(")
_CALLED = re.compile(r"(?:body|to_apply)=%?([\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_NO_KERNEL = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "partition-id", "replica-id",
    "after-all", "opt-barrier",
}  # fmt: skip
_COPY = re.compile(r"= \(?\w+\[([\d,]*)\][^=\n]* copy(?:-start)?\(")


class Program(NamedTuple):
    """A compiled step.

    Attributes:
        run: the executable.
        bytes_accessed: what its operations read and write, as XLA's cost analysis counts them.
        copies: copies in the compiled program of arrays as large as a leaf of the tree.
        argument_bytes: memory of the arguments.
        kernels: operations that a call starts; one in a loop counts once for each pass.
        temporary_bytes: memory that a call allocates beside its arguments and results.
        trace_seconds: tracing and lowering.
        compile_seconds: XLA's compilation; None where JAX has a cache, which may have held the program.
    """

    run: Any
    bytes_accessed: float
    copies: int
    argument_bytes: int
    kernels: int
    temporary_bytes: int
    trace_seconds: float
    compile_seconds: float | None


def compiled(function: Any, *args: Any, sizes: Collection[int]) -> Program:
    """Compiles the jitted function for the arguments; `sizes` are those of the leaves."""
    start = time.perf_counter()
    lowered = function.lower(*args)
    traced = time.perf_counter()
    executable = lowered.compile()
    done = time.perf_counter()
    memory, text = executable.memory_analysis(), executable.as_text()
    return Program(
        run=executable,
        bytes_accessed=executable.cost_analysis()["bytes accessed"],
        copies=count_copies(text, sizes),
        argument_bytes=memory.argument_size_in_bytes,
        kernels=count_kernels(text),
        temporary_bytes=memory.temp_size_in_bytes,
        trace_seconds=traced - start,
        compile_seconds=None if "JAX_COMPILATION_CACHE_DIR" in os.environ else done - traced,
    )


def count_copies(hlo: str, sizes: Collection[int]) -> int:
    """Copies in an HLO text whose element count is one of the sizes."""
    shapes = [[int(n) for n in dims.split(",") if n] for dims in _COPY.findall(hlo)]
    return sum(prod(shape) in sizes for shape in shapes)


def count_kernels(hlo: str) -> int:
    """Operations that a call of the program starts; one for all that are fused."""
    computations: dict[str, list[str]] = {}
    lines: list[str] = []
    entry = ""
    for line in hlo.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            name = line.removeprefix("ENTRY ").split()[0].removeprefix("%")
            computations[name] = lines = []
            entry = name if line.startswith("ENTRY ") else entry
        else:
            lines.append(line)

    def count(computation: str) -> int:
        total = 0
        for line in computations[computation]:
            found = _INSTRUCTION.search(line)
            kind = found[1] if found else ""
            if kind in ("while", "call"):
                (called,) = _CALLED.findall(line)
                trips = _TRIPS.search(line)
                total += count(called) * (int(trips[1]) if trips else 1)
            elif kind and kind not in _NO_KERNEL and not kind.endswith("-done"):
                total += 1
        return total

    return count(entry)
