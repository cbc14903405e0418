"""Winograd's products are the convolution of the definition, in fewer multiplications."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nag_optax.layers import winograd

# The matrices of the paper, section 4.1.
A = np.array([[1, 0], [1, 1], [1, -1], [0, -1]])
B = np.array([[1, 0, 0, 0], [0, 1, -1, 1], [-1, 1, 1, 0], [0, 0, 0, -1]])
G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


def test_each_sum_is_a_product_with_the_matrix_of_the_paper():
    rng = np.random.default_rng(0)
    for function, matrix in (
        (winograd._a, A),
        (winograd._a_transposed, A.T),
        (winograd._b_transposed, B.T),
        (winograd._g, G),
        (winograd._g_transposed, G.T),
    ):
        column = rng.normal(size=matrix.shape[1])
        np.testing.assert_allclose(function(column), matrix @ column, rtol=1e-14, atol=1e-15)


def by_definition(images, kernel):
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = images.shape[1:3]
    return sum(padded[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3))


@pytest.mark.parametrize("size", [(4, 6), (5, 3), (1, 2)])
def test_products_are_the_convolution_and_its_gradients(size, x64):
    rng = np.random.default_rng(0)
    images, kernel = rng.normal(size=(2, *size, 3)), rng.normal(size=(3, 3, 3, 4))
    g = rng.normal(size=(2, *size, 4))
    matrices = winograd.of_kernel(jnp.asarray(kernel))
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    places = [[padded[:, i : i + size[0], j : j + size[1]] for j in range(3)] for i in range(3)]
    gradients = winograd.gradients_of_matrices(jnp.asarray(images), jnp.asarray(g))
    for actual, expected in (
        (winograd.convolved(jnp.asarray(images), matrices), by_definition(images, kernel)),
        (
            winograd.convolved(jnp.asarray(g), winograd.flipped(matrices)),
            by_definition(g, kernel[::-1, ::-1].swapaxes(2, 3)),
        ),
        (
            winograd.to_kernel(gradients),
            [[np.einsum("nhwc,nhwo->co", place, g) for place in row] for row in places],
        ),
    ):
        # Sums of at most 48 products, and a few sums around each.
        np.testing.assert_allclose(actual, expected, rtol=0, atol=64 * 2.0**-52 * np.abs(expected).max())


def test_a_tile_of_four_pixels_takes_16_products_instead_of_36():
    images, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
    program = jax.make_jaxpr(winograd.convolved)(images, winograd.of_kernel(kernel))
    products = [e.outvars[0].aval.size for e in program.jaxpr.eqns if e.primitive.name == "dot_general"]
    assert sum(products) == 16 * 2 * 4 * 4 * 4
