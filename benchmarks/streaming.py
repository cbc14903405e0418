"""Images a second from a folder: this package's worker processes beside torchvision's, on the same files.

    python -m benchmarks.streaming --data-dir DIR --json benchmarks/results/streaming.json

Each loader is a process of its own with as many workers. They are timed in turns, each for a number of
batches. The images go through no model. With `--train STEPS`, they go through a model instead, and the time
in which its steps wait for them is measured.
"""

import argparse
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.options import Parser, positive

BATCH_SIZE, READY = 128, 30
OURS, TORCH = "nag_optax", "torchvision"
COLUMNS = ("workers", "loader", "images/s", "quartiles", "nag_optax / this")
LEGEND = f"""\
images/s: pictures decoded and put into batches of {BATCH_SIZE}.
torchvision: ImageFolder and DataLoader.
nag_optax / this: median of the ratios of the rounds."""


def ours(folder: Path, workers: int) -> Callable[[], Any]:
    """The next batch, as a streamed run takes it, without the device."""
    from functools import partial

    from nag_optax.train.data import load_dataset
    from nag_optax.train.data.stream import Stream, epoch_order
    from nag_optax.train.options import Options
    from nag_optax.train.spec import resolve

    dataset = load_dataset(resolve(Options(dataset="folder", data_dir=folder, resident="no")))
    count = len(dataset.train.labels)
    order = partial(epoch_order, 0, num_examples=count, batch_size=BATCH_SIZE)
    return Stream(dataset.train, order, BATCH_SIZE, range(2**30), workers, lambda batch: batch).take


def torchvision(folder: Path, workers: int) -> Callable[[], Any]:
    """The next batch of uint8 images."""
    from torch.utils.data import DataLoader  # pyright: ignore[reportMissingImports] (extra "bench")
    from torchvision.datasets import ImageFolder  # pyright: ignore[reportMissingImports]
    from torchvision.transforms import PILToTensor  # pyright: ignore[reportMissingImports]

    pictures = ImageFolder(folder / "train", PILToTensor())
    loader = DataLoader(pictures, BATCH_SIZE, shuffle=True, num_workers=workers, persistent_workers=True)

    def forever():
        while True:
            yield from loader

    return forever().__next__


LOADERS = {OURS: ours, TORCH: torchvision}


def serve(loader: str, folder: Path, workers: int) -> None:
    """For each line with a number, the seconds of so many batches."""
    take = LOADERS[loader](folder, workers)
    for line in sys.stdin:
        for _ in range(READY):
            take()  # What was read ahead while the other loader was timed.
        started = time.perf_counter()
        for _ in range(int(line)):
            take()
        print(time.perf_counter() - started, flush=True)


def measure(options: argparse.Namespace, workers: int, advance: Callable[[], None]) -> dict[str, list[float]]:
    """Images a second of each round."""
    found: dict[str, list[float]] = {name: [] for name in LOADERS}
    with ExitStack() as stack:
        children = {}
        for name in LOADERS:
            command = [sys.executable, "-m", "benchmarks.streaming", "--data-dir", str(options.data_dir)]
            command += ["--workers", str(workers), "--serve", name]
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.callback(child.wait)
            stack.callback(child.stdin.close)  # pyright: ignore[reportOptionalMemberAccess]
            children[name] = child

        def seconds(name: str, batches: int) -> float:
            child = children[name]
            print(batches, file=child.stdin, flush=True)
            while (line := child.stdout.readline()) and not line[0].isdigit():
                pass  # What the loader says of the folder.
            if not line:
                raise SystemExit(f"benchmarks.streaming: the process of {name} ended")
            return float(line)

        for name in LOADERS:
            seconds(name, 1)
        for repeat in range(options.repeats):
            for name in list(LOADERS)[:: 1 if repeat % 2 else -1]:
                images = options.batches * BATCH_SIZE
                found[name].append(images / seconds(name, options.batches))
            advance()
    return found


