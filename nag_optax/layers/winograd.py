"""3×3 convolutions of stride 1 with 16 products for each 2×2 pixels, where the definition takes 36.

```
Y = Aᵀ((G K Gᵀ) ⊙ (Bᵀ X B))A
```

X are tiles of 4×4 pixels, which overlap by two, Y tiles of 2×2 pixels, and K is the kernel. ⊙ stands for
a matrix product over the channels. A, B and G hold 0, ±1 and ±1/2 alone, so that they are written as sums
here. A grid is a list of rows of arrays, one array for each place in a tile.

Source: Lavin, Gray, *Fast algorithms for convolutional neural networks*, CVPR 2016, section 4.1.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Grid = list[list[jax.Array]]


def of_kernel(kernel: jax.Array) -> Grid:
    """G K Gᵀ of a kernel (3, 3, channels, units): 4×4 matrices."""
    return _on_both_sides(_g, [list(row) for row in kernel])


def flipped(matrices: Grid) -> Grid:
    """The matrices of the same kernel turned by half, from units to channels."""
    order = (3, 1, 2, 0)
    return [[matrices[i][j].T for j in order] for i in order]


def to_kernel(gradients: Grid) -> jax.Array:
    """The gradient of a kernel from those of its 4×4 matrices."""
    rows = _on_both_sides(_g_transposed, gradients)
    return jnp.stack([jnp.stack(row) for row in rows])


def convolved(images: jax.Array, matrices: Grid, precision: Any = None) -> jax.Array:
    """The convolution of images (N, height, width, channels) with the kernel of these matrices."""
    n, height, width, _ = images.shape

    def products(row: Sequence[jax.Array], of_row: Sequence[jax.Array]) -> list[jax.Array]:
        return [jnp.matmul(x, matrix, precision=precision) for x, matrix in zip(row, of_row, strict=True)]

    tiles = _on_both_sides(_b_transposed, _tiles(images))
    y = _on_both_sides(_a_transposed, list(map(products, tiles, matrices)))
    pixels = jnp.stack([jnp.stack(row, 3) for row in y], 2)  # (N, tiles, 2, tiles, 2, units)
    return pixels.reshape(n, height + height % 2, width + width % 2, -1)[:, :height, :width]


def gradients_of_matrices(images: jax.Array, g: jax.Array, precision: Any = None) -> Grid:
    """The gradients of the kernel's matrices, where g is the gradient of the convolution."""
    n, height, width, _ = g.shape
    g = jnp.pad(g, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    tiles = _on_both_sides(_b_transposed, _tiles(images))
    of_tiles = _on_both_sides(_a, [[g[:, i::2, j::2] for j in range(2)] for i in range(2)])

    def products(row: Sequence[jax.Array], of_row: Sequence[jax.Array]) -> list[jax.Array]:
        # As matrices: XLA for CPU sums over several axes at half the speed.
        flat = (
            (x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])) for x, y in zip(row, of_row, strict=True)
        )
        return [jnp.matmul(x.T, y, precision=precision) for x, y in flat]

    return list(map(products, tiles, of_tiles))


def _tiles(images: jax.Array) -> Grid:
    """The pixels at each place of all tiles, in images that zeros surround."""
    n, height, width, _ = images.shape
    rows, columns = (size + size % 2 for size in (height, width))
    padded = jnp.pad(images, ((0, 0), (1, 1 + height % 2), (1, 1 + width % 2), (0, 0)))
    return [[padded[:, i : i + rows : 2, j : j + columns : 2] for j in range(4)] for i in range(4)]


def _on_both_sides(matrix: Callable[[Sequence[jax.Array]], list[jax.Array]], grid: Grid) -> Grid:
    """M X Mᵀ, where the function multiplies a column by M."""
    columns = [matrix(column) for column in zip(*grid, strict=True)]
    return [matrix(row) for row in zip(*columns, strict=True)]


def _b_transposed(d: Sequence[jax.Array]) -> list[jax.Array]:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _g(k: Sequence[jax.Array]) -> list[jax.Array]:
    return [k[0], (k[0] + k[1] + k[2]) / 2, (k[0] - k[1] + k[2]) / 2, k[2]]


def _g_transposed(u: Sequence[jax.Array]) -> list[jax.Array]:
    return [u[0] + (u[1] + u[2]) / 2, (u[1] - u[2]) / 2, (u[1] + u[2]) / 2 + u[3]]


def _a(y: Sequence[jax.Array]) -> list[jax.Array]:
    return [y[0], y[0] + y[1], y[0] - y[1], -y[1]]


def _a_transposed(m: Sequence[jax.Array]) -> list[jax.Array]:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]
