"""The training loop: one compiled scan over a chunk of steps, or over one step of streamed data.

A batch is a pure function of (seed, step). The order of an epoch is drawn from (seed, epoch), dropout and
augmentation of a step from (seed, step). So a resumed run is bit-equal to an uninterrupted one.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nag_optax.acceleration.evaluation import eval_params
from nag_optax.train.data import Dataset, Statistics
from nag_optax.train.data.augment import AUGMENTATIONS, Augment, augmentation_key
from nag_optax.train.data.pictures import Pictures
from nag_optax.train.data.stream import Stream, default_workers, epoch_order, grown_order, part_of_batches
from nag_optax.train.freezing import fix_statistics, frozen_mask
from nag_optax.train.metrics import Metrics, metrics_of
from nag_optax.train.models import make_model
from nag_optax.train.optimizers import check_update, gradient_norm, make_optimizer, make_schedule
from nag_optax.train.options import given_or
from nag_optax.train.parallel import Device, put, put_parts, split_over
from nag_optax.train.pruning import without_units, zero_units
from nag_optax.train.rows import Split
from nag_optax.train.spec import Spec
from nag_optax.train.step import How, TrainState, step_key, train_step


class Pruned(NamedTuple):
    """A model without its zero units, and a mask of these units for each layer."""

    zero_units: dict[str, np.ndarray]
    model: nnx.Module

    @property
    def num_parameters(self) -> int:
        return sum(p.size for p in jax.tree.leaves(nnx.state(self.model, nnx.Param)))


class Loop:
    """The compiled programs of one run: initial state, a chunk of steps, evaluation, prediction."""

    command = "train"
    """The command of `nag-optax` that resumes it."""
    beside: Callable[[], Any] | None = None
    """What is shown below the bar, for `rich`."""
    begins = "compiling"
    """What it does before the first step."""

    def __init__(self, spec: Spec, dataset: Dataset, devices: list[Device]):
        self._mesh = Mesh(np.array(devices), ("batch",))
        self._replicated = NamedSharding(self._mesh, PartitionSpec())
        self._sharded = NamedSharding(self._mesh, PartitionSpec("batch"))
        self._spec, self.dataset = spec, dataset
        self.model = spec.model
        self.num_examples = len(dataset.train.labels)
        self.batch_size = spec.batch_size
        # The last batch of an epoch is filled up from the epoch's first examples.
        self.steps_per_epoch = -(-self.num_examples // self.batch_size)
        model = self.fresh(spec.seed)
        params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        self._frozen = frozen_mask(spec.freeze, params)
        fix_statistics(model, self._frozen)
        self._graphdef, self._params, self._rest = nnx.split(model, nnx.Param, ...)
        self._dtype = jnp.bfloat16 if spec.bfloat16_parameters else jnp.float32
        self._schedule = make_schedule(spec, self.steps_per_epoch)
        self._optimizer = optimizer = make_optimizer(spec, self.steps_per_epoch)
        if ":" in f"{spec.optimizer}{spec.inner}":  # A user's own fails here, before a file is written.
            check_update(optimizer, params, f"--optimizer {spec.optimizer}")
        self.resident = None if dataset.streamed else self._everywhere(dataset.train)
        """All training images on every device, unless they are streamed."""
        self._on_cpu = devices[0].platform == "cpu"
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int32))
        self._stream: Stream | None = None
        self._source = dataset.train
        self._order_of: Callable[[int], np.ndarray] = partial(
            epoch_order, spec.seed, num_examples=self.num_examples, batch_size=self.batch_size
        )
        self._next_step = 0
        self.waited: float = 0.0
        """Seconds in which steps waited for streamed data."""
        self.num_workers = 0
        if isinstance(dataset.train.images, Pictures):
            self.num_workers = given_or(spec.data_workers, default_workers())
        self._programs: dict[int, Any] = {}
        self.compile_seconds: float = 0.0

    def fresh(self, seed: int) -> nnx.Module:
        """The model as it begins with this seed."""
        data = self.dataset
        return make_model(self.model, data.image_shape, data.num_classes, seed, sample=data.sample)

    @property
    def num_parameters(self) -> int:
        return sum(p.size for p in jax.tree.leaves(self._params))

    @property
    def num_frozen(self) -> int:
        sizes = jax.tree.map(lambda p, frozen: p.size * frozen, nnx.to_pure_dict(self._params), self._frozen)
        return sum(jax.tree.leaves(sizes))

    @property
    def plan(self) -> "Plan":
        """The constants of the steps of this run."""
        spec = self._spec
        bfloat16 = spec.precision.startswith("bfloat16") or (spec.precision == "auto" and not self._on_cpu)
        return Plan(
            self._graphdef,
            self._optimizer,
            spec.seed,
            self.steps_per_epoch,
            self._sharded,
            AUGMENTATIONS.get(spec.augment),
            How(spec.mixup, spec.label_smoothing, bfloat16, spec.accumulate),
        )

    def init(self, weights: tuple[Any, Any] | None = None) -> TrainState:
        """The state before the first step, of these parameters and batch statistics, or of fresh ones."""
        if weights is None:
            weights = nnx.to_pure_dict(self._params), nnx.to_pure_dict(self._rest)
        params, rest = optax.tree.cast(weights[0], self._dtype), weights[1]
        # Copies: the state is donated, there may be a second one, and an optimizer may keep the parameters.
        state = jax.tree.map(jnp.copy, TrainState.fresh(params, rest, self._optimizer.init(params)))
        return put(state, self._shardings(state))

    @property
    def apart(self) -> float:
        """Seconds in chunks that are no time of an epoch."""
        return self.compile_seconds

    def run_chunk(self, state: TrainState, num_steps: int) -> TrainState:
        """Takes `num_steps` steps; the state passed in is given up."""
        step = int(state.step)
        if self.dataset.streamed:
            for i in range(num_steps):
                state = self._run(state, 1, None, self._streamed(step + i))
            return state
        rows = [self._batch_rows(step + i) for i in range(num_steps)]
        return self._run(state, num_steps, self._everywhere(np.stack(rows)), self.resident)

    def stretch(self, step: int) -> range:
        """The steps from one evaluation to the next, this one among them."""
        length = self._spec.evaluate_every * self.steps_per_epoch
        begin = step // length * length
        return range(begin, min(begin + length, self._spec.num_epochs * self.steps_per_epoch))

    def chunk_lengths(self, step: int) -> list[int]:
        """The lengths of the chunks from a step to the end of its epoch; a stretch may also be one chunk."""
        stretch, row = self.stretch(step), self._spec.model_row
        at_once = None if self._on_cpu else row.steps_on_accelerator
        at_once = 1 if self.dataset.streamed else given_or(at_once, row.steps_per_report)
        if len(stretch) <= at_once:
            return [stretch.stop - step]
        return chunk_lengths(step % self.steps_per_epoch, self.steps_per_epoch, at_once)

    def grow(self, train: Split, latest: tuple[int, int]) -> None:
        """From here on these are the training images. An epoch keeps its number of steps.

        The earlier images stand in front. `latest` is the epoch, counted from 0, in which the last ones
        came, and their number.
        """
        self.close()
        self._source = train
        self._order_of = partial(
            grown_order,
            self._spec.seed,
            num_examples=len(train.labels),
            length=self.steps_per_epoch * self.batch_size,
            latest=latest,
        )

    def close(self) -> None:
        """Ends the processes that decode."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def eval_state(self, state: TrainState) -> tuple[Any, Any]:
        """The parameters to evaluate and the batch statistics."""
        read = jax.jit(eval_params, out_shardings=self._replicated)
        return read(state.opt_state, state.params), state.model_state

    def module(self, state: TrainState) -> nnx.Module:
        """The model at the iterate to evaluate; with --prune, without its zero units."""
        if self._spec.prune is not None:
            return self.pruned(state).model
        return nnx.merge(self._graphdef, *self.eval_state(state))

    def learning_rate(self, state: TrainState) -> float:
        """The learning rate of the latest step."""
        return float(jnp.asarray(self._schedule(int(state.step) - 1)))

    def gradient_norm(self, state: TrainState) -> float:
        """The global norm of the gradients of the parameters that are trained, a mean over this epoch."""
        return gradient_norm(state.opt_state)

    def is_finite(self, state: TrainState) -> bool:
        return all(bool(jnp.all(jnp.isfinite(p))) for p in jax.tree.leaves(state.params))

    def evaluate(self, state: TrainState, split: Split, look: Callable[[], None] = lambda: None) -> Metrics:
        """Loss and accuracy at the iterate to evaluate, dropout off, running batch statistics."""
        return metrics_of(self._graphdef, self.eval_state(state), self.dataset.statistics, split, look)

    def evaluate_model(self, model: nnx.Module, split: Split) -> Metrics:
        """Loss and accuracy of another model on these images."""
        graphdef, weights = nnx.split(model)
        return metrics_of(graphdef, (weights,), self.dataset.statistics, split)

    def pruned(self, state: TrainState) -> Pruned:
        """The model without the hidden units that are exactly zero at the iterate to evaluate."""
        params, model_state = self.eval_state(state)
        layers = self._spec.model_row.hidden_layers
        zero = zero_units(layers, params)
        *weights, widths = without_units(layers, params, model_state, zero)
        shape, classes = self.dataset.image_shape, self.dataset.num_classes
        graphdef = nnx.graphdef(make_model(self.model, shape, classes, seed=0, widths=widths))
        return Pruned(zero, nnx.merge(graphdef, *jax.tree.map(jnp.asarray, weights)))

    def _shardings(self, state: TrainState) -> TrainState:
        """The sharding of each array of the state."""
        everywhere = jax.tree.map(lambda _: self._replicated, state)
        if not self._spec.shard_optimizer:
            return everywhere
        return everywhere._replace(opt_state=split_over(self._mesh, state.opt_state))

    def _run(self, state: TrainState, num_steps: int, *data: Any) -> TrainState:
        inputs = (state, *data, self.dataset.statistics)
        if num_steps not in self._programs:
            started = time.perf_counter()
            shardings = self._shardings(state)
            program = partial(_chunk, self.plan, shardings, num_steps)
            jitted = jax.jit(program, donate_argnums=0, out_shardings=shardings)
            self._programs[num_steps] = jitted.lower(*inputs).compile()
            self.compile_seconds += time.perf_counter() - started
        return jax.block_until_ready(self._programs[num_steps](*inputs))

    def _streamed(self, step: int) -> Split:
        """The batch of a step. A step that is not the next one starts the stream anew."""
        started = time.perf_counter()
        if self._stream is None or step != self._next_step:
            self.close()
            part, parts = jax.process_index(), jax.process_count()
            order = partial(part_of_batches, self._order_of, part, parts, self.batch_size)
            steps = range(step, self._spec.num_epochs * self.steps_per_epoch)
            place = partial(put_parts, sharding=self._sharded)
            self._stream = Stream(
                self._source, order, self.batch_size // parts, steps, self.num_workers, place
            )
        self._next_step = step + 1
        batch = self._stream.take()
        self.waited += time.perf_counter() - started
        return batch

    def _batch_rows(self, step: int) -> np.ndarray:
        """The examples in the batch of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = epoch, self._order_of(epoch)
        return self._order[1][place * self.batch_size :][: self.batch_size]

    def _everywhere(self, tree: Any) -> Any:
        """Puts the whole of the arrays on every device."""
        return put(tree, jax.tree.map(lambda _: self._replicated, tree))


class Plan(NamedTuple):
    """The constants of a program that takes steps. JAX keeps them, so the loop is not among them."""

    graphdef: Any
    optimizer: optax.GradientTransformationExtraArgs
    seed: int | jax.Array
    steps_per_epoch: int
    sharding: NamedSharding
    """The sharding of a batch."""
    augment: Augment | None
    how: How

    def step(self, state: TrainState, rows: Any, train: Split, statistics: Statistics) -> TrainState:
        """The state after one more step, on these rows of all images, or without rows on a whole batch."""
        epoch, place = jnp.divmod(state.step, self.steps_per_epoch)
        key = step_key(self.seed, state.step)
        images, labels = self.batch(train, statistics, epoch, rows, key)
        # Sums are those of one epoch.
        state = state._replace(
            loss_sum=jnp.where(place == 0, 0.0, state.loss_sum),
            correct=jnp.where(place == 0, 0, state.correct),
        )
        return train_step(self.graphdef, self.optimizer, state, images, labels, key, self.how)

    def batch(self, train: Split, statistics: Statistics, epoch: Any, rows: Any, key: jax.Array) -> Split:
        """These examples, or all of them, augmented and standardised."""
        if rows is not None:
            train = train.take(jax.lax.with_sharding_constraint(rows, self.sharding))
        images, labels = train
        if self.augment is not None:
            images = self.augment(augmentation_key(key, "image"), images, epoch)
        return Split(statistics.standardise(images), labels)


def _chunk(
    plan: Plan,
    shardings: TrainState,
    num_steps: int,
    state: TrainState,
    rows: Any,
    train: Split,
    statistics: Statistics,
) -> TrainState:
    def body(state: TrainState, rows: Any) -> tuple[TrainState, None]:
        state = plan.step(state, rows, train, statistics)
        return jax.lax.with_sharding_constraint(state, shardings), None

    return jax.lax.scan(body, state, rows, length=num_steps)[0]


def chunk_lengths(start: int, steps_per_epoch: int, target: int) -> list[int]:
    """The lengths of chunks from step `start` of an epoch on. `start` does not change where they end.

    A length that divides the epoch is preferred, as each length is a compiled program of its own.
    """
    count = -(-steps_per_epoch // target)
    count = next((n for n in range(count, 3 * count + 1) if steps_per_epoch % n == 0), count)
    length = -(-steps_per_epoch // count)
    bounds = [*range(0, steps_per_epoch, length), steps_per_epoch]
    return [b - a for a, b in zip(bounds, bounds[1:], strict=False) if a >= start]
