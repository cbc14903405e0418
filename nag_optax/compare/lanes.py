"""Runs on data: one lane for each (learning rate, seed), many lanes in one compiled program.

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
from nag_optax.compare.search import Contender
from nag_optax.train.data import Dataset, Statistics
from nag_optax.train.data.stream import epoch_order
from nag_optax.train.loop import chunk_lengths
from nag_optax.train.metrics import Metrics, metrics_of, metrics_of_lanes
from nag_optax.train.models import make_model
from nag_optax.train.optimizers import make_schedule
from nag_optax.train.parallel import Device, memory_of
from nag_optax.train.rows import Split
from nag_optax.train.spec import Spec
from nag_optax.train.step import TrainState, step_key, train_step

MakeOptimizer = Callable[[jax.Array], optax.GradientTransformationExtraArgs]
_iterate, _iterates = jax.jit(eval_params), jax.jit(jax.vmap(eval_params))

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


class LaneRunner:
    """The compiled programs of one model and dataset, for one optimizer after the other.

    The optimizer, learning rate and seed of the run do not matter. Without `curves` its lanes are evaluated
    at the end alone, and not on the training split.
    """

    def __init__(self, spec: Spec, dataset: Dataset, device: Device, *, curves: bool = True):
        self._model, self._in_lanes = spec.model, spec.model_row.in_lanes
        self._dataset, self._device, self._curves = dataset, device, curves
        self.num_epochs, self._batch_size = spec.num_epochs, spec.batch_size
        self._num_examples = len(dataset.train.labels)
        self.steps_per_epoch = -(-self._num_examples // spec.batch_size)
        unit = dataclasses.replace(spec, learning_rate=1.0)  # Multiplied by the rate of a lane.
        self._unit_schedule = make_schedule(unit, self.steps_per_epoch)
        # A step costs about three forward passes, an evaluation one.
        images = len(dataset.test.labels) / (3 * _EVALUATION_SHARE)
        self._chunks = chunk_lengths(0, self.steps_per_epoch, max(1, int(images) // self._batch_size))
        ends = np.cumsum(self._chunks)
        self.steps = np.concatenate([e * self.steps_per_epoch + ends for e in range(self.num_epochs)])
        self.num_chunks = len(self.steps)
        """Chunks of a run, after each of which `run` reports."""
        self._graphdef = nnx.graphdef(self._make_model(spec.seed))
        self._train, self._test = jax.device_put((dataset.train, dataset.test), device)
        self._programs: dict[tuple[str, int], Any] = {}

    def run(
        self, contender: Contender, lanes: Sequence[Lane], report: Callable[[float], None]
    ) -> list[LaneResult]:
        """Trains the lanes, all at once where that is fast and fits; `report` hears of shares of runs."""
        at_once = self._at_once(contender, len(lanes))
        results = []
        for start in range(0, len(lanes), at_once):
            group = [*lanes[start : start + at_once]]
            # One program for all groups: the last is filled up.
            padded = [*group, *[group[-1]] * (at_once - len(group))]
            share = len(group) / self.num_chunks
            results += self._run_group(contender, padded, lambda share=share: report(share))[: len(group)]
        return results

    def stopwatch(self, contender: Contender, lane: Lane) -> Callable[[int], float]:
        """A function that takes steps of one run by itself, and returns the seconds of a step."""
        lanes, order = [lane], self._orders([lane], 0)
        holder = [self._chunk(contender, self._begin(contender, lanes), lanes, order, 1)]

        def seconds(num_steps: int) -> float:
            # Within the first epoch, whose order is at hand.
            state = holder[0]._replace(step=jnp.zeros_like(holder[0].step))
            started = time.perf_counter()
            holder[0] = jax.block_until_ready(self._chunk(contender, state, lanes, order, num_steps))
            return (time.perf_counter() - started) / num_steps

        return seconds

    def _run_group(
        self, contender: Contender, lanes: list[Lane], report: Callable[[], None]
    ) -> list[LaneResult]:
        state = self._begin(contender, lanes)
        losses: list[np.ndarray] = []
        looks: list[list[Metrics]] = []
        for epoch in range(self.num_epochs):
            orders = self._orders(lanes, epoch)
            for length in self._chunks:
                state = self._chunk(contender, state, lanes, orders, length)
                losses.append(np.atleast_1d(state.loss_sum) / (length * self._batch_size))
                if self._curves or len(losses) == self.num_chunks:
                    looks.append(self._evaluate(state, self._test))
                report()
        loss = np.stack(losses)
        test_loss, test_accuracy = np.moveaxis(np.array(looks), -1, 0)
        train = self._evaluate(state, self._train) if self._curves else [None] * len(lanes)
        return [
            LaneResult(lane, loss[:, i], test_loss[:, i], test_accuracy[:, i], train[i])
            for i, lane in enumerate(lanes)
        ]

    # The state of one lane has no axis of lanes: XLA compiles it as `nag-optax train` does.

    def _begin(self, contender: Contender, lanes: Sequence[Lane]) -> TrainState:
        models = {lane.seed: self.weights(lane.seed) for lane in lanes}
        weights = [models[lane.seed] for lane in lanes]
        params, rest = jax.tree.map(lambda *leaves: jnp.stack(leaves), *weights)
        rates = jnp.array([lane.learning_rate for lane in lanes], jnp.float32)
        begin = partial(_begin, partial(_optimizer, contender, self._unit_schedule))
        state = jax.jit(jax.vmap(begin))(params, rest, rates)
        state = state if len(lanes) > 1 else jax.tree.map(lambda leaf: leaf[0], state)
        return jax.device_put(state, self._device)

    def _chunk(
        self,
        contender: Contender,
        state: TrainState,
        lanes: Sequence[Lane],
        orders: jax.Array,
        num_steps: int,
    ) -> TrainState:
        inputs = self._inputs(state, lanes, orders, num_steps)
        return self._program(contender, len(lanes), inputs)(*inputs)

    def _inputs(
        self, state: TrainState, lanes: Sequence[Lane], orders: jax.Array, num_steps: int
    ) -> tuple[Any, ...]:
        """The arguments of a program. It serves chunks of every length, as the number of steps is traced."""
        rates = jnp.array([lane.learning_rate for lane in lanes], jnp.float32)
        seeds = jnp.array([lane.seed for lane in lanes], jnp.uint32)
        of_lanes = (rates, seeds, orders) if len(lanes) > 1 else (rates[0], seeds[0], orders[0])
        return (state, *of_lanes, self._train, self._dataset.statistics, jnp.int32(num_steps))

    def _program(self, contender: Contender, count: int, inputs: tuple[Any, ...]) -> Any:
        name = contender.row.label, count
        if name not in self._programs:
            # JAX keeps the constants of a program, so the runner is not among them.
            make = partial(_optimizer, contender, self._unit_schedule)
            steps = partial(_steps, self._graphdef, make, self.steps_per_epoch, self._batch_size)
            if count > 1:
                steps = jax.vmap(steps, in_axes=(0, 0, 0, 0, None, None, None))
            self._programs[name] = jax.jit(steps, donate_argnums=0).lower(*inputs).compile()
        return self._programs[name]

    def _at_once(self, contender: Contender, count: int) -> int:
        """How many lanes go into one program.

        On a CPU the convolutions of several lanes become one grouped convolution, which takes twice
        as long a lane as one run after the other.
        """
        if not self._in_lanes and self._device.platform == "cpu":
            return 1
        lanes = [Lane(0.0, 0)]
        inputs = self._inputs(self._begin(contender, lanes), lanes, self._orders(lanes, 0), 0)
        return min(count, lanes_that_fit(self._program(contender, 1, inputs).memory_analysis(), self._device))

    def _evaluate(self, state: TrainState, split: Split) -> list[Metrics]:
        """Loss and accuracy of each lane at the iterate to evaluate."""
        several = state.step.ndim > 0
        iterate = _iterates if several else _iterate
        weights = (iterate(state.opt_state, state.params), state.model_state)
        inputs = (self._dataset.statistics, split)
        if several and self._in_lanes:
            return metrics_of_lanes(self._graphdef, weights, *inputs)
        # The activations of all lanes of a convolution at once could be too large.
        lanes = range(len(state.step)) if several else [...]
        one_by_one = (jax.tree.map(lambda leaf, i=i: leaf[i], weights) for i in lanes)
        return [metrics_of(self._graphdef, of_lane, *inputs) for of_lane in one_by_one]

    def _orders(self, lanes: Sequence[Lane], epoch: int) -> jax.Array:
        orders = [epoch_order(lane.seed, epoch, self._num_examples, self._batch_size) for lane in lanes]
        return jax.device_put(np.stack(orders), self._device)

    def weights(self, seed: int) -> tuple[Any, Any]:
        """The initial parameters and batch statistics of a seed."""
        _, params, rest = nnx.split(self._make_model(seed), nnx.Param, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(rest)

    def _make_model(self, seed: int) -> nnx.Module:
        shape, classes = self._dataset.image_shape, self._dataset.num_classes
        return make_model(self._model, shape, classes, seed, sample=self._dataset.sample)


def _begin(make_optimizer: MakeOptimizer, params: Any, rest: Any, rate: jax.Array) -> TrainState:
    return TrainState.fresh(params, rest, make_optimizer(rate).init(params))


def _steps(
    graphdef: Any,
    make_optimizer: MakeOptimizer,
    steps_per_epoch: int,
    batch_size: int,
    state: TrainState,
    rate: jax.Array,
    seed: jax.Array,
    order: jax.Array,
    train: Split,
    statistics: Statistics,
    num_steps: jax.Array,
) -> TrainState:
    optimizer = make_optimizer(rate)

    def body(_: jax.Array, state: TrainState) -> TrainState:
        first = state.step % steps_per_epoch * batch_size
        images, labels = train.take(jax.lax.dynamic_slice(order, (first,), (batch_size,)))
        images = statistics.standardise(images)
        return train_step(graphdef, optimizer, state, images, labels, step_key(seed, state.step))

    state = state._replace(loss_sum=jnp.zeros_like(state.loss_sum))
    return jax.lax.fori_loop(0, num_steps, body, state)


def _optimizer(
    contender: Contender, unit_schedule: optax.Schedule, rate: jax.Array
) -> optax.GradientTransformationExtraArgs:
    return contender.optimizer(lambda count: rate * unit_schedule(count))


def lanes_that_fit(program: Any, device: Device) -> int:
    """How many lanes half of the memory holds, by what the program of one lane takes."""
    if program is None:  # This backend does not tell.
        return 1
    lane = program.argument_size_in_bytes + program.output_size_in_bytes + program.temp_size_in_bytes
    return max(1, memory_of(device) // 2 // lane)
