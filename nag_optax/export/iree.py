"""IREE: a program as a module that its runtime carries out."""

import re
from collections.abc import Mapping

import iree.compiler

from nag_optax.export.program import Program

_TARGETS: Mapping[str, tuple[str, ...]] = {
    "cpu": ("--iree-llvmcpu-target-cpu=generic",),
    "host": ("--iree-llvmcpu-target-cpu=host",),
    "arm64": ("--iree-llvmcpu-target-triple=aarch64-linux-gnu", "--iree-llvmcpu-target-cpu=generic"),
}
TARGETS = tuple(_TARGETS)


def compiled(program: Program, target: str) -> bytes:
    """The module of a program with one batch size.

    IREE takes the portable StableHLO of `jax.export` of every version. It refuses a free batch size: JAX
    leaves such a shape to a pass of its own compiler.

    Args:
        program: with a batch size.
        target: of `TARGETS`.

    Raises:
        ValueError: if IREE does not know an operation of the program.
    """
    try:
        module = iree.compiler.compile_str(
            program.exported.mlir_module_serialized,
            input_type="stablehlo",
            extra_args=[
                "--iree-hal-target-device=local",
                "--iree-hal-local-target-device-backends=llvm-cpu",
                # Or IREE computes what depends on no argument in advance, such as the counters of random
                # bits: ten times the bytes for a step that is no faster.
                "--iree-opt-const-expr-hoisting=false",
                *_TARGETS[target],
            ],
        )
    except iree.compiler.CompilerToolError as error:
        # The operation itself, and where it was traced, may take pages.
        found = re.search(r"error: ([^%\n]*)", str(error))
        what = found[1].strip(" :") if found else "see the compiler's output"
        raise ValueError(f"IREE cannot compile the program: {what}") from error
    assert module is not None  # It is where no file is named.
    return module
