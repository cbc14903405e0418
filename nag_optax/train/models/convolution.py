"""The layers that models share: convolution and pooling whose gradients XLA compiles well in a loop on CPU.

XLA for CPU brings a convolution into the form that its fast kernel takes in the entry computation
alone, not in the body of a `lax.scan`: there a kernel's gradient ran 500 ms where it takes 10. Written
in that form to begin with, it is fast in both places, and the same to the bit.
"""

from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolution(channels: int, units: int, size: int, stride: int = 1, *, rngs: nnx.Rngs) -> nnx.Conv:
    """A convolution of odd size without a bias; the output has 1/stride of the pixels a side, rounded up."""
    pad = size // 2
    return nnx.Conv(
        channels,
        units,
        (size, size),
        (stride, stride),
        # SAME would take another pixel of an image of even size than PyTorch does.
        padding="SAME" if stride == 1 else ((pad, pad), (pad, pad)),
        use_bias=False,
        conv_general_dilated=conv_general_dilated,
        rngs=rngs,
    )


def normalised(norm: nnx.BatchNorm, x: jax.Array, train: bool) -> jax.Array:
    """The batch normalisation of x; a frozen one always takes the running average."""
    return norm(x, use_running_average=norm.use_running_average or not train)


def conv_general_dilated(
    lhs: jax.Array, rhs: jax.Array, window_strides: Any, padding: Any, **kwargs: Any
) -> jax.Array:
    """`lax.conv_general_dilated` for `nnx.Conv(conv_general_dilated=...)`.

    NHWC images with an odd kernel, stride 1 and SAME take the form above; all else is left to `lax`.
    """
    if tuple(window_strides) == (1, 1) and padding == "SAME" and _is_plain(lhs.shape, rhs.shape, **kwargs):
        return _same_conv(lhs, rhs, kwargs.get("precision"))
    return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **kwargs)


def by_products(
    lhs: jax.Array, rhs: jax.Array, window_strides: Any, padding: Any, **kwargs: Any
) -> jax.Array:
    """The same as a sum of matrix products, one for each place of the kernel, and so are its gradients.

    For IREE: it takes 27 times as long for a kernel's gradient that is written as a convolution.
    """
    if tuple(window_strides) != (1, 1) or padding != "SAME" or not _is_plain(lhs.shape, rhs.shape, **kwargs):
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **kwargs)
    height, width = lhs.shape[1:3]
    rows, columns = rhs.shape[:2]
    padded = jnp.pad(lhs, ((0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0)))
    places = [(i, j) for i in range(rows) for j in range(columns)]
    return reduce(jnp.add, (padded[:, i : i + height, j : j + width] @ rhs[i, j] for i, j in places))


def max_pool_2x2(x: jax.Array) -> jax.Array:
    """2×2 max pooling, stride 2; an odd last row or column is dropped.

    A maximum over reshaped axes: the gradient of `nnx.max_pool` scatters, which is 7 times slower.
    """
    n, height, width, channels = x.shape
    height, width = height // 2, width // 2
    return x[:, : 2 * height, : 2 * width].reshape(n, height, 2, width, 2, channels).max((2, 4))


def _is_plain(
    images: tuple[int, ...],
    kernel: tuple[int, ...],
    dimension_numbers: Any = None,
    precision: Any = None,
    **others: Any,
) -> bool:
    del precision  # It is passed on.
    plain = all(value is None or np.all(np.asarray(value) == 1) for value in others.values())
    if len(kernel) != 4 or not plain:
        return False
    layout, own = (lax.conv_dimension_numbers(images, kernel, n) for n in (dimension_numbers, _LAYOUT))
    return layout == own and kernel[0] % 2 == kernel[1] % 2 == 1


def _conv(lhs: jax.Array, rhs: jax.Array, precision: Any, padding: Any = "SAME") -> jax.Array:
    return lax.conv_general_dilated(lhs, rhs, (1, 1), padding, dimension_numbers=_LAYOUT, precision=precision)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _same_conv(x: jax.Array, kernel: jax.Array, precision: Any) -> jax.Array:
    return _conv(x, kernel, precision)


def _forward(x: jax.Array, kernel: jax.Array, precision: Any):
    return _conv(x, kernel, precision), (x, kernel)


def _backward(
    precision: Any, residuals: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    own, default = (partial(backward, precision) for backward in (_backward_cpu, _backward_default))
    return lax.platform_dependent(*residuals, g, cpu=own, default=default)


def _backward_cpu(
    precision: Any, x: jax.Array, kernel: jax.Array, g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    grad_x = _conv(g, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), precision)
    # Channels take the place of the batch, and the batch that of the channels.
    pad = tuple((size // 2, size // 2) for size in kernel.shape[:2])
    grad_kernel = _conv(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), precision, pad)
    return grad_x, grad_kernel.transpose(1, 2, 0, 3)


def _backward_default(
    precision: Any, x: jax.Array, kernel: jax.Array, g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return jax.vjp(partial(_conv, precision=precision), x, kernel)[1](g)


_same_conv.defvjp(_forward, _backward)
