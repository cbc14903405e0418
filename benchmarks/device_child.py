"""One measurement of benchmarks.device, in a process of its own that imports what it measures alone.

    python device_child.py iree|jax|torch FOLDER PROGRAM

FOLDER is an export with test.npz and, for torch, weights.npz. Prints a line of JSON: the milliseconds a call,
a median, the most memory that was resident, in MB, and the accuracy of a prediction.
"""

import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 0.5
Batch = Sequence[np.ndarray]
Call = Callable[[Batch], Any]


def of_iree(folder: Path, program: str) -> Call:
    sys.path.insert(0, str(folder))
    programs = importlib.import_module("device").Device(folder)
    return lambda batch: programs.run(program, batch)[0]


def of_jax(folder: Path, program: str) -> Call:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import jax

    from nag_optax.export import load

    loaded = load(folder, program)
    state = [jax.numpy.array(x) for x in loaded.initial]
    run = jax.jit(lambda state, batch: loaded(state, batch), donate_argnums=0 if loaded.trains else ())

    def call(batch: Batch) -> Any:
        nonlocal state
        state, outputs = run(state, batch)
        return jax.block_until_ready(outputs)[0]

    return call


def of_torch(folder: Path, program: str) -> Call:
    import torch  # pyright: ignore[reportMissingImports] (extra "bench")

    torch.set_num_threads(1)
    with np.load(folder / "weights.npz") as file:
        model = torch_model(torch, {name: torch.from_numpy(file[name]) for name in file.files})
        mean, std = (torch.from_numpy(file[name]) for name in ("mean", "std"))

    def logits(images: np.ndarray) -> Any:
        return model(((torch.from_numpy(images) - mean) / std).permute(0, 3, 1, 2))

    if program == "predict":
        model.eval()

        @torch.inference_mode()
        def predict(batch: Batch) -> Any:
            return torch.softmax(logits(batch[0]), 1)

        return predict
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, fused=True)

    def step(batch: Batch) -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits(batch[0]), torch.from_numpy(batch[1]).long())
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def torch_model(torch: Any, weights: dict[str, Any]) -> Any:
    """mlp or cnn of nag_optax.train.models with these weights, by their paths there."""
    nn = torch.nn

    def linear(name: str, kernel: Any) -> Any:
        layer = nn.Linear(*kernel.shape, bias=f"{name}/bias" in weights)
        layer.weight = nn.Parameter(kernel.T.contiguous())
        if layer.bias is not None:
            layer.bias = nn.Parameter(weights[f"{name}/bias"])
        return layer

    def conv(name: str) -> Any:
        kernel = weights[f"{name}/kernel"].permute(3, 2, 0, 1).contiguous()
        layer = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1, bias=False)
        layer.weight = nn.Parameter(kernel)
        return layer

    def norm(name: str, kind: Any) -> Any:
        layer = kind(len(weights[f"{name}/scale"]), eps=1e-5, momentum=0.1)
        layer.weight = nn.Parameter(weights[f"{name}/scale"])
        layer.bias = nn.Parameter(weights[f"{name}/bias"])
        layer.running_mean, layer.running_var = weights[f"{name}/mean"], weights[f"{name}/var"]
        return layer

    head = linear("head", weights["head/kernel"])
    if "hidden/kernel" in weights:
        hidden = linear("hidden", weights["hidden/kernel"])
        return nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), nn.Dropout(0.2), head)
    blocks = []
    for k in (1, 2):
        blocks += [conv(f"conv{k}"), norm(f"norm{k}", nn.BatchNorm2d), nn.ReLU(), nn.MaxPool2d(2)]
    # Flattened, PyTorch has channels first.
    kernel, channels = weights["dense/kernel"], len(weights["norm2/scale"])
    side = round((len(kernel) // channels) ** 0.5)
    kernel = kernel.reshape(side, side, channels, -1).permute(2, 0, 1, 3).reshape(len(kernel), -1)
    dense = [linear("dense", kernel), norm("norm3", nn.BatchNorm1d), nn.ReLU()]
    return nn.Sequential(*blocks, nn.Flatten(), *dense, head)


ENGINES = {"iree": of_iree, "jax": of_jax, "torch": of_torch}


def peak_megabytes() -> float:
    """The most that was resident in this process; Linux says it."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1000


def main() -> None:
    engine, folder, program = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # One core: a small device may have no more.
    with np.load(folder / "test.npz") as file:
        images, labels, size = file["images"], file["labels"], int(file["batch"])
    call, batch = ENGINES[engine](folder, program), [np.resize(images, (size, *images.shape[1:]))]
    if program == "train":
        batch.append(np.resize(labels, size))
    for _ in range(3):
        call(batch)
    samples: list[float] = []
    while sum(samples) < SECONDS:
        begin = time.perf_counter()
        call(batch)
        samples.append(time.perf_counter() - begin)
    result = {"milliseconds": 1000 * statistics.median(samples), "megabytes": peak_megabytes()}
    if program == "predict":
        starts = range(0, len(images), size)
        pieces = [np.resize(images[k : k + size], batch[0].shape) for k in starts]
        # A result of IREE is a copy, and so are these.
        found = np.concatenate([np.array(call([piece])) for piece in pieces])[: len(images)]
        result["accuracy"] = float(np.mean(found.argmax(1) == labels))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
