"""Times one step of `nag_optax.muon` against Optax's and PyTorch's, and counts what devices share.

    python -m benchmarks.muon --json muon.json

A step is the update and its application to the parameters, all of them matrices; the gradients are given.
"""

import argparse
import json
import os
import subprocess
import sys
from typing import Any

from benchmarks.options import Parser
from benchmarks.trees import MATRICES, Shapes, num_parameters

DTYPES = ("float32", "bfloat16")
COLUMNS = ("matrices", "method", "ms a step", "quartiles", "nag_optax / this", "kernels", "compile s")
COST_COLUMNS = (
    "matrices",
    "method",
    "devices",
    "GFLOP a device",
    "MB a device",
    "exchanges",
)

LEGEND = """\
ms a step: median and quartiles over the rounds of one run in which all methods take turns.
nag_optax / this: the median of nag_optax.muon divided by this one; below 1, nag_optax is the faster.
Parameters, gradients, momentum and Newton-Schulz steps have the dtype of the row.
kernels: operations that one call of the compiled step starts. One in a loop counts once for each pass.
GFLOP, MB: XLA's cost analysis of the step in float32 with one Newton-Schulz iteration, compiled for a CPU, \
with every matrix split over the devices along its rows. exchanges: collectives in that program.
"""


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks.muon",
        description="Times one step of nag_optax.muon beside optax.contrib.muon, both jitted with donated "
        "parameters and state, and torch.optim.Muon, where torch is installed.",
        legend=LEGEND,
    )
    parser.add_argument(
        "--matrices",
        nargs="+",
        choices=list(MATRICES),
        default=["gpt2-small"],
        metavar="NAME",
        help=f"whose matrices: {', '.join(MATRICES)} (default: gpt2-small)",
    )
    parser.add_argument(
        "--dtypes",
        nargs="+",
        choices=DTYPES,
        default=list(DTYPES),
        metavar="DTYPE",
        help="float32, bfloat16 (default: both)",
    )
    parser.add_rounds(20, "every method")
    parser.add_json()
    return parser.parse_args(args)


def measure(name: str, shapes: Shapes, dtype: str, rounds: int) -> dict[str, Any]:
    """One set of matrices in one dtype: what its JSON entry says."""
    import jax.numpy as jnp

    from benchmarks import contenders, muon_contenders, report, timing

    methods: dict[str, timing.Repeated] = {}
    programs = {}
    with report.progress(f"{name}, {dtype}: compiling, then {rounds} rounds", rounds) as advance:
        grads = muon_contenders.gradients(shapes, jnp.dtype(dtype))
        for method, optimizer in muon_contenders.optimizers(jnp.dtype(dtype)).items():
            methods[method], programs[method] = contenders.jax_step(optimizer, grads)
        if dtype == "bfloat16" and (device := contenders.torch_device()):
            methods |= muon_contenders.torch_step(shapes, device, report.num_cores())
        timings = timing.interleaved_medians(methods, rounds, advance)
    entry: dict[str, Any] = {
        "matrices": name,
        "parameters": num_parameters(shapes),
        "leaves": len(shapes),
        "dtype": dtype,
        "methods": {},
    }
    for method, timed in timings.items():
        entry["methods"][method] = {
            "milliseconds": 1e3 * timed.median,
            "quartiles": [1e3 * timed.lower_quartile, 1e3 * timed.upper_quartile],
            "calls_a_sample": timed.calls,
            "nag_optax_ratio": timings[muon_contenders.OURS].median / timed.median,
        }
    for method, program in programs.items():
        entry["methods"][method] |= {
            "kernels": program.kernels,
            "temporary_bytes": program.temporary_bytes,
            "trace_seconds": program.trace_seconds,
            "compile_seconds": program.compile_seconds,
        }
    return entry


def device_costs(name: str) -> dict[str, Any]:
    """`muon_contenders.costs` in a process that has several CPU devices."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4",
    }
    command = [sys.executable, "-m", "benchmarks.muon_contenders", name]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return {"matrices": name, "methods": json.loads(done.stdout)}


def rows(entry: dict[str, Any]) -> list[tuple[str, ...]]:
    """The rows of one set in one dtype."""
    from benchmarks import report

    label = f"{entry['matrices']}, {entry['dtype']}: {entry['parameters']:,} in {entry['leaves']}"
    return [
        (
            label if i == 0 else "",
            method,
            f"{numbers['milliseconds']:.2f}",
            "{:.2f} to {:.2f}".format(*numbers["quartiles"]),
            f"{numbers['nag_optax_ratio']:.2f}" if i else "",
            str(numbers["kernels"]) if "kernels" in numbers else "",
            report.seconds_to_compile(numbers, 1),
        )
        for i, (method, numbers) in enumerate(entry["methods"].items())
    ]


def cost_rows(entry: dict[str, Any]) -> list[tuple[str, ...]]:
    """The rows of one set: each method on one device and on several."""
    lines = [
        (method, devices, numbers)
        for method, found in entry["methods"].items()
        for devices, numbers in found.items()
    ]
    return [
        (
            entry["matrices"] if i == 0 else "",
            method,
            devices,
            f"{1e-9 * numbers['flops']:.3g}",
            f"{1e-6 * numbers['bytes']:.3g}",
            str(numbers["exchanges"]),
        )
        for i, (method, devices, numbers) in enumerate(lines)
    ]


def main(args: list[str] | None = None) -> None:
    options = parse(args)
    # By default JAX takes most of a GPU's memory at its first use, and leaves torch too little.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from benchmarks import contenders, report

    result = report.environment() | {"repeats": options.repeats, "entries": [], "costs": []}
    if contenders.torch_device() is None:
        report.note("torch is left out: it is not installed, or has not the device that JAX uses")
    for name in dict.fromkeys(options.matrices):
        for dtype in dict.fromkeys(options.dtypes):
            result["entries"].append(measure(name, MATRICES[name](), dtype, options.repeats))
        result["costs"].append(device_costs(name))
    headline = report.headline(result)
    report.show(f"One step of Muon: {headline}", COLUMNS, [rows(entry) for entry in result["entries"]])
    print()
    report.show("What devices share", COST_COLUMNS, [cost_rows(entry) for entry in result["costs"]])
    if options.json:
        report.write_json(options.json, result)


if __name__ == "__main__":
    main()
