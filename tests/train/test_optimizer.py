"""The optimizer of a configuration: schedules by their formula, and each part where it belongs."""

import math
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import nag_optax
from nag_optax.train import registry
from nag_optax.train.errors import InputError
from nag_optax.train.models import make_model
from nag_optax.train.optimizers import gradient_norm, make_optimizer, make_schedule
from nag_optax.train.options import Options
from nag_optax.train.registry import OPTIMIZERS
from nag_optax.train.spec import Spec, resolve

STEPS = 20  # an epoch


def spec(**fields) -> Spec:
    base = {
        "model": "mlp",
        "num_epochs": 4,
        "learning_rate": 0.1,
        "warmup_epochs": 0.0,
        "schedule": "constant",
    }
    return resolve(Options(**{**base, **fields}))


@pytest.mark.parametrize("warmup", [0.0, 1.5])
@pytest.mark.parametrize("name", ["constant", "cosine", "linear"])
def test_schedules_follow_their_formula(name, warmup):
    schedule = make_schedule(spec(schedule=name, warmup_epochs=warmup), STEPS)
    rise = int(warmup * STEPS)
    rest = 4 * STEPS - rise
    for t in range(4 * STEPS + 1):
        done = (t - rise) / rest
        decayed = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[name]
        expected = 0.1 * ((t + 1) / (rise + 1) if t < rise else decayed)
        np.testing.assert_allclose(schedule(t), expected, rtol=1e-5, atol=1e-8)


def test_a_warm_up_that_rounds_to_the_whole_run_leaves_a_step_to_decay():
    schedule = make_schedule(spec(schedule="cosine", num_epochs=2, warmup_epochs=1.999), STEPS)
    first, last = np.asarray(schedule(0)), np.asarray(schedule(2 * STEPS - 1))
    assert 0 < first < last <= np.float32(0.1)


PARAMS = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.5])}
GRADS = {"kernel": jnp.array([[0.3, 4.0]]), "bias": jnp.array([-2.0])}


def trajectory(optimizer, steps=4, **extra):
    optimizer = optax.with_extra_args_support(optimizer)
    params, state = PARAMS, optimizer.init(PARAMS)
    for t in range(steps):
        grads = jax.tree.map(lambda g, t=t: g * (t + 1.0), GRADS)
        updates, state = optimizer.update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates)
    return params


def kernels(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)


