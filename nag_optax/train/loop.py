"""The training loop: one compiled scan over a chunk of steps, with donated state.

A batch is a pure function of (seed, step): the order of an epoch is drawn from (seed, epoch), dropout and
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
from nag_optax.train.augment import AUGMENTATIONS, augmentation_key
from nag_optax.train.data import Dataset, Statistics
from nag_optax.train.devices import Device, put, split_over
from nag_optax.train.errors import InputError
from nag_optax.train.freezing import fix_statistics, frozen_mask
from nag_optax.train.models import make_model
from nag_optax.train.optimizers import make_optimizer, make_schedule
from nag_optax.train.pruning import has_prunable, widths_without, without_units, zero_units
from nag_optax.train.rows import Split
from nag_optax.train.spec import Spec
from nag_optax.train.step import How, TrainState, step_key, train_step
from nag_optax.train.wrappers import gradient_norm

EVALUATION_BATCH = 500
"""Images that are evaluated at once."""


class Metrics(NamedTuple):
    """Means over a set of examples."""

    loss: float
    accuracy: float


class Pruned(NamedTuple):
    """A model without its zero units, and which these were, by layer."""

    zero_units: dict[str, np.ndarray]
    model: nnx.Module

    @property
    def num_parameters(self) -> int:
        return sum(p.size for p in jax.tree.leaves(nnx.state(self.model, nnx.Param)))


class Loop:
    """The compiled programs of one run: initial state, a chunk of steps, evaluation, prediction."""

    command = "train"
    """Of `nag-optax`, which resumes it."""
    beside: Callable[[], Any] | None = None
    """What is shown below the bar, for `rich`."""

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
        model = make_model(spec.model, dataset.image_shape, dataset.num_classes, spec.seed)
        params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        self._frozen = frozen_mask(spec.freeze, params)
        fix_statistics(model, self._frozen)
        if spec.prune is not None and not has_prunable(spec.model_row.hidden_layers, self._frozen):
            raise InputError(f"--prune {spec.prune}: --freeze leaves no hidden layer to prune")
        self._graphdef, self._params, self._rest = nnx.split(model, nnx.Param, ...)
        self._dtype = jnp.bfloat16 if spec.bfloat16_parameters else jnp.float32
        self._schedule = make_schedule(spec, self.steps_per_epoch)
        self._optimizer = make_optimizer(spec, self.steps_per_epoch)
        self._train = self._everywhere(dataset.train)
        self._order: tuple[int, jax.Array] | None = None
        self._programs: dict[int, Any] = {}
        self.compile_seconds = 0.0

    @property
    def num_parameters(self) -> int:
        return sum(p.size for p in jax.tree.leaves(self._params))

    @property
    def num_frozen(self) -> int:
        """The number of parameters that do not move."""
        sizes = jax.tree.map(lambda p, frozen: p.size * frozen, nnx.to_pure_dict(self._params), self._frozen)
        return sum(jax.tree.leaves(sizes))

    def init(self, weights: tuple[Any, Any] | None = None) -> TrainState:
        """The state before the first step, of these parameters and batch statistics, or of fresh ones."""
        if weights is None:
            weights = nnx.to_pure_dict(self._params), nnx.to_pure_dict(self._rest)
        # Copies: the state is donated, and there may be a second one.
        params, rest = jax.tree.map(jnp.copy, weights)
        params = optax.tree.cast(params, self._dtype)
        state = TrainState(
            step=jnp.zeros([], jnp.int32),
            params=params,
            model_state=rest,
            opt_state=self._optimizer.init(params),
            loss_sum=jnp.zeros([], jnp.float32),
            correct=jnp.zeros([], jnp.int32),
        )
        return put(state, self._shardings(state))

    def run_chunk(self, state: TrainState, num_steps: int) -> TrainState:
        """Takes `num_steps` steps within one epoch; the state passed in is given up."""
        epoch = int(state.step) // self.steps_per_epoch
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._epoch_order(epoch))
        inputs = (state, self._order[1], self._train, self.dataset.statistics)
        if num_steps not in self._programs:
            started = time.perf_counter()
            shardings = self._shardings(state)
            program = partial(_chunk, self._plan(shardings), num_steps)
            jitted = jax.jit(program, donate_argnums=0, out_shardings=shardings)
            self._programs[num_steps] = jitted.lower(*inputs).compile()
            self.compile_seconds += time.perf_counter() - started
        return jax.block_until_ready(self._programs[num_steps](*inputs))

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
        """Whether every parameter is a finite number."""
        return all(bool(jnp.all(jnp.isfinite(p))) for p in jax.tree.leaves(state.params))

    def evaluate(self, state: TrainState, split: Split) -> Metrics:
        """Loss and accuracy at the iterate to evaluate, dropout off, running batch statistics."""
        return _metrics(self.logits(state, split.images), split.labels)

    def evaluate_model(self, model: nnx.Module, split: Split) -> Metrics:
        """The same of another model on these images."""
        graphdef, weights = nnx.split(model)
        logits = logits_of(graphdef, (weights,), self.dataset.statistics, split.images)
        return _metrics(logits, split.labels)

    def logits(self, state: TrainState, images: np.ndarray) -> jax.Array:
        """(N, classes), computed in pieces of one shape, so that one program serves every N."""
        return logits_of(self._graphdef, self.eval_state(state), self.dataset.statistics, images)

    def pruned(self, state: TrainState) -> Pruned:
        """The model without the hidden units that are exactly zero at the iterate to evaluate."""
        params, model_state = self.eval_state(state)
        layers = self._spec.model_row.hidden_layers
        zero = zero_units(layers, params)
        weights = without_units(layers, params, model_state, zero)
        widths = widths_without(layers, zero)
        shape, classes = self.dataset.image_shape, self.dataset.num_classes
        graphdef = nnx.graphdef(make_model(self.model, shape, classes, seed=0, widths=widths))
        return Pruned(zero, nnx.merge(graphdef, *jax.tree.map(jnp.asarray, weights)))

    def _shardings(self, state: TrainState) -> TrainState:
        """Where each array of the state lies."""
        everywhere = jax.tree.map(lambda _: self._replicated, state)
        if not self._spec.shard_optimizer:
            return everywhere
        return everywhere._replace(opt_state=split_over(self._mesh, state.opt_state))

    def _plan(self, shardings: TrainState) -> "_Plan":
        spec = self._spec
        return _Plan(
            self._graphdef,
            self._optimizer,
            spec.seed,
            self.steps_per_epoch,
            self.batch_size,
            self._sharded,
            shardings,
            AUGMENTATIONS.get(spec.augment),
            How(spec.mixup, spec.label_smoothing, spec.precision != "float32", spec.accumulate),
        )

    def _epoch_order(self, epoch: int) -> jax.Array:
        order = epoch_order(self._spec.seed, epoch, self.num_examples, self.batch_size)
        return self._everywhere(order)

    def _everywhere(self, tree: Any) -> Any:
        """The whole of the arrays on every device."""
        return put(tree, jax.tree.map(lambda _: self._replicated, tree))


class _Plan(NamedTuple):
    """The constants of a chunk's program. JAX keeps them, so the loop is not among them."""

    graphdef: Any
    optimizer: optax.GradientTransformationExtraArgs
    seed: int
    steps_per_epoch: int
    batch_size: int
    sharding: NamedSharding
    """The sharding of a batch."""
    shardings: TrainState
    """The shardings of the state."""
    augment: Callable[[jax.Array, jax.Array], jax.Array] | None
    how: How


