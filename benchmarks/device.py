"""Measures training and prediction without JAX beside JAX and PyTorch: memory, size, time, bytes of state.

    python -m benchmarks.device --json device.json

Each measurement is a process of its own on one core, which imports what it measures alone.
"""

import argparse
import importlib.metadata
import importlib.util
import io
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.options import Parser, positive

MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"model": "mlp"},
    "cnn": {"model": "cnn"},
    "pruned cnn": {"model": "cnn", "prune": "group_l2=0.02"},
}
STATES = ("float32", "bfloat16", "one byte")
ENGINES = {"iree": "IREE", "jax": "JAX", "torch": "PyTorch"}
BATCH, PREDICT = 32, (1, 64)
RUNTIME = ("numpy", "ml_dtypes", "iree-base-runtime")
COLUMNS = ("model", "state", "with", "ms a step", "MB resident", "bytes of state", "bytes of module")
INFERENCE = ("model", "with", "ms, batch 1", "ms, batch 64", "MB resident", "accuracy, %")
LEGEND = """\
Each step trains on 32 images of digits, with Nesterov momentum. Numbers are medians over the processes of \
one run, in turns, on one core each.
MB resident: the most that a process holds, Python included; in the second table at batch 64. JAX compiles \
within the process, and IREE compiled before, for this processor.
bytes of state: size of parameters, momentum, batch statistics and counters, which state.npz holds.
pruned cnn: the cnn without the units that --prune group_l2=0.02 sets to zero.
accuracy: on the test images. All three have the weights of one run.
"""


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks.device",
        description="Training and prediction by IREE without JAX, beside JAX and PyTorch.",
        legend=LEGEND,
    )
    parser.add_argument(
        "--repeats", type=positive, default=3, metavar="N", help="processes of each measurement (default: 3)"
    )
    parser.add_json()
    return parser.parse_args(args)


def runtime_megabytes() -> float:
    """Of the packages that the device needs, as they are installed."""
    files = (file for name in RUNTIME for file in importlib.metadata.distribution(name).files or ())
    paths = (Path(str(file.locate())) for file in files)
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def exports(folder: Path) -> tuple[dict[tuple[str, str], Path], dict[tuple[str, int], Path]]:
    """The folders of the steps by model and state, and of the predictions by model and batch size."""
    import jax.numpy as jnp
    from rich.console import Console

    import nag_optax
    from nag_optax.export.run import programs_of
    from nag_optax.train.options import ExportOptions, Options
    from nag_optax.train.parallel import find_devices
    from nag_optax.train.runner import train
    from nag_optax.train.transfer import stored_run

    steps, predictions = {}, {}
    nag = nag_optax.nag(0.01, 0.9)
    optimizers = nag, nag_optax.low_memory(nag, jnp.bfloat16), nag_optax.low_memory(nag)
    for name, choices in MODELS.items():
        run_dir = folder / name
        train(Options(**choices, run_dir=run_dir), Console(file=io.StringIO()))
        run = stored_run(run_dir, find_devices("cpu", 1), print)
        for state, optimizer in zip(STATES, optimizers, strict=True):
            options = ExportOptions(run_dir, "train-step", "host", BATCH)
            program = programs_of(run, options, optimizer)["train"]
            steps[name, state] = write(run_dir / state, run, {"train": program}, BATCH)
        for size in PREDICT:
            programs = programs_of(run, ExportOptions(run_dir, "predict", "host", size))
            predictions[name, size] = write(run_dir / f"batch{size}", run, programs, size)
    return steps, predictions


def write(folder: Path, run: Any, programs: dict[str, Any], size: int) -> Path:
    """An export, with what the processes read beside it."""
    import numpy as np
    from flax import nnx
    from rich.console import Console

    from nag_optax import export
    from nag_optax.export import device
    from nag_optax.export.iree import compiled
    from nag_optax.train.data import load_dataset

    files = {f"{name}.vmfb": compiled(program, "host") for name, program in programs.items()}
    export.save(folder, programs, files=files | {"device.py": Path(device.__file__).read_bytes()})
    test = load_dataset(run.spec, console=Console(file=io.StringIO())).test
    np.savez(folder / "test.npz", images=test.images.astype(np.float32), labels=test.labels, batch=size)
    weights: dict[str, Any] = {name: np.float32(run.facts[name]) for name in ("mean", "std")}
    for module, leaves in nnx.to_pure_dict(nnx.state(run.loop.module(run.state))).items():
        weights |= {f"{module}/{name}": np.asarray(leaf) for name, leaf in leaves.items()}
    np.savez(folder / "weights.npz", **weights)
    return folder