EXPECTED = {
    "nag": ({}, nag_optax.nag(0.1, 0.9)),
    "nag, sutskever": (
        {"momentum_schedule": "sutskever", "momentum": 0.95},
        nag_optax.nag(0.1, nag_optax.momentum.sutskever(0.95)),
    ),
    "nag, restart": ({"restart": "gradient"}, nag_optax.nag(0.1, 0.9, restart="gradient")),
    "nag, decay": ({"weight_decay": 0.3}, nag_optax.nag(0.1, 0.9, weight_decay=0.3, mask=kernels)),
    "sgd": ({"optimizer": "sgd"}, optax.sgd(0.1)),
    "momentum": ({"optimizer": "momentum", "momentum": 0.8}, optax.sgd(0.1, 0.8)),
    "adam": ({"optimizer": "adam"}, optax.adam(0.1)),
    "adamw": (
        {"optimizer": "adamw", "weight_decay": 0.2},
        optax.adamw(0.1, weight_decay=0.2, mask=kernels),
    ),
    "nadam": ({"optimizer": "nadam"}, nag_optax.nadam(0.1)),
    "nadamw": (
        {"optimizer": "nadamw", "weight_decay": 0.2},
        nag_optax.nadamw(0.1, weight_decay=0.2, mask=kernels),
    ),
    "laprop": ({"optimizer": "laprop"}, nag_optax.laprop(0.1, 0.9)),
    "laprop, decay, restart": (
        {"optimizer": "laprop", "weight_decay": 0.2, "momentum": 0.5, "restart": "gradient"},
        nag_optax.laprop(0.1, 0.5, weight_decay=0.2, mask=kernels, restart="gradient"),
    ),
    "adan": ({"optimizer": "adan"}, nag_optax.adan(0.1)),
    "adan, decay": (
        {"optimizer": "adan", "weight_decay": 0.2},
        nag_optax.adan(0.1, weight_decay=0.2, mask=kernels),
    ),
    "muon": ({"optimizer": "muon"}, nag_optax.muon(0.1, 0.95, fallback=optax.adamw(0.1, weight_decay=0.0))),
    "muon, decay, sutskever": (
        {"optimizer": "muon", "weight_decay": 0.2, "momentum": 0.6, "momentum_schedule": "sutskever"},
        nag_optax.muon(
            0.1,
            nag_optax.momentum.sutskever(0.6),
            fallback=optax.adamw(0.1, weight_decay=0.2, mask=kernels),
            weight_decay=0.2,
            mask=kernels,
        ),
    ),
    "snoo": ({"optimizer": "snoo"}, nag_optax.snoo(optax.adamw(0.1, weight_decay=1e-4, mask=kernels))),
    "snoo, nag": (
        {"optimizer": "snoo", "inner": "nag", "momentum": 0.5, "restart": "gradient"},
        nag_optax.snoo(nag_optax.nag(0.1, 0.5, restart="gradient")),
    ),
    "ema_nesterov": (
        {"optimizer": "ema_nesterov", "weight_decay": 0.3},
        nag_optax.ema_nesterov(optax.adamw(0.1, weight_decay=0.3, mask=kernels)),
    ),
    "gpa": ({"optimizer": "gpa", "inner": "sgd"}, nag_optax.gpa(optax.sgd(0.1))),
    "adaptive step": (
        {"adaptive_step": True, "clip_norm": 7.0, "smoothing": 0.7},
        optax.chain(
            optax.clip_by_global_norm(7.0),
            nag_optax.scale_by_gradient_norm(),
            optax.ema(0.7),
            nag_optax.nag(0.1, 0.9),
        ),
    ),
    "clip": ({"clip_norm": 1.0}, optax.chain(optax.clip_by_global_norm(1.0), nag_optax.nag(0.1, 0.9))),
    "smoothing": (
        {"smoothing": 0.7, "optimizer": "adam"},
        optax.chain(optax.ema(0.7), optax.adam(0.1)),
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_chain_is_the_one_asked_for(name):
    fields, expected = EXPECTED[name]
    steps = 30 if fields.get("optimizer") == "snoo" else 4  # past its first outer step
    actual = trajectory(make_optimizer(spec(**fields), STEPS), steps, value=jnp.float32(1.0))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        actual,
        trajectory(expected, steps, value=1.0),
    )


@pytest.mark.parametrize(("model", "hidden"), [("mlp", {"hidden"}), ("cnn", {"conv1", "conv2", "dense"})])
def test_muon_orthogonalises_the_hidden_kernels_and_leaves_the_head_to_adamw(model, hidden):
    """As published; a convolution is the matrix (height·width·in, out)."""
    params: Any = nnx.to_pure_dict(nnx.state(make_model(model, (8, 8, 1), 10, seed=0), nnx.Param))
    optimizer = make_optimizer(spec(optimizer="muon", model=model), STEPS)

    @jax.jit
    def updates_of_both(params: Any) -> Any:
        grads = jax.tree.map(lambda p: jax.random.normal(jax.random.key(p.size), p.shape), params)
        every = optimizer, optax.with_extra_args_support(optax.adamw(0.1, weight_decay=0.0))
        return [o.update(grads, o.init(params), params, value=jnp.float32(1.0))[0] for o in every]

    updates, adamw = updates_of_both(params)
    for module, leaves in updates.items():
        for name, update in leaves.items():
            if name == "kernel" and module in hidden:
                matrix = np.asarray(update).reshape(-1, update.shape[-1]) / -0.1
                scale = 0.2 * math.sqrt(max(matrix.shape))
                values = np.linalg.svd(matrix, compute_uv=False) / scale
                assert 0.68 <= values.min() and values.max() <= 1.21, module
            else:
                np.testing.assert_allclose(update, adamw[module][name], rtol=1e-5, err_msg=f"{module}/{name}")


def test_muon_leaves_the_patches_of_a_vision_transformer_to_adamw():
    params: Any = nnx.to_pure_dict(
        nnx.state(make_model("vit", (8, 8, 1), 10, seed=0, widths=(8,)), nnx.Param)
    )
    optimizer = make_optimizer(spec(optimizer="muon", model="vit"), STEPS)
    # AdamW keeps two buffers of a parameter, Muon one.
    buffers = Counter(leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(optimizer.init, params)))
    count = Counter(leaf.shape for leaf in jax.tree.leaves(params))
    square, up, down = (192, 192), (192, 8), (8, 192)
    assert {shape for shape in count if buffers[shape] == count[shape]} == {square, up, down}
    assert buffers[4, 4, 1, 192] == buffers[192, 10] == 2