def waiting(folder: Path, steps: int, workers: int, model: str = "cnn") -> dict[str, Any]:
    """Seconds of steps of training that stream the folder, and those in which they wait for pictures."""
    import jax

    from nag_optax.train.data import load_dataset
    from nag_optax.train.loop import Loop
    from nag_optax.train.options import Options
    from nag_optax.train.spec import resolve

    options = Options(
        dataset="folder",
        data_dir=folder,
        model=model,
        batch_size=BATCH_SIZE,
        num_epochs=2**20,
        resident="no",
        data_workers=workers,
    )
    spec = resolve(options)
    loop = Loop(spec, load_dataset(spec), jax.devices()[:1])
    state = loop.run_chunk(loop.init(), 3)  # Compiles, and starts the workers.
    before, started = loop.waited, time.perf_counter()
    loop.run_chunk(state, steps)
    seconds = time.perf_counter() - started
    waited = loop.waited - before
    loop.close()
    return {
        "model": model,
        "steps": steps,
        "workers": workers,
        "seconds": seconds,
        "waiting_seconds": waited,
    }


def sentence(result: dict[str, Any]) -> str:
    """What the steps waited."""
    step, share = result["seconds"] / result["steps"], result["waiting_seconds"] / result["seconds"]
    return (
        f"{result['steps']} steps of the {result['model']}, each of {BATCH_SIZE} pictures, took "
        f"{1000 * step:.0f} ms each and waited for pictures in {100 * share:.2f} % of that time. "
        f"{result['workers']} workers decoded, on the same cores as the steps."
    )


def rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """One for each loader and number of workers."""
    table = []
    for workers, found in result["workers"].items():
        for name, speeds in found.items():
            lower, _, upper = statistics.quantiles(speeds, n=4, method="inclusive")
            ratio = statistics.median(a / b for a, b in zip(found[OURS], speeds, strict=True))
            table.append(
                (
                    workers if name == OURS else "",
                    name,
                    f"{statistics.median(speeds):.0f}",
                    f"{lower:.0f} to {upper:.0f}",
                    "" if name == OURS else f"{ratio:.2f}",
                )
            )
    return table


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks.streaming",
        description="Times images a second from a folder beside torchvision.",
        legend=LEGEND,
    )
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", required=True, help="folder with train/CLASS/*"
    )
    parser.add_argument(
        "--workers", type=positive, nargs="+", default=[1, 2], metavar="N", help="processes (default: 1 2)"
    )
    parser.add_argument(
        "--batches", type=positive, default=100, metavar="N", help="in a sample (default: 100)"
    )
    parser.add_argument(
        "--repeats", type=positive, default=9, metavar="N", help="rounds of one sample each (default: 9)"
    )
    parser.add_argument(
        "--train", type=positive, metavar="STEPS", help="how long do steps of the cnn wait for pictures?"
    )
    parser.add_argument("--serve", choices=LOADERS, help=argparse.SUPPRESS)
    parser.add_json()
    return parser.parse_args(args)


def main(args: list[str] | None = None) -> None:
    options = parse(args)
    if options.serve:
        serve(options.serve, options.data_dir, options.workers[0])
        return
    from benchmarks import report

    if options.train:
        measured = report.environment() | waiting(options.data_dir, options.train, options.workers[-1])
        print(sentence(measured))
        if options.json:
            report.write_json(options.json, measured)
        return
    if importlib.util.find_spec("torchvision") is None:
        raise SystemExit("benchmarks.streaming: torchvision is not installed; pip install '.[bench]'")

    result: dict[str, Any] = report.environment() | {
        "repeats": options.repeats,
        "batches": options.batches,
        "workers": {},
    }
    for workers in options.workers:
        with report.progress(f"{workers} workers", options.repeats) as advance:
            result["workers"][str(workers)] = measure(options, workers, advance)
    report.show(f"Streaming: {report.headline(result)}", COLUMNS, [rows(result)])
    if options.json:
        report.write_json(options.json, result)


if __name__ == "__main__":
    main()
