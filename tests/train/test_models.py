"""Models: any image size and channel count, dropout and batch statistics only while training."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nag_optax._arrays import named
from nag_optax.train.errors import InputError
from nag_optax.train.models import make_model
from nag_optax.train.models.vit import positions
from nag_optax.train.registry import MODELS
from tests.helpers import exhaustive

over_models = pytest.mark.parametrize(
    "name", ["mlp", "cnn", "vit", exhaustive("resnet18"), exhaustive("resnet50")]
)


@over_models
@pytest.mark.parametrize("shape", [exhaustive((8, 8, 1)), (13, 9, 3), exhaustive((28, 28, 1))])
def test_any_size_and_channel_count(name, shape):
    model = make_model(name, shape, 7, seed=0)
    logits = model(jnp.ones((2, *shape)), train=False)
    assert logits.shape == (2, 7) and bool(jnp.isfinite(logits).all())


@over_models
def test_the_smallest_size_works_and_one_below_is_refused(name):
    size = MODELS[name].smallest_image
    assert make_model(name, (size, size, 1), 2, seed=0)(jnp.ones((1, size, size, 1)), train=False).shape == (
        1,
        2,
    )
    if size > 1:
        with pytest.raises(InputError, match=f"--model {name} needs images of at least {size} pixels"):
            make_model(name, (size - 1, size, 1), 2, seed=0)


def test_sizes_are_those_documented():
    def count(name, shape=(28, 28, 1), classes=10):
        model = nnx.eval_shape(lambda: make_model(name, shape, classes, 0))
        return sum(p.size for p in jax.tree.leaves(nnx.state(model, nnx.Param)))

    # As torchvision publishes them for ImageNet; the small stem has 3·3 in place of 7·7 pixels.
    assert count("resnet18", (224, 224, 3), 1000) == 11_689_512
    assert count("resnet50", (224, 224, 3), 1000) == 25_557_032
    assert count("resnet18", (32, 32, 3)) == 11_689_512 - (49 - 9) * 3 * 64 - 990 * 513
    block = 4 * (192 + 1) * 192 + (192 + 1) * 768 + (768 + 1) * 192 + 2 * 2 * 192
    assert count("vit", (32, 32, 3)) == 6 * block + (4 * 4 * 3 + 1) * 192 + 2 * 192 + 193 * 10
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


def _windows(x, size, stride):
    """(rows, columns, size, size, channels): where a window of odd size lies on x, filled up with zeros."""
    padded = np.pad(x, ((size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    rows, columns = (range(0, length, stride) for length in x.shape[:2])
    return np.array([[padded[i : i + size, j : j + size] for j in columns] for i in rows])


def _conv(x, module, stride):
    kernel = np.asarray(module.kernel[...], np.float64)
    return np.einsum("ijabc,abcd->ijd", _windows(x, kernel.shape[0], stride), kernel)


def _norm(x, module):
    """Batch normalisation, its statistics as they begin."""
    return x / np.sqrt(1 + 1e-5) * np.asarray(module.scale[...], np.float64)


def test_a_residual_block_is_that_of_the_paper():
    """Of stride 2, with its projection; transcribed for one image."""
    model: Any = make_model("resnet18", (8, 8, 3), 2, seed=0)
    block = model.stage1_block0
    rng = np.random.default_rng(0)
    block.norm2.scale[...] = jnp.asarray(rng.uniform(0.5, 1.5, 128), jnp.float32)
    x = rng.normal(size=(6, 5, 64))
    hidden = np.maximum(_norm(_conv(x, block.conv1, 2), block.norm1), 0)
    shortcut = _norm(_conv(x, block.shortcut_conv, 2), block.shortcut_norm)
    expected = np.maximum(_norm(_conv(hidden, block.conv2, 1), block.norm2) + shortcut, 0)
    actual = block(jnp.asarray(x[None], jnp.float32), train=False)[0]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("shape", "large"), [((13, 66, 3), True), exhaustive((13, 64, 3), False)])
def test_the_stem_of_a_large_image_halves_it_twice(shape, large):
    model: Any = make_model("resnet18", shape, 2, seed=0)
    x = np.random.default_rng(0).normal(size=shape)
    expected = np.maximum(_norm(_conv(x, model.stem_conv, 2 if large else 1), model.stem_norm), 0)
    if large:
        expected = _windows(expected, 3, 2).max((2, 3))
    assert expected.shape == ((4, 17, 64) if large else (13, 64, 64))
    actual = model.stem(jnp.asarray(x[None], jnp.float32), train=False)[0]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_the_vision_transformer_is_that_of_the_paper():
    """Of one block; transcribed for one image of 2 x 3 patches."""
    model: Any = make_model("vit", (8, 12, 3), 5, seed=0, widths=(16,))
    block = model.block0
    x = np.random.default_rng(0).normal(size=(8, 12, 3))

    def dense(x, module):
        kernel, bias = (np.asarray(p[...], np.float64) for p in (module.kernel, module.bias))
        return x @ kernel.reshape(-1, kernel.shape[-1]) + bias

    def norm(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)

    def softmax(x):
        return np.exp(x) / np.exp(x).sum(-1, keepdims=True)

    patches = x.reshape(2, 4, 3, 4, 3).swapaxes(1, 2).reshape(6, 48)
    z = dense(patches, model.patch) + np.asarray(positions(2, 3, 192)).reshape(6, 192)
    query, key, value = (dense(norm(z), m).reshape(6, 3, 64) for m in (block.query, block.key, block.value))
    attention = softmax(np.einsum("qhd,khd->hqk", query, key) / 8)
    z = z + dense(np.einsum("hqk,khd->qhd", attention, value).reshape(6, 192), block.out)
    y = dense(norm(z), block.up)
    gelu = y / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    expected = dense(norm(z + dense(gelu, block.down)).mean(0), model.head)
    actual = model(jnp.asarray(x[None], jnp.float32), train=False)[0]
    # Sums of at most 192 terms of order one, in float32.
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", exhaustive("resnet50")])
def test_residual_blocks_begin_as_the_identity(name):
    model: Any = make_model(name, (8, 8, 3), 2, seed=0)
    x = jax.nn.relu(jax.random.normal(jax.random.key(0), (1, 4, 4, 64 if name == "resnet18" else 256)))
    np.testing.assert_array_equal(model.stage0_block1(x, train=False), x)


def test_the_positions_of_patches_are_sines_of_row_and_column():
    found = positions(3, 4, 8)
    assert found.shape == (3, 4, 8)
    np.testing.assert_allclose(
        found[2, 3],
        [np.sin(2), np.sin(2e-4), np.cos(2), np.cos(2e-4)]
        + [np.sin(3), np.sin(3e-4), np.cos(3), np.cos(3e-4)],
        rtol=1e-6,
    )


@pytest.mark.parametrize("name", ["vit", exhaustive("resnet18")])
def test_a_step_of_gradient_descent_lowers_the_loss(name):
    graphdef, params, rest = nnx.split(make_model(name, (8, 8, 1), 3, seed=0), nnx.Param, ...)
    x = jax.random.normal(jax.random.key(0), (6, 8, 8, 1))
    labels = jnp.arange(6) % 3

    @jax.jit
    def loss(params, rest):
        logits = nnx.merge(graphdef, params, rest)(x, train=True)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    before, slope = jax.jit(jax.value_and_grad(loss))(params, rest)
    after = loss(jax.tree.map(lambda p, g: p - 0.01 * g, params, slope), rest)
    assert after < before


def test_every_row_of_the_registry_names_what_its_model_has():
    for name, row in MODELS.items():
        model = nnx.eval_shape(lambda name=name: make_model(name, (32, 32, 3), 2, 0))
        params = named(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
        for layer, width in zip(row.hidden_layers, row.widths, strict=True):
            assert params[f"{layer.kernel}/kernel"].shape[-1] == width
            assert params[f"{layer.next}/kernel"].ndim in (2, 4)
        assert {row.head, *row.embeddings} <= {name.partition("/")[0] for name in params}
