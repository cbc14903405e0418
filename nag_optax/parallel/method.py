"""How a server uses the gradients of its workers, as pure functions of its state."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Method(NamedTuple):
    """The method of a server: five pure functions, each compiled once for any number of workers.

    The server keeps one state, and a part for each worker. A worker keeps nothing. It takes the gradient at
    the parameters of `send`, and the server gives that to `receive`.

    Attributes:
        init: `init(params) -> state`, without a worker.
        join: `join(state) -> (state, worker)`, where `worker` is the part of a new worker.
        receive: `receive(state, worker, update) -> (state, worker)`. The update is a gradient, or a
            pseudo-gradient: the parameters that were sent, less those that the worker reached.
        send: `send(state) -> params`, with which a worker begins.
        leave: `leave(state, worker) -> state`, without that worker.
    """

    init: Callable[[Any], Any]
    join: Callable[[Any], tuple[Any, Any]]
    receive: Callable[[Any, Any, Any], tuple[Any, Any]]
    send: Callable[[Any], Any]
    leave: Callable[[Any, Any], Any]