def measured(engine: str, folder: Path, program: str) -> dict[str, float]:
    """One process."""
    child = Path(__file__).with_name("device_child.py")
    command = [sys.executable, *(["-I"] if engine == "iree" else []), child, engine, folder, program]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{engine}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def rows(result: dict[str, Any]) -> list[list[tuple[str, ...]]]:
    """Of the table of steps, a group a model."""
    groups: dict[str, list[tuple[str, ...]]] = {}
    for entry in result["steps"]:
        group = groups.setdefault(entry["model"], [])
        module = f"{entry['module_bytes']:,}" if entry["engine"] == "IREE" else ""
        state = "" if entry["engine"] == "PyTorch" else f"{entry['state_bytes']:,}"
        cells = f"{entry['milliseconds']:.2f}", f"{entry['megabytes']:.0f}", state, module
        group.append((entry["model"] if not group else "", entry["state"], entry["engine"], *cells))
    return list(groups.values())


def inference_rows(result: dict[str, Any]) -> list[list[tuple[str, ...]]]:
    """Of the table of predictions, a group a model."""
    groups: dict[str, list[tuple[str, ...]]] = {}
    for entry in result["predictions"]:
        group = groups.setdefault(entry["model"], [])
        cells = *(f"{x:.3f}" for x in entry["milliseconds"]), f"{entry['megabytes']:.0f}"
        accuracy = f"{100 * entry['accuracy']:.2f}"
        group.append((entry["model"] if not group else "", entry["engine"], *cells, accuracy))
    return list(groups.values())


def main(args: list[str] | None = None) -> None:
    options = parse(args)
    from benchmarks import report
    from nag_optax.train.environment import versions_of

    engines = [name for name in ENGINES if name != "torch" or importlib.util.find_spec("torch")]
    with tempfile.TemporaryDirectory() as folder:
        report.note("training three models, and compiling them for IREE ...")
        steps, predictions = exports(Path(folder))
        jobs = [("train", key, path) for key, path in steps.items()]
        jobs += [("predict", key, path) for key, path in predictions.items()]
        # PyTorch has no packed state.
        pairs = [(job, e) for job in jobs for e in engines if e != "torch" or job[1][1] not in STATES[1:]]
        samples: dict[Any, list[dict[str, float]]] = {}
        with report.progress(f"{options.repeats} rounds", options.repeats) as advance:
            for _ in range(options.repeats):
                for (program, key, path), engine in pairs:
                    samples.setdefault((key, engine), []).append(measured(engine, path, program))
                advance()
        result = report.environment() | {"repeats": options.repeats, "runtime_megabytes": runtime_megabytes()}
        result["versions"] |= versions_of("iree-base-compiler", "iree-base-runtime")
        result["steps"] = [
            {
                "model": key[0],
                "state": key[1],
                "engine": ENGINES[engine],
                **medians(samples[key, engine]),
                "state_bytes": state_bytes(path),
                "module_bytes": (path / "train.vmfb").stat().st_size,
            }
            for (program, key, path), engine in pairs
            if program == "train"
        ]
        result["predictions"] = []
        for model in MODELS:
            for engine in engines:
                one, many = (medians(samples[(model, size), engine]) for size in PREDICT)
                times = [one["milliseconds"], many["milliseconds"]]
                entry = {"model": model, "engine": ENGINES[engine], **many, "milliseconds": times}
                result["predictions"].append(entry)
    report.show(f"A step: {report.headline(result)}", COLUMNS, rows(result))
    report.show("A prediction", INFERENCE, inference_rows(result))
    if options.json:
        report.write_json(options.json, result)


def medians(samples: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(sample[name] for sample in samples) for name in samples[0]}


def state_bytes(folder: Path) -> int:
    from nag_optax import export

    return sum(array.nbytes for array in export.load(folder, "train").initial)


if __name__ == "__main__":
    main()