def _chunk(
    plan: _Plan, num_steps: int, state: TrainState, order: jax.Array, train: Split, statistics: Statistics
) -> TrainState:
    def body(state: TrainState, _: None) -> tuple[TrainState, None]:
        first = state.step % plan.steps_per_epoch * plan.batch_size
        indices = jax.lax.dynamic_slice(order, (first,), (plan.batch_size,))
        indices = jax.lax.with_sharding_constraint(indices, plan.sharding)
        images, key = train.images[indices], step_key(plan.seed, state.step)
        if plan.augment is not None:
            images = plan.augment(augmentation_key(key, "image"), images)
        images, labels = statistics.standardise(images), train.labels[indices]
        state = train_step(plan.graphdef, plan.optimizer, state, images, labels, key, plan.how)
        return jax.lax.with_sharding_constraint(state, plan.shardings), None

    # Sums are those of one epoch.
    fresh = state.step % plan.steps_per_epoch == 0
    state = state._replace(
        loss_sum=jnp.where(fresh, 0.0, state.loss_sum), correct=jnp.where(fresh, 0, state.correct)
    )
    return jax.lax.scan(body, state, None, length=num_steps)[0]


def logits_of(
    graphdef: Any,
    weights: tuple[Any, ...],
    statistics: Statistics,
    images: np.ndarray,
    batch: int = EVALUATION_BATCH,
) -> jax.Array:
    """(N, classes), from a model in two or more parts, `batch` images at a time."""
    pieces = []
    for start in range(0, len(images), batch):
        piece = images[start : start + batch]
        missing = batch - len(piece)
        padded = np.pad(piece, [(0, missing)] + [(0, 0)] * (images.ndim - 1))
        pieces.append(_predict(graphdef, weights, statistics, padded)[: len(piece)])
    return jnp.concatenate(pieces)


@partial(jax.jit, static_argnums=0)
def _predict(graphdef: Any, weights: tuple[Any, ...], statistics: Statistics, images: jax.Array) -> jax.Array:
    return nnx.merge(graphdef, *weights)(statistics.standardise(images), train=False)


def _metrics(logits: jax.Array, labels: np.ndarray) -> Metrics:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return Metrics(float(jnp.mean(losses)), float(jnp.mean(jnp.argmax(logits, -1) == labels)))


def epoch_order(seed: int, epoch: int, num_examples: int, batch_size: int) -> np.ndarray:
    """Every example once, in an order of (seed, epoch); the first ones again to fill the last batch."""
    order = np.random.default_rng([seed, epoch]).permutation(num_examples)
    return np.resize(order, -(-num_examples // batch_size) * batch_size).astype(np.int32)


def chunk_lengths(start: int, steps_per_epoch: int, target: int) -> list[int]:
    """How the rest of an epoch, from step `start` of it, is cut: fixed by the epoch, not by `start`.

    A length that divides the epoch is preferred: another length is another compiled program.
    """
    count = -(-steps_per_epoch // target)
    for candidate in range(count, 3 * count + 1):
        if steps_per_epoch % candidate == 0:
            count = candidate
            break
    length = -(-steps_per_epoch // count)
    bounds = [*range(0, steps_per_epoch, length), steps_per_epoch]
    return [b - a for a, b in zip(bounds, bounds[1:], strict=False) if a >= start]
