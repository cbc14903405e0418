"""Batch normalisation with ReLU and pooling equals Flax's three layers, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nag_optax.layers.normalisation import max_pool_2x2, normalised, normalised_and_pooled


def layer(channels: int = 3) -> nnx.BatchNorm:
    """With a channel that the scale turns round, if there are more than one."""
    norm = nnx.BatchNorm(channels, momentum=0.9, rngs=nnx.Rngs(0))
    nnx.update(norm, {"scale": jnp.linspace(2.0, -1.5, channels), "bias": jnp.linspace(0, -0.5, channels)})
    return norm


def by_flax(norm: nnx.BatchNorm, x: jax.Array, train: bool) -> jax.Array:
    y = nnx.relu(norm(x, use_running_average=not train))
    return nnx.max_pool(y, (2, 2), strides=(2, 2))


def results(block, norm, x, train=True):
    """The output, the layer's new state, and the gradients of x and of the parameters."""
    graphdef, params, rest = nnx.split(norm, nnx.Param, ...)

    def loss(x, params):
        norm = nnx.merge(graphdef, params, rest, copy=True)
        out = block(norm, x, train)
        return jnp.sum(jnp.sin(3 * out)), (out, nnx.state(norm, nnx.Not(nnx.Param)))

    (_, (out, state)), grads = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(x, params)
    return out, jax.tree.leaves(state), jax.tree.leaves(grads)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (2, 3)])
@pytest.mark.parametrize("train", [True, False])
def test_values_and_gradients_are_those_of_flax(size, train):
    x = jnp.asarray(np.random.default_rng(0).normal(1.0, 2.0, (4, *size, 3)), jnp.float32)
    ours, theirs = (results(block, layer(), x, train) for block in (normalised_and_pooled, by_flax))
    for a, b in zip([ours[0], *ours[1], *ours[2]], [theirs[0], *theirs[1], *theirs[2]], strict=True):
        # Sums of at most 4·9·7 numbers, each rounded.
        np.testing.assert_allclose(a, b, rtol=0, atol=256 * 2.0**-23 * float(jnp.abs(b).max()))


def alone_by_flax(norm: nnx.BatchNorm, x: jax.Array, train: bool) -> jax.Array:
    return norm(x, use_running_average=not train)


@pytest.mark.parametrize("shape", [(4, 5, 7, 3), (20, 3)])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("use_scale", [True, False])
def test_normalised_numbers_and_gradients_are_those_of_flax(shape, train, use_scale):
    x = jnp.asarray(np.random.default_rng(0).normal(1.0, 2.0, shape), jnp.float32)
    norm = layer() if use_scale else nnx.BatchNorm(3, use_scale=False, epsilon=1e-12, rngs=nnx.Rngs(0))
    ours, theirs = (results(block, norm, x, train) for block in (normalised, alone_by_flax))
    for a, b in zip([ours[0], *ours[1], *ours[2]], [theirs[0], *theirs[1], *theirs[2]], strict=True):
        # Sums of at most 4·5·7 numbers, each rounded.
        np.testing.assert_allclose(a, b, rtol=0, atol=256 * 2.0**-23 * float(jnp.abs(b).max()))


def test_bfloat16_is_normalised_in_float32():
    # Different numbers that bfloat16 has: of equal ones Flax takes the first.
    numbers = np.random.default_rng(0).permuted(np.tile(np.arange(144) / 16, (3, 1)), axis=1)
    x = jnp.asarray(numbers.T.reshape(4, 6, 6, 3), jnp.bfloat16)
    ours, theirs = (results(block, layer(), x) for block in (normalised_and_pooled, by_flax))
    for a, b in zip([ours[0], *ours[2]], [theirs[0], *theirs[2]], strict=True):
        assert a.dtype == b.dtype
        # bfloat16 rounds the output and its gradient.
        np.testing.assert_allclose(
            np.float32(a), np.float32(b), rtol=0, atol=2 * 2.0**-8 * float(jnp.abs(b).max())
        )


def test_equal_numbers_share_the_gradient():
    x = jnp.asarray([[1.0, 3.0, 3.0, 0.0], [3.0, 1.0, 3.0, 3.0]])[None, :, :, None]
    norm = layer(1)
    _, _, (grad, *_) = results(normalised_and_pooled, norm, x)
    of_four = lambda *args: jnp.max(nnx.relu(alone_by_flax(*args)).reshape(1, 1, 2, 2, 2, 1), (2, 4))  # noqa: E731
    reference = results(of_four, norm, x)[2][0]
    # A sum of 8 numbers.
    np.testing.assert_allclose(grad, reference, rtol=0, atol=8 * 2.0**-23 * float(jnp.abs(reference).max()))


def test_a_frozen_layer_takes_the_running_average():
    norm = layer()
    norm.use_running_average = True
    x = jnp.asarray(np.random.default_rng(0).normal(1.0, 2.0, (4, 6, 6, 3)), jnp.float32)
    np.testing.assert_array_equal(normalised_and_pooled(norm, x, True), by_flax(norm, x, False))
    np.testing.assert_array_equal(norm.mean[...], np.zeros(3))


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (2, 3)])
def test_max_pool_and_its_gradient_are_those_of_flax(size):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *size, 3)), jnp.float32)
    reference = lambda x: nnx.max_pool(x, (2, 2), strides=(2, 2))  # noqa: E731
    np.testing.assert_array_equal(max_pool_2x2(x), reference(x))
    grad = lambda pool: jax.grad(lambda x: jnp.sum(jnp.sin(pool(x))))(x)  # noqa: E731
    np.testing.assert_allclose(grad(max_pool_2x2), grad(reference), rtol=1e-6, atol=1e-6)
