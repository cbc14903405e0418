"""`dana_zero`: Nesterov's momentum from many workers, each gradient taken where the parameters will be."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nag_optax._arguments import at_step, check_schedule
from nag_optax._arrays import check_buffers, owned, step_buffers, weighted_sum, zero_buffers
from nag_optax.parallel.method import Method


class DanaState(NamedTuple):
    """State of `dana_zero`.

    Attributes:
        params: θ, the iterate to evaluate.
        velocity: v₀, the sum of the workers' velocities, in units of the parameters.
        updates: how many gradients have been received, int32.
        workers: how many workers there are, int32.
    """

    params: Any
    velocity: Any
    updates: jax.Array
    workers: jax.Array


def dana_zero(learning_rate: optax.ScalarOrSchedule, momentum: optax.ScalarOrSchedule = 0.9) -> Method:
    """DANA-Zero: a velocity for each worker, and a lookahead along the sum of all of them.

    ```
    receive g of worker i, as update t:   v ← m_t·v_i − lr_t·g
                                          v₀ ← v₀ − v_i + v,   v_i ← v,   θ ← θ + v
    send:                                 θ + m_t·v₀
    ```

    While a worker computes, the others move θ. If each of them sends one gradient meanwhile, θ goes by about
    m·v₀, which `send` has added already: the gradient is taken near the point to which it is applied. With
    one worker this is `nag`, exact under schedules of both.

    Args:
        learning_rate: lr ≥ 0, a number or an Optax schedule of the number of updates.
        momentum: m, a number in [0, 1) or such a schedule.

    Returns:
        The functions. Each worker has a velocity, one buffer. When a worker leaves, its velocity is taken out
        of v₀. When a worker joins a server that has none, it begins with all of v₀, such as the momentum of a
        checkpoint.

    Raises:
        ValueError: if a Python number is out of range, or the trees of gradient and parameters differ.
        TypeError: if an argument is neither a number nor a schedule, or a parameter is not of floating or
            complex dtype.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nag_optax.parallel import dana_zero
        >>> server = dana_zero(0.05)
        >>> state = server.init(jnp.array([1.0, -2.0]))
        >>> workers, sent = [], []
        >>> for _ in range(3):
        ...     state, worker = server.join(state)
        ...     workers.append(worker)
        ...     sent.append(server.send(state))
        >>> for turn in range(300):  # Each gradient is two updates old.
        ...     i = turn % 3
        ...     gradient = 2 * sent[i]
        ...     state, workers[i] = server.receive(state, workers[i], gradient)
        ...     sent[i] = server.send(state)
        >>> bool(jnp.all(jnp.abs(state.params) < 1e-2))
        True

    Source: Hakimi, Barkai, Gabel, Schuster, *Taming momentum in a distributed asynchronous environment*,
    arXiv:1907.11612, 2019, algorithm 4.
    """
    check_schedule("learning_rate", learning_rate, minimum=0)
    check_schedule("momentum", momentum, minimum=0, below=1)

    def init(params: optax.Params) -> DanaState:
        counts = (jnp.zeros([], jnp.int32) for _ in range(2))
        return DanaState(owned(params), zero_buffers(params, None), *counts)

    def join(state: DanaState) -> tuple[DanaState, Any]:
        first = state.workers == 0
        worker = jax.tree.map(lambda v: jnp.where(first, v, jnp.zeros_like(v)), state.velocity)
        return state._replace(workers=state.workers + 1), worker

    def receive(state: DanaState, worker: Any, update: optax.Updates) -> tuple[DanaState, Any]:
        check_buffers(update, None, state.velocity, worker)
        rate = at_step("learning_rate", learning_rate, state.updates)
        m = at_step("momentum", momentum, state.updates)

        def leaf(g: jax.Array, v: jax.Array, total: jax.Array, p: jax.Array):
            new = weighted_sum(m, v, -rate, g)
            return g, new, (total - v) + new, p + new

        _, worker, total, params = step_buffers(leaf, update, worker, state.velocity, state.params)
        updates = jnp.asarray(optax.safe_increment(state.updates))
        return state._replace(params=params, velocity=total, updates=updates), worker

    def send(state: DanaState) -> optax.Params:
        m = at_step("momentum", momentum, state.updates)

        def leaf(v: jax.Array, p: jax.Array):
            return v, p + jnp.asarray(m, v.dtype) * v

        return step_buffers(leaf, state.velocity, state.params)[1]

    def leave(state: DanaState, worker: Any) -> DanaState:
        velocity = jax.tree.map(jnp.subtract, state.velocity, worker)
        return state._replace(velocity=velocity, workers=state.workers - 1)

    return Method(init, join, receive, send, leave)
