"""The loop: one program, batches that are a function of (seed, step), the same on four devices."""

import dataclasses
import gc
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import nag_optax
from nag_optax.train.data import Statistics, load_dataset
from nag_optax.train.loop import Loop, chunk_lengths
from nag_optax.train.metrics import logits_of
from nag_optax.train.models import make_model
from nag_optax.train.options import Options
from nag_optax.train.registry import OPTIMIZERS
from nag_optax.train.spec import resolve
from tests.helpers import exhaustive


def make_loop(devices: int = 1, **fields) -> Loop:
    spec = resolve(Options(**{"model": "mlp", "batch_size": 64, "num_epochs": 2, **fields}))
    return Loop(spec, load_dataset(spec), jax.devices()[:devices])


def numbers(state: Any) -> dict[str, np.ndarray]:
    flat = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}


# Rounding flips a maximum of the cnn's pooling now and then, and the next steps enlarge that.
@pytest.mark.four_devices
@pytest.mark.parametrize(("model", "steps"), [("mlp", 10), exhaustive("cnn", 1)])
def test_four_devices_give_the_numbers_of_one(model, steps):
    one, four = make_loop(model=model), make_loop(4, model=model)
    a, b = one.run_chunk(one.init(), steps), four.run_chunk(four.init(), steps)
    kernel = b.params["hidden" if model == "mlp" else "dense"]["kernel"]
    assert len(kernel.sharding.device_set) == 4 and kernel.sharding.is_fully_replicated
    for name, value in numbers(a).items():
        np.testing.assert_allclose(numbers(b)[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    metrics = [loop.evaluate(s, loop.dataset.test) for loop, s in ((one, a), (four, b))]
    np.testing.assert_allclose(metrics[0].loss, metrics[1].loss, rtol=1e-4)


@pytest.mark.four_devices
@pytest.mark.parametrize("optimizer", ["nag", exhaustive("adamw"), exhaustive("muon"), exhaustive("snoo")])
def test_a_state_that_is_split_over_the_devices_gives_the_same_numbers(optimizer):
    one, four = make_loop(optimizer=optimizer), make_loop(4, optimizer=optimizer, shard_optimizer=True)
    a, b = one.run_chunk(one.init(), 10), four.run_chunk(four.init(), 10)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-5)
    assert all(p.sharding.is_fully_replicated for p in jax.tree.leaves(b.params))

    def bytes_of_a_device(state):
        return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state.opt_state))

    # All but the ten biases of the head, counters and scalars.
    whole = bytes_of_a_device(a)
    assert whole / 4 <= bytes_of_a_device(b) < whole / 4 + 400
    np.testing.assert_allclose(
        four.evaluate(b, four.dataset.test).loss, one.evaluate(a, one.dataset.test).loss, rtol=1e-4
    )


@pytest.mark.four_devices
def test_the_batch_is_split_over_the_devices():
    loop = make_loop(4, batch_size=32)
    loop.run_chunk(loop.init(), 2)
    text = loop._programs[2].as_text()
    assert "all-reduce" in text  # of the gradients
    assert "f32[8,128]" in text and "f32[32,128]" not in text  # hidden units of a quarter of the batch


def test_a_step_is_the_one_written_out_by_hand():
    """Standardise, forward with dropout of (seed, step), mean cross-entropy, nag."""
    loop = make_loop(schedule="constant", learning_rate=0.1, warmup_epochs=0.0, seed=3)
    dataset = loop.dataset
    state = loop.run_chunk(loop.init(), 2)

    model = make_model("mlp", (8, 8, 1), 10, seed=3)
    graphdef, params = nnx.split(model)
    params = nnx.to_pure_dict(params)
    optimizer = nag_optax.nag(0.1, 0.9)
    opt_state = optimizer.init(params)
    order, statistics = np.random.default_rng([3, 0]).permutation(1437), dataset.statistics
    for step in range(2):
        batch = order[64 * step : 64 * step + 64]
        images = (dataset.train.images[batch].astype(np.float32) - statistics.mean) / statistics.std
        labels = dataset.train.labels[batch]
        key = jax.random.fold_in(jax.random.key(3), step)

        def loss_fn(params, images=images, labels=labels, key=key):
            logits = nnx.merge(graphdef, params)(jnp.asarray(images), train=True, rngs=nnx.Rngs(dropout=key))
            chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(labels)[:, None], 1)
            return -jnp.mean(chosen)

        updates, opt_state = optimizer.update(jax.grad(loss_fn)(params), opt_state, params)
        params = optax.apply_updates(params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state.params, params)


