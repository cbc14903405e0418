"""`delayed_nesterov`: gradients are applied as they come, momentum once a round."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nag_optax._arguments import at_step, check_number, check_schedule
from nag_optax._arrays import check_buffers, owned, step_buffers, zero_buffers
from nag_optax.acceleration import momentum as rules
from nag_optax.acceleration.step import Recursion
from nag_optax.parallel.method import Method


class DelayedState(NamedTuple):
    """State of `delayed_nesterov`.

    Attributes:
        params: θ, the parameters to evaluate and to send.
        offset: w = m·b, the kernel's buffer, in units of the pseudo-gradient; None when momentum is 0.
        rule_state: the state of the momentum rule.
        total: the sum of the updates of this round.
        arrivals: how many updates it has had, int32.
        workers: how many workers there are, int32.
        rounds: how many rounds are over, int32.
    """

    params: Any
    offset: Any
    rule_state: Any
    total: Any
    arrivals: jax.Array
    workers: jax.Array
    rounds: jax.Array


def delayed_nesterov(
    learning_rate: optax.ScalarOrSchedule = 0.7,
    momentum: rules.Momentum = 0.9,
    *,
    spread: float = 0.0,
    wait: bool = False,
) -> Method:
    """Delayed Nesterov: each arrival moves θ at once, and every N-th one updates the momentum.

    ```
    each arrival g of N workers:   D ← D + g
                                   θ ← θ − η·(g/N + c·m·b)
    the last of a round:           b ← m·b + D/N,   D ← 0
                                   θ ← θ − η·(g/N + (1 − c·(N − 1))·m·b)
    ```

    Momentum amplifies what is stale, so it grows once a round, from a mean. N arrivals of the same g are one
    Nesterov step on it. With `wait` nothing moves θ before the round is over. This is synchronous DiLoCo.

    N is the number of workers now. A round in which one leaves ends with what the others have sent.

    Args:
        learning_rate: η ≥ 0, a number or an Optax schedule of the round. Published: 0.7.
        momentum: m, a number in [0, 1), a schedule of the round or a rule, as the momentum of `accelerate`.
        spread: c ≥ 0, how much of the momentum each arrival within a round applies. Published: 0.
        wait: apply the mean at the end of a round, and not each arrival by itself.

    Returns:
        The functions, for gradients or pseudo-gradients. A worker has no part of its own.

    Raises:
        ValueError: if a Python number is out of range, or the trees of update and parameters differ.
        TypeError: if an argument is of the wrong kind, or a parameter is not of floating or complex dtype.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nag_optax.parallel import delayed_nesterov
        >>> server = delayed_nesterov(0.1)
        >>> state = server.init(jnp.array([1.0, -2.0]))
        >>> for _ in range(2):
        ...     state, worker = server.join(state)
        >>> for _ in range(100):
        ...     state, worker = server.receive(state, worker, 2 * server.send(state))
        >>> bool(jnp.all(jnp.abs(state.params) < 1e-2))
        True

    Source: Liu, Chhaparia, Douillard, Kale, Rusu, Shen, Szlam, Ranzato, *Asynchronous local-SGD training for
    language modeling*, arXiv:2401.09135, 2024, algorithm 3.
    """
    check_schedule("learning_rate", learning_rate, minimum=0)
    check_number("spread", spread, minimum=0)
    rule = rules.as_rule(momentum)
    recursion, plain = Recursion.of(rule), rule is rules.PLAIN

    def init(params: optax.Params) -> DelayedState:
        offset, rule_state = None, ()
        if not plain:
            offset = zero_buffers(params, None)
            rule_state = recursion.start(offset)
        counts = (jnp.zeros([], jnp.int32) for _ in range(3))
        return DelayedState(owned(params), offset, rule_state, zero_buffers(params, None), *counts)

    def join(state: DelayedState) -> tuple[DelayedState, tuple[()]]:
        return state._replace(workers=state.workers + 1), ()

    def moved(state: DelayedState, direction: Any, share: jax.typing.ArrayLike) -> DelayedState:
        """θ ← θ − η·share·direction."""
        rate = at_step("learning_rate", learning_rate, state.rounds) * share

        def leaf(d: jax.Array, p: jax.Array):
            return d, p - jnp.asarray(rate, d.dtype) * d

        return state._replace(params=step_buffers(leaf, direction, state.params)[1])

    def close(state: DelayedState) -> DelayedState:
        """Ends a round with the arrivals that it has had."""
        count = state.arrivals.astype(float)
        mean = jax.tree.map(lambda d: d / jnp.asarray(count, d.dtype), state.total)
        if wait:
            state = moved(state, mean, 1.0)
        if not plain:
            _, offset, rule_state = recursion.step(state.rule_state, state.offset, mean)
            state = state._replace(offset=offset, rule_state=rule_state)
            state = moved(state, offset, 1.0 if wait else 1 - spread * (count - 1))
        return state._replace(
            total=jax.tree.map(jnp.zeros_like, state.total),
            arrivals=jnp.zeros_like(state.arrivals),
            rounds=jnp.asarray(optax.safe_increment(state.rounds)),
        )

    def within(state: DelayedState) -> DelayedState:
        return state if plain or wait or spread == 0 else moved(state, state.offset, spread)

    def receive(state: DelayedState, worker: tuple[()], update: optax.Updates) -> tuple[DelayedState, Any]:
        check_buffers(update, None, state.total)
        if not wait:
            state = moved(state, update, 1 / jnp.maximum(state.workers, 1).astype(float))
        _, total = step_buffers(lambda g, d: (g, d + g), update, state.total)
        state = state._replace(total=total, arrivals=state.arrivals + 1)
        return jax.lax.cond(state.arrivals >= state.workers, close, within, state), worker

    def send(state: DelayedState) -> optax.Params:
        return state.params

    def leave(state: DelayedState, worker: tuple[()]) -> DelayedState:
        del worker
        state = state._replace(workers=jnp.maximum(state.workers - 1, 0))
        due = (state.arrivals > 0) & (state.arrivals >= state.workers)
        return jax.lax.cond(due, close, lambda state: state, state)

    return Method(init, join, receive, send, leave)
