"""The search behind the default learning rates of `nag-optax train`.

    python -m benchmarks.tuning --dataset digits --model mlp
    python -m benchmarks.tuning --comparison RUN_DIR

It is a comparison of all optimizers of the trainer, each on a grid of half decades that grows while its
edge is best; the second command takes one that was made. The lowest mean loss on the validation part of
the training images is best; the test split is looked at with the chosen rate alone. Writes
tuning-<dataset>-<model>.json, and tuning.md with the table of every such file beside it.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.options import Parser, positive

RESULTS = Path(__file__).parent / "results"
TRIALS = "validation loss at each learning rate"
COLUMNS = ("optimizer", "best", "validation loss", "test accuracy, %", TRIALS)
RULE = (
    "{}: the rate with the lowest mean loss over the seeds on a fixed sixth of the training images, which "
    "the search holds out. The test images play no role in it."
)
LEGEND = [
    RULE.format("best"),
    "test accuracy: after training on all of them at that rate; mean ± standard deviation over the seeds.",
    "snoo, ema_nesterov and gpa are around adamw.",
]

UNSEARCHED = (
    "Where nothing was searched, as for MNIST's cnn, an optimizer takes its fallback, `learning_rate` of "
    "its row in nag_optax/train/registry.py."
)
NOTES = {
    (
        "digits",
        "cnn",
    ): "nag, the optimizer of `nag-optax train` without options, had finer rates and ten seeds. "
    "They chose the schedule too: with a cosine the loss is 0.00622 over 12 epochs and, at fewer "
    "rates, 0.00572 over 16 and 0.00619 over 20. We looked because seed 0 had a test accuracy of 98.33 % "
    "with the cosine. The validation loss then chose. No other optimizer had its schedule searched."
}
"""A remark on a search, by dataset and model."""


def make_parser() -> Parser:
    parser = Parser(
        prog="python -m benchmarks.tuning",
        description="Searches the learning rate of each optimizer of nag-optax train.",
    )
    parser.add_argument("--dataset", choices=("digits", "mnist"), default="digits", help="default: digits")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="IDX files, for --dataset mnist")
    parser.add_argument("--model", choices=("mlp", "cnn"), default="mlp", help="default: mlp")
    parser.add_argument(
        "--optimizers", nargs="+", metavar="NAME", help="some of the trainer's; the others' results are kept"
    )
    parser.add_argument(
        "--learning-rates", nargs="+", type=float, metavar="FLOAT", help="in place of the growing grid"
    )
    parser.add_argument(
        "--num-epochs", type=positive, metavar="N", help="by default those of the trainer's table"
    )
    parser.add_argument(
        "--num-images",
        type=positive,
        metavar="N",
        help="the first N training images of --dataset mnist alone",
    )
    parser.add_argument("--seeds", type=positive, default=3, metavar="N", help="runs at each (default: 3)")
    parser.add_argument(
        "--comparison",
        type=Path,
        metavar="RUN_DIR",
        help="folder of nag-optax compare on images: its results, in place of a search",
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="DIR", help="default: benchmarks/results"
    )
    return parser


def command(options: argparse.Namespace) -> str:
    """The search again; where data and results lie says nothing elsewhere."""
    words, parser = ["python -m benchmarks.tuning"], make_parser()
    for name, value in vars(options).items():
        if name == "results" or value == parser.get_default(name):
            continue
        shown = "DIR" if name == "data_dir" else value
        values = shown if isinstance(shown, list) else [shown]
        words += [
            "--" + name.replace("_", "-"),
            *(f"{v:g}" if isinstance(v, float) else str(v) for v in values),
        ]
    return " ".join(words)


def search(options: argparse.Namespace) -> dict[str, Any]:
    """The comparison of these options, without its curves."""
    from nag_optax.compare import compare
    from nag_optax.compare.spec import CompareOptions
    from nag_optax.train.registry import OPTIMIZERS

    optimizers: Any = tuple(options.optimizers or OPTIMIZERS)
    with tempfile.TemporaryDirectory() as folder:
        data_dir = options.data_dir
        if options.num_images is not None:
            data_dir = first_images(data_dir, options.num_images, Path(folder) / "data")
        compared = CompareOptions(
            dataset=options.dataset,
            data_dir=data_dir,
            model=options.model,
            optimizers=optimizers,
            learning_rates=tuple(options.learning_rates) if options.learning_rates else "auto",
            num_epochs=options.num_epochs,
            seeds=options.seeds,
            run_dir=Path(folder) / "comparison",
        )
        found = compare(compared)
    return without_curves(found, command(options)) | {"num_images": options.num_images}


def first_images(data_dir: Path, count: int, folder: Path) -> Path:
    """A folder with the first training images of another, and its test images."""
    import numpy as np

    from nag_optax.train.data.idx import read_idx_pair

    folder.mkdir()
    for split, kept in (("train", count), ("t10k", None)):
        images, labels = read_idx_pair(data_dir, split)
        for kind, array in (("images-idx3", images[:kept]), ("labels-idx1", labels[:kept])):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (folder / f"{split}-{kind}-ubyte").write_bytes(header + array.tobytes())
    return folder


def without_curves(found: dict[str, Any], command: str) -> dict[str, Any]:
    """What a comparison found of the trainer's optimizers, and the command that makes it again."""
    from nag_optax.train.registry import OPTIMIZERS

    facts = ("dataset", "model", "num_epochs", "batch_size", "schedule", "seeds")
    return {
        **{name: found["config"][name] for name in facts},
        **{name: found[name] for name in ("date", "machine", "versions")},
        "optimizers": {
            result["name"]: condensed(result, command)
            for result in found["optimizers"]
            if result["name"] in OPTIMIZERS
        },
    }


