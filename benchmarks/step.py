"""Times one update of `nag_optax.nag` against Optax's and PyTorch's Nesterov SGD.

    python -m benchmarks.step --json step.json

A step is the update and its application to the parameters; the gradients are given. All are float32.
"""

import argparse
import os
from typing import Any

from benchmarks.options import Parser
from benchmarks.trees import TREES, Shapes, num_parameters

LEAST_BYTES = 20
"""The least that a step can move for a float32 parameter: read p, g and w, write p and w."""

BOUND = "memory bound"
DEFAULT_TREES = [name for name in TREES if name != "tiny"]
COLUMNS = (
    "tree",
    "method",
    "ms a step",
    "quartiles",
    "nag / this",
    "bytes a parameter",
    "copies",
    "compile s",
)

LEGEND = """\
ms a step: median and quartiles over the rounds of one run in which all methods take turns.
nag / this: the median of nag divided by this one; below 1, nag is the faster.
memory bound: Nesterov momentum in float32 must move 20 bytes a parameter (read p, g, w; write p, w). The \
bound is the time for that at the bandwidth of x + 1 in place, measured in the same run on one flat array of \
the tree's size.
bytes a parameter: by XLA's cost analysis. copies: those of arrays as large as a leaf in the compiled step.
compile s: tracing, lowering and compilation.
compiled loop: the same steps without their calls from Python, 50 in one `fori_loop`.
"""


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks.step",
        description="Times one update step of nag_optax.nag(0.1, 0.9) beside "
        "optax.sgd(0.1, 0.9, nesterov=True), both jitted with donated parameters and state, and "
        "torch.optim.SGD(nesterov=True), fused and foreach, where torch is installed.",
        legend=LEGEND,
    )
    parser.add_argument(
        "--trees",
        nargs="+",
        choices=list(TREES),
        default=DEFAULT_TREES,
        metavar="TREE",
        help=f"parameter trees to time: {', '.join(TREES)} (default: all but tiny)",
    )
    parser.add_rounds(30, "every method")
    parser.add_json()
    return parser.parse_args(args)


def measure(name: str, shapes: Shapes, rounds: int) -> dict[str, Any]:
    """One tree: what its JSON entry says."""
    from benchmarks import contenders, report, timing

    parameters = num_parameters(shapes)
    methods: dict[str, timing.Repeated] = {}
    programs = {}
    with report.progress(f"{name}: compiling, then {rounds} rounds", rounds) as advance:
        grads = contenders.gradients(shapes)
        for method, optimizer in contenders.OPTIMIZERS.items():
            methods[method], programs[method] = contenders.jax_step(optimizer, grads)
        for method, optimizer in contenders.LOOPED.items():
            methods[method] = contenders.jax_loop(optimizer, grads)
        if device := contenders.torch_device():
            methods |= contenders.torch_steps(shapes, device, report.num_cores())
        methods[BOUND], bytes_moved = timing.memory_pass(parameters)
        timings = timing.interleaved_medians(methods, rounds, advance)

    bandwidth = bytes_moved / timings[BOUND].median
    timings[BOUND] = timings[BOUND].scaled(LEAST_BYTES * parameters / bytes_moved)
    for method in contenders.LOOPED:
        timings[method] = timings[method].scaled(1 / contenders.LOOP_STEPS)
    entry: dict[str, Any] = {
        "tree": name,
        "parameters": parameters,
        "leaves": len(shapes),
        "gigabytes_per_second": 1e-9 * bandwidth,
        "methods": {},
    }
    for method, timed in timings.items():
        entry["methods"][method] = {
            "milliseconds": 1e3 * timed.median,
            "quartiles": [1e3 * timed.lower_quartile, 1e3 * timed.upper_quartile],
            "calls_a_sample": timed.calls,
            "nag_ratio": timings["nag"].median / timed.median,
        }
    for method, program in programs.items():
        entry["methods"][method] |= {
            "bytes_per_parameter": program.bytes_accessed / parameters,
            "temporary_bytes_per_parameter": program.temporary_bytes / parameters,
            "copies": program.copies,
            "trace_seconds": program.trace_seconds,
            "compile_seconds": program.compile_seconds,
        }
    return entry


def rows(entry: dict[str, Any]) -> list[tuple[str, ...]]:
    """The rows of one tree in the table."""
    from benchmarks import report

    label = f"{entry['tree']}: {entry['parameters']:,} in {entry['leaves']}"
    return [
        (
            label if i == 0 else "",
            method,
            f"{numbers['milliseconds']:.3f}",
            "{:.3f} to {:.3f}".format(*numbers["quartiles"]),
            f"{numbers['nag_ratio']:.2f}" if method != "nag" else "",
            f"{numbers['bytes_per_parameter']:.2f}" if "bytes_per_parameter" in numbers else "",
            str(numbers["copies"]) if "copies" in numbers else "",
            report.seconds_to_compile(numbers, 2),
        )
        for i, (method, numbers) in enumerate(entry["methods"].items())
    ]


def main(args: list[str] | None = None) -> None:
    options = parse(args)
    # By default JAX takes most of a GPU's memory at its first use, and leaves torch too little.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from benchmarks import contenders, report

    result = report.environment() | {"repeats": options.repeats, "trees": []}
    if contenders.torch_device() is None:
        report.note("torch is left out: it is not installed, or has not the device that JAX uses")
    for name in dict.fromkeys(options.trees):
        result["trees"].append(measure(name, TREES[name](), options.repeats))
    groups = [rows(entry) for entry in result["trees"]]
    report.show(f"One update step: {report.headline(result)}", COLUMNS, groups)
    if options.json:
        report.write_json(options.json, result)


if __name__ == "__main__":
    main()
