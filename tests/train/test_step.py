"""One step: labels that are mixed and smoothed, bfloat16, and a batch in parts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nag_optax.train.data.augment import AUGMENTATIONS, augmentation_key, mixing_share
from nag_optax.train.step import How, TrainState, step_key, train_step
from tests.train.test_loop import make_loop, numbers

KEY = step_key(3, jnp.int32(7))
NOTED: list[Any] = []


class Layer(nnx.Module):
    """A layer without dropout, with a normalisation or none; it notes the dtypes that it computes with."""

    def __init__(self, *, normalised: bool = False):
        rngs = nnx.Rngs(0)
        self.head = nnx.Linear(12, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, momentum=0.5, rngs=rngs) if normalised else None

    def __call__(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        logits = self.head(images.reshape(len(images), -1))
        if self.norm is not None:
            logits = self.norm(logits, use_running_average=not train)
        NOTED.append({images.dtype, self.head.kernel[...].dtype, logits.dtype})
        return logits


def stepped(how: How, model: Layer, dtype: Any = jnp.float32) -> tuple[Any, TrainState, Any]:
    """The parameters before, the state after a step of gradient descent at rate 1, and its batch."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(8, 2, 6, 1)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 3, 8), jnp.int32)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    params = jax.tree.map(lambda p: p.astype(dtype), nnx.to_pure_dict(params))
    optimizer = optax.with_extra_args_support(optax.sgd(1.0))
    zero = jnp.zeros([], jnp.int32)
    state = TrainState(zero, params, nnx.to_pure_dict(rest), optimizer.init(params), jnp.zeros([]), zero)
    return params, train_step(graphdef, optimizer, state, images, labels, KEY, how), (images, labels)


@pytest.mark.parametrize("how", [How(), How(mixup=0.4), How(label_smoothing=0.3), How(0.4, 0.3)])
def test_the_loss_is_the_cross_entropy_to_the_mixed_and_smoothed_labels(how):
    """With its gradient in closed form, xᵀ(p − t)/B, in float64."""
    params, state, (images, labels) = stepped(how, Layer())
    share = float(mixing_share(augmentation_key(KEY, "mixup"), how.mixup)) if how.mixup else 1.0
    x = np.asarray(images, np.float64).reshape(8, 12)
    x = share * x + (1 - share) * x[::-1]
    t = np.eye(3)[np.asarray(labels)]
    t = share * t + (1 - share) * t[::-1]
    t = (1 - how.label_smoothing) * t + how.label_smoothing / 3
    kernel, bias = (np.asarray(params["head"][name], np.float64) for name in ("kernel", "bias"))
    logits = x @ kernel + bias
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(state.loss_sum, -(t * np.log(p)).sum(), rtol=1e-5)
    np.testing.assert_allclose(state.params["head"]["kernel"], kernel - x.T @ (p - t) / 8, atol=1e-5)
    np.testing.assert_allclose(state.params["head"]["bias"], bias - (p - t).mean(0), atol=1e-5)
    assert int(state.correct) == (logits.argmax(1) == np.asarray(labels)).sum()


def test_parts_of_a_batch_give_its_gradient_and_see_their_own_batch_statistics():
    _, whole, _ = stepped(How(mixup=0.4), Layer())
    _, parts, _ = stepped(How(mixup=0.4, accumulate=4), Layer())
    for name, value in numbers(whole).items():
        np.testing.assert_allclose(numbers(parts)[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    params, state, (images, _) = stepped(How(accumulate=2), Layer(normalised=True))
    x = np.asarray(images, np.float64).reshape(8, 12) @ np.asarray(params["head"]["kernel"], np.float64)
    mean = 0.0
    for part in (x[::2], x[1::2]):
        mean = 0.5 * mean + 0.5 * part.mean(0)
    np.testing.assert_allclose(state.model_state["norm"]["mean"], mean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["bfloat16", "bfloat16-parameters"])
def test_the_options_of_a_step_reach_its_program(precision):
    default = make_loop().plan
    assert default.how == How() and default.augment is None
    loop = make_loop(
        augment="resized-crop", mixup=0.4, label_smoothing=0.1, precision=precision, accumulate=2
    )
    assert loop.plan.how == How(0.4, 0.1, True, 2)
    assert loop.plan.augment is AUGMENTATIONS["resized-crop"]
    dtype = "bfloat16" if precision.endswith("parameters") else "float32"
    assert {p.dtype for p in jax.tree.leaves(loop.init().params)} == {jnp.dtype(dtype)}


def test_a_part_at_a_time_is_in_memory():
    loop = make_loop(accumulate=4, batch_size=96)
    loop.run_chunk(loop.init(), 1)
    text = loop._programs[1].as_text()
    assert "f32[24,128]" in text and "f32[96,128]" not in text  # hidden units of a quarter of the batch


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_bfloat16_is_what_the_model_computes_in_and_no_sum_is_kept_in(dtype, accumulate):
    NOTED.clear()
    exact = stepped(How(accumulate=accumulate), Layer(normalised=True))[1]
    assert {jnp.dtype("float32")} in NOTED and {jnp.dtype("bfloat16")} not in NOTED
    NOTED.clear()
    _, state, _ = stepped(How(bfloat16=True, accumulate=accumulate), Layer(normalised=True), dtype)
    assert NOTED and all(kinds == {jnp.dtype("bfloat16")} for kinds in NOTED)
    assert {p.dtype for p in jax.tree.leaves(state.params)} == {jnp.dtype(dtype)}
    assert {p.dtype for p in jax.tree.leaves(state.model_state)} == {jnp.dtype("float32")}
    # Eight bits: a relative error of 2⁻⁸ in a loss of order 1 an image, and more than none.
    assert 0 < abs(float(state.loss_sum - exact.loss_sum)) < 8 * 2.0**-6


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_augmentation_changes_the_images_and_nothing_else(name, monkeypatch):
    """With one that does nothing the run is the plain one to the bit: order and dropout are the same."""
    monkeypatch.setitem(AUGMENTATIONS, name, lambda key, images, epoch: images)
    plain, changed = make_loop(), make_loop(augment=name)
    a, b = (numbers(loop.run_chunk(loop.init(), 2)) for loop in (plain, changed))
    for key, value in a.items():
        np.testing.assert_array_equal(b[key], value, err_msg=key)


def test_mixup_leaves_dropout_as_it_is(monkeypatch):
    monkeypatch.setattr("nag_optax.train.step.mixing_share", lambda key, alpha: jnp.float32(1.0))
    plain, changed = make_loop(), make_loop(mixup=0.4)
    a, b = (numbers(loop.run_chunk(loop.init(), 2)) for loop in (plain, changed))
    for key, value in a.items():  # Adding zeros, in another order of the same sums.
        np.testing.assert_allclose(b[key], value, rtol=1e-5, atol=1e-6, err_msg=key)


@pytest.mark.four_devices
def test_each_device_augments_and_mixes_its_own_images_and_the_numbers_are_those_of_one():
    fields = {"augment": "crop-flip", "mixup": 0.4, "accumulate": 2, "ema": 0.9}
    one, four = make_loop(**fields), make_loop(4, **fields)
    a, b = (numbers(loop.run_chunk(loop.init(), 1)) for loop in (one, four))
    for name, value in a.items():  # Sums over a batch in another order.
        np.testing.assert_allclose(b[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    assert "all-gather" not in four._programs[1].as_text()
