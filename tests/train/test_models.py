"""Models: any image size and channel count, dropout and batch statistics only while training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nag_optax.train.errors import InputError
from nag_optax.train.models import make_model
from nag_optax.train.registry import MODELS
from tests.helpers import exhaustive


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [exhaustive((8, 8, 1)), (13, 9, 3), exhaustive((28, 28, 1))])
def test_any_size_and_channel_count(name, shape):
    model = make_model(name, shape, 7, seed=0)
    logits = model(jnp.ones((2, *shape)), train=False)
    assert logits.shape == (2, 7) and bool(jnp.isfinite(logits).all())


@pytest.mark.parametrize("name", MODELS)
def test_the_smallest_size_works_and_one_below_is_refused(name):
    size = MODELS[name].smallest_image
    assert make_model(name, (size, size, 1), 2, seed=0)(jnp.ones((1, size, size, 1)), train=False).shape == (
        1,
        2,
    )
    with pytest.raises(InputError, match=f"--model {name} needs images of at least {size} pixels"):
        make_model(name, (size - 1, size, 1), 2, seed=0)


def test_sizes_are_those_documented():
    def count(name):
        return sum(
            p.size for p in jax.tree.leaves(nnx.state(make_model(name, (28, 28, 1), 10, 0), nnx.Param))
        )

    assert count("mlp") == 784 * 128 + 128 + 128 * 10 + 10
    convolutions = 9 * 64 + 9 * 64 * 64 + 2 * (64 + 64)
    assert count("cnn") == convolutions + 7 * 7 * 64 * 512 + 2 * 512 + 512 * 10 + 10


def test_the_mlp_drops_a_fifth_of_its_units_while_training_alone():
    model = make_model("mlp", (8, 8, 1), 10, seed=0)
    x = jnp.ones((1, 8, 8, 1))
    evaluated = model(x, train=False)
    np.testing.assert_array_equal(evaluated, model(x, train=False))
    keys = jax.random.split(jax.random.key(0), 400)
    trained = jnp.stack([model(x, train=True, rngs=nnx.Rngs(dropout=key)) for key in keys])
    assert float(trained.std(0).min()) > 0
    # Inverted dropout keeps the mean: five standard errors.
    error = 5 * trained.std(0) / 20
    assert bool((jnp.abs(trained.mean(0) - evaluated) < error).all())


def test_batch_statistics_move_while_training_alone():
    model = make_model("cnn", (8, 8, 1), 10, seed=0)
    x = jnp.asarray(np.random.default_rng(0).normal(5.0, 2.0, (16, 8, 8, 1)), jnp.float32)
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))
    model(x, train=False)
    after_evaluation = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    jax.tree.map(np.testing.assert_array_equal, before, after_evaluation)
    model(x, train=True)
    moved = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    assert not np.allclose(before["norm1"]["mean"], moved["norm1"]["mean"])
