"""One step of training: a pure function of the state and a batch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from nag_optax.train.data.augment import augmentation_key, mixed, mixing_share


class TrainState(NamedTuple):
    """All that a step reads and writes, and all that a checkpoint keeps."""

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    loss_sum: jax.Array  # over the examples of this epoch
    correct: jax.Array

    @classmethod
    def fresh(cls, params: Any, model_state: Any, opt_state: Any) -> "TrainState":
        """The state before the first step."""
        step, correct = jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32)
        return cls(step, params, model_state, opt_state, jnp.zeros([], jnp.float32), correct)


class How(NamedTuple):
    """The options of a step. The defaults put nothing into its program.

    Attributes:
        mixup: α of Beta(α, α), 0 for none.
        label_smoothing: the part of each label that goes to all classes alike, in [0, 1).
        bfloat16: whether the model computes in bfloat16. Batch statistics, loss and averages stay float32.
        accumulate: parts of the batch that go through the model one after the other.
    """

    mixup: float = 0.0
    label_smoothing: float = 0.0
    bfloat16: bool = False
    accumulate: int = 1


def train_step(
    graphdef: Any,
    optimizer: optax.GradientTransformationExtraArgs,
    state: TrainState,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    how: How = How(),  # noqa: B008
) -> TrainState:
    """One step on one batch of standardised images. The `key` is for dropout and mixup."""
    (loss, (correct, model_state)), grads = gradients(
        graphdef, state.params, state.model_state, images, labels, key, how
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params, value=loss)
    return TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        model_state=model_state,
        opt_state=opt_state,
        loss_sum=state.loss_sum + loss * labels.shape[0],
        correct=state.correct + correct,
    )


def gradients(
    graphdef: Any,
    params: Any,
    model_state: Any,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    how: How = How(),  # noqa: B008
) -> tuple[tuple[jax.Array, tuple[jax.Array, Any]], Any]:
    """((mean loss, (right answers, batch statistics after it)), gradients) of a batch; see `train_step`."""
    share = partners = None  # Partners are labels that are mixed in.
    if how.mixup:
        share = mixing_share(augmentation_key(key, "mixup"), how.mixup)
        images, partners = mixed(images, share), labels[::-1]

    def loss_fn(params: Any, model_state: Any, batch: tuple[Any, ...], key: jax.Array):
        images, labels, partners = batch
        if how.bfloat16:
            params, images = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params, images))
        model = nnx.merge(graphdef, params, model_state)
        if how.bfloat16:
            _normalise_in_bfloat16(model)
        logits = model(images, train=True, rngs=nnx.Rngs(dropout=key)).astype(jnp.float32)
        losses = cross_entropy(logits, labels, how.label_smoothing)
        if share is not None:
            others = cross_entropy(logits, partners, how.label_smoothing)
            losses = share * losses + (1 - share) * others
        correct = jnp.sum(jnp.argmax(logits, -1) == labels)
        model_state = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))
        return jnp.mean(losses), (correct, model_state)

    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    if how.accumulate > 1:
        gradient = _in_parts(gradient, how.accumulate)
    return gradient(params, model_state, (images, labels, partners), key)


def step_key(seed: int | jax.Array, step: jax.Array) -> jax.Array:
    """The key of a step, from which dropout and augmentation draw."""
    return jax.random.fold_in(jax.random.key(seed), step)


def cross_entropy(logits: jax.Array, labels: Any, smoothing: float = 0.0) -> jax.Array:
    """−Σ t·log p of each example: t is 1 − ε at its label, and ε/classes more at every class.

    Source: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, *Rethinking the Inception architecture for computer
    vision*, CVPR 2016, section 7.
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if smoothing:
        losses = (1 - smoothing) * losses - smoothing * jnp.mean(jax.nn.log_softmax(logits), -1)
    return losses


def _normalise_in_bfloat16(model: nnx.Module) -> None:
    """Keeps float32 statistics from making float32 of all that comes after them."""
    for _, module in nnx.iter_graph(model):
        if isinstance(module, nnx.BatchNorm):
            module.dtype = jnp.bfloat16


def _in_parts(gradient: Any, count: int) -> Any:
    """The same function of a batch, in a scan over its parts, so that one part at a time is in memory."""

    def in_parts(params: Any, model_state: Any, batch: Any, key: jax.Array):
        # Every count-th example: a batch that is split over devices is split in each part too.
        parts = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), batch)

        def body(carry: Any, part_and_key: Any):
            model_state, sums = carry
            (loss, (correct, model_state)), grads = gradient(params, model_state, *part_and_key)
            return (model_state, jax.tree.map(jnp.add, sums, (loss, correct, grads))), None

        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.promote_types(p.dtype, jnp.float32)), params)
        sums = (jnp.zeros([], jnp.float32), jnp.zeros([], jnp.int32), zeros)
        inputs = (parts, jax.random.split(key, count))
        (model_state, (loss, correct, grads)), _ = jax.lax.scan(body, (model_state, sums), inputs)
        loss, grads = jax.tree.map(lambda x: x / count, (loss, grads))
        return (loss, (correct, model_state)), grads

    return in_parts
