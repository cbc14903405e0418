"""A device with NumPy and the IREE runtime alone trains as JAX does, survives kills and names mistakes."""

import csv
import json
import platform
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nag_optax import export
from nag_optax.export import device


def done(process: Any) -> str:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "copy"))


def of_jax(folder: Path, data: Path, steps: int) -> tuple[list[Any], list[float]]:
    """State and losses of steps by JAX on the same batches, whose order the test draws itself."""
    program = export.load(folder, "train")
    with np.load(data) as file:
        images, labels = file["images"].astype(np.float32)[..., None], file["labels"].astype(np.int32)
    an_epoch = -(-len(labels) // 32)
    state, losses = list(program.initial), []
    assert program.outputs[1].name == "loss"
    for step in range(steps):
        order = np.random.default_rng([0, step // an_epoch]).permutation(len(labels))
        rows = np.concatenate([order, order])[step % an_epoch * 32 :][:32]
        state, outputs = program(state, [images[rows], labels[rows]])
        losses.append(float(outputs[1]))
    return state, losses


@pytest.mark.parametrize("python", ["bare", pytest.param("fresh", marks=pytest.mark.exhaustive)])
def test_200_steps_without_jax_reach_its_loss(
    python: str, exported: Path, data: Path, tmp_path: Path, request: pytest.FixtureRequest
):
    start, folder = request.getfixturevalue(python), copied(exported, tmp_path)
    output = done(start(folder / "device.py", "train", data, "--steps", 200, "--save-every", 200))
    state, losses = of_jax(folder, data, 200)
    found, steps = device.read_state(folder / "trained.npz", device.read_manifest(folder)["state"])
    assert steps == 200
    # Each step rounds the parameters anew. The momentum follows: a gradient that nearly vanishes is a
    # difference of numbers that round as they do. Counters are exact.
    rounding = 200 * 2.0**-23
    largest = max(np.abs(leaf).max() for leaf in state if np.issubdtype(leaf.dtype, np.floating))
    for here, there in zip(found, map(np.asarray, state), strict=True):
        tolerance = rounding * largest if np.issubdtype(there.dtype, np.floating) else 0
        np.testing.assert_allclose(here, there, rtol=0, atol=tolerance)
    (shown,) = re.findall(r"^step 200: loss ([\d.]+), accuracy 1\.0+$", output, re.M)
    assert abs(float(shown) - losses[-1]) <= 5e-7 + rounding  # Six digits are shown.
    # If there were nothing to learn, this would be no test.
    assert losses[0] > 10 * losses[-1]
    accuracy = done(start(folder / "device.py", "evaluate", data))
    assert re.fullmatch(r"accuracy (1\.0000|0\.99\d\d) of 901 images\n", accuracy)


def test_a_kill_and_a_restart_change_nothing(exported: Path, data: Path, bare: Callable, tmp_path: Path):
    folder = copied(exported, tmp_path)
    command = (folder / "device.py", "train", data, "--save-every")
    with bare(*command, 1, "--steps", 10**9) as process:
        assert process.stdout.readline().startswith("step 1: loss ")
        assert process.stdout.readline().startswith("step 2: loss ")
        process.kill()
    killed, leaves = folder / "trained.npz", device.read_manifest(folder)["state"]
    assert (seen := device.read_state(killed, leaves)[1]) >= 2
    steps = "--steps", seen + 298
    done(bare(*command, 150, *steps))
    state = killed.read_bytes()
    again = "--state", tmp_path / "again.npz"
    done(bare(command[0], *again, *command[1:], seen + 298, *steps))
    assert (tmp_path / "again.npz").read_bytes() == state
    assert done(bare(*command, 1, *steps)) == f"{killed} has seen {seen + 298} steps already\n"


def test_a_state_that_is_written_is_the_new_one_or_the_old(tmp_path: Path, monkeypatch):
    """A kill amid the writing leaves the old file as it is."""
    path = tmp_path / "state.npz"
    device.write_state(path, [np.ones(3)], 1)
    before = path.read_bytes()
    monkeypatch.setattr(device.np, "savez", lambda file, *_, **__: (file.write(b"half"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        device.write_state(path, [np.zeros(3)], 2)
    assert path.read_bytes() == before


def write(path: Path, content: Any) -> None:
    path.write_bytes(content(path.read_bytes()))


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def for_another_processor(folder: Path) -> None:
    import iree.compiler

    other = "x86_64" if platform.machine() in ("aarch64", "arm64") else "aarch64"
    module = iree.compiler.compile_str(
        "func.func @main(%x: tensor<8xf32>) -> tensor<8xf32> {\n"
        "  %y = arith.addf %x, %x : tensor<8xf32>\n"
        "  return %y : tensor<8xf32>\n"
        "}",
        extra_args=[
            "--iree-hal-target-device=local",
            "--iree-hal-local-target-device-backends=llvm-cpu",
            f"--iree-llvmcpu-target-triple={other}-linux-gnu",
        ],
    )
    assert module is not None
    (folder / "predict.vmfb").write_bytes(module)
    changed(folder / "manifest.json", lambda m: m["files"].update({"predict.vmfb": zlib.crc32(module)}))


WRONG = {
    "module for another processor": (
        for_another_processor,
        "predict x.npy",
        f"predict.vmfb: does not run on this machine, {platform.machine()}; export it for this --target (",
    ),
    "truncated module": (
        lambda f: write(f / "predict.vmfb", lambda content: content[:-10]),
        "predict x.npy",
        "predict.vmfb: is damaged, or of another export; copy it again",
    ),
    "module of another IREE": (
        lambda f: (
            write(f / "predict.vmfb", lambda content: content[: len(content) // 2]),
            changed(
                f / "manifest.json",
                lambda m: m["files"].update({"predict.vmfb": zlib.crc32((f / "predict.vmfb").read_bytes())}),
            ),
        ),
        "predict x.npy",
        "cannot load what IREE",
    ),
    "version": (
        lambda f: changed(f / "manifest.json", lambda m: m.update(version=99)),
        "predict x.npy",
        "is of version 99, and this code reads 1; export again",
    ),
    "no export": (lambda f: (f / "manifest.json").unlink(), "predict x.npy", "holds no manifest.json"),
    "no module": (
        lambda f: changed(f / "manifest.json", lambda m: m["files"].pop("predict.vmfb")),
        "predict x.npy",
        "is an export without predict.vmfb",
    ),
    "no program": (
        lambda f: changed(f / "manifest.json", lambda m: m["programs"].pop("train")),
        "train y.npz --steps 1",
        "holds predict, and no train",
    ),
    "shape": (
        lambda f: np.save("x.npy", np.ones((2, 9, 9))),
        "predict x.npy",
        "images: must be float32[N, 8, 8, 1]; is float64[2, 9, 9]",
    ),
    "none": (lambda f: np.save("x.npy", np.ones((0, 8, 8))), "predict x.npy", "is float64[0, 8, 8, 1]"),
    "dtype": (lambda f: np.save("x.npy", np.ones((2, 8, 8), complex)), "predict x.npy", "is complex128["),
    "no data": (lambda f: None, "predict z.npy", "No such file or directory: 'z.npy'"),
    "no numbers": (
        lambda f: Path("x.npy").write_text("not numbers"),
        "predict x.npy",
        "x.npy: is no readable .npz or .npy file of numbers",
    ),
    "no labels": (
        lambda f: None,
        "train x.npy --steps 1",
        "x.npy: has no array labels; an .npz file must hold",
    ),
    "fewer labels": (
        lambda f: np.savez("y.npz", images=np.ones((3, 8, 8)), labels=np.ones(2, int)),
        "train y.npz --steps 1",
        "labels: must be [3], one for each image; is [2]",
    ),
    "labels in a column": (
        lambda f: np.savez("y.npz", images=np.ones((3, 8, 8)), labels=np.ones((3, 1), int)),
        "evaluate y.npz",
        "labels: must be [3], one for each image; is [3, 1]",
    ),
    "a lone label": (
        lambda f: np.savez("y.npz", images=np.ones((1, 8, 8)), labels=3),
        "train y.npz --steps 1",
        "labels: must be [1], one for each image; is []",
    ),
    "a label without class": (
        lambda f: np.savez("y.npz", images=np.ones((2, 8, 8)), labels=[0, 5]),
        "train y.npz --steps 1",
        "labels: must be integers from 0 for class 0 to 4 for 4",
    ),
    "a negative label": (
        lambda f: np.savez("y.npz", images=np.ones((2, 8, 8)), labels=[0, -1]),
        "evaluate y.npz",
        "labels: must be integers from 0 for class 0 to 4 for 4",
    ),
    "names for labels": (
        lambda f: np.savez("y.npz", images=np.ones((2, 8, 8)), labels=["0", "1"]),
        "evaluate y.npz",
        "labels: must be integers from 0 for class 0 to 4 for 4",
    ),
    "damaged state": (
        lambda f: Path("s.npz").write_bytes((f / "state.npz").read_bytes()[:-30]),
        "--state s.npz predict x.npy",
        "s.npz: is no readable state",
    ),
    "an array for a state": (lambda f: None, "--state x.npy predict x.npy", "x.npy: is no readable state"),
    "another's state": (
        lambda f: np.savez("s.npz", np.ones(3), steps=1),
        "--state s.npz predict x.npy",
        "s.npz: holds 1 arrays; the manifest has",
    ),
    "infinite": (
        lambda f: np.savez("y.npz", images=np.full((3, 8, 8), np.inf), labels=np.ones(3, int)),
        "train y.npz --steps 9",
        "the loss is not finite at step 1",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line(name: str, exported: Path, tmp_path: Path, monkeypatch, capsys):
    change, command, line = WRONG[name]
    monkeypatch.chdir(tmp_path)
    folder = copied(exported, tmp_path)
    np.save("x.npy", np.ones((2, 8, 8)))
    np.savez("y.npz", images=np.ones((3, 8, 8)), labels=np.ones(3, int))
    change(folder)
    with pytest.raises(SystemExit) as caught:
        device.main(["--folder", str(folder), *command.split()])
    assert isinstance(caught.value.code, str) and caught.value.code.startswith("device: ")
    assert line in caught.value.code and "\n" not in caught.value.code
    assert capsys.readouterr().out == "" and not (folder / "trained.npz").exists()


def test_probabilities_are_those_of_the_run(exported: Path, run_dir: Path, data: Path, capsys):
    """More images than a batch, with and without the axis of the channel."""
    from nag_optax.train import load

    with np.load(data) as file:
        images = file["images"][:40]
    found = device.Device(exported).predict(images)
    np.testing.assert_array_equal(found, device.Device(exported).predict(images[..., None]))
    # Sums of 128 products in another order.
    np.testing.assert_allclose(found, load(run_dir).predict(images), rtol=0, atol=128 * 2.0**-24)
    device.main(["--folder", str(exported), "predict", str(data)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "class,0,1,2,3,4" and len(lines) == 902
    assert lines[1].split(",")[0] == str(found[0].argmax())


def test_a_class_with_a_comma_is_one_column(exported: Path, data: Path, tmp_path: Path, capsys):
    folder, names = copied(exported, tmp_path), ["a, b", 'the "best"', "c", "d", "e"]
    changed(folder / "manifest.json", lambda manifest: manifest["notes"].update(class_names=names))
    device.main(["--folder", str(folder), "predict", str(data)])
    head, *rows = csv.reader(capsys.readouterr().out.splitlines())
    assert head == ["class", *names] and {row[0] for row in rows} <= set(names)


BFLOAT16 = """
import sys
sys.path.insert(0, ".")
import numpy
from device import Device

device = Device(".")
device.save()
print(Device(".").state[0].tolist(), Device(".").state[0].dtype)
device.run("train", [numpy.ones((2, 3), "f4")])
device.save()
print(Device(".").state[0].tolist(), Device(".").state[0].dtype)
"""


def test_bfloat16_parameters_train_and_are_saved(bare: Callable, tmp_path: Path):
    """NumPy alone does not know the dtype. The file is read before IREE, which does, is there."""
    from nag_optax.export.iree import compiled

    x = np.ones((2, 3), np.float32)
    step = export.training_step(
        lambda w, x: jnp.sum(x.astype(w.dtype) * w),
        optax.sgd(0.5),
        jnp.arange(1, 4, dtype=jnp.bfloat16),
        x,
        batch_size=2,
    )
    files = {"device.py": Path(device.__file__).read_bytes(), "train.vmfb": compiled(step, "cpu")}
    export.save(tmp_path, {"train": step}, files=files)
    (tmp_path / "script.py").write_text(BFLOAT16)
    # Of each number the gradient is 2, and a step of half of it is exact.
    assert done(bare("script.py", cwd=tmp_path)) == "[1.0, 2.0, 3.0] bfloat16\n[0.0, 1.0, 2.0] bfloat16\n"
