"""Sutskever's schedule: the paper's numbers, and its argument."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nag_optax import momentum
from tests import reference
from tests.helpers import betas


@pytest.mark.parametrize("ceiling", [0.0, 0.5, 0.7, 0.9, 0.99, 0.999])
def test_sutskever_is_the_paper_s_schedule(ceiling: float, x64: None):
    expected = [reference.sutskever_momentum(t + 1, ceiling) for t in range(2600)]
    # log₂ and a power in the paper's form, a quotient in ours.
    np.testing.assert_allclose(betas(momentum.sutskever(ceiling), 2600), expected, rtol=1e-15)


def test_sutskever_by_hand():
    beta = betas(momentum.sutskever(0.99), 1000)
    # β_t = m_{t+1}, so that each plateau begins one step early.
    np.testing.assert_allclose(
        beta[[0, 248, 249, 498, 499, 749, 998]],
        [0.5, 0.5, 0.75, 0.75, 1 - 1 / 6, 0.875, 0.875],
        rtol=1e-6,
    )
    assert beta.dtype == np.float32


def test_sutskever_default_ceiling():
    beta = betas(momentum.sutskever(), 13_000)
    np.testing.assert_allclose(beta[-1], 0.99, rtol=1e-6)
    assert np.all(np.diff(beta) >= 0)


def test_sutskever_ceiling_may_be_traced():
    @jax.jit
    def second_beta(ceiling: jax.Array) -> jax.Array:
        rule = momentum.sutskever(ceiling)
        return jnp.asarray(rule.coefficients(jnp.asarray(1000, jnp.int32))[0][0])

    np.testing.assert_allclose(second_beta(jnp.asarray(0.6)), 0.6, rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "error"), [(1.0, ValueError), (-1, ValueError), (float("nan"), ValueError), ("1", TypeError)]
)
def test_bad_ceiling(value: Any, error: type[Exception]):
    with pytest.raises(error, match=r"max_momentum must be a number in \[0, 1\); got"):
        momentum.sutskever(value)
