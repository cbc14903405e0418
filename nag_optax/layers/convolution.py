"""Convolutions whose gradients XLA compiles well in a loop on CPU.

XLA for CPU brings a convolution into the form that its fast kernel takes in the entry computation
alone, not in the body of a `lax.scan`: there a kernel's gradient ran 500 ms where it takes 10. Written
in that form to begin with, it is fast in both places. Three things more make it fast. A kernel's gradient
reads the whole of the output's gradient for each few of its own numbers, so it is the sum of those of
parts of the batch that fit the cache. The sum is a loop, because XLA would compute what comes before the
convolution anew for each part, in the order of its transposed copy. A convolution of stride 2 has no such
form, but it is a sum of four of stride 1, one for the even and the odd rows and columns. 3×3 convolutions
of many channels are computed by Winograd's algorithm, see `winograd`.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from nag_optax.layers import winograd

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_CACHE = 2**20
"""Bytes of an array that stays in the cache of a core."""
_LARGE = 2**19
"""Below so many numbers, a convolution takes less time than the compilation of a faster one."""


def convolution(
    channels: int, units: int, size: int, stride: int = 1, *, rngs: nnx.Rngs, **options: Any
) -> nnx.Conv:
    """A convolution of odd size without a bias; the output has 1/stride of the pixels a side, rounded up.

    The other `options` are those of `nnx.Conv`.
    """
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
        **options,
    )


def conv_general_dilated(
    lhs: jax.Array, rhs: jax.Array, window_strides: Any, padding: Any, **kwargs: Any
) -> jax.Array:
    """`lax.conv_general_dilated` for `nnx.Conv(conv_general_dilated=...)`.

    Two-dimensional NHWC convolutions without groups or dilation take the form above; all else is left to
    `lax`. Images smaller than the kernel become products, which XLA for CPU computes 100 times as fast.
    """
    sizes = rhs.shape[:2]
    if not _is_plain(lhs.shape, rhs.shape, **kwargs):
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **kwargs)
    if any(image < kernel for image, kernel in zip(lhs.shape[1:3], sizes, strict=True)):
        return by_products(lhs, rhs, window_strides, padding, **kwargs)
    pads = _pads(lhs.shape, rhs.shape, window_strides, padding)
    fits = all(0 <= pad < kernel for pair, kernel in zip(pads, sizes, strict=True) for pad in pair)
    if not fits or jax.export.is_symbolic_dim(lhs.shape[0]):  # The form depends on the number of images.
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **kwargs)
    return _convolution(lhs, rhs, _How(tuple(window_strides), pads, kwargs.get("precision")))


def by_products(
    lhs: jax.Array, rhs: jax.Array, window_strides: Any, padding: Any, **kwargs: Any
) -> jax.Array:
    """The same as a sum of matrix products, one for each place of the kernel, and so are its gradients.

    For IREE, which takes 27 times as long for a kernel's gradient that is written as a convolution, and
    for images smaller than the kernel, for which XLA on CPU takes 100 times as long.
    """
    half = tuple((size // 2, size // 2) for size in rhs.shape[:2])
    plain = _is_plain(lhs.shape, rhs.shape, **kwargs)
    if not plain or _pads(lhs.shape, rhs.shape, window_strides, padding) != half:
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **kwargs)
    padded = jnp.pad(lhs, ((0, 0), *half, (0, 0)))

    def product(place: tuple[int, ...]) -> jax.Array:
        rows, columns = (
            slice(first, first + size, stride)
            for first, size, stride in zip(place, lhs.shape[1:3], window_strides, strict=True)
        )
        return jnp.matmul(padded[:, rows, columns], rhs[place], precision=kwargs.get("precision"))

    return reduce(jnp.add, map(product, np.ndindex(rhs.shape[:2])))


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
    return layout == own


def _pads(images: Any, kernel: Any, strides: Any, padding: Any) -> tuple[tuple[int, int], ...]:
    """The pixels around an image, before and behind, along its height and its width."""
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(images[1:3], kernel[:2], strides, padding)
    first, second = padding
    return tuple(first), tuple(second)


class _How(NamedTuple):
    """What is constant in a convolution."""

    strides: tuple[int, int]
    padding: tuple[tuple[int, int], ...]
    precision: Any
    dilation: tuple[int, int] = (1, 1)


def _conv(x: jax.Array, kernel: jax.Array, how: _How) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        how.strides,
        how.padding,
        rhs_dilation=how.dilation,
        dimension_numbers=_LAYOUT,
        precision=how.precision,
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolution(x: jax.Array, kernel: jax.Array, how: _How) -> jax.Array:
    if _takes_winograd(x, kernel, how, 64):

        def on_cpu(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return _by_winograd(x, winograd.of_kernel(kernel), how)

        return lax.platform_dependent(x, kernel, cpu=on_cpu, default=partial(_conv, how=how))
    return _conv(x, kernel, how)


def _forward(x: jax.Array, kernel: jax.Array, how: _How):
    return _convolution(x, kernel, how), (x, kernel)


def _backward(how: _How, residuals: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    def on_cpu(x: jax.Array, kernel: jax.Array, g: jax.Array):
        return _grad_x(x, kernel, g, how), _grad_kernel(x, kernel, g, how)

    def elsewhere(x: jax.Array, kernel: jax.Array, g: jax.Array):
        return jax.vjp(partial(_conv, how=how), x, kernel)[1](g)

    return lax.platform_dependent(*residuals, g, cpu=on_cpu, default=elsewhere)


_convolution.defvjp(_forward, _backward)


def _grad_x(x: jax.Array, kernel: jax.Array, g: jax.Array, how: _How) -> jax.Array:
    def of_stride_1(kernel: jax.Array, padding: Any) -> jax.Array:
        full = tuple((k - 1 - a, k - 1 - b) for k, (a, b) in zip(kernel.shape, padding, strict=False))
        return _conv(g, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), _How((1, 1), full, how.precision))

    if _takes_winograd(g, kernel, how, 64):
        # In the place of g, which nothing reads after this.
        return _by_winograd(g, winograd.flipped(winograd.of_kernel(kernel)), how, in_place=True)
    if how.strides == (1, 1):
        return of_stride_1(kernel, how.padding)
    # Output i is Σ_t x[s·i + t]·kernel[t]: with t = s·j + r, a convolution of x[r::s] for each r.
    places = [
        tuple(slice(r, None, s) for r, s in zip(first, how.strides, strict=True))
        for first in np.ndindex(*(min(s, k) for s, k in zip(how.strides, kernel.shape, strict=False)))
    ]
    kernels = [kernel[place] for place in places]

    def split(x: jax.Array) -> list[jax.Array]:
        x = jnp.pad(x, ((0, 0), *how.padding, (0, 0)))
        height, width = g.shape[1:3]
        return [
            x[:, rows, columns][:, : height + k.shape[0] - 1, : width + k.shape[1] - 1]
            for (rows, columns), k in zip(places, kernels, strict=True)
        ]

    return jax.vjp(split, x)[1]([of_stride_1(k, ((0, 0), (0, 0))) for k in kernels])[0]


def _grad_kernel(x: jax.Array, kernel: jax.Array, g: jax.Array, how: _How) -> jax.Array:
    """A convolution in which channels take the place of the batch, and the batch that of the channels."""
    if _takes_winograd(x, kernel, how, 256):
        part = partial(winograd.gradients_of_matrices, precision=how.precision)
        return winograd.to_kernel(_sum_over_parts(part, x, g))
    strides = how.strides
    if kernel.shape[:2] == (1, 1):
        x, strides = x[:, :: strides[0], :: strides[1]], (1, 1)
    sizes = zip(how.padding, kernel.shape, g.shape[1:], strides, x.shape[1:], strict=False)
    padding = tuple((low, k + (out - 1) * s - size - low) for (low, _), k, out, s, size in sizes)
    whole = _How((1, 1), padding, how.precision, dilation=strides)

    def of_part(x: jax.Array, g: jax.Array) -> jax.Array:
        return _conv(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), whole)

    return _sum_over_parts(of_part, x, g).transpose(1, 2, 0, 3)


def _takes_winograd(x: jax.Array, kernel: jax.Array, how: _How, channels: int) -> bool:
    """Whether Winograd's products pay on a CPU: with so many channels, and no small batch of small images."""
    return (
        kernel.shape[:2] == (3, 3)
        and how.strides == (1, 1)
        and how.padding == ((1, 1), (1, 1))
        and min(kernel.shape[2:]) >= channels
        and x.size >= _LARGE
        and x.dtype == kernel.dtype == jnp.float32  # In bfloat16 the sums would lose too much.
    )


