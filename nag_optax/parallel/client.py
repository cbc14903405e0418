"""`connect`: a client of a Nesterov server, for a worker of your own."""

import contextlib
import os
import secrets
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np

from nag_optax._arrays import check_buffers
from nag_optax.parallel import payload, wire
from nag_optax.train.errors import InputError, reason

VARIABLE = "NAG_OPTAX_TOKEN"
"""The environment variable that holds the token if no file is named."""
SHORTEST_TOKEN = 16
"""Characters of a token."""
_REPLY_SECONDS = 600.0
"""A round of DiLoCo may wait for its slowest worker."""


class Client:
    """A connection to a server, which `connect` makes.

    Attributes:
        config: the options of the run, as `config.json` keeps them.
        facts: what the data are: classes, image shape, mean and deviation of the training images.
        local_steps: how many steps a worker takes before it sends how far it came; 0 if the server takes
            gradients.
        worker: the number that the server gave to this client.
        params: nested dicts of float32 arrays. The next gradient is taken there.
        model_state: nested dicts of the batch statistics.
        step: how many steps the run has taken, an integer.
        done: whether the run has ended. The server then takes no more updates.
        sent, received: how many bytes of updates have gone, and of parameters have come.
    """

    def __init__(self, sock: socket.socket, format: payload.Wire):
        self._sock = sock
        self._format: payload.Wire = format
        self._seed = secrets.randbits(20)
        self._pushes = self._largest = 0
        self.sent = self.received = 0
        sock.settimeout(_REPLY_SECONDS)
        header, _ = self._ask(
            {"kind": "join", "wire": format, "name": f"{socket.gethostname()}:{os.getpid()}"}
        )
        wire.expect(header, "spec")
        self.config: dict[str, Any] = header["config"]
        self.facts: dict[str, Any] = header["facts"]
        self.local_steps: int = header["local_steps"]
        self.worker: int = header["worker"]
        self._like = payload.skeleton(header["params"]), payload.skeleton(header["model_state"])
        params, states = self._like
        self._arrays = payload.layout(params, payload.downlink(format)) + payload.plain(states)
        self._largest = payload.size(self._arrays)
        self.done = False
        self.fetch()

    def fetch(self) -> Any:
        """Asks for the newest parameters, and returns them. They are also in `params`."""
        self._take(*self._ask({"kind": "fetch"}))
        return self.params

    def push(
        self, update: Any, *, model_state: Any = None, loss: float | None = None, correct: float | None = None
    ) -> Any:
        """Sends a gradient, or how far K steps went: the parameters before them less those after.

        Args:
            update: a tree like `params`.
            model_state: batch statistics after the step; None for the server's own.
            loss: the mean over the examples; None if there is none.
            correct: the share of examples that were classified right, in [0, 1]; None if there is none.

        Returns:
            The newest parameters, which are also in `params`. The batch statistics and `step` are new, too.

        Raises:
            ValueError: if a tree or a shape is not the one of `params`, or of `model_state`.
            InputError: if the server has dropped this worker.
            wire.ProtocolError, OSError: if the server is gone.
        """
        found = update, self.model_state if model_state is None else model_state
        check_buffers(found, None, self._like)
        arrays = payload.encoded(update, self._format, self._pushes, self._seed)
        states = jax.tree.map(lambda like, x: np.asarray(x, like.dtype), self._like[1], found[1])
        body = payload.to_bytes([*arrays, *jax.tree.leaves(states)])
        self._pushes += 1
        self.sent += sum(map(len, body))
        self._take(*self._ask({"kind": "push", "loss": loss, "correct": correct}, body))
        return self.params

    def _take(self, header: wire.Header, body: memoryview) -> None:
        wire.expect(header, "params", "done")
        if header["kind"] == "done":
            self.done = True
            return
        self.received += len(body)
        leaves = payload.from_bytes(body, self._arrays)
        count = len(jax.tree.leaves(self._like[0]))
        leaves[:count] = (np.asarray(x, np.float32) for x in leaves[:count])
        self.params, self.model_state = jax.tree.structure(self._like).unflatten(leaves)
        self.step: int = header["step"]

    def _ask(self, header: wire.Header, body: Iterable[memoryview] = ()) -> tuple[wire.Header, memoryview]:
        wire.send(self._sock, header, body)
        # New room for each answer: its arrays are the caller's.
        answer, found = wire.receive(self._sock, bytearray(self._largest))
        if answer["kind"] == "dropped":
            raise InputError(f"the server has dropped this worker: {answer.get('why')}")
        return answer, found


@contextmanager
def connect(
    address: str, token: str | Path | None = None, *, wire_format: payload.Wire = "float32"
) -> Iterator[Client]:
    """Joins a server of `nag-optax serve`, and leaves it at the end of the block.

    Args:
        address: "HOST:PORT".
        token: the file of the token, as a `Path`, or the token itself; None takes the environment's
            `NAG_OPTAX_TOKEN`.
        wire_format: how updates are sent: "float32", or rounded at random to "bfloat16" or "int8".
            Parameters come in bfloat16 with the last two.

    Returns:
        A context manager of the `Client`.

    Raises:
        InputError: before anything is sent, if the address, the token or the format has a wrong form.
        wire.WrongToken: if the server does not take the token.
        OSError, wire.ProtocolError: if there is no server.

    Example:
        >>> from nag_optax.parallel import connect
        >>> def work(gradient):
        ...     with connect("127.0.0.1:7117") as server:
        ...         while not server.done:
        ...             server.push(gradient(server.params))
    """
    place, secret = parsed_address(address), read_token(token)
    if wire_format not in get_args(payload.Wire):
        raise InputError(f"wire_format {wire_format}: must be one of {', '.join(get_args(payload.Wire))}")
    with socket.create_connection(place, timeout=wire.GREETING_SECONDS) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire.enter(sock, secret)
        client = Client(sock, wire_format)
        try:
            yield client
        finally:
            with contextlib.suppress(OSError):
                wire.send(sock, {"kind": "leave"})


def parsed_address(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    with contextlib.suppress(UnicodeError):  # Of a host such as 10.0..1, which no resolver takes.
        if host.encode("idna") and port.isascii() and port.isdigit() and 0 < int(port) < 65536:
            return host, int(port)
    raise InputError(f"--address {address}: must be HOST:PORT")


def read_token(token: str | Path | None) -> bytes:
    if token is None and (token := os.environ.get(VARIABLE)) is None:
        raise InputError(
            f"--token-file: name the file that the server wrote, RUN_DIR/token, or set {VARIABLE}"
        )
    if isinstance(token, Path):
        try:
            token = token.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--token-file {token}: cannot be read ({reason(error)})") from None
    if len(token.strip()) < SHORTEST_TOKEN:
        raise InputError("--token-file: holds no token of a server")
    return token.strip().encode()
