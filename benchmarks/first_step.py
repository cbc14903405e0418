"""Times what a person waits for: from `nag-optax train` to the first epoch, and how much the cache saves.

    python -m benchmarks.first_step --json first_step.json

The epoch is one step, on all images of digits at once, and its evaluation. The command runs twice a round,
with an empty cache of compiled programs and with the one that this filled.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.options import Parser, positive
from benchmarks.startup import COMMAND

MODELS = ("mlp", "cnn")
COLUMNS = ("model", "programs", "s", "quartiles")
LEGEND = """\
s: from the start of `nag-optax train` on digits to the line of its first epoch, with one step and one \
evaluation. Median and quartiles over the rounds of one run, in turns.
programs: compiled anew, or read from the cache that the command keeps.
"""


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks.first_step",
        description="Times nag-optax train from its start to its first epoch, with and without a cache.",
        legend=LEGEND,
    )
    parser.add_argument(
        "--repeats", type=positive, default=5, metavar="N", help="rounds, two runs a model each (default: 5)"
    )
    parser.add_json()
    return parser.parse_args(args)


def first_epoch(model: str, caches: str) -> float:
    """Seconds to the line of the first epoch; `caches` stands for the cache folder of the user."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= dict.fromkeys(("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"), caches)
    with tempfile.TemporaryDirectory() as folder:
        options = ["--model", model, "--batch-size", "1437", "--num-epochs", "1", "--run-dir", folder]
        command = [sys.executable, "-c", COMMAND, "train", *options]
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("epoch"):
                    return time.perf_counter() - started
    raise RuntimeError(f"{command} ended without an epoch")


def measured(model: str) -> dict[str, float]:
    """One round of a model."""
    with tempfile.TemporaryDirectory() as caches:
        return {name: first_epoch(model, caches) for name in ("compiled", "read")}


def rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (model, name, f"{numbers['seconds']:.1f}", "{:.1f} to {:.1f}".format(*numbers["quartiles"]))
        for model, both in result["models"].items()
        for name, numbers in both.items()
    ]


def main(args: list[str] | None = None) -> None:
    options = parse(args)
    from benchmarks import report, timing

    rounds: dict[str, list[dict[str, float]]] = {model: [] for model in MODELS}
    with report.progress(f"{options.repeats} rounds", options.repeats) as advance:
        for _ in range(options.repeats):
            for model in MODELS:
                rounds[model].append(measured(model))
            advance()
    result = report.environment() | {"repeats": options.repeats, "models": {}}
    for model, samples in rounds.items():
        result["models"][model] = {}
        for name in samples[0]:
            timed = timing.summary([times[name] for times in samples])
            quartiles = [timed.lower_quartile, timed.upper_quartile]
            result["models"][model][name] = {"seconds": timed.median, "quartiles": quartiles}
    report.show(f"To the first epoch: {report.headline(result)}", COLUMNS, [rows(result)])
    if options.json:
        report.write_json(options.json, result)


if __name__ == "__main__":
    main()
