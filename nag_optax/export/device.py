"""Trains and predicts where there is no JAX. All that this file needs is NumPy and the IREE runtime.

`nag-optax export` writes it beside the modules of a run. On the device:

    python device.py train data.npz --steps 200
    python device.py predict images.npy

The state is in one file, which is written whole and then renamed. A process that is killed loses the steps
since the last save. The same command takes them again, and comes to the same numbers.
"""

import argparse
import csv
import json
import os
import platform
import sys
import textwrap
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 (NumPy knows bfloat16 by it; the IREE runtime brings it along)
import numpy as np

VERSION = 1
"""The version of the manifest. No other one is read."""
MANIFEST, INITIAL, TRAINED = "manifest.json", "state.npz", "trained.npz"


class Device:
    """The programs of a folder, and their state.

    Args:
        folder: as the export wrote it.
        state: the file of the state, by default `trained.npz` in the folder. If there is no such file, the
            state is the one of the export.
    """

    def __init__(self, folder: Path | str, state: Path | str | None = None):
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.path = Path(state or self.folder / TRAINED)
        begin = self.path if self.path.exists() else self.folder / INITIAL
        self.state, self.steps = read_state(begin, self.manifest["state"])
        self._functions: dict[str, Any] = {}

    def run(self, name: str, batch: Sequence[Any]) -> list[np.ndarray]:
        """The outputs for the arrays of a batch, in the manifest's order. `train` also changes the state."""
        program = self._program(name)
        arrays = [_fitted(x, leaf) for x, leaf in zip(batch, program["inputs"], strict=True)]
        if name not in self._functions:
            self._functions[name] = self._loaded(f"{name}.vmfb")
        results = self._functions[name](*self.state, *arrays)
        # IREE gives an array, or a tuple of several.
        results = results if isinstance(results, tuple) else (results,)
        count = 0
        if program["trains"]:
            count = len(self.state)
            self.state, self.steps = list(results[:count]), self.steps + 1
        # Copies: IREE takes the memory of a result back when its handle goes.
        return [np.asarray(x).copy() for x in results[count:]]

    def train(self, data: dict[str, np.ndarray], steps: int, seed: int = 0) -> Iterator[dict[str, Any]]:
        """Trains until the state has seen so many steps, and yields the outputs of each.

        A batch depends on seed and step alone.

        Args:
            data: arrays by the names of the inputs, with the examples along the first axis.
            steps: how many the state shall have seen, earlier ones included.
            seed: of the order of the examples.
        """
        program = self._program("train")
        inputs, names = program["inputs"], [leaf["name"] for leaf in program["outputs"]]
        arrays = [_fitted(data[leaf["name"]], leaf) for leaf in inputs]
        size, count = inputs[0]["shape"][0], len(arrays[0])
        if any(len(array) != count for array in arrays):
            raise ValueError(f"the arrays hold {' and '.join(str(len(array)) for array in arrays)} examples")
        an_epoch = -(-count // size)
        while self.steps < steps:
            epoch, step = divmod(self.steps, an_epoch)
            # The last batch of an epoch is filled up from the epoch's first examples.
            order = np.resize(np.random.default_rng([seed, epoch]).permutation(count), an_epoch * size)
            rows = order[step * size : (step + 1) * size]
            yield dict(zip(names, self.run("train", [array[rows] for array in arrays]), strict=True))

    def predict(self, examples: np.ndarray) -> np.ndarray:
        """The outputs for any number of examples. The last batch is filled up with zeros."""
        (leaf,) = self._program("predict")["inputs"]
        examples, size, pieces = _fitted(examples, leaf), leaf["shape"][0], []
        for start in range(0, len(examples), size):
            piece = examples[start : start + size]
            padded = np.pad(piece, [(0, size - len(piece))] + [(0, 0)] * (piece.ndim - 1))
            pieces.append(self.run("predict", [padded])[0][: len(piece)])
        return np.concatenate(pieces)

    def save(self) -> None:
        """Saves the state, whole or not at all."""
        write_state(self.path, [np.asarray(x) for x in self.state], self.steps)

    def _program(self, name: str) -> dict[str, Any]:
        if name not in self.manifest["programs"]:
            raise ValueError(f"{self.folder}: holds {', '.join(self.manifest['programs'])}, and no {name}")
        return self.manifest["programs"][name]

    def _loaded(self, name: str) -> Any:
        import iree.runtime

        read_file(self.folder / name, self.manifest)
        try:
            return iree.runtime.load_vm_flatbuffer_file(str(self.folder / name), driver="local-sync").main
        except ValueError as error:
            here, there = version("iree-base-runtime"), self.manifest["notes"].get("iree")
            raise ValueError(f"{name}: IREE {here} cannot load what IREE {there} made ({error})") from None
        except RuntimeError as error:  # It is for another kind of processor.
            here, why = platform.machine(), textwrap.shorten(str(error), 200, placeholder=" …")
            raise ValueError(
                f"{name}: does not run on this machine, {here}; export it for this --target ({why})"
            ) from None


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the folder."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        found = manifest["version"]
    except FileNotFoundError:
        raise ValueError(f"{folder}: holds no {MANIFEST}; name the folder of an export") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is not a manifest ({error}); copy it again") from None
    if found != VERSION:
        raise ValueError(f"{path}: is of version {found}, and this code reads {VERSION}; export again")
    return manifest


def read_file(path: Path, manifest: dict[str, Any]) -> bytes:
    """The content of a file, which must be the one that the manifest was written for."""
    if path.name not in manifest["files"]:
        raise ValueError(f"{path.parent}: is an export without {path.name}")
    content = path.read_bytes()
    if zlib.crc32(content) != manifest["files"][path.name]:
        raise ValueError(f"{path}: is damaged, or of another export; copy it again")
    return content


def read_state(path: Path, leaves: list[dict[str, Any]]) -> tuple[list[np.ndarray], int]:
    """The arrays of a state, and how many steps it has seen."""
    try:
        # Opened here: NumPy leaves a damaged file open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            steps, arrays = int(file["steps"]), [file[f"arr_{k}"] for k in range(len(file.files) - 1)]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: is no readable state ({error})") from None
    if len(arrays) != len(leaves):
        raise ValueError(
            f"{path}: holds {len(arrays)} arrays; the manifest has {len(leaves)}: another export's"
        )
    for k, leaf in enumerate(leaves):
        # NumPy's files have no bfloat16; they hold its bits as uint16.
        dtype = np.dtype(leaf["dtype"])
        if dtype.kind == "V" and arrays[k].dtype == f"uint{8 * dtype.itemsize}":
            arrays[k] = arrays[k].view(dtype)
        if arrays[k].dtype != dtype or list(arrays[k].shape) != list(leaf["shape"]):
            raise ValueError(
                f"{path}: {leaf['name']} is {arrays[k].dtype}{list(arrays[k].shape)}; "
                f"the manifest has {dtype}{list(leaf['shape'])}: another export's"
            )
    return arrays, steps


def write_state(path: Path, arrays: Sequence[np.ndarray], steps: int) -> None:
    """Writes a state. If the process is killed, the file is the new one or the old one."""
    bits = [x.view(f"uint{8 * x.dtype.itemsize}") if x.dtype.kind == "V" else x for x in arrays]
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        np.savez(file, *bits, steps=np.int64(steps))
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def read_data(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of these names in an .npz file. A .npy file holds the first one alone."""
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            found = {names[0]: found}
        arrays = {name: found[name] for name in names if name in found}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error):  # NumPy's own text is of pickles.
        raise ValueError(f"{path}: is no readable .npz or .npy file of numbers") from None
    if missing := [name for name in names if name not in arrays]:
        raise ValueError(f"{path}: has no array {missing[0]}; an .npz file must hold {' and '.join(names)}")
    return arrays


def _fitted(x: Any, leaf: dict[str, Any]) -> np.ndarray:
    """Examples as a program takes them. Pictures of one channel may come without an axis for it."""
    x, dtype, (_, *shape) = np.asarray(x), np.dtype(leaf["dtype"]), leaf["shape"]
    if shape[-1:] == [1] and list(x.shape[1:]) == shape[:-1]:
        x = x[..., None]
    if list(x.shape[1:]) != shape or not x.size or not np.can_cast(x.dtype, dtype, "same_kind"):
        wanted = ", ".join(["N", *map(str, shape)])
        raise ValueError(f"{leaf['name']}: must be {dtype}[{wanted}]; is {x.dtype}{list(x.shape)}")
    return x.astype(dtype, copy=False)


def _labelled(device: Device, options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Images, and for each the place of its class."""
    data, names = read_data(options.data, ["images", "labels"]), device.manifest["notes"]["class_names"]
    labels, count = data["labels"], data["images"].shape[:1]
    if labels.shape != count:  # NumPy would compare each with all.
        raise ValueError(f"labels: must be {[*count]}, one for each image; is {[*labels.shape]}")
    last = len(names) - 1
    if labels.dtype.kind not in "biu" or ((labels < 0) | (labels > last)).any():
        raise ValueError(f"labels: must be integers from 0 for class {names[0]} to {last} for {names[-1]}")
    return data


def _train(device: Device, options: argparse.Namespace) -> None:
    data = _labelled(device, options)
    if device.steps >= options.steps:
        print(f"{device.path} has seen {device.steps} steps already")
    for outputs in device.train(data, options.steps, options.seed):
        if not np.isfinite(outputs["loss"]):
            raise ValueError(f"the loss is not finite at step {device.steps}; {device.path} stays as it was")
        if device.steps % options.save_every == 0 or device.steps == options.steps:
            device.save()
            shown = ", ".join(f"{name} {value:.6f}" for name, value in sorted(outputs.items(), reverse=True))
            print(f"step {device.steps}: {shown}", flush=True)


def _predict(device: Device, options: argparse.Namespace) -> None:
    names = device.manifest["notes"]["class_names"]
    rows = device.predict(read_data(options.data, ["images"])["images"])
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["class", *names])
    table.writerows([names[row.argmax()], *(f"{p:.6g}" for p in row)] for row in rows)


def _evaluate(device: Device, options: argparse.Namespace) -> None:
    data = _labelled(device, options)
    right = device.predict(data["images"]).argmax(1) == data["labels"]
    print(f"accuracy {right.mean():.4f} of {len(right)} images")


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return number


def make_parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(description="Trains and predicts with NumPy and the IREE runtime.")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(__file__).parent,
        help="the folder of the export (default: where this file is)",
    )
    parser.add_argument("--state", type=Path, help="file of the state (default: trained.npz there)")
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train until the state has seen so many steps")
    training.set_defaults(run=_train)
    training.add_argument("data", type=Path, help=".npz file with the arrays images and labels")
    training.add_argument(
        "--steps", type=positive, required=True, help="how many in all, earlier ones included"
    )
    training.add_argument("--seed", type=int, default=0, help="of the order of the examples (default: 0)")
    training.add_argument(
        "--save-every", type=positive, default=50, metavar="STEPS", help="save so often (default: 50)"
    )
    predicting = commands.add_parser("predict", help="print the class and the probabilities of images")
    predicting.set_defaults(run=_predict)
    predicting.add_argument("data", type=Path, help=".npy file of images, or .npz file with the array images")
    evaluating = commands.add_parser("evaluate", help="print the accuracy on images with labels")
    evaluating.set_defaults(run=_evaluate)
    evaluating.add_argument("data", type=Path, help=".npz file with the arrays images and labels")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Carries out a command. A mistake ends it with one line."""
    options = make_parser().parse_args(arguments)
    try:
        options.run(Device(options.folder, options.state), options)
    except (OSError, ValueError) as error:
        sys.exit(f"device: {error}")
    except KeyboardInterrupt:
        sys.exit("device: stopped; the steps since the last save are lost")


if __name__ == "__main__":
    main()