def _by_winograd(x: jax.Array, matrices: winograd.Grid, how: _How, *, in_place: bool = False) -> jax.Array:
    count, units = _num_parts(len(x), x.nbytes), matrices[0][0].shape[1]
    xs = _parts(x, count)
    in_place = in_place and units == x.shape[3]

    def write_part(i: Any, y: jax.Array) -> jax.Array:
        part = winograd.convolved(_part(y if in_place else xs, i), matrices, how.precision)
        return lax.dynamic_update_index_in_dim(y, part, i, 1)

    y = xs if in_place else jnp.zeros((*xs.shape[:-1], units), x.dtype)
    return lax.fori_loop(0, count, write_part, y).reshape(*x.shape[:3], units)


def _sum_over_parts(function: Callable[[jax.Array, jax.Array], Any], x: jax.Array, g: jax.Array) -> Any:
    """The sum of a function over parts of the batch."""
    count = _num_parts(len(g), max(x.nbytes, g.nbytes))
    xs, gs = _parts(x, count), _parts(g, count)

    def add_part(i: Any, total: Any) -> Any:
        return jax.tree.map(jnp.add, total, function(_part(xs, i), _part(gs, i)))

    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(function, _part(xs, 0), _part(gs, 0)))
    return lax.fori_loop(0, count, add_part, zeros)


def _num_parts(batch: int, num_bytes: int) -> int:
    """The least number of equal parts that fit the cache and have 4 images at least."""
    counts = [n for n in range(1, batch // 4 + 1) if batch % n == 0] or [1]
    return next((n for n in counts if num_bytes <= n * _CACHE), counts[-1])


def _parts(x: jax.Array, count: int) -> jax.Array:
    """Parts of the batch along axis 1. A batch that is split over devices is split in each part too."""
    return x.reshape(-1, count, *x.shape[1:])


def _part(parts: jax.Array, i: Any) -> jax.Array:
    return lax.dynamic_index_in_dim(parts, i, 1, keepdims=False)
