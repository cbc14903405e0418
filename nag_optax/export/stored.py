"""A folder of programs: their StableHLO, a manifest of their arrays, and the state to begin with."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.export

from nag_optax.export.device import (
    INITIAL,
    MANIFEST,
    VERSION,
    read_file,
    read_manifest,
    read_state,
    write_state,
)
from nag_optax.export.program import Leaf, Program


def save(
    folder: Path | str,
    programs: Mapping[str, Program],
    *,
    files: Mapping[str, bytes] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Writes programs that share a state into a folder, which is made if it is missing.

    - `manifest.json`: the arrays of the state, and of the batch and outputs of each program, in their order.
    - `NAME.stablehlo`: a program, as `jax.export.deserialize` reads it.
    - `state.npz`: the state to begin with, `arr_0`, `arr_1`, … in the same order. NumPy's files have no
      bfloat16; they hold its bits as uint16.

    Args:
        folder: where the files go.
        programs: the programs by name, such as `train` and `predict`.
        files: the content of further files by name, such as a program compiled for a device.
        notes: anything else for the manifest that JSON can hold.

    Raises:
        ValueError: if the programs have different states.

    Example:
        >>> import pathlib, tempfile
        >>> import jax.numpy as jnp, numpy as np, optax
        >>> from nag_optax.export import load, save, training_step
        >>> def loss(w, x):
        ...     return jnp.sum(x * w)
        >>> step = training_step(loss, optax.sgd(0.5), jnp.array(1.0), np.ones(4, np.float32))
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> save(folder, {"train": step})
        >>> sorted(path.name for path in folder.iterdir())
        ['manifest.json', 'state.npz', 'train.stablehlo']
        >>> again = load(folder, "train")
        >>> state, (value,) = again(again.initial, [np.ones(2, np.float32)])
        >>> float(value), float(state[0])
        (2.0, 0.0)
    """
    folder, first = Path(folder), next(iter(programs.values()))
    if other := [name for name, program in programs.items() if program.state != first.state]:
        raise ValueError(f"programs of one folder must have one state; {other[0]} has another")
    content = {f"{name}.stablehlo": bytes(program.exported.serialize()) for name, program in programs.items()}
    content |= files or {}
    manifest = {
        "version": VERSION,
        "notes": {"jax": jax.__version__, **(notes or {})},
        "state": [leaf._asdict() for leaf in first.state],
        "programs": {
            name: {
                "trains": program.trains,
                "inputs": [leaf._asdict() for leaf in program.inputs],
                "outputs": [leaf._asdict() for leaf in program.outputs],
            }
            for name, program in programs.items()
        },
        "files": {name: zlib.crc32(data) for name, data in content.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)
    write_state(folder / INITIAL, first.initial, 0)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def load(folder: Path | str, name: str) -> Program:
    """A program of a folder that `save` wrote, with the state to begin with.

    Args:
        folder: where the files are.
        name: the name of the program.

    Raises:
        ValueError: if a file is missing, damaged or of another version of the format.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    exported = jax.export.deserialize(bytearray(read_file(folder / f"{name}.stablehlo", manifest)))
    program = manifest["programs"][name]
    state, inputs, outputs = (
        tuple(Leaf(x["name"], x["dtype"], tuple(x["shape"])) for x in leaves)
        for leaves in (manifest["state"], program["inputs"], program["outputs"])
    )
    initial, _ = read_state(folder / INITIAL, manifest["state"])
    return Program(exported, state, inputs, outputs, tuple(initial), program["trains"])
