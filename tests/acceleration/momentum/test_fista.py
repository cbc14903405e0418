"""FISTA against its paper."""

import numpy as np
import optax

from nag_optax import accelerate, momentum
from tests import reference
from tests.helpers import START, quartic_gradient, trajectory


def test_fista_is_the_paper_s_recursion(x64: None):
    optimizer = optax.chain(optax.sgd(0.12), accelerate(momentum.fista()))
    ps, xs = trajectory(optimizer, quartic_gradient, START, 300)
    ys, expected = reference.fista(quartic_gradient, START, 0.12, 300)
    np.testing.assert_allclose(ps, ys, rtol=0, atol=1e-12)
    np.testing.assert_allclose(xs, expected, rtol=0, atol=1e-12)
