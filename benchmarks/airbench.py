"""Trains `--preset airbench` beside the same network and recipe in PyTorch, on the same pictures.

    python -m benchmarks.airbench --data-dir DIR --json benchmarks/results/airbench.json

DIR holds train/CLASS and test/CLASS. Both train on the same few pictures, with the learning rate of the
preset times the batch's share of 1024. Results in the file are kept, so that an interrupted run goes on.
"""

import argparse
import dataclasses
import importlib.util
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.options import Parser, positive, writable_file

OURS, TORCH = "nag-optax train --preset airbench", "PyTorch"
EPOCHS, BATCH_SIZE, SIZE, TRAIN, TEST, SEEDS = 10, 50, 32, 2000, 2000, 3
COLUMNS = ("training", "test accuracy of each seed, %", "mean ± standard deviation", "test loss")
LEGEND = [
    "PyTorch: the recipe as published, with `torch.optim.SGD(nesterov=True)`. It draws other numbers, trains "
    "the biases of the first layer for three epochs, and takes the running statistics through Lookahead too.",
    "Both see each test picture once and unchanged. The published accuracy is a mean over six views of each.",
]


def ours(spec: Any, dataset: Any) -> tuple[float, float]:
    """Test loss and accuracy after a training as the trainer does it."""
    import jax

    from nag_optax.train.loop import Loop

    loop = Loop(spec, dataset, jax.devices()[:1])
    state, steps = loop.init(), spec.num_epochs * loop.steps_per_epoch
    while int(state.step) < steps:
        for length in loop.chunk_lengths(int(state.step)):
            state = loop.run_chunk(state, length)
    loss, accuracy = loop.evaluate(state, dataset.test)
    return loss, accuracy


def torchs(spec: Any, dataset: Any) -> tuple[float, float]:
    """The same of PyTorch's."""
    import torch  # pyright: ignore[reportMissingImports] (extra "bench")
    from torch.nn import functional  # pyright: ignore[reportMissingImports]

    torch.manual_seed(spec.seed)

    def tensors(split: Any) -> tuple[Any, Any]:
        images = (split.images.astype(np.float32) - dataset.statistics.mean) / dataset.statistics.std
        return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(split.labels).long()

    (images, labels), test = tensors(dataset.train), tensors(dataset.test)
    model = torch_model(images, dataset.num_classes)
    batch, steps_per_epoch = spec.batch_size, math.ceil(len(images) / spec.batch_size)
    steps = spec.num_epochs * steps_per_epoch
    # As the paper counts: a rate and a decay for sums over 1024 pictures.
    scale = 1024 * (1 + 1 / (1 - spec.momentum))
    rate, decay = 11.5 / scale, 0.0153 * batch / scale
    biases = [p for name, p in model.named_parameters() if "norm" in name and p.requires_grad]
    others = [p for name, p in model.named_parameters() if "norm" not in name and p.requires_grad]
    groups = [
        {"params": biases, "lr": 64 * rate, "weight_decay": decay / (64 * rate)},
        {"params": others, "lr": rate, "weight_decay": decay / rate},
    ]
    optimizer = torch.optim.SGD(groups, momentum=spec.momentum, nesterov=True)
    peak = int(0.23 * steps)
    triangle = np.interp(np.arange(steps + 1), [0, peak, steps], [0.2, 1, 0.07])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: triangle[step])
    slow = {name: value.clone() for name, value in model.state_dict().items()}

    def meet(share: float) -> None:
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(slow[name].lerp_(value, share))

    mirrored = torch.rand(len(images)) < 0.5
    step = 0
    for epoch in range(spec.num_epochs):
        model.whitening.bias.requires_grad = epoch < 3
        seen = augmented(images, mirrored if epoch % 2 == 0 else ~mirrored)
        order = np.resize(torch.randperm(len(images)).numpy(), steps_per_epoch * batch)
        for rows in order.reshape(-1, batch):
            optimizer.zero_grad(set_to_none=True)
            logits = model.train()(seen[rows])
            functional.cross_entropy(logits, labels[rows], label_smoothing=0.2, reduction="sum").backward()
            optimizer.step()
            schedule.step()
            step += 1
            with torch.no_grad():
                if step % 5 == 0:
                    meet(1 - 0.95**5 * (step / steps) ** 3)
    with torch.no_grad():
        meet(0.0)
        logits = torch.cat([model.eval()(part) for part in test[0].split(500)])
        correct = (logits.argmax(1) == test[1]).float().mean()
        return functional.cross_entropy(logits, test[1]).item(), correct.item()


