"""Lanes: each is the trainer's run of the same seed, whatever the others do."""

import gc
import itertools
import weakref
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from nag_optax.compare.lanes import Lane, LaneResult, LaneRunner
from nag_optax.compare.spec import CONTENDERS
from nag_optax.train.data import load_dataset
from nag_optax.train.loop import Loop
from nag_optax.train.metrics import Metrics
from nag_optax.train.options import Options
from nag_optax.train.spec import resolve
from tests.helpers import exhaustive


def make_runner(**fields) -> LaneRunner:
    spec = resolve(Options(**{"model": "mlp", "num_epochs": 2, "batch_size": 64, **fields}))
    return LaneRunner(spec, load_dataset(spec), jax.devices()[0])


def quiet(_: float) -> None:
    pass


@pytest.fixture(scope="module")
def mlp() -> LaneRunner:
    return make_runner()


@pytest.fixture(scope="module")
def nag_lanes(mlp) -> list:
    lanes = [Lane(rate, seed) for rate in (0.05, 1e30, 0.2) for seed in (4, 5)]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return mlp.run(CONTENDERS["nag"], lanes, quiet)


# A maximum of the cnn's pooling flips now and then by rounding, and the next steps enlarge that.
@pytest.mark.parametrize(("model", "accuracy"), [("mlp", 0.0), exhaustive("cnn", 0.01)])
def test_a_lane_is_the_run_of_the_trainer(model, accuracy, mlp, nag_lanes):
    """Initialisation, batches, dropout, schedule, warm-up and the iterate evaluated."""
    if model == "mlp":
        runner, result = mlp, nag_lanes[1]
    else:
        runner = make_runner(model="cnn", num_epochs=1, batch_size=512)
        (result,) = runner.run(CONTENDERS["nag"], [Lane(0.05, 5)], quiet)
    epochs, batch = (2, 64) if model == "mlp" else (1, 512)
    spec = resolve(Options(model=model, num_epochs=epochs, batch_size=batch, learning_rate=0.05, seed=5))
    loop = Loop(spec, load_dataset(spec), jax.devices()[:1])
    state, losses = loop.init(), []
    for _ in range(epochs):
        state = loop.run_chunk(state, loop.steps_per_epoch)
        losses.append(float(state.loss_sum) / (loop.steps_per_epoch * batch))
    assert result.lane == (0.05, 5) and not result.diverged and result.final_train is not None
    per_epoch = result.loss.reshape(epochs, -1)
    weights = np.diff(runner.steps[: per_epoch.shape[1]], prepend=0) / loop.steps_per_epoch
    np.testing.assert_allclose(per_epoch @ weights, losses, rtol=1e-4)
    test, train = (loop.evaluate(state, split) for split in (loop.dataset.test, loop.dataset.train))
    np.testing.assert_allclose(result.test_loss[-1], test.loss, rtol=1e-4)
    np.testing.assert_allclose(result.final_train.loss, train.loss, rtol=1e-4)
    np.testing.assert_allclose(result.test_accuracy[-1], test.accuracy, atol=accuracy + 1e-6)
    np.testing.assert_allclose(result.final_train.accuracy, train.accuracy, atol=accuracy + 1e-6)


def test_a_runner_is_freed_with_its_data():
    """JAX keeps what it compiles, and must not keep the runner with it."""
    spec = resolve(Options(model="mlp", num_epochs=1, batch_size=512))
    dataset = load_dataset(spec)
    runner = LaneRunner(spec, dataset, jax.devices()[0])
    runner.run(CONTENDERS["sgd"], [Lane(0.05, 0)], quiet)
    alive = [weakref.ref(runner), weakref.ref(dataset.train.images)]
    del runner, dataset
    gc.collect()
    assert all(ref() is None for ref in alive)


def test_a_lane_that_diverges_leaves_the_others_as_they_are(mlp, nag_lanes):
    kept = [result for result in nag_lanes if result.lane.learning_rate != 1e30]
    assert [r.diverged for r in nag_lanes] == [False, False, True, True, False, False]
    assert np.isnan(nag_lanes[2].loss[-1])
    alone = mlp.run(CONTENDERS["nag"], [r.lane for r in kept], quiet)
    for a, b in zip(kept, alone, strict=True):
        assert a.lane == b.lane
        np.testing.assert_allclose(a.loss, b.loss, rtol=1e-4)
        np.testing.assert_allclose(a.test_loss, b.test_loss, rtol=1e-4)


def test_lanes_that_do_not_fit_in_memory_follow_each_other(mlp, nag_lanes, monkeypatch):
    """Groups of two, the last one filled up. Only the lanes that were asked for are reported."""
    monkeypatch.setattr("nag_optax.compare.lanes.lanes_that_fit", lambda *_: 2)
    lanes = [nag_lanes[i].lane for i in (0, 1, 4)]
    reports: list[float] = []
    for result, i in zip(mlp.run(CONTENDERS["nag"], lanes, reports.append), (0, 1, 4), strict=True):
        assert result.lane == nag_lanes[i].lane
        np.testing.assert_allclose(result.loss, nag_lanes[i].loss, rtol=1e-4)
    assert len(reports) == 2 * mlp.num_chunks and sum(reports) == pytest.approx(3)


def test_the_learning_rate_and_the_seed_of_a_lane_are_its_own(nag_lanes):
    first_losses = {float(result.loss[0]) for result in nag_lanes if not result.diverged}
    assert len(first_losses) == 4


def test_the_label_of_another_optimizer_does_not_bring_its_program(mlp, nag_lanes):
    """A user may register an optimizer with any label."""
    impostor = CONTENDERS["sgd"]._replace(label=CONTENDERS["nag"].label)
    lanes = [result.lane for result in nag_lanes]  # As many: the same shapes.
    first = mlp.run(impostor, lanes, quiet)[0]
    assert first.loss[-1] > 1.5 * nag_lanes[0].loss[-1]


def test_a_stopwatch_times_single_steps(mlp, monkeypatch):
    seconds = mlp.stopwatch(CONTENDERS["nag"], Lane(0.05, 4))
    clock = itertools.count(step=12)  # Whatever is timed takes twelve seconds.
    monkeypatch.setattr("nag_optax.compare.lanes.time", SimpleNamespace(perf_counter=clock.__next__))
    assert [seconds(count) for count in (1, 3, 12)] == [12, 4, 1]


@pytest.mark.parametrize("field", ["loss", "test_loss", "final_train"])
def test_one_number_that_is_not_finite_is_divergence(field):
    curve = np.array([1.0, 0.5])
    result = LaneResult(Lane(0.1, 0), curve, curve, curve, Metrics(0.5, 0.9))
    assert not result.diverged and not result._replace(final_train=None).diverged
    broken = Metrics(np.inf, 0.9) if field == "final_train" else np.array([1.0, np.inf])
    assert result._replace(**{field: broken}).diverged
