"""Times what must answer at once: the import of the package, and `nag-optax --help`.

    python -m benchmarks.startup --json startup.json

Each is a process of its own, from its start to its end, with files that are in the page cache.
"""

import argparse
import subprocess
import sys
from typing import Any

from benchmarks.options import Parser, positive

COMMAND = "from nag_optax.cli import main; main()"  # What the script `nag-optax` holds.
PROGRAMS = {
    "python": ["-c", "pass"],
    "import jax, optax": ["-c", "import jax, optax"],
    "import nag_optax": ["-c", "import nag_optax"],
    "from nag_optax import nag": ["-c", "from nag_optax import nag"],
    "nag-optax --version": ["-c", COMMAND, "--version"],
    "nag-optax --help": ["-c", COMMAND, "--help"],
}
COLUMNS = ("process", "loads", "ms", "quartiles")
LEGEND = """\
ms: median and quartiles over the rounds of one run in which all processes take turns.
loads: which of JAX and Optax are loaded at its end. The package imports its names on first use.
"""


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks.startup",
        description="Times the import of nag_optax and nag-optax --help, each as a process.",
        legend=LEGEND,
    )
    parser.add_argument(
        "--repeats", type=positive, default=11, metavar="N", help="rounds, of one sample each (default: 11)"
    )
    parser.add_json()
    return parser.parse_args(args)


def process(options: list[str]) -> None:
    subprocess.run([sys.executable, *options], stdout=subprocess.DEVNULL, check=True)


def loaded(options: list[str]) -> list[str]:
    """Which of jax and optax a process has imported when it ends."""
    modules = "(name for name in ('jax', 'optax') if name in sys.modules)"
    watch = f"import atexit, sys\natexit.register(lambda: print(*{modules}, file=sys.stderr))\n"
    command = [sys.executable, options[0], watch + options[1], *options[2:]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stderr.splitlines()[-1].split()


def rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Of the table: one for each process."""
    return [
        (
            name,
            ", ".join(numbers["loads"]),
            f"{numbers['milliseconds']:.0f}",
            "{:.0f} to {:.0f}".format(*numbers["quartiles"]),
        )
        for name, numbers in result["processes"].items()
    ]


def main(args: list[str] | None = None) -> None:
    options = parse(args)
    from benchmarks import report, timing

    def contender(program: list[str]) -> timing.Repeated:
        def run(calls: int) -> None:
            for _ in range(calls):
                process(program)

        return run

    contenders = {name: contender(program) for name, program in PROGRAMS.items()}
    with report.progress(f"{options.repeats} rounds", options.repeats) as advance:
        timings = timing.interleaved_medians(contenders, options.repeats, advance)
    result = report.environment() | {"repeats": options.repeats, "processes": {}}
    for name, timed in timings.items():
        result["processes"][name] = {
            "loads": loaded(PROGRAMS[name]),
            "milliseconds": 1e3 * timed.median,
            "quartiles": [1e3 * timed.lower_quartile, 1e3 * timed.upper_quartile],
        }
    report.show(f"From start to end: {report.headline(result)}", COLUMNS, [rows(result)])
    if options.json:
        report.write_json(options.json, result)


if __name__ == "__main__":
    main()
