"""What `nag-optax compare` found, without its curves, for benchmarks/results.

python -m benchmarks.comparison RUN_DIR --json benchmarks/results/comparison-digits.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.options import Parser, writable_file


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks.comparison",
        description="What nag-optax compare found, without its curves.",
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="folder of a comparison on images")
    parser.add_argument("--json", type=writable_file, metavar="FILE", required=True, help="where to write it")
    parser.add_argument("--about", metavar="TEXT", help="what the pictures are, where no name says it")
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
    from nag_optax.compare import report

    return report.command(config)


def without_curves(found: dict[str, Any]) -> dict[str, Any]:
    """The content of a comparison.json, of the chosen runs the numbers of their end alone."""
    optimizers = [{**result, "chosen": ends(result["chosen"])} for result in found["optimizers"]]
    return {**found, "optimizers": optimizers}


def ends(chosen: dict[str, Any] | None) -> dict[str, Any] | None:
    return chosen and {name: value for name, value in chosen.items() if name != "curves"}


def main(args: list[str] | None = None) -> None:
    options = parse(args)
    found = read("benchmarks.comparison", options.run_dir)
    about = {"about": options.about} if options.about else {}
    options.json.write_text(json.dumps(without_curves(found) | about, indent=1) + "\n")


if __name__ == "__main__":
    main()
