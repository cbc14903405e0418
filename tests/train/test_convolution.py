"""The trainer's convolution and pooling equal XLA's and Flax's, values and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from nag_optax.train.models.convolution import by_products, conv_general_dilated, max_pool_2x2

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


@pytest.mark.parametrize(
    "options",
    [
        {"window_strides": (2, 2)},
        {"padding": "VALID"},
        {"padding": "SAME_LOWER"},
        {"rhs_dilation": (2, 1)},
        {"rhs_dilation": np.array([2, 2])},
        {"feature_group_count": 2, "kernel": (3, 3, 2, 4)},
        {"batch_group_count": 2},
        {"dimension_numbers": ("NCHW", "HWIO", "NHWC"), "x": (2, 4, 6, 6)},
        {"dimension_numbers": ("NHWC", "OIHW", "NHWC"), "kernel": (4, 4, 3, 3)},
        {"preferred_element_type": jnp.float32, "dtype": jnp.bfloat16},
        {
            "dimension_numbers": ("NWC", "WIO", "NWC"),
            "window_strides": (1,),
            "x": (2, 6, 4),
            "kernel": (3, 4, 4),
        },
    ],
    ids=lambda options: ",".join(options),
)
def test_other_convolutions_are_left_to_lax(options):
    options = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": LAYOUT} | options
    dtype, rng = options.pop("dtype", jnp.float32), np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=options.pop("x", (2, 6, 6, 4))), dtype)
    kernel = jnp.asarray(rng.normal(size=options.pop("kernel", (3, 3, 4, 4))), dtype)
    expected = lax.conv_general_dilated(x, kernel, **options)
    actual = conv_general_dilated(x, kernel, **options)
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)


def test_what_lax_refuses_is_refused():
    x, kernel = jnp.ones((1, 6, 6, 2)), jnp.ones((3, 3, 2, 1))
    with pytest.raises(ValueError, match="transposed"):
        conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT, lhs_dilation=(2, 2))


def test_the_precision_is_that_of_every_convolution():
    conv = nnx.Conv(
        2, 3, (3, 3), precision="highest", conv_general_dilated=conv_general_dilated, rngs=nnx.Rngs(0)
    )
    graphdef, params = nnx.split(conv)
    gradients = jax.grad(lambda params, x: nnx.merge(graphdef, params)(x).sum(), argnums=(0, 1))
    program = str(jax.make_jaxpr(gradients)(params, jnp.ones((1, 4, 4, 2))))
    convolutions = program.count("conv_general_dilated[")
    # The value, and two gradients on a CPU and elsewhere.
    assert program.count("Precision.HIGHEST, Precision.HIGHEST") == convolutions >= 5


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (2, 3)])
def test_max_pool_and_its_gradient_are_those_of_flax(size):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *size, 3)), jnp.float32)
    reference = lambda x: nnx.max_pool(x, (2, 2), strides=(2, 2))  # noqa: E731
    np.testing.assert_array_equal(max_pool_2x2(x), reference(x))
    grad = lambda pool: jax.grad(lambda x: jnp.sum(jnp.sin(pool(x))))(x)  # noqa: E731
    np.testing.assert_allclose(grad(max_pool_2x2), grad(reference), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 1, "SAME"), (3, 2, ((1, 1), (1, 1)))])
def test_products_are_the_convolution_and_its_gradients(size, stride, padding):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 6, 5, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, size, 3, 4)), jnp.float32)

    def loss(convolve, x, kernel):
        return jnp.sum(jnp.sin(convolve(x, kernel, (stride, stride), padding, dimension_numbers=LAYOUT)))

    ours, theirs = (
        jax.grad(partial(loss, convolve), (0, 1))(x, kernel)
        for convolve in (by_products, lax.conv_general_dilated)
    )
    for a, b in zip(ours, theirs, strict=True):
        # The sine of a sum of 27 products, then a sum of at most 60 more: each rounds.
        np.testing.assert_allclose(a, b, rtol=0, atol=87 * 2.0**-23 * float(jnp.abs(b).max()))
