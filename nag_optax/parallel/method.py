"""How a server uses the gradients of its workers, as pure functions of its state."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Method(NamedTuple):
    """A server's method: five pure functions, each compiled once for any number of workers.

    The server keeps one state, and a part of its own for each worker that is there. A worker keeps nothing:
    it takes the gradient where `send` says, and hands it to `receive`.

    Attributes:
        init: `init(params) -> state`, without a worker.
        join: `join(state) -> (state, worker)`, where `worker` is the part that goes with a new one.
        receive: `receive(state, worker, update) -> (state, worker)`, on a gradient, or on a pseudo-gradient:
            the parameters that were sent, less those that the worker reached.
        send: `send(state) -> params`, where a worker begins.
        leave: `leave(state, worker) -> state`, without that worker.
    """

    init: Callable[[Any], Any]
    join: Callable[[Any], tuple[Any, Any]]
    receive: Callable[[Any, Any, Any], tuple[Any, Any]]
    send: Callable[[Any], Any]
    leave: Callable[[Any, Any], Any]
