"""Times a steady-state epoch of `nag-optax train` against the straightforward PyTorch loop.

    python -m benchmarks.training --dataset mnist --data-dir DIR --model mlp

Same kind of device, same model, same batch size, data on the device, Nesterov SGD (fused in PyTorch), no
evaluation. PyTorch's loop is timed as it is and with `torch.compile`, where that works. The configuration is
the trainer's default for that dataset and model. With one core, as by `taskset -c 0`, the time is the
processor's: other programs on that core do not count.
"""

import argparse
import importlib.util
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.options import Parser, positive

OURS, TORCH, COMPILED = "nag-optax train", "torch loop, fused SGD", "the same, torch.compile"
GOALS = {"mlp": 0.5, "cnn": 0.85, "resnet18": 1.0}
"""Of PyTorch's time, the most that nag-optax should take on a CPU."""
COLUMNS = ("model", "loop", "s an epoch", "quartiles", "nag-optax / this")


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks.training",
        description="Times a steady-state epoch of nag-optax train beside the same model in a PyTorch loop.",
    )
    parser.add_argument("--model", choices=("mlp", "cnn", "resnet18"), default="mlp", help="default: mlp")
    parser.add_argument("--dataset", choices=("digits", "mnist", "cifar10", "folder"), default="digits")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="as in nag-optax train")
    parser.add_argument(
        "--steps", type=positive, metavar="N", help="steps in a sample, scaled to an epoch; default: an epoch"
    )
    parser.add_argument(
        "--repeats", type=positive, default=5, metavar="N", help="samples of each, in turns (default: 5)"
    )
    parser.add_json()
    return parser.parse_args(args)


def ours(loop: Any, steps: int, steps_per_report: int) -> Callable[[int], None]:
    """Steps as the trainer runs them: chunk after chunk, looking at each."""
    from nag_optax.train.loop import chunk_lengths

    state = loop.init()

    def run(calls: int) -> None:
        nonlocal state
        for _ in range(calls):
            for length in chunk_lengths(0, steps, steps_per_report):
                state = loop.run_chunk(state, length)
                float(state.loss_sum)

    return run


def torch_loops(
    spec: Any, dataset: Any, steps: int, device: str, cores: int
) -> dict[str, Callable[[int], None]]:
    """The loop as it is and, where that works, compiled."""
    import torch  # pyright: ignore[reportMissingImports] (extra "bench")

    from benchmarks import report

    torch.set_num_threads(cores)
    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # JAX's default there
        torch.backends.cudnn.benchmark = True
    loops = {TORCH: torch_loop(spec, dataset, steps, device, lambda model: model)}
    compiled = torch_loop(
        spec, dataset, steps, device, partial(torch.compile, dynamic=False, mode="reduce-overhead")
    )
    try:
        compiled(1)
    except RuntimeError as error:  # of the compiler that torch calls, which may be missing
        report.note(f"torch.compile is left out: {str(error).splitlines()[0]}")
        return loops
    return loops | {COMPILED: compiled}


