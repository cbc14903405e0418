"""The trainer's convolution equals XLA's, values and gradients."""

from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from nag_optax.layers import convolution
from nag_optax.layers.convolution import by_products, conv_general_dilated

LAYOUT = ("NHWC", "HWIO", "NHWC")


@pytest.fixture(params=[False, True], ids=["whole", "in parts"])
def parts(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(convolution, "_CACHE", 1)
    return request.param


def gradients(convolve, strides, padding):
    """Of x and of the kernel, in the body of a scan."""

    def loss(x, kernel):
        return jnp.sum(jnp.sin(convolve(x, kernel, strides, padding, dimension_numbers=LAYOUT)))

    grad = jax.grad(loss, argnums=(0, 1))
    return jax.jit(lambda *args: lax.scan(lambda args, _: (grad(*args), None), args, None, length=1)[0])


@pytest.mark.parametrize(
    ("shape", "strides", "size"),
    [
        ((3, 3), (1, 1), (9, 7)),
        ((5, 3), (1, 1), (9, 7)),
        ((1, 1), (1, 1), (9, 7)),
        ((3, 3), (2, 2), (8, 6)),
        ((3, 3), (2, 2), (9, 6)),
        ((1, 1), (2, 2), (8, 7)),
        ((7, 7), (2, 2), (10, 9)),
        ((3, 5), (3, 2), (9, 8)),
        ((3, 3), (1, 1), (2, 2)),
        ((3, 3), (2, 2), (2, 1)),
        ((5, 3), (1, 1), (4, 9)),
    ],
)
def test_convolution_and_its_gradients_are_those_of_lax(shape, strides, size, parts):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(12, *size, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(*shape, 3, 5)), jnp.float32)
    padding = tuple((k // 2, k // 2) for k in shape)
    found = gradients(conv_general_dilated, strides, "SAME" if strides == (1, 1) else padding)
    for expected, actual in zip(
        gradients(lax.conv_general_dilated, strides, padding)(x, kernel), found(x, kernel), strict=True
    ):
        # Sums of at most 12·9·7 products, each rounded.
        np.testing.assert_allclose(
            actual, expected, rtol=0, atol=12 * 63 * 2.0**-24 * float(jnp.abs(expected).max())
        )


@pytest.mark.parametrize("padding", ["VALID", "SAME", ((0, 1), (2, 0))], ids=str)
@pytest.mark.parametrize(
    ("shape", "strides"), [((5, 5), (1, 1)), ((3, 3), (2, 2)), ((2, 4), (1, 1)), ((4, 4), (4, 4))]
)
def test_so_they_are_with_any_padding(shape, strides, padding, parts):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(12, 9, 8, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(*shape, 3, 5)), jnp.float32)
    of_lax, found = (gradients(f, strides, padding) for f in (lax.conv_general_dilated, conv_general_dilated))
    for expected, actual in zip(of_lax(x, kernel), found(x, kernel), strict=True):
        # As above, with images of 9·8 pixels.
        limit = 12 * 72 * 2.0**-24 * float(jnp.abs(expected).max())
        np.testing.assert_allclose(actual, expected, rtol=0, atol=limit)


@pytest.mark.parametrize("size", [1, 3])
def test_no_gradient_of_a_layer_lacks_a_fast_kernel(size):
    """As one of images with zeros between the pixels does: XLA for CPU computes it a number at a time."""

    def has_zeros_between(conv):
        graphdef, params = nnx.split(conv)
        grad = jax.grad(lambda params, x: jnp.sum(jnp.sin(nnx.merge(graphdef, params)(x))), argnums=(0, 1))
        step = jax.jit(lambda *args: lax.scan(lambda args, _: (grad(*args), None), args, None, length=1)[0])
        return "lhs_dilate" in str(step.lower(params, jnp.ones((8, 6, 6, 2))).compile().as_text())

    layer = convolution.convolution(2, 4, size, 2, rngs=nnx.Rngs(0))
    assert has_zeros_between(layer) == (jax.default_backend() != "cpu")
    layer.conv_general_dilated = lax.conv_general_dilated
    assert has_zeros_between(layer)


@pytest.mark.parametrize(("size", "slow"), [(2, False), (3, True)])
def test_an_image_smaller_than_the_kernel_needs_no_convolution(size, slow):
    """XLA for CPU takes 100 times as long for one."""
    step = jax.jit(gradients(conv_general_dilated, (1, 1), "SAME"))
    text = step.lower(jnp.ones((8, size, size, 2)), jnp.ones((3, 3, 2, 4))).compile().as_text()
    assert (" convolution(" in str(text)) == slow


def test_a_gradient_in_parts_computes_what_comes_before_once(monkeypatch):
    """Each part's transposed copy would compute it anew."""
    monkeypatch.setattr(convolution, "_CACHE", 1)

    def loss(kernel, x):
        return conv_general_dilated(jnp.sin(x), kernel, (1, 1), "SAME", dimension_numbers=LAYOUT).sum()

    step = jax.jit(jax.grad(loss))
    text = str(step.lower(jnp.ones((3, 3, 2, 4)), jnp.ones((16, 6, 6, 2))).compile().as_text())
    assert text.count(" sine(") == 1


def test_parts_fit_the_cache_and_are_equal():
    mebibytes = 2**20
    assert convolution._num_parts(128, 8 * mebibytes) == 8
    assert convolution._num_parts(96, 5 * mebibytes) == 6
    assert convolution._num_parts(96, 2**40) == 24  # 4 images in each
    assert convolution._num_parts(127, 2**40) == convolution._num_parts(0, 0) == 1


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


def test_the_number_of_images_may_be_open():
    """As in an exported program that takes any batch."""

    def loss(x, kernel):
        y = conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)
        return jnp.sum(jnp.sin(y))

    (batch,) = jax.export.symbolic_shape("batch")
    x, kernel = (
        jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(3, 5, 5, 64), (3, 3, 64, 64)])
    )
    shapes = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype), jax.ShapeDtypeStruct(kernel.shape, x.dtype)
    step = jax.jit(jax.grad(loss, argnums=(0, 1)))
    found = jax.export.export(step)(*shapes).call(x, kernel)
    # Sums of at most 576 products in another order.
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=576 * 2.0**-23), found, step(x, kernel))


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


