"""Structured pruning: the groups are units, and a model without those at zero classifies the same."""

import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sklearn.datasets import load_digits

from nag_optax._arrays import named
from nag_optax.train import metrics
from nag_optax.train.models import make_model
from nag_optax.train.options import EvaluateOptions
from nag_optax.train.pruning import arrays_of, units_prox, without_units, zero_units
from nag_optax.train.registry import MODELS
from nag_optax.train.runner import train
from nag_optax.train.trained import evaluate, load
from nag_optax.train.transfer import stored_run
from tests.helpers import exhaustive
from tests.train.conftest import SMALL, output
from tests.train.test_loop import make_loop
from tests.train.test_run import assert_same_run

SHAPE = (13, 9, 3)


def random_weights(name: str):
    """Graph, parameters and batch statistics of a model, none of them zero."""
    graphdef, params, rest = nnx.split(make_model(name, SHAPE, 7, seed=0), nnx.Param, ...)
    rng = np.random.default_rng(0)

    def noise(path, p):
        if path[-1].key == "kernel":  # As it begins, so that no depth overflows.
            return p
        sign = 1 if path[-1].key == "var" else rng.choice([-1, 1], p.shape)
        return jnp.asarray(rng.uniform(0.5, 1.5, p.shape) * sign, p.dtype)

    trees = (nnx.to_pure_dict(params), nnx.to_pure_dict(rest))
    return graphdef, *(jax.tree_util.tree_map_with_path(noise, tree) for tree in trees)


@functools.partial(jax.jit, static_argnums=0)
def logits_of(graphdef, params, rest, images):
    return nnx.merge(graphdef, params, rest)(images, train=False)


def units_of(params, layer) -> np.ndarray:
    """A column a unit, of all that makes its activation."""
    arrays = [np.asarray(a) for a in arrays_of(layer, named(params)).values()]
    return np.concatenate([a.reshape(-1, a.shape[-1]) for a in arrays]).astype(np.float64)


over_models = pytest.mark.parametrize(
    "name", ["mlp", "cnn", *map(exhaustive, ("vit", "resnet18", "resnet50"))]
)


@over_models
def test_the_prox_shrinks_units_and_nothing_else(name):
    _, params, _ = random_weights(name)
    shrunk = jax.jit(units_prox(MODELS[name].hidden_layers, 2.0))(params, 0.5)
    for layer in MODELS[name].hidden_layers:
        before, after = units_of(params, layer), units_of(shrunk, layer)
        factor = np.maximum(0.0, 1 - 1.0 / np.linalg.norm(before, axis=0))
        np.testing.assert_allclose(after, before * factor, rtol=1e-5)
    touched = {path for layer in MODELS[name].hidden_layers for path in layer.modules}
    flat = [jax.tree_util.tree_leaves_with_path(tree) for tree in (params, shrunk)]
    others = 0
    for (path, before), (_, after) in zip(*flat, strict=True):
        if "/".join(part.key for part in path[:-1]) not in touched:
            np.testing.assert_array_equal(after, before)
            others += 1
    assert others >= 2  # the head


@over_models
@pytest.mark.parametrize("share", [0.6, exhaustive(1.0)])
def test_the_logits_without_the_zero_units_are_the_same(name, share):
    graphdef, params, rest = random_weights(name)
    rng = np.random.default_rng(1)
    zero = {
        layer.kernel: rng.permutation(width) < share * width
        for layer, width in zip(MODELS[name].hidden_layers, MODELS[name].widths, strict=True)
    }
    for layer in MODELS[name].hidden_layers:
        arrays = named(params)
        arrays |= {n: jnp.where(zero[layer.kernel], 0, p) for n, p in arrays_of(layer, arrays).items()}
        params = jax.tree.structure(params).unflatten(arrays.values())
    found = zero_units(MODELS[name].hidden_layers, params)
    jax.tree.map(np.testing.assert_array_equal, found, zero)

    images = jnp.asarray(rng.normal(size=(5, *SHAPE)), jnp.float32)
    expected = logits_of(graphdef, params, rest, images)
    *weights, widths = without_units(MODELS[name].hidden_layers, params, rest, found)
    # One unit stays where all are zero.
    assert widths == tuple(
        max(1, width - int(z.sum())) for width, z in zip(MODELS[name].widths, zero.values(), strict=True)
    )
    small = nnx.graphdef(make_model(name, SHAPE, 7, seed=0, widths=widths))
    logits = logits_of(small, *weights, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5 * float(jnp.abs(expected).max()))
    if share < 1:
        assert float(expected.std(0).min()) > 0


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_unit_is_zero_only_where_all_of_it_is(name):
    _, params, _ = random_weights(name)
    layers = MODELS[name].hidden_layers
    for layer in layers:
        for module in layer.modules:
            for key in params[module]:
                broken = jax.tree.map(jnp.copy, params)
                for other in layer.modules:
                    broken[other] = jax.tree.map(lambda p: p.at[..., 3].set(0.0), broken[other])
                assert list(np.flatnonzero(zero_units(layers, broken)[layer.kernel])) == [3]
                broken[module][key] = params[module][key]
                assert not zero_units(layers, broken)[layer.kernel].any()


