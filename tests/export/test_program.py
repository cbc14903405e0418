"""A program takes the steps of the code that it was traced from, to the bit, here and in another process."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nag_optax
from nag_optax import export
from tests.cases import CASES, Case

pytestmark = pytest.mark.usefixtures("standard_promotion")


class Job(NamedTuple):
    """What is exported."""

    loss: Callable[..., Any]
    optimizer: optax.GradientTransformation
    params: Any
    carry: Any = None
    frozen: Any = False


def loss(params: Any, batch: Any) -> jax.Array:
    x, y = batch
    hidden = jnp.tanh(x.astype(params["w"].dtype) @ params["w"] + params["b"])
    return jnp.mean((hidden @ params["out"] - y.astype(params["w"].dtype)) ** 2).astype(jnp.float32)


def noisy_loss(params: Any, key: jax.Array, batch: Any) -> tuple[jax.Array, jax.Array]:
    key, own = jax.random.split(key)
    x, y = batch
    return loss(params, (x * jax.random.bernoulli(own, 0.5, x.shape), y)), key


def parameters(dtype: Any = jnp.float32) -> Any:
    # The second layer has the 4,096 numbers from which `low_memory` packs.
    draw = np.random.default_rng(0).standard_normal
    w, out = (jnp.asarray(0.1 * draw(shape), dtype) for shape in ((64, 64), (64,)))
    return {"w": w, "b": jnp.zeros(64, dtype), "out": out, "none": None}


def batches(count: int = 3, size: int = 5) -> list[Any]:
    rng = np.random.default_rng(1)
    return [
        (rng.standard_normal((size, 64)).astype(np.float32), rng.standard_normal(size).astype(np.float32))
        for _ in range(count)
    ]


def bfloat16_job() -> Job:
    inner = nag_optax.low_memory(optax.adamw(0.01), jnp.bfloat16)
    optimizer = optax.chain(inner, nag_optax.stochastic_rounding())
    return Job(loss, optimizer, parameters(jnp.bfloat16))


JOBS = {
    "one byte": Job(loss, nag_optax.low_memory(nag_optax.nag(0.1)), parameters()),
    "bfloat16": bfloat16_job(),
    "key": Job(noisy_loss, nag_optax.nadamw(0.01), parameters(), jax.random.key(3)),
    "numbers of Python": Job(loss, optax.inject_hyperparams(optax.sgd)(0.1, momentum=0.9), parameters()),
    # A search asks for the gradient and the loss at other points, of the parameters that move alone.
    "frozen": Job(
        loss,
        optax.chain(nag_optax.nag(0.1), optax.scale_by_backtracking_linesearch(3)),
        parameters(),
        frozen={"w": True, "b": False, "out": False, "none": None},
    ),
}


def program(job: Job, **options: Any) -> export.Program:
    return export.training_step(
        job.loss, job.optimizer, job.params, batches()[0], carry=job.carry, frozen=job.frozen, **options
    )


def bits(arrays: Sequence[Any]) -> list[tuple[Any, tuple[int, ...], bytes]]:
    arrays = [np.asarray(x) for x in arrays]
    return [(x.dtype, x.shape, x.tobytes()) for x in arrays]


@cache
def code_steps(name: str) -> list[Any]:
    """The arrays of state and loss after each step of a job, by the code itself."""
    return steps_of(JOBS[name])


def steps_of(job: Job) -> list[Any]:
    """The same of any job."""
    fixed = {k: v for k, v in job.params.items() if job.frozen and job.frozen[k]}
    optimizer = optax.with_extra_args_support(job.optimizer)

    def value_fn(params: Any, carry: Any, batch: Any) -> Any:
        params = params | fixed
        return (job.loss(params, batch), None) if carry is None else job.loss(params, carry, batch)

    @jax.jit
    def step(state: Any, batch: Any) -> Any:
        params, opt_state, carry = state["params"], state["opt_state"], state["carry"]
        (value, after), grads = jax.value_and_grad(value_fn, has_aux=True)(params, carry, batch)
        updates, opt_state = optimizer.update(
            grads,
            opt_state,
            params,
            value=value,
            grad=grads,
            value_fn=lambda p: value_fn(p, carry, batch)[0],
        )
        state = {"params": optax.apply_updates(params, updates), "opt_state": opt_state, "carry": after}
        return state, value

    params = {k: v for k, v in job.params.items() if k not in fixed}
    state, found = {"params": params, "opt_state": optimizer.init(params), "carry": job.carry}, []
    for batch in batches():
        state, value = step(state, batch)
        found.append(bits([*map(key_data, jax.tree.leaves(state)), value]))
    return found


def key_data(x: jax.Array) -> jax.Array:
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def program_steps(program: export.Program) -> list[Any]:
    state, found = program.initial, []
    for batch in batches():
        state, outputs = program(state, batch)
        found.append(bits([*state, *outputs]))
    return found


@pytest.mark.parametrize("name", JOBS)
def test_the_steps_are_those_of_the_code(name: str, tmp_path: Path):
    """After it went through a folder, too."""
    job = JOBS[name]
    export.save(tmp_path, {"train": program(job)})
    assert program_steps(export.load(tmp_path, "train")) == code_steps(name)


_ELSEWHERE = """
import sys
import numpy as np
from nag_optax.export import load
step, batch = load(sys.argv[1], "train"), dict(np.load(sys.argv[2])).values()
state, _ = step(step.initial, list(batch))
np.savez(sys.argv[3], *[np.frombuffer(np.asarray(x).tobytes(), np.uint8) for x in state])
"""


def test_another_process_takes_the_same_step_without_the_code(tmp_path: Path):
    job = JOBS["bfloat16"]
    export.save(tmp_path / "export", {"train": program(job)})
    np.savez(tmp_path / "batch.npz", *batches()[0])
    arguments = [tmp_path / name for name in ("export", "batch.npz", "state.npz")]
    subprocess.run([sys.executable, "-c", _ELSEWHERE, *arguments], check=True)
    with np.load(tmp_path / "state.npz") as file:
        found = [x.tobytes() for x in file.values()]
    assert found == [data for _, _, data in code_steps("bfloat16")[0][:-1]]


# What the default run knows already is left to the exhaustive one: every optimizer of the package, and more.
OF_OPTAX = {
    "adam": optax.adam(0.01),
    "lion": optax.lion(0.01),
    "adafactor": optax.adafactor(0.01),
    "schedule_free": optax.contrib.schedule_free_adamw(0.01),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_steps_of_each_optimizer(case: Case):
    job = Job(loss, case.make(), {"w": parameters()["w"], "b": jnp.zeros(64), "out": jnp.ones(64)})
    assert program_steps(program(job)) == steps_of(job)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", OF_OPTAX)
def test_the_steps_of_optax_s(name: str):
    job = Job(loss, OF_OPTAX[name], parameters())
    assert program_steps(program(job)) == steps_of(job)


@pytest.mark.exhaustive
def test_the_steps_of_lbfgs_but_for_rounding():
    """XLA fuses the products of its two programs as it likes: on some processors not alike."""
    job = Job(loss, optax.lbfgs(), parameters())
    for found, expected in zip(program_steps(program(job)), steps_of(job), strict=True):
        for (dtype, shape, data), (*same, exact) in zip(found, expected, strict=True):
            assert [dtype, shape] == same
            ours, theirs = (np.frombuffer(x, dtype).astype(float) for x in (data, exact))
            # Three steps; each adds a few products, rounded in units of the largest number.
            np.testing.assert_allclose(
                ours, theirs, rtol=0, atol=16 * 2.0**-24 * np.abs(theirs).max(initial=0)
            )


def test_a_prediction_reads_the_state_of_a_step(tmp_path: Path):
    """The weights in it are those to evaluate, and those that are frozen."""

    def model(params: Any, x: Any) -> Any:
        return x @ params["w"] * params["scale"]

    params, optimizer = {"w": jnp.arange(3.0), "scale": jnp.array(2.0)}, nag_optax.nag(0.1)
    x, y = np.eye(3, dtype=np.float32), np.ones(3, np.float32)
    common = {"optimizer": optimizer, "params": params, "frozen": {"w": False, "scale": True}}
    step = export.training_step(lambda p, b: jnp.mean((model(p, b[0]) - b[1]) ** 2), batch=(x, y), **common)
    export.save(tmp_path, {"train": step, "predict": export.predict(model, batch=x, **common)})
    (state, _), prediction = step(step.initial, (x, y)), export.load(tmp_path, "predict")
    same, (outputs,) = prediction(state, [x[:2]])
    assert same == state and [leaf.name for leaf in step.state][-1] == "params/w"
    named = dict(zip([leaf.name for leaf in step.state], state, strict=True))
    # x = p − w, and the model is twice that.
    expected = 2 * (named["params/w"] - named["opt_state/1/offset/w"])
    np.testing.assert_array_equal(outputs, expected[:2])


def test_one_batch_size_may_be_all(tmp_path: Path):
    job = JOBS["numbers of Python"]
    export.save(tmp_path, {"train": program(job, batch_size=5)})
    fixed = export.load(tmp_path, "train")
    assert fixed.batch_size == 5 and program(job).batch_size is None
    assert program_steps(fixed) == program_steps(program(job))
    with pytest.raises(ValueError, match="64"):
        fixed(fixed.initial, batches(size=6)[0])


def test_the_manifest_names_every_array(tmp_path: Path):
    export.save(tmp_path, {"train": program(JOBS["bfloat16"])}, notes={"of": "a test"})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["notes"] == {"jax": version("jax"), "of": "a test"}
    state = {leaf["name"]: (leaf["dtype"], leaf["shape"]) for leaf in manifest["state"]}
    assert state["params/w"] == ("bfloat16", [64, 64])
    assert manifest["programs"]["train"]["inputs"][0] == {
        "name": "0",
        "dtype": "float32",
        "shape": [None, 64],
    }
    assert [leaf["name"] for leaf in manifest["programs"]["train"]["outputs"]] == ["loss"]
    with np.load(tmp_path / "state.npz") as file:
        arrays = dict(zip(state, [file[f"arr_{k}"] for k in range(len(state))], strict=True))
    assert arrays["params/w"].dtype == np.uint16
    np.testing.assert_array_equal(
        arrays["params/w"].view(jnp.bfloat16), np.asarray(parameters(jnp.bfloat16)["w"])
    )


def test_what_is_frozen_is_no_part_of_the_state():
    names = {leaf.name.split("/")[-1] for leaf in program(JOBS["frozen"]).state}
    assert "b" in names and "w" not in names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "holds no manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "is not a manifest"),
        (lambda folder: replace(folder / "manifest.json", b'"version": 1', b'"version": 99'), "version 99"),
        (lambda folder: cut(folder / "train.stablehlo"), "is damaged"),
        (lambda folder: cut(folder / "state.npz"), "is no readable state"),
        (lambda folder: np.savez(folder / "state.npz", 1, 2, steps=0), "holds 2 arrays"),
        (lambda folder: replace(folder / "manifest.json", b"float32", b"float16"), "another export's"),
    ],
)
def test_a_damaged_folder_is_named(small: Path, change: Callable[[Path], Any], message: str):
    change(small)
    with pytest.raises(ValueError, match=message) as caught:
        export.load(small, "train")
    assert "\n" not in str(caught.value) and str(small) in str(caught.value)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    step = export.training_step(
        lambda w, x: jnp.sum(w * x), optax.sgd(0.1), jnp.ones(()), np.ones(2, np.float32)
    )
    export.save(tmp_path, {"train": step})
    return tmp_path


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def replace(path: Path, old: bytes, new: bytes) -> None:
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))


def test_a_state_of_another_kind_is_refused():
    x = np.ones(2, np.float32)
    wider = optax.stateless(lambda updates, _: updates)._replace(
        init=lambda _: jnp.zeros(3), update=lambda updates, state, params=None: (updates, state[:2])
    )
    with pytest.raises(ValueError, match=r"opt_state is float32\[3\], and float32\[2\] after"):
        export.training_step(lambda w, x: jnp.sum(w * x), wider, jnp.ones(()), x)
    with pytest.raises(ValueError, match="structure of the state; this changes carry/a, carry/b"):
        export.training_step(
            lambda w, carry, x: (jnp.sum(w * x), {"b": x[0]}), optax.sgd(0.1), jnp.ones(()), x, carry={"a": x}
        )
    with pytest.raises(ValueError, match="examples along its first axis"):
        export.training_step(lambda w, x: w * x, optax.sgd(0.1), jnp.ones(()), 1.0)
    with pytest.raises(ValueError, match=r"batch_size must be an integer in \[1"):
        export.training_step(lambda w, x: w * x, optax.sgd(0.1), jnp.ones(()), x, batch_size=0)


def test_programs_of_one_folder_have_one_state(tmp_path: Path):
    x = np.ones(2, np.float32)
    one = export.predict(lambda w, x: w * x, jnp.ones(()), x)
    other = export.predict(lambda w, x: w * x, jnp.ones(()), x, frozen=True)
    with pytest.raises(ValueError, match="one state; other has another"):
        export.save(tmp_path / "folder", {"one": one, "other": other})
    assert not (tmp_path / "folder").exists()