def test_every_optimizer_is_expected_here():
    assert {fields.get("optimizer", "nag") for fields, _ in EXPECTED.values()} == set(OPTIMIZERS)


@pytest.mark.parametrize(
    "fields",
    [
        {"momentum": 0.8, "restart": "gradient"},
        {"momentum_schedule": "sutskever", "momentum": 0.95},
        {"optimizer": "sgd"},
    ],
)
def test_pruning_is_proximal_with_the_rate_of_the_step_and_ends_in_exact_zeros(fields):
    """Proximal gradient with momentum, written out for one group that survives and one that does not."""
    momentum = {"sgd": lambda t: 0.0}.get(
        fields.get("optimizer", ""),
        (lambda t: 0.5) if "momentum_schedule" in fields else (lambda t: 0.8),
    )
    made = spec(prune="group_l2=2.0", schedule="linear", **fields)
    schedule, optimizer = make_schedule(made, STEPS), make_optimizer(made, STEPS)
    params: Any = {
        "hidden": {"kernel": jnp.array([[30.0, 0.3]]), "bias": jnp.array([40.0, 0.1])},
        "head": {"kernel": jnp.array([[1.0], [2.0]])},
    }
    p = np.array([[30.0, 0.3], [40.0, 0.1]])  # rows: kernel, bias; columns: units
    x = p
    state = optimizer.init(params)
    slope = np.array([1.0, 0.01])  # of each unit
    for t in range(6):
        grads = {
            "hidden": {"kernel": jnp.array(slope[None], jnp.float32), "bias": jnp.array(slope, jnp.float32)},
            "head": params["head"],
        }
        updates, state = optimizer.update(grads, state, params, value=jnp.float32(1.0))
        params = optax.apply_updates(params, updates)
        rate = np.asarray(schedule(t), np.float64)
        v = p - rate * slope
        new = v * np.maximum(0.0, 1 - 2.0 * rate / np.linalg.norm(v, axis=0))
        p, x = new + momentum(t) * (new - x), new
    end: Any = params if fields.get("optimizer") == "sgd" else nag_optax.eval_params(state, params)
    actual = np.stack([end["hidden"]["kernel"][0], end["hidden"]["bias"]])
    np.testing.assert_allclose(actual, x, rtol=1e-5)
    np.testing.assert_array_equal(actual[:, 1], 0.0)
    assert (actual[:, 0] != 0).all()


def test_decay_of_sgd_and_momentum_is_decoupled_and_spares_biases():
    for name in ("sgd", "momentum"):
        optimizer = make_optimizer(spec(optimizer=name, weight_decay=0.5), STEPS)
        params: Any = PARAMS
        state = optimizer.init(params)
        zero = jax.tree.map(jnp.zeros_like, PARAMS)
        for _ in range(3):
            updates, state = optimizer.update(zero, state, params)
            params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["kernel"], PARAMS["kernel"] * (1 - 0.1 * 0.5) ** 3, rtol=1e-5)
        np.testing.assert_array_equal(params["bias"], PARAMS["bias"])


def test_the_average_is_the_weighted_mean_of_the_parameters_after_each_step():
    optimizer = make_optimizer(spec(optimizer="momentum", ema=0.9, learning_rate=0.5), STEPS)
    params: Any = PARAMS
    state = optimizer.init(params)
    average: Any = nag_optax.eval_params(state, params)
    np.testing.assert_array_equal(average["bias"], params["bias"])
    seen = []
    for t in range(5):
        updates, state = optimizer.update(jax.tree.map(lambda g, t=t: g * (t - 2.0), GRADS), state, params)
        params = optax.apply_updates(params, updates)
        seen.append(np.asarray(params["kernel"], np.float64))
        weights = 0.9 ** np.arange(t, -1.0, -1)
        average = nag_optax.eval_params(state, params)
        expected = np.tensordot(weights / weights.sum(), np.stack(seen), 1)
        np.testing.assert_allclose(average["kernel"], expected, rtol=1e-5)
    assert np.abs(seen[-1] - average["kernel"]).max() > 0.1
    plain = trajectory(make_optimizer(spec(optimizer="momentum", learning_rate=0.5), STEPS), 5)
    jax.tree.map(np.testing.assert_array_equal, trajectory(optimizer, 5), plain)


