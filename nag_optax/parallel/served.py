"""What a server holds: parameters, momentum and batch statistics; and the compiled update of all of them.

A served run is one of `nag` (DANA-Zero) or of `snoo` (Delayed Nesterov, DiLoCo), and has its checkpoints,
so that every command that reads the folder of a run reads this one too.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nag_optax._arrays import owned
from nag_optax.acceleration.evaluation import eval_params
from nag_optax.acceleration.iterate import OuterState
from nag_optax.acceleration.kernel import AccelerateState
from nag_optax.parallel import payload
from nag_optax.parallel.dana import dana_zero
from nag_optax.parallel.delayed import delayed_nesterov
from nag_optax.parallel.method import Method
from nag_optax.train.optimizers import GradientNormState
from nag_optax.train.step import TrainState


class Received(NamedTuple):
    """What an update has changed.

    Attributes:
        state: the method's state.
        part: the worker's part of it.
        model_state: batch statistics.
        sent: the parameters with which the worker goes on.
        norm: the norm of the update.
        taken: False if the update was not finite. The rest is then as before.
    """

    state: Any
    part: Any
    model_state: Any
    sent: Any
    norm: jax.Array
    taken: jax.Array


class Served(NamedTuple):
    """A method, and how its state becomes a checkpoint and comes back.

    Attributes:
        method: the pure functions.
        waits: whether the answer to an update waits for the end of its round.
        read: `read(TrainState) -> state of the method`.
        write: `write(fresh TrainState, state of the method) -> TrainState`.
    """

    method: Method
    waits: bool
    read: Callable[[TrainState], Any]
    write: Callable[[TrainState, Any], TrainState]


def dana(schedule: optax.Schedule, momentum: float) -> Served:
    method = dana_zero(schedule, momentum)

    def read(state: TrainState) -> Any:
        fresh = method.init(eval_params(state.opt_state, state.params))
        (held,) = _found(state.opt_state, AccelerateState)
        velocity = fresh.velocity
        if held.offset is not None:  # The first worker to join inherits it.
            velocity = _whole(jax.tree.map(lambda w: w / momentum, held.offset), velocity)
        return fresh._replace(velocity=velocity, updates=jnp.copy(state.step))

    def write(fresh: TrainState, state: Any) -> TrainState:
        offset = jax.tree.map(lambda v: momentum * v, state.velocity)

        def replaced(node: AccelerateState) -> AccelerateState:
            return node if node.offset is None else node._replace(offset=_masked(offset, node.offset))

        opt_state = _replaced(fresh.opt_state, AccelerateState, replaced)
        return fresh._replace(params=method.send(state), opt_state=opt_state)

    return Served(method, False, read, write)


def outer(rate: float, momentum: float, wait: bool) -> Served:
    """Delayed Nesterov; with `wait`, DiLoCo, whose checkpoints end the round with what has arrived."""
    method = delayed_nesterov(rate, momentum, wait=wait)
    leave = jax.jit(method.leave)

    def read(state: TrainState) -> Any:
        (held,) = _found(state.opt_state, OuterState)
        fresh = method.init(eval_params(state.opt_state, state.params))
        offset = None if fresh.offset is None else owned(_whole(held.method_state.offset, fresh.offset))
        return fresh._replace(offset=offset)

    def write(fresh: TrainState, state: Any) -> TrainState:
        if wait:  # Steps that count are in it: as if those were gone whose updates are still to come.
            state = leave(state._replace(workers=state.arrivals + 1), ())

        def replaced(node: OuterState) -> OuterState:
            held = node.evaluated._replace(
                iterate=_masked(state.params, node.evaluated.iterate), started=jnp.ones([], bool)
            )
            offset = node.method_state.offset
            offset = offset if state.offset is None else _masked(state.offset, offset)
            return node._replace(evaluated=held, method_state=node.method_state._replace(offset=offset))

        opt_state = _replaced(fresh.opt_state, OuterState, replaced)
        return fresh._replace(params=state.params, opt_state=opt_state)

    return Served(method, wait, read, write)


def checkpoint(
    served: Served, fresh: TrainState, state: Any, model_state: Any, step: int, norm: float
) -> TrainState:
    """The state of the run, as it would be without a server."""
    written = served.write(fresh, owned(state))
    count = jnp.asarray(step, jnp.int32)
    opt_state = _replaced(written.opt_state, optax.ScaleByScheduleState, lambda n: n._replace(count=count))
    mean = jnp.asarray(norm, jnp.float32)
    opt_state = _replaced(opt_state, GradientNormState, lambda n: n._replace(step=count, mean=mean))
    return written._replace(step=count, model_state=model_state, opt_state=opt_state)


def at_step(opt_state: Any, step: jax.Array) -> Any:
    """An optimizer's state whose learning rate follows the steps of the run, not those of one worker."""
    return _replaced(opt_state, optax.ScaleByScheduleState, lambda n: n._replace(count=step))


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3))
def receive(
    method: Method,
    wire: payload.Wire,
    state: Any,
    part: Any,
    model_state: Any,
    arrays: list[jax.Array],
    theirs: list[jax.Array],
    share: jax.Array,
) -> Received:
    """The update of these arrays, in the memory of `state` and `part`.

    `theirs` are the batch statistics of the worker. They count by `share`.
    """
    update = payload.decoded(arrays, state.params, wire)
    norm = optax.tree.norm(update)
    statistics = jax.tree.structure(model_state).unflatten(theirs)
    taken = jnp.isfinite(norm) & jnp.isfinite(optax.tree.norm(statistics))

    def mixed(mine: jax.Array, new: jax.Array) -> jax.Array:
        return mine + share * (new - mine) if jnp.issubdtype(mine.dtype, jnp.floating) else new

    def take() -> tuple[Any, Any, Any]:
        return *method.receive(state, part, update), jax.tree.map(mixed, model_state, statistics)

    state, part, model_state = jax.lax.cond(taken, take, lambda: (state, part, model_state))
    return Received(state, part, model_state, method.send(state), norm, taken)


def _masked(tree: Any, like: Any) -> Any:
    """The tree without the leaves that are masked in `like`, because they are frozen."""
    return jax.tree.map(lambda mine, x: mine if _is_masked(mine) else x, like, tree, is_leaf=_is_masked)


def _whole(tree: Any, default: Any) -> Any:
    """The tree with those of `default` where it is masked."""
    return jax.tree.map(lambda x, mine: mine if _is_masked(x) else x, tree, default, is_leaf=_is_masked)


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _replaced(tree: Any, kind: type, replace: Callable[[Any], Any]) -> Any:
    is_kind = lambda node: isinstance(node, kind)  # noqa: E731
    return jax.tree.map(lambda node: replace(node) if is_kind(node) else node, tree, is_leaf=is_kind)


def _found(tree: Any, kind: type) -> list[Any]:
    nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, kind))
    return [node for node in nodes if isinstance(node, kind)]
