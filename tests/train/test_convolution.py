"""The trainer's convolution and pooling equal XLA's and Flax's, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from nag_optax.train.convolution import conv_general_dilated, max_pool_2x2

LAYOUT = ("NHWC", "HWIO", "NHWC")


@pytest.mark.parametrize("shape", [(3, 3), (5, 3), (1, 1)])
@pytest.mark.parametrize("inside_a_scan", [False, True])
def test_convolution_and_its_gradients_are_those_of_lax(shape, inside_a_scan):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(4, 9, 7, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(*shape, 3, 5)), jnp.float32)

    def loss(convolve, x, kernel):
        return jnp.sum(jnp.sin(convolve(x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)))

    def gradients(convolve):
        grad = jax.grad(lambda *args: loss(convolve, *args), argnums=(0, 1))
        if not inside_a_scan:
            return jax.jit(grad)(x, kernel)
        return jax.jit(lambda *a: lax.scan(lambda c, _: (grad(*a), None), a, None, length=1)[0])(x, kernel)

    expected, actual = gradients(lax.conv_general_dilated), gradients(conv_general_dilated)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), expected, actual)


@pytest.mark.parametrize(("strides", "padding"), [((2, 2), "SAME"), ((1, 1), "VALID")])
def test_other_convolutions_are_left_to_lax(strides, padding):
    x, kernel = jnp.ones((1, 6, 6, 2)), jnp.ones((3, 3, 2, 1))
    expected = lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=LAYOUT)
    actual = conv_general_dilated(x, kernel, strides, padding, dimension_numbers=LAYOUT)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (2, 3)])
def test_max_pool_and_its_gradient_are_those_of_flax(size):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *size, 3)), jnp.float32)
    reference = lambda x: nnx.max_pool(x, (2, 2), strides=(2, 2))  # noqa: E731
    np.testing.assert_array_equal(max_pool_2x2(x), reference(x))
    grad = lambda pool: jax.grad(lambda x: jnp.sum(jnp.sin(pool(x))))(x)  # noqa: E731
    np.testing.assert_allclose(grad(max_pool_2x2), grad(reference), rtol=1e-6, atol=1e-6)