def taken(run_dir: Path) -> dict[str, Any]:
    """The results of a comparison that was made."""
    from benchmarks import comparison

    found = comparison.read("benchmarks.tuning", run_dir)
    return without_curves(found, comparison.command(found["config"])) | {"num_images": None}


def condensed(result: dict[str, Any], command: str) -> dict[str, Any]:
    """The trials of one optimizer, and the test accuracy of the best, as numbers over the seeds."""
    kept = ("best", "note", "trials")
    chosen = result["chosen"]
    return {
        "command": command,
        **{name: result[name] for name in kept},
        "test_accuracy": None if chosen is None else chosen["test_accuracy"],
    }


def rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row for each optimizer, in the trainer's order."""
    from nag_optax.train.registry import OPTIMIZERS

    found = result["optimizers"]
    return [row(name, found[name]) for name in OPTIMIZERS if name in found]


def row(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    from nag_optax.compare.report import spread

    tried = ", ".join(f"{t['learning_rate']:g}: {_loss(t)}" for t in found["trials"])
    if found["best"] is None:
        return name, "–", "diverged", "–", tried
    best = found["trials"][found["best"]]
    accuracy = spread([100 * share for share in found["test_accuracy"]], ".2f")
    return name, f"{best['learning_rate']:g}", _loss(best), accuracy, tried


def title(result: dict[str, Any]) -> str:
    """What was searched, and how long."""
    from nag_optax.compare.report import counted

    optimizers = result["optimizers"].values()
    counts = sorted({len(trial["validation_loss"]) for found in optimizers for trial in found["trials"]})
    images = "" if result["num_images"] is None else f"the first {result['num_images']:,} images, "
    facts = f"{images}{counted(result['num_epochs'], 'epoch')}, batches of {result['batch_size']}, "
    return f"{result['dataset']}, {result['model']}: {facts}{counted(' or '.join(map(str, counts)), 'seed')}"


def commands(result: dict[str, Any]) -> list[str]:
    """The searches, each once."""
    return list(dict.fromkeys(found["command"] for found in result["optimizers"].values()))


def table(result: dict[str, Any]) -> str:
    from benchmarks import report

    return report.markdown_table(COLUMNS, [rows(result)], text=(0, COLUMNS.index(TRIALS)))


def notes(result: dict[str, Any]) -> list[str]:
    """What must be read with the table."""
    note = NOTES.get((result["dataset"], result["model"]))
    edges = [f"{name}: {found['note']}." for name, found in result["optimizers"].items() if found.get("note")]
    return [*LEGEND, *([note] if note else []), *edges]


def markdown(results: list[dict[str, Any]]) -> str:
    """The tables of all results, and how they were made."""
    from benchmarks import report

    parts = [f"# Default learning rates\n\n{UNSEARCHED}\n"]
    for result in results:
        lines = "\n".join(["```bash", *commands(result), "```"])
        legend = "".join(f"- {note}\n" for note in notes(result))
        parts.append(
            f"## {title(result)}\n\n{report.headline(result)}\n\n{lines}\n\n{table(result)}\n{legend}"
        )
    return "\n".join(parts)


def _loss(trial: dict[str, Any]) -> str:
    return "diverged" if trial["diverged"] else f"{statistics.fmean(trial['validation_loss']):.3g}"


def main(args: list[str] | None = None) -> None:
    from nag_optax.train.errors import TrainError

    options = make_parser().parse_args(args)
    if options.num_images is not None and options.data_dir is None:
        make_parser().error(f"--num-images {options.num_images}: goes with --data-dir")
    try:
        result = search(options) if options.comparison is None else taken(options.comparison)
    except TrainError as error:
        raise SystemExit(f"benchmarks.tuning: {error}") from None
    from benchmarks import report

    path = options.results / f"tuning-{result['dataset']}-{result['model']}.json"
    if path.exists():
        result["optimizers"] = json.loads(path.read_text())["optimizers"] | result["optimizers"]
    report.write_json(path, result)
    stored = [json.loads(file.read_text()) for file in sorted(options.results.glob("tuning-*.json"))]
    (options.results / "tuning.md").write_text(markdown(stored))
    report.show(f"{result['dataset']}, {result['model']}", COLUMNS, [rows(result)])


if __name__ == "__main__":
    main()
