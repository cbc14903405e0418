"""What `nag-optax compare` found, without its curves, for benchmarks/results; and the README's table of it.

python -m benchmarks.comparison RUN_DIR --json benchmarks/results/comparison-digits.json
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.options import Parser, writable_file
from nag_optax.compare.search import LEAST_LOSS

KEPT = (
    "learning_rate",
    "diverged",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "steps_to_target",
)


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks.comparison",
        description="What nag-optax compare found, without its curves.",
        allow_abbrev=False,
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="folder of a comparison on images")
    parser.add_argument("--json", type=writable_file, metavar="FILE", required=True, help="where to write it")
    return parser.parse_args(args)


def read(program: str, run_dir: Path) -> dict[str, Any]:
    """The comparison.json of a folder; ends the program if it is none on images."""
    path = run_dir / "comparison.json"
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"{program}: {path}: not the file of a comparison ({error})") from None
    if "problem" not in found.get("config", {}) or found["config"]["problem"] is not None:
        raise SystemExit(f"{program}: {path}: not a comparison on images")
    found["config"].pop("data_dir", None)  # says nothing elsewhere
    return found


def command(config: dict[str, Any]) -> str:
    """What makes it again."""
    from nag_optax.compare import table
    from nag_optax.compare.config import CompareConfig

    return table.command(CompareConfig(**config))


def without_curves(found: dict[str, Any]) -> dict[str, Any]:
    """The content of a comparison.json, each trial with the numbers of its end alone."""
    optimizers = [
        {**result, "trials": [{key: trial[key] for key in KEPT} for trial in result["trials"]]}
        for result in found["optimizers"]
    ]
    return {**found, "optimizers": optimizers}


def overview(results: Sequence[dict[str, Any]]) -> str:
    """The table of the README: accuracy, loss and steps of each optimizer on each dataset and model."""
    from nag_optax.compare.table import spread

    labels = {entry["name"]: entry["label"] for result in results for entry in result["optimizers"]}
    head, lines = ["optimizer"], {name: [label] for name, label in labels.items()}
    for result in results:
        what = f"{result['config']['dataset']} {result['config']['model']}"
        target = f"{100 * result['config']['target']:g}"
        head += [f"{what}: test accuracy, %", "training loss", f"steps to {target} %"]
        found = {entry["name"]: entry for entry in result["optimizers"]}
        for name, line in lines.items():
            if name not in found or found[name]["best"] is None:
                line += ["–"] * 3
                continue
            best = found[name]["trials"][found[name]["best"]]
            loss = statistics.fmean(best["train_loss"])
            line += [
                spread([100 * share for share in best["test_accuracy"]], ".2f"),
                f"{loss:.1e}" if loss >= LEAST_LOSS else f"< {LEAST_LOSS:.0e}",
                spread(best["steps_to_target"], ".0f"),
            ]
    rule = ["---"] + ["--:"] * (len(head) - 1)
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *lines.values()))


def main(args: list[str] | None = None) -> None:
    options = parse(args)
    found = read("benchmarks.comparison", options.run_dir)
    options.json.write_text(json.dumps(without_curves(found), indent=1) + "\n")


if __name__ == "__main__":
    main()
