"""Trains and predicts where there is no JAX: NumPy and the IREE runtime are all that this file needs.

`nag-optax export` writes it beside the modules of a run. On the device:

    python device.py train data.npz --steps 200
    python device.py predict images.npy

The state is in one file, which is written whole and then renamed. A process that is killed loses the steps
since then; the same command takes them again, to the same numbers.
"""

import argparse
import json
import os
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

VERSION = 1
"""Of the manifest; another one is not read."""
MANIFEST, INITIAL, TRAINED = "manifest.json", "state.npz", "trained.npz"


class Device:
    """Programs of a folder and their state.

    Args:
        folder: as the export wrote it.
        state: the file of the state, by default `trained.npz` in the folder. Where there is none, the
            state is the one that the export begins with.
    """

    def __init__(self, folder: Path | str, state: Path | str | None = None):
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.path = Path(state or self.folder / TRAINED)
        begin = self.path if self.path.exists() else self.folder / INITIAL
        self.state, self.steps = read_state(begin, self.manifest["state"])
        self._functions: dict[str, Any] = {}

    def run(self, name: str, batch: Sequence[Any]) -> list[np.ndarray]:
        """The outputs of a program for a batch, its arrays in the manifest's order; may change the state."""
        program = self._program(name)
        arrays = [_fitted(x, leaf) for x, leaf in zip(batch, program["inputs"], strict=True)]
        if name not in self._functions:
            self._functions[name] = self._loaded(f"{name}.vmfb")
        results = self._functions[name](*self.state, *arrays)
        # IREE gives one result, or several of them.
        results = results if isinstance(results, tuple) else (results,)
        count = 0
        if program["trains"]:
            count = len(self.state)
            self.state, self.steps = list(results[:count]), self.steps + 1
        return [np.asarray(x) for x in results[count:]]

    def train(self, data: dict[str, np.ndarray], steps: int, seed: int = 0) -> Iterator[float]:
        """The loss of each step until the state has seen that many; a batch depends on (seed, step) alone."""
        inputs = self._program("train")["inputs"]
        arrays = [data[leaf["name"]] for leaf in inputs]
        size, count = inputs[0]["shape"][0], len(arrays[0])
        an_epoch = -(-count // size)
        while self.steps < steps:
            epoch, step = divmod(self.steps, an_epoch)
            # The last batch of an epoch is filled up from the epoch's first examples.
            order = np.resize(np.random.default_rng([seed, epoch]).permutation(count), an_epoch * size)
            rows = order[step * size : (step + 1) * size]
            yield float(self.run("train", [array[rows] for array in arrays])[0])

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The outputs for any number of examples; the last batch is filled up with zeros."""
        (leaf,) = self._program("predict")["inputs"]
        size, pieces = leaf["shape"][0], []
        for start in range(0, len(images), size):
            piece = images[start : start + size]
            padded = np.pad(piece, [(0, size - len(piece))] + [(0, 0)] * (piece.ndim - 1))
            pieces.append(self.run("predict", [padded])[0][: len(piece)])
        return np.concatenate(pieces)

    def save(self) -> None:
        """Writes the state, whole or not at all."""
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


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the folder."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        found = manifest["version"]
    except FileNotFoundError:
        raise ValueError(f"{folder}: holds no {MANIFEST}; name the folder of an export") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is no manifest ({error}); copy it again") from None
    if found != VERSION:
        raise ValueError(f"{path}: is of version {found}, and this code reads {VERSION}; export again")
    return manifest


def read_file(path: Path, manifest: dict[str, Any]) -> bytes:
    """A file that must be the one that the manifest was written with."""
    if path.name not in manifest["files"]:
        raise ValueError(f"{path.parent}: is an export without {path.name}")
    content = path.read_bytes()
    if zlib.crc32(content) != manifest["files"][path.name]:
        raise ValueError(f"{path}: is damaged, or of another export; copy it again")
    return content


def read_state(path: Path, leaves: list[dict[str, Any]]) -> tuple[list[np.ndarray], int]:
    """The arrays of a state, and the steps that it has seen."""
    try:
        # Opened here: NumPy leaves a damaged file open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            steps, arrays = int(file["steps"]), [file[f"arr_{k}"] for k in range(len(file.files) - 1)]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: is no readable state ({error})") from None
    if len(arrays) != len(leaves):
        raise ValueError(
            f"{path}: holds {len(arrays)} arrays; the manifest has {len(leaves)}: another export's"
        )
    for k, leaf in enumerate(leaves):
        # NumPy's files know no bfloat16: its bits are there as uint16.
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
    """The file is complete, or what it was, whenever the process is killed."""
    bits = [x.view(f"uint{8 * x.dtype.itemsize}") if x.dtype.kind == "V" else x for x in arrays]
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        np.savez(file, *bits, steps=np.int64(steps))
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _fitted(x: Any, leaf: dict[str, Any]) -> np.ndarray:
    """The array as the program takes it."""
    x, dtype = np.asarray(x), np.dtype(leaf["dtype"])
    if not np.can_cast(x.dtype, dtype, "same_kind") or list(x.shape) != leaf["shape"]:
        raise ValueError(
            f"{leaf['name']}: must be {dtype}{leaf['shape']}, of which the first is the batch size; "
            f"got {x.dtype}{list(x.shape)}"
        )
    return x.astype(dtype, copy=False)


def _train(device: Device, options: argparse.Namespace) -> None:
    with np.load(options.data, allow_pickle=False) as file:
        data = dict(file)
    for loss in device.train(data, options.steps, options.seed):
        if device.steps % options.save_every == 0 or device.steps == options.steps:
            device.save()
            print(f"step {device.steps}: loss {loss:.6f}", flush=True)


def _predict(device: Device, options: argparse.Namespace) -> None:
    data = np.load(options.data, allow_pickle=False)
    names = device.manifest["notes"]["class_names"]
    print(",".join(["class", *names]))
    for row in device.predict(data if isinstance(data, np.ndarray) else data["images"]):
        print(",".join([names[row.argmax()], *(f"{p:.6g}" for p in row)]))


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Trains and predicts with NumPy and the IREE runtime.")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="of the export")
    parser.add_argument("--state", type=Path, help="file of the state; by default trained.npz in the folder")
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train until the state has seen --steps steps")
    training.add_argument("data", type=Path, help=".npz file with the arrays images and labels")
    training.add_argument("--steps", type=int, required=True, help="in all, those of the state included")
    training.add_argument("--seed", type=int, default=0, help="of the order of the examples")
    training.add_argument("--save-every", type=int, default=50, metavar="STEPS", help="(default: 50)")
    predicting = commands.add_parser("predict", help="print the class and the probabilities of images")
    predicting.add_argument("data", type=Path, help=".npy file, or .npz file with the array images")
    options = parser.parse_args(arguments)
    try:
        device = Device(options.folder, options.state)
        (_train if options.command == "train" else _predict)(device, options)
    except (OSError, ValueError) as error:
        sys.exit(f"device: {error}")
    except KeyboardInterrupt:
        sys.exit("device: stopped; the state is the one of the latest save")


if __name__ == "__main__":
    main()
