"""Compiles a program with IREE, for its runtime."""

import textwrap
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

    IREE takes the portable StableHLO of `jax.export`, whatever its version. It refuses a free batch size,
    because JAX leaves such shapes to a pass of its own compiler.

    Args:
        program: a program with a batch size.
        target: one of `TARGETS`.

    Raises:
        ValueError: if IREE cannot compile the program for the target.
    """
    try:
        module = iree.compiler.compile_str(
            program.exported.mlir_module_serialized,
            input_type="stablehlo",
            extra_args=[
                "--iree-hal-target-device=local",
                "--iree-hal-local-target-device-backends=llvm-cpu",
                # Without this IREE computes in advance what depends on no argument, such as the counters of
                # random bits. The module then has ten times the bytes, and is no faster.
                "--iree-opt-const-expr-hoisting=false",
                *_TARGETS[target],
            ],
        )
    except iree.compiler.CompilerToolError as error:
        # IREE prints pages: the reason, the operation, and where it was traced.
        what = textwrap.shorten(str(error), 400, placeholder=" …")
        raise ValueError(f"IREE cannot compile the program: {what}") from error
    assert module is not None  # None only if an output file is named.
    return module