def test_a_pruned_run_reports_its_units_and_the_same_accuracy(tmp_path, console):
    options = dataclasses.replace(SMALL, prune="group_l2=0.1", run_dir=tmp_path / "run")
    summary = train(options, console)
    assert summary["units"] == {"hidden": 128} and 5 < summary["zero_units"]["hidden"] < 123
    left = 128 - summary["zero_units"]["hidden"]
    assert summary["pruned_parameters"] == left * (64 + 1 + 10) + 10
    assert summary["pruned_test_accuracy"] == summary["test_accuracy"] > 0.8
    assert summary["pruned_train_accuracy"] == summary["train_accuracy"]
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert f"{128 - left} of 128" in output(console) and f"{summary['pruned_parameters']:,} par" in output(
        console
    )
    # The model that comes back is the smaller one. Sums over 128 units in another order, and a softmax whose
    # derivative is at most 1/2.
    trained, stored = load(tmp_path / "run"), stored_run(tmp_path / "run", jax.devices()[:1], print)
    state = nnx.state(trained.model, nnx.Param)
    images = load_digits(return_X_y=True)[0].reshape(-1, 8, 8, 1)
    assert sum(p.size for p in jax.tree.leaves(state)) == summary["pruned_parameters"]
    weights = stored.loop.eval_state(stored.state)
    logits = metrics.logits_of(stored.loop._graphdef, weights, stored.loop.dataset.statistics, images)
    rounding = 128 * float(jnp.finfo(jnp.float32).eps) * float(jnp.abs(logits).max())
    np.testing.assert_allclose(trained.predict(images), jax.nn.softmax(logits), atol=rounding)
    results = evaluate(EvaluateOptions(tmp_path / "run"), console)
    assert results["test_accuracy"] == summary["test_accuracy"]

    shutil.copytree(tmp_path / "run", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "69" / "state")
    (tmp_path / "resumed" / "summary.json").unlink()
    train(dataclasses.replace(options, run_dir=tmp_path / "resumed", resume=True), console)
    assert_same_run(tmp_path / "resumed", tmp_path / "run")


def test_the_accuracy_reported_is_that_of_the_smaller_model(monkeypatch):
    """Units that are not zero, taken out as if they were: the full model would not show it."""
    loop = make_loop()
    state = loop.init()
    marked = np.arange(128) < 100
    monkeypatch.setattr("nag_optax.train.loop.zero_units", lambda *args: {"hidden": marked})
    pruned = loop.pruned(state)
    cut = jax.tree.map(jnp.copy, state.params)
    cut["head"]["kernel"] = cut["head"]["kernel"].at[:100].set(0.0)
    expected = loop.evaluate(state._replace(params=cut, opt_state=()), loop.dataset.test)
    pruned_loss = loop.evaluate_model(pruned.model, loop.dataset.test).loss
    assert pruned_loss == pytest.approx(expected.loss, rel=1e-5)
    assert abs(loop.evaluate(state, loop.dataset.test).loss - expected.loss) > 1e-2


def test_without_a_test_split_the_pruned_model_is_not_evaluated_on_it(tmp_path, console):
    options = dataclasses.replace(
        SMALL, num_epochs=1, optimizer="sgd", prune="group_l2=0.02", train_only=True, run_dir=tmp_path / "run"
    )
    summary = train(options, console)
    assert summary["pruned_test_accuracy"] is None
    assert summary["pruned_train_accuracy"] == summary["train_accuracy"] > 0.2
    assert "test accuracy" not in output(console)
