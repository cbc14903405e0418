"""The contenders: the trainer's optimizers, each at the iterate that it is to be judged by."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nag_optax
from nag_optax.compare.spec import CONTENDERS
from nag_optax.train.optimizers import core
from nag_optax.train.registry import MODELS, OPTIMIZERS

MLP = MODELS["mlp"]
PARAMS = {"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.array([0.5, 2.0])}


def kernels(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)


def descended(optimizer, steps=5):
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(steps):
        updates, state = optimizer.update(params, state, params, value=jnp.float32(0.0))
        params = optax.apply_updates(params, updates)
    return params, state


EXPECTED = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, 0.9),
    "nag": nag_optax.nag(0.1, 0.9),
    "nag-restart": nag_optax.nag(0.1, nag_optax.momentum.fista(), restart="gradient"),
    "adam": optax.adam(0.1),
    "nadamw": nag_optax.nadamw(0.1, weight_decay=1e-4, mask=kernels),
    "laprop": nag_optax.laprop(0.1, 0.9),
    "adan": nag_optax.adan(0.1),
    "muon": nag_optax.muon(0.1, fallback=optax.adamw(0.1, weight_decay=0.0)),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_contender_is_the_optimizer_of_its_name_with_its_own_defaults(name):
    actual, _ = descended(core(CONTENDERS[name], lambda _: 0.1, model=MLP))
    expected, _ = descended(optax.with_extra_args_support(EXPECTED[name]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), actual, expected)


def test_every_optimizer_of_the_trainer_can_be_compared_around_its_default_learning_rate():
    for name, row in CONTENDERS.items():
        own = OPTIMIZERS[name.removesuffix("-restart")]
        assert (row.searched, row.learning_rate) == (own.searched, own.learning_rate)


@pytest.mark.parametrize("name", ["nag", "nag-restart", "laprop", "gpa", "snoo", "muon", "adan"])
def test_a_contender_is_judged_at_the_iterate_to_evaluate(name):
    params, state = descended(core(CONTENDERS[name], lambda _: 0.1, model=MLP))
    x = nag_optax.eval_params(state, params)
    if name in ("muon", "adan"):
        jax.tree.map(np.testing.assert_array_equal, x, params)
    else:
        assert optax.tree.norm(optax.tree.sub(x, params)) > 1e-3