def augmented(images: Any, mirrored: Any) -> Any:
    """The pictures of an epoch, moved by up to two pixels of 32 over a reflected border."""
    import torch  # pyright: ignore[reportMissingImports]

    height, width = images.shape[2:]
    most = height // 16
    padded = torch.nn.functional.pad(images, (most,) * 4, "reflect")
    places = torch.randint(0, 2 * most + 1, (len(images), 2)).tolist()
    moved = [p[:, i : i + height, j : j + width] for p, (i, j) in zip(padded, places, strict=True)]
    images = torch.stack(moved)
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def torch_model(images: Any, classes: int, widths: tuple[int, int, int] = (64, 256, 256)) -> Any:
    """The network, its first layer made for these images, (N, channels, height, width)."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    def conv(inputs: int, units: int) -> Any:
        made = nn.Conv2d(inputs, units, 3, padding="same", bias=False)
        nn.init.dirac_(made.weight.data[:inputs])
        return made

    def norm(units: int) -> Any:
        made = nn.BatchNorm2d(units, eps=1e-12, momentum=0.4)
        made.weight.requires_grad = False
        return made

    channels = images.shape[1]
    patches = nn.functional.unfold(images[:5000], 2).transpose(1, 2).reshape(-1, 4 * channels)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / torch.sqrt(values + 5e-4)).T.reshape(-1, channels, 2, 2)
    whitening = nn.Conv2d(channels, 8 * channels, 2)
    whitening.weight.data = torch.cat([filters, -filters])
    whitening.weight.requires_grad = False
    whitening.bias.data.zero_()
    model = nn.Sequential()
    model.add_module("whitening", whitening)
    model.add_module("gelu", nn.GELU())
    inputs = 8 * channels
    for i, units in enumerate(widths, 1):
        parts = {
            "conv1": conv(inputs, units),
            "pool": nn.MaxPool2d(2),
            "norm1": norm(units),
            "gelu1": nn.GELU(),
        }
        parts |= {"conv2": conv(units, units), "norm2": norm(units), "gelu2": nn.GELU()}
        for name, part in parts.items():
            model.add_module(f"block{i}_{name}", part)
        inputs = units
    model.add_module("pool", nn.AdaptiveMaxPool2d(1))
    model.add_module("flat", nn.Flatten())
    head = nn.Linear(inputs, classes, bias=False)
    model.add_module("head", head)
    model.register_forward_hook(lambda module, args, logits: logits / 9)
    return model


def rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Of the table: one for each training."""
    return [
        (
            f"`{name}`" if name == OURS else name,
            ", ".join(f"{100 * accuracy:.1f}" for accuracy in found["accuracy"]),
            spread([100 * accuracy for accuracy in found["accuracy"]], 1),
            spread(found["loss"], 3),
        )
        for name, found in result["trainings"].items()
    ]


def spread(values: list[float], digits: int) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return f"{statistics.fmean(values):.{digits}f} ± {deviation:.{digits}f}"


def facts(result: dict[str, Any]) -> str:
    """What was trained on what, in a sentence."""
    return (
        f"{result['train']:,} of the folder's {result['available']:,} training pictures of "
        f"{result['image_size']} × {result['image_size']} pixels, in "
        f"{result['num_epochs']} epochs of batches of {result['batch_size']}, tested on "
        f"{result['test']:,} others, in float32. The learning rate is the published one for that batch size."
    )


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks.airbench",
        description="Trains the fast network for CIFAR-10 with nag-optax and in PyTorch.",
    )
    parser.add_argument("--data-dir", type=Path, required=True, metavar="DIR", help="holds train and test")
    sizes = {"num-epochs": EPOCHS, "batch-size": BATCH_SIZE, "image-size": SIZE, "train": TRAIN, "test": TEST}
    sizes["seeds"] = SEEDS
    for name, default in sizes.items():
        parser.add_argument(
            f"--{name}", type=positive, default=default, metavar="N", help=f"default: {default}"
        )
    parser.add_argument("--json", type=writable_file, required=True, metavar="FILE", help="where to write it")
    return parser.parse_args(args)


def main(args: list[str] | None = None) -> None:
    options = parse(args)
    if importlib.util.find_spec("torch") is None:
        raise SystemExit("benchmarks.airbench: torch is not installed; pip install '.[bench]'")
    import torch  # pyright: ignore[reportMissingImports]

    from benchmarks import pictures, report
    from nag_optax.train.errors import InputError
    from nag_optax.train.options import Options
    from nag_optax.train.spec import resolve

    torch.set_num_threads(report.num_cores())
    try:
        spec = resolve(
            Options(
                preset="airbench",
                dataset="folder",
                data_dir=options.data_dir,
                num_epochs=options.num_epochs,
                batch_size=options.batch_size,
                image_size=options.image_size,
                resident="yes",
            )
        )
        dataset, available = pictures.chosen(spec, options.train, options.test)
    except InputError as error:
        raise SystemExit(f"benchmarks.airbench: {error}") from None
    spec = dataclasses.replace(spec, learning_rate=spec.learning_rate * spec.batch_size / 1024)
    sizes = {name: getattr(options, name) for name in ("num_epochs", "batch_size", "image_size", "seeds")}
    sizes |= {"train": len(dataset.train.labels), "test": len(dataset.test.labels), "available": available}
    found = json.loads(options.json.read_text())["trainings"] if options.json.exists() else {}
    trainings: dict[str, Callable[[Any, Any], tuple[float, float]]] = {OURS: ours, TORCH: torchs}
    with report.progress("trainings", len(trainings) * options.seeds) as advance:
        for seed in range(options.seeds):
            for name, train in trainings.items():
                entry = found.setdefault(name, {"loss": [], "accuracy": []})
                if len(entry["loss"]) <= seed:
                    started = time.process_time()
                    loss, accuracy = train(dataclasses.replace(spec, seed=seed), dataset)
                    seconds = time.process_time() - started
                    report.note(f"{name}, seed {seed}: {accuracy:.2%}, loss {loss:.3f}, {seconds:.0f} s")
                    entry["loss"].append(loss)
                    entry["accuracy"].append(accuracy)
                report.write_json(options.json, report.environment() | sizes | {"trainings": found})
                advance()
    result = json.loads(options.json.read_text())
    report.show(f"airbench: {report.headline(result)}", COLUMNS, [rows(result)])


if __name__ == "__main__":
    main()