def test_every_example_is_seen_in_every_epoch_in_another_order():
    loop = make_loop()
    first, second = (np.asarray(loop._order_of(epoch)) for epoch in (0, 1))
    assert loop.steps_per_epoch == 23 and len(first) == 23 * 64
    assert sorted(first[:1437]) == list(range(1437)) and not np.array_equal(first, second)
    np.testing.assert_array_equal(first, make_loop()._order_of(0))
    assert not np.array_equal(first, make_loop(seed=1)._order_of(0))


def test_chunks_do_not_change_the_numbers_beyond_rounding_and_sums_begin_with_the_epoch():
    loop = make_loop()
    at_once = loop.run_chunk(loop.init(), 23)
    state = loop.init()
    for length in (10, 10, 3):
        state = loop.run_chunk(state, length)
    for name, value in numbers(at_once).items():
        np.testing.assert_allclose(numbers(state)[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    after = loop.run_chunk(state, 3)
    assert int(after.correct) <= 3 * 64 and int(after.step) == 26
    assert float(after.loss_sum) / 3 < float(at_once.loss_sum) / 23


def test_the_state_is_donated_and_one_program_serves_every_chunk():
    loop = make_loop()
    first = loop.init()
    second = loop.run_chunk(first, 4)
    assert first.params["hidden"]["kernel"].is_deleted()
    compiled = loop.compile_seconds
    loop.run_chunk(second, 4)
    assert loop.compile_seconds == compiled > 0


def test_a_loop_is_freed_with_its_data():
    """JAX keeps what it compiles, and must not keep the loop with it."""
    loop = make_loop()
    state = loop.run_chunk(loop.init(), 1)
    loop.evaluate(state, loop.dataset.test)
    loop.evaluate_model(loop.pruned(state).model, loop.dataset.test)
    alive = [weakref.ref(loop), weakref.ref(loop.dataset.train.images)]
    del loop, state
    gc.collect()
    assert all(ref() is None for ref in alive)


def test_statistics_that_are_assigned_later_are_those_of_every_program():
    """With a huge deviation every image is 0, and every class of the fresh model has the same logit, 0."""
    loop = make_loop()
    for std in (loop.dataset.statistics.std, np.array([1e30], np.float32)):
        loop.dataset = loop.dataset._replace(statistics=Statistics(loop.dataset.statistics.mean, std))
        first = loop.run_chunk(loop.init(), 1)
        loss = loop.evaluate(loop.init(), loop.dataset.test).loss
    np.testing.assert_allclose([float(first.loss_sum) / 64, loss], np.log(10), rtol=1e-6)


@pytest.mark.parametrize(
    "name", [name if name in {"nag", "muon", "gpa"} else exhaustive(name) for name in OPTIMIZERS]
)
def test_every_optimizer_trains_and_is_evaluated_at_its_own_iterate(name):
    loop = make_loop(optimizer=name)
    state = loop.init()
    before = loop.evaluate(state, loop.dataset.test).loss
    state = loop.run_chunk(state, 23)
    (x, _), p = loop.eval_state(state), state.params
    assert np.isfinite(loop.evaluate(state, loop.dataset.test).loss)
    if name in ("nag", "laprop", "snoo", "ema_nesterov", "gpa"):
        assert float(jnp.abs(x["hidden"]["kernel"] - p["hidden"]["kernel"]).max()) > 1e-4
    else:
        jax.tree.map(np.testing.assert_array_equal, x, p)
    if name == "snoo":  # Before the first outer step it is where it began.
        assert loop.evaluate(state, loop.dataset.test).loss == before
    else:
        assert loop.evaluate(state, loop.dataset.test).loss < 0.98 * before


def test_snoo_is_evaluated_at_the_slow_weights():
    loop = make_loop(optimizer="snoo", batch_size=32)
    state = loop.run_chunk(loop.init(), 28)
    synchronised = numbers(state.params)  # slow and fast are one
    state = loop.run_chunk(state, 3)
    for name, x in numbers(loop.eval_state(state)[0]).items():
        # The fast weights came there by one addition, which rounds.
        np.testing.assert_allclose(x, synchronised[name], rtol=1e-6, atol=1e-8)
        assert np.abs(numbers(state.params)[name] - x).max() > 1e-3


def test_evaluation_is_at_x_without_dropout():
    loop = make_loop(learning_rate=0.3, schedule="constant", warmup_epochs=0.0)
    state = loop.run_chunk(loop.init(), 6)
    x = nag_optax.eval_params(state.opt_state, state.params)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), x, state.params)
    assert max(jax.tree.leaves(moved)) > 1e-3  # x is not p
    model = make_model("mlp", (8, 8, 1), 10, seed=0)
    nnx.update(model, x)
    test = loop.dataset.test
    images = (test.images.astype(np.float32) - loop.dataset.statistics.mean) / loop.dataset.statistics.std
    logits = np.asarray(model(jnp.asarray(images), train=False), np.float64)
    metrics = loop.evaluate(state, test)
    assert metrics.accuracy == pytest.approx((logits.argmax(-1) == test.labels).mean())
    log_z = np.log(np.exp(logits).sum(-1))
    np.testing.assert_allclose(metrics.loss, (log_z - logits[np.arange(360), test.labels]).mean(), rtol=1e-4)


