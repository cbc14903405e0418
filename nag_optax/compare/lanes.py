"""Runs on images: one lane for each (learning rate, seed), many lanes in one compiled program.

A lane is the run that `nag-optax train` makes of the same seed: the same initialisation, batches and
dropout. Its learning rate is a traced number, so one program serves the whole grid. Lanes share
nothing but the images. A lane that diverges does not change the others.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from nag_optax.acceleration.evaluation import eval_params
from nag_optax.train.data import Dataset, Statistics
from nag_optax.train.data.stream import epoch_order
from nag_optax.train.loop import Loop, Plan, chunk_lengths
from nag_optax.train.metrics import Metrics, metrics_of, metrics_of_lanes
from nag_optax.train.optimizers import check_update, core, make_schedule
from nag_optax.train.parallel import Device, memory_of
from nag_optax.train.rows import Factory, Optimizer, Split
from nag_optax.train.spec import Spec
from nag_optax.train.step import TrainState

_iterates = jax.jit(jax.vmap(eval_params))

# An evaluation may take this share of the time of the training steps before it.
_EVALUATION_SHARE = 0.2


class Lane(NamedTuple):
    """The learning rate and the seed of one run."""

    learning_rate: float
    seed: int


class LaneResult(NamedTuple):
    """Curves of one run, and where it ended."""

    lane: Lane
    loss: np.ndarray  # (chunks,), mean over the training batches of each
    test_loss: np.ndarray  # (chunks,), or (1,) if the end alone was evaluated
    test_accuracy: np.ndarray
    final_train: Metrics | None  # on the whole training split, without dropout; None if not evaluated

    @property
    def diverged(self) -> bool:
        end = [] if self.final_train is None else [self.final_train.loss]
        return not np.isfinite([*self.loss, *self.test_loss, *end]).all()


class _Running(NamedTuple):
    """Runs under way. Every array has an axis of lanes in front."""

    state: TrainState
    rate: jax.Array
    seed: jax.Array


class LaneRunner:
    """The compiled programs of one model and dataset, for one optimizer after the other.

    The optimizer, learning rate and seed of the run do not matter. Without `curves` its lanes are evaluated
    at the end alone, and not on the training split.
    """

    def __init__(self, spec: Spec, dataset: Dataset, device: Device, *, curves: bool = True):
        self._loop = loop = Loop(spec, dataset, [device])
        self._model, self._device, self._curves = spec.model_row, device, curves
        self.num_epochs, self.steps_per_epoch = spec.num_epochs, loop.steps_per_epoch
        unit = dataclasses.replace(spec, learning_rate=1.0)  # Multiplied by the rate of a lane.
        of_run = {"model": self._model, "num_steps": self.num_epochs * self.steps_per_epoch}
        self._optimizer = partial(_optimizer, make_schedule(unit, self.steps_per_epoch), of_run)
        # A step costs about three forward passes, an evaluation one.
        images = len(dataset.test.labels) / (3 * _EVALUATION_SHARE)
        self._chunks = chunk_lengths(0, self.steps_per_epoch, max(1, int(images) // loop.batch_size))
        ends = np.cumsum(self._chunks)
        self.steps = np.concatenate([e * self.steps_per_epoch + ends for e in range(self.num_epochs)])
        self.num_chunks = len(self.steps)
        """Chunks of a run, after each of which `run` reports."""
        self._programs: dict[tuple[str, Factory, int], Any] = {}

    def check(self, row: Optimizer) -> None:
        """Refuses a user's own optimizer that cannot train this model."""
        params, _ = self._weights(0)

        def with_rate(rate: jax.Array) -> None:
            check_update(self._optimizer(row, rate), params, f"--optimizers {row.label}")

        jax.eval_shape(with_rate, jnp.float32(0.0))

    def run(self, row: Optimizer, lanes: Sequence[Lane], report: Callable[[float], None]) -> list[LaneResult]:
        """Trains the lanes, all at once where that is fast and fits; `report` hears of shares of runs."""
        at_once = self._at_once(row, len(lanes))
        results = []
        for start in range(0, len(lanes), at_once):
            group = [*lanes[start : start + at_once]]
            # One program for all groups: the last is filled up.
            padded = [*group, *[group[-1]] * (at_once - len(group))]
            share = len(group) / self.num_chunks
            results += self._run_group(row, padded, lambda share=share: report(share))[: len(group)]
        return results

    def stopwatch(self, row: Optimizer, lane: Lane) -> Callable[[int], float]:
        """A function that takes steps of one run by itself, and returns the seconds of a step."""
        order = self._orders([lane], 0)
        running = self._chunk(row, self._begin(row, [lane]), order, 1)

        def seconds(num_steps: int) -> float:
            nonlocal running
            started = time.perf_counter()
            running = jax.block_until_ready(self._chunk(row, running, order, num_steps))
            return (time.perf_counter() - started) / num_steps

        return seconds

    def state_bytes(self, row: Optimizer) -> float:
        """Bytes of optimizer state for each parameter."""
        params, _ = self._weights(0)
        state = jax.eval_shape(self._optimizer(row, 0.0).init, params)
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        return size / self._loop.num_parameters

    def _run_group(self, row: Optimizer, lanes: list[Lane], report: Callable[[], None]) -> list[LaneResult]:
        running, dataset = self._begin(row, lanes), self._loop.dataset
        losses: list[np.ndarray] = []
        looks: list[list[Metrics]] = []
        for epoch in range(self.num_epochs):
            orders = self._orders(lanes, epoch)
            for length in self._chunks:
                running = self._chunk(row, running, orders, length)
                losses.append(np.asarray(running.state.loss_sum) / (length * self._loop.batch_size))
                if self._curves or len(losses) == self.num_chunks:
                    looks.append(self._evaluate(running.state, dataset.test))
                report()
        loss = np.stack(losses)
        test_loss, test_accuracy = np.moveaxis(np.array(looks), -1, 0)
        train = self._evaluate(running.state, dataset.train) if self._curves else [None] * len(lanes)
        return [
            LaneResult(lane, loss[:, i], test_loss[:, i], test_accuracy[:, i], train[i])
            for i, lane in enumerate(lanes)
        ]

    def _begin(self, row: Optimizer, lanes: Sequence[Lane]) -> _Running:
        weights = {lane.seed: self._weights(lane.seed) for lane in lanes}
        of_lanes = (weights[lane.seed] for lane in lanes)
        params, rest = jax.tree.map(lambda *leaves: jnp.stack(leaves), *of_lanes)
        rates = jnp.array([lane.learning_rate for lane in lanes], jnp.float32)
        seeds = jnp.array([lane.seed for lane in lanes], jnp.uint32)
        opt_state = jax.vmap(lambda params, rate: self._optimizer(row, rate).init(params))(params, rates)
        state = jax.vmap(TrainState.fresh)(params, rest, opt_state)
        return jax.device_put(_Running(state, rates, seeds), self._device)

    def _chunk(self, row: Optimizer, running: _Running, orders: jax.Array, num_steps: int) -> _Running:
        """The runs after these steps. One program serves chunks of every length."""
        loop, count = self._loop, len(running.rate)
        inputs = (running, orders, loop.resident, loop.dataset.statistics, jnp.int32(num_steps))
        name = row.label, row.make, count  # A user's own may have any label.
        if name not in self._programs:
            # JAX keeps the constants of a program, so the runner is not among them.
            steps = partial(_steps, loop.plan, partial(self._optimizer, row))
            # A single lane has no axis of lanes within: XLA compiles it as `nag-optax train` does.
            lanes = jax.vmap(steps, (0, 0, None, None, None)) if count > 1 else partial(_alone, steps)
            self._programs[name] = jax.jit(lanes, donate_argnums=0).lower(*inputs).compile()
        return self._programs[name](*inputs)

    def _at_once(self, row: Optimizer, count: int) -> int:
        """How many lanes go into one program.

        On a CPU the convolutions of several lanes become one grouped convolution, which takes twice
        as long a lane as one run after the other.
        """
        if not self._model.in_lanes and self._device.platform == "cpu":
            return 1
        lanes = [Lane(0.0, 0)]
        self._chunk(row, self._begin(row, lanes), self._orders(lanes, 0), 0)  # Compiles it for one lane.
        program = self._programs[row.label, row.make, 1]
        return min(count, lanes_that_fit(program.memory_analysis(), self._device))

    def _evaluate(self, state: TrainState, split: Split) -> list[Metrics]:
        """Loss and accuracy of each lane at the iterate to evaluate."""
        weights = (_iterates(state.opt_state, state.params), state.model_state)
        inputs = (self._loop.dataset.statistics, split)
        graphdef, count = self._loop.plan.graphdef, len(state.step)
        if self._model.in_lanes and count > 1:
            return metrics_of_lanes(graphdef, weights, *inputs)
        # The activations of all lanes of a convolution at once could be too large.
        one_by_one = (jax.tree.map(lambda leaf, i=i: leaf[i], weights) for i in range(count))
        return [metrics_of(graphdef, of_lane, *inputs) for of_lane in one_by_one]

    def _orders(self, lanes: Sequence[Lane], epoch: int) -> jax.Array:
        loop = self._loop
        orders = [epoch_order(lane.seed, epoch, loop.num_examples, loop.batch_size) for lane in lanes]
        rows = np.stack(orders).reshape(len(lanes), self.steps_per_epoch, -1)
        return jax.device_put(rows, self._device)

    def _weights(self, seed: int) -> tuple[Any, Any]:
        """The initial parameters and batch statistics of a seed."""
        _, params, rest = nnx.split(self._loop.fresh(seed), nnx.Param, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(rest)


def _optimizer(
    unit_schedule: optax.Schedule, of_run: dict[str, Any], row: Optimizer, rate: float | jax.Array
) -> optax.GradientTransformationExtraArgs:
    return core(row, lambda count: rate * unit_schedule(count), option="--optimizers", **of_run)


def _steps(
    plan: Plan,
    make_optimizer: Callable[[Any], optax.GradientTransformationExtraArgs],
    lane: _Running,
    order: jax.Array,
    train: Split,
    statistics: Statistics,
    num_steps: jax.Array,
) -> _Running:
    plan = plan._replace(optimizer=make_optimizer(lane.rate), seed=lane.seed)
    state = lane.state._replace(loss_sum=jnp.zeros_like(lane.state.loss_sum))

    def step(_: jax.Array, state: TrainState) -> TrainState:
        return plan.step(state, order[state.step % plan.steps_per_epoch], train, statistics)

    return lane._replace(state=jax.lax.fori_loop(0, num_steps, step, state))


def _alone(steps: Callable[..., _Running], running: _Running, orders: jax.Array, *shared: Any) -> _Running:
    lane, order = jax.tree.map(lambda leaf: leaf[0], (running, orders))
    return jax.tree.map(lambda leaf: leaf[None], steps(lane, order, *shared))


def lanes_that_fit(program: Any, device: Device) -> int:
    """How many lanes half of the memory holds, by what the program of one lane takes."""
    if program is None:  # This backend does not tell.
        return 1
    lane = program.argument_size_in_bytes + program.output_size_in_bytes + program.temp_size_in_bytes
    return max(1, memory_of(device) // 2 // lane)
