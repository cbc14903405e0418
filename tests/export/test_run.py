"""`nag-optax export`: what a run becomes, and what is frozen in it."""

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import nag_optax
from nag_optax import export
from nag_optax.export.run import export_run, programs_of
from nag_optax.train.data import Dataset, Statistics
from nag_optax.train.loop import Loop
from nag_optax.train.options import ExportOptions, Options
from nag_optax.train.parallel import find_devices
from nag_optax.train.rows import Split
from nag_optax.train.spec import resolve
from nag_optax.train.step import TrainState, step_key, train_step
from nag_optax.train.transfer import StoredRun
from tests.export.conftest import quiet

STEP = ExportOptions(Path("nowhere"), "train-step")


@pytest.fixture(scope="module")
def cnn() -> StoredRun:
    """Fresh weights, with batch normalisation, one of which the run itself had frozen."""
    split = Split(np.zeros((200, 8, 8, 1), np.uint8), np.zeros(200, np.int32))
    spec = resolve(Options(model="cnn", freeze=("norm1",)))
    nothing = Statistics(np.zeros(1, np.float32), np.zeros(1, np.float32))
    loop = Loop(spec, Dataset(split, split, tuple(range(10)), nothing, ""), find_devices("cpu", 1))
    facts = {"image_shape": [8, 8, 1], "classes": range(10), "mean": [0.0], "std": [1.0]}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return StoredRun(spec, facts, loop, loop.init())


def test_what_is_frozen_has_no_bytes_of_state(cnn: StoredRun):
    whole = programs_of(cnn, STEP)["train"]
    frozen = programs_of(cnn, dataclasses.replace(STEP, freeze=("conv*,norm1", "dense/kernel")))["train"]
    before, after = ({n for n in names_of(p) if not n.startswith("opt_state/")} for p in (whole, frozen))
    # A batch normalisation of which all is frozen keeps its statistics, and no other one does.
    norm = {f"{of}/norm1/{name}" for of, name in zip(*_NORM, strict=True)}
    assert before - after == {"params/conv1/kernel", "params/conv2/kernel", "params/dense/kernel"} | norm
    assert after < before
    # What moves has a buffer of its size; the rest is a few numbers.
    moving, buffers, rest = (
        sum(
            x.nbytes
            for leaf, x in zip(frozen.state, frozen.initial, strict=True)
            if kind(leaf.name) == wanted
        )
        for wanted in ("params", "offset", "rest")
    )
    assert moving == buffers == 4 * (2 * 64 + 2 * 512 + 512 * 10 + 10)
    assert rest == 4 * (2 * 64 + 2 * 512) + rest_of(frozen) and rest_of(frozen) <= 32


_NORM = ("params", "params", "model_state", "model_state"), ("scale", "bias", "mean", "var")


def kind(name: str) -> str:
    return "offset" if "/offset/" in name else name.split("/")[0] if name.startswith("params/") else "rest"


def rest_of(program: export.Program) -> int:
    """Bytes of counters and coefficients."""
    leaves = zip(program.state, program.initial, strict=True)
    return sum(x.nbytes for leaf, x in leaves if kind(leaf.name) == "rest" and not leaf.shape)


@pytest.mark.exhaustive
def test_one_byte_of_state_a_number(cnn: StoredRun):
    program = programs_of(cnn, dataclasses.replace(STEP, low_memory=True))["train"]
    dtypes = {leaf.name: leaf.dtype for leaf in program.state}
    large = {
        name
        for name in dtypes
        if name.endswith("offset/dense/kernel") or name.endswith("offset/conv2/kernel")
    }
    assert len(large) == 2 and {dtypes[name] for name in large} == {"int8"}