def torch_loop(
    spec: Any, dataset: Any, steps: int, device: str, prepare: Callable[[Any], Any]
) -> Callable[[int], None]:
    """The loop that a PyTorch user would write, with the data already standardised and on the device."""
    import torch  # pyright: ignore[reportMissingImports]

    images = (dataset.train.images.astype("float32") - dataset.statistics.mean) / dataset.statistics.std
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(device)
    y = torch.from_numpy(dataset.train.labels).long().to(device)
    model = torch_model(spec.model, dataset.image_shape, dataset.num_classes).to(device)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=spec.learning_rate, momentum=spec.momentum, nesterov=True, fused=True
    )
    forward = prepare(model.train())

    def run(calls: int) -> None:
        for _ in range(calls):
            for batch in torch.randperm(len(x), device=device).split(spec.batch_size)[:steps]:
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(forward(x[batch]), y[batch])
                loss.backward()
                optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def torch_model(name: str, shape: tuple[int, int, int], classes: int) -> Any:
    """The models of nag_optax.train.models in PyTorch."""
    from torch import nn  # pyright: ignore[reportMissingImports]

    height, width, channels = shape
    if name == "resnet18":
        return torch_resnet18(shape, classes)
    if name == "mlp":
        hidden = nn.Linear(channels * height * width, 128)
        return nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, classes))

    def block(inputs: int) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, 64, 3, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)]

    dense = nn.Linear(64 * (height // 4) * (width // 4), 512, bias=False)
    head = [nn.Flatten(), dense, nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, classes)]
    return nn.Sequential(*block(channels), *block(64), *head)


def torch_resnet18(shape: tuple[int, int, int], classes: int) -> Any:
    """torchvision's, with the stem of nag_optax.train.models.resnet for small images."""
    from torch import nn  # pyright: ignore[reportMissingImports]
    from torchvision.models import resnet18  # pyright: ignore[reportMissingImports] (extra "bench")

    height, width, channels = shape
    model = resnet18(num_classes=classes, zero_init_residual=True)
    if max(height, width) <= 64:
        model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    return model


def rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Of the table: one for each loop."""
    return [
        (
            f"{result['dataset']} {result['model']}" if i == 0 else "",
            name,
            f"{loop['seconds_per_epoch']:.3f}",
            "{:.3f} to {:.3f}".format(*loop["quartiles"]),
            "" if name == OURS else f"{loop['nag_optax_ratio']:.2f}",
        )
        for i, (name, loop) in enumerate(result["loops"].items())
    ]


def goal(result: dict[str, Any]) -> list[str]:
    """What the ratio on a CPU should be, and whether it is."""
    if result["machine"]["backend"] != "cpu":
        return []
    most = GOALS[result["model"]]
    met = result["loops"][TORCH]["nag_optax_ratio"] <= most
    verdict = "It is met." if met else "It is missed."
    return [f"Goal: at most {most} of the PyTorch loop's time. {verdict}"]


def main(args: list[str] | None = None) -> None:
    options = parse(args)
    if importlib.util.find_spec("torch") is None:
        raise SystemExit("benchmarks.training: torch is not installed; pip install '.[bench]'")
    # By default JAX takes most of a GPU's memory at its first use, and leaves torch too little.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    from benchmarks import report, timing
    from benchmarks.contenders import torch_device
    from nag_optax.train.data import load_dataset
    from nag_optax.train.errors import InputError
    from nag_optax.train.loop import Loop
    from nag_optax.train.options import Options
    from nag_optax.train.spec import resolve

    device = torch_device()
    if device is None:
        raise SystemExit(f"benchmarks.training: torch does not see the {jax.default_backend()} that JAX uses")
    try:
        spec = resolve(Options(dataset=options.dataset, data_dir=options.data_dir, model=options.model))
        dataset = load_dataset(spec)
    except InputError as error:
        raise SystemExit(f"benchmarks.training: {error}") from None
    loop = Loop(spec, dataset, jax.devices()[:1])
    alone = device == "cpu" and report.num_cores() == 1
    steps = min(options.steps or loop.steps_per_epoch, loop.steps_per_epoch)
    with report.progress(
        f"{options.dataset} {options.model}: {options.repeats} rounds", options.repeats
    ) as advance:
        timings = timing.interleaved_medians(
            {
                OURS: ours(loop, steps, spec.model_row.steps_per_report),
                **torch_loops(spec, dataset, steps, device, report.num_cores()),
            },
            options.repeats,
            advance,
            time.process_time if alone else time.perf_counter,
        )
    timings = {name: timed.scaled(loop.steps_per_epoch / steps) for name, timed in timings.items()}
    result = report.environment() | {
        "dataset": options.dataset,
        "model": options.model,
        "steps": steps,
        "repeats": options.repeats,
        "processor_time": alone,
        "loops": {},
    }
    for name, timed in timings.items():
        result["loops"][name] = {
            "seconds_per_epoch": timed.median,
            "quartiles": [timed.lower_quartile, timed.upper_quartile],
            "nag_optax_ratio": timings[OURS].median / timed.median,
        }
    report.show(f"One epoch: {report.headline(result)}", COLUMNS, [rows(result)])
    if options.json:
        report.write_json(options.json, result)


if __name__ == "__main__":
    main()