@pytest.mark.parametrize(("channels", "units", "kinds"), [(64, 64, 2), (256, 256, 3), (64, 32, 0)])
@pytest.mark.parametrize("size", [(6, 4), (5, 7)])
def test_many_channels_take_winograd_s_algorithm(channels, units, kinds, size, parts, monkeypatch):
    monkeypatch.setattr(convolution, "_LARGE", 1)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(8, *size, channels)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, channels, units)), jnp.float32)
    step = gradients(conv_general_dilated, (1, 1), "SAME")
    expected = gradients(lax.conv_general_dilated, (1, 1), "SAME")(x, kernel)
    for a, b in zip(step(x, kernel), expected, strict=True):
        # The cosine of a sum of 9·channels products; then one of products with them.
        length = 9 * channels + max(9 * units, 8 * size[0] * size[1])
        np.testing.assert_allclose(a, b, rtol=0, atol=length * 2.0**-24 * float(jnp.abs(b).max()))
    # The value, then the gradients of x and of the kernel; what is left on a CPU is a convolution.
    text = str(step.lower(x, kernel).compile().as_text())
    assert jax.default_backend() != "cpu" or text.count(" convolution(") == 3 - kinds


@pytest.mark.parametrize(("dtype", "large"), [(jnp.float32, 2**19), (jnp.bfloat16, 1)])
def test_small_work_and_bfloat16_stay_convolutions(dtype, large, monkeypatch):
    monkeypatch.setattr(convolution, "_LARGE", large)
    x, kernel = jnp.ones((8, 4, 4, 64), dtype), jnp.ones((3, 3, 64, 64), dtype)
    program = jax.make_jaxpr(
        lambda x, kernel: conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)
    )
    assert "dot_general" not in str(program(x, kernel))


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