@pytest.mark.parametrize("count", [exhaustive(1), exhaustive(499), exhaustive(500), 501])
def test_logits_of_any_number_of_images(count):
    loop = make_loop()
    images = np.resize(loop.dataset.test.images, (count, 8, 8, 1))
    graphdef, weights = nnx.split(loop.module(loop.init()))
    logits = logits_of(graphdef, (weights,), loop.dataset.statistics, images)
    assert logits.shape == (count, 10)
    np.testing.assert_allclose(logits[0], logits[min(360, count - 1)] if count > 360 else logits[0])


def test_a_parameter_that_is_not_finite_is_found():
    loop = make_loop()
    state = loop.init()
    assert loop.is_finite(state)
    broken = jax.tree.map(lambda p: p.at[0].set(jnp.nan), state.params)
    assert not loop.is_finite(state._replace(params=broken))


@pytest.mark.parametrize("steps", [1, 7, 45, 937, 938])
@pytest.mark.parametrize("target", [1, 10, 100, 1000])
def test_chunks_fill_the_epoch_with_at_most_two_lengths(steps, target):
    lengths = chunk_lengths(0, steps, target)
    assert sum(lengths) == steps and max(lengths) <= target and len(set(lengths)) <= 2
    done = 0
    for i, length in enumerate(lengths):
        assert chunk_lengths(done, steps, target) == lengths[i:]
        done += length
    assert chunk_lengths(done, steps, target) == []


def test_the_mnist_epoch_needs_one_program():
    assert set(chunk_lengths(0, 938, 100)) == {67}


def test_no_option_is_forgotten_between_configuration_and_loop():
    """Each of these changes the numbers of two steps."""
    base = dataclasses.asdict(Options(model="mlp", batch_size=64, num_epochs=2))
    plain = make_loop(**base)
    reference = numbers(plain.run_chunk(plain.init(), 2))[".params['head']['bias']"]
    changes = [
        {"clip_norm": 1e-3},
        {"seed": 1},
        {"image_size": 7},
        {"optimizer": "adam"},
    ]
    for change in changes:
        loop = make_loop(**{**base, **change})
        other = numbers(loop.run_chunk(loop.init(), 2))[".params['head']['bias']"]
        assert not np.allclose(other, reference, rtol=1e-6), change