def test_a_step_and_a_prediction_without_iree_take_any_batch(run_dir: Path, data: Path, tmp_path: Path):
    """A fresh state of the weights to evaluate, and the run's optimizer at a constant rate."""
    from nag_optax.train import load

    options = ExportOptions(run_dir, "train-step", "stablehlo", learning_rate=0.5, output=tmp_path / "new")
    folder = export_run(options, quiet())
    assert sorted(path.name for path in folder.iterdir()) == [
        *("manifest.json", "predict.stablehlo", "state.npz", "train.stablehlo"),
    ]
    step, prediction = export.load(folder, "train"), export.load(folder, "predict")
    with np.load(data) as file:
        images, labels = file["images"].astype(np.float32)[:7, ..., None], file["labels"].astype(np.int32)[:7]
    _, (probabilities,) = prediction(step.initial, [images])
    trained = load(run_dir)
    # Sums of 128 products in another order.
    np.testing.assert_allclose(probabilities, trained.predict(images), rtol=0, atol=128 * 2.0**-24)

    graphdef, params, rest = nnx.split(trained.model, nnx.Param, ...)
    optimizer = nag_optax.nag(0.5, 0.9)
    params = nnx.to_pure_dict(params)
    state = TrainState(
        zero := jnp.int32(0), params, nnx.to_pure_dict(rest), optimizer.init(params), zero, zero
    )
    standardised = (images - trained.mean) / trained.std
    step_of_code = jax.jit(lambda *given: train_step(graphdef, optimizer, *given))
    expected = step_of_code(state, standardised, labels, step_key(0, zero))
    after, outputs = step(step.initial, [images, labels])
    # The dropout's key is that of the run's first step. Means of 7 products near 1, in another order:
    rounding = 7 * 2.0**-23
    found = dict(zip(names_of(step), after, strict=True))
    np.testing.assert_allclose(outputs[1], expected.loss_sum / 7, rtol=0, atol=rounding)
    for module in ("head", "hidden"):
        for name in ("bias", "kernel"):
            moved = expected.params[module][name]
            np.testing.assert_allclose(found[f"params/{module}/{name}"], moved, rtol=0, atol=rounding)


def names_of(program: export.Program) -> list[str]:
    return [leaf.name for leaf in program.state]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"freeze": ("conv9",)}, "--freeze conv9: matches no parameter; the parameters are"),
        ({"what": "predict", "freeze": ("head",)}, "--freeze head: is only for --what train-step"),
        ({"what": "predict", "low_memory": True}, "--low-memory True: is only for --what train-step"),
        ({"batch_size": 0}, "--batch-size 0: must be a whole number of at least 1"),
        ({"learning_rate": -1.0}, "--learning-rate -1.0: must be a finite float32 above 0"),
        ({"target": "stablehlo", "batch_size": 2}, "--batch-size 2: --target stablehlo takes every size"),
        ({"output": Path(__file__)}, "exists already; name a new folder"),
        ({"output": Path(__file__).parent}, "exists already; name a new folder"),
    ],
)
def test_a_mistake_is_named(change: dict[str, Any], line: str, run_dir: Path, tmp_path: Path):
    from nag_optax.train.errors import InputError

    options = dataclasses.replace(STEP, run_dir=run_dir, output=tmp_path / "new")
    with pytest.raises(InputError) as caught:
        export_run(dataclasses.replace(options, **change), quiet())
    assert line in str(caught.value) and not (tmp_path / "new").exists()


@pytest.mark.parametrize("dies", [False, True], ids=["goes on", "dies too"])
def test_a_signal_while_iree_compiles_ends_the_export(dies: bool, run_dir: Path, tmp_path: Path, monkeypatch):
    """Whether it was for this process alone, or for that of IREE too."""
    from nag_optax.export import iree
    from nag_optax.train.errors import Interrupted

    def compiled(*_: Any) -> bytes:
        os.kill(os.getpid(), signal.SIGINT)
        if dies:
            raise ValueError("IREE cannot compile the program")
        return b""

    monkeypatch.setattr(iree, "compiled", compiled)
    with pytest.raises(Interrupted, match="^stopped by SIGINT; nothing was written$"):
        export_run(ExportOptions(run_dir, output=tmp_path / "new"), quiet())
    assert not (tmp_path / "new").exists()


def test_a_disk_that_is_full_leaves_no_half_of_an_export(run_dir: Path, tmp_path: Path, monkeypatch):
    """Else the next try would be told to name another folder."""
    from nag_optax.export import stored
    from nag_optax.train.errors import InputError

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    options = ExportOptions(run_dir, target="stablehlo", output=tmp_path / "new")
    with monkeypatch.context() as patch, pytest.raises(InputError, match="cannot be written .No space left"):
        patch.setattr(stored, "write_state", full)
        export_run(options, quiet())
    assert export_run(options, quiet()).is_dir()


def test_iree_names_what_it_cannot_compile():
    """A free batch size is one such thing."""
    from nag_optax.export.iree import compiled

    def outer(w: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.sum(x, 1, keepdims=True) * w + jnp.cumsum(x)[-1]

    x = np.ones((2, 3), np.float32)
    assert compiled(export.predict(outer, jnp.ones(3), x, batch_size=2), "cpu")
    with pytest.raises(ValueError, match="^IREE cannot compile the program: .*stablehlo") as caught:
        compiled(export.predict(outer, jnp.ones(3), x), "cpu")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