@pytest.mark.parametrize("name", ["nag", "adam"])
def test_bfloat16_parameters_lose_no_small_update_and_their_optimizer_is_float32(name):
    """2000 numbers at 1 go down by a quarter of the distance to the next one, 40 times."""
    fields = {"optimizer": name, "learning_rate": 2.0**-10, **({"momentum": 0.0} if name == "nag" else {})}
    optimizer = make_optimizer(spec(precision="bfloat16-parameters", **fields), STEPS)
    params: Any = jnp.ones(2000, jnp.bfloat16)
    state = optimizer.init(params)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        updates, state = optimizer.update(jnp.ones_like(params), state, params, value=jnp.float32(1.0))
        return optax.apply_updates(params, updates), state

    for _ in range(40):
        params, state = step(params, state)
    assert params.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} <= {jnp.dtype("float32"), jnp.dtype("int32")}
    # Each rounding has a deviation of at most half the distance, 2⁻⁹: five deviations of the mean.
    tolerance = 5 * 2.0**-9 * np.sqrt(40 / 2000)
    np.testing.assert_allclose(np.asarray(params, np.float64).mean(), 1 - 40 * 2.0**-10, atol=tolerance)


def test_low_memory_keeps_a_large_state_in_one_byte_a_number():
    params: Any = {"kernel": jnp.ones((64, 128)), "bias": jnp.ones(8)}
    sizes = [
        sum(leaf.nbytes for leaf in jax.tree.leaves(make_optimizer(spec(low_memory=low), STEPS).init(params)))
        for low in (False, True)
    ]
    assert sizes[0] > 4 * params["kernel"].size and sizes[1] < 1.1 * params["kernel"].size


def test_the_gradient_norm_is_a_mean_over_an_epoch_of_every_sixteenth_step_without_frozen_parameters():
    optimizer = make_optimizer(spec(freeze=("bias",), clip_norm=0.1), STEPS)
    params: Any = PARAMS
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    norms = []
    for t in range(STEPS + 3):
        grads = jax.tree.map(lambda g, t=t: g * (t + 1.0), GRADS)
        norms.append(np.linalg.norm(grads["kernel"]))
        state = update(grads, state, params, value=jnp.float32(1.0))[1]
        looks = [norms[0]] if t < 16 else [norms[0], norms[16]] if t < STEPS else [norms[STEPS]]
        np.testing.assert_allclose(gradient_norm(state), np.mean(looks), rtol=1e-5)


def test_an_optimizer_that_is_registered_is_one_of_the_others(monkeypatch):
    monkeypatch.setattr(registry, "OPTIMIZERS", dict(OPTIMIZERS))
    registry.register_optimizer("lion", "optax:lion", learning_rate=0.02)
    lion = spec(optimizer="lion", learning_rate=None)
    assert lion.learning_rate == 0.02 and registry.optimizer_row("lion").label == "lion"
    params: Any = jnp.ones(3)
    optimizer = make_optimizer(lion, STEPS)
    updates, _ = optimizer.update(jnp.ones(3), optimizer.init(params), params, value=jnp.float32(1.0))
    decay = 1e-3  # Lion's own
    np.testing.assert_allclose(np.asarray(updates), -0.02 * (1 + decay), rtol=1e-6)
    assert spec(optimizer="snoo", inner="lion", learning_rate=None).learning_rate == 0.02
    assert spec(optimizer="optax:lion", learning_rate=None).learning_rate == 0.001
    with pytest.raises(InputError, match="^--optimizer optax:loin: cannot be imported"):
        make_optimizer(spec(optimizer="optax:loin"), STEPS)
    with pytest.raises(InputError, match="^--inner optax:loin: cannot be imported"):
        make_optimizer(spec(optimizer="snoo", inner="optax:loin"), STEPS)
