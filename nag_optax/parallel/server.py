"""The Nesterov server: its door, a thread for each worker, and one lock around all that workers change."""

import os
import re
import secrets
import socket
import socketserver
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from nag_optax.parallel import payload, wire
from nag_optax.parallel.client import SHORTEST_TOKEN
from nag_optax.parallel.served import Served, receive
from nag_optax.train.errors import InputError

MOST_CONNECTIONS = 256
REFUSALS = 10
"""A worker is dropped after so many updates in a row that are not finite."""
_FIRST_SECONDS = 600.0
"""How long the first update of a worker may take, because it compiles before it."""


@dataclass
class Worker:
    """What a server knows of a worker."""

    number: int
    name: str
    part: Any
    seen: int
    """How many updates the server had when it sent this worker its parameters."""
    updates: int = 0
    refused: int = 0
    refused_in_a_row: int = 0
    staleness: float = 0.0
    """How many updates of others arrive while it computes: a running mean."""
    times: deque[float] = field(default_factory=lambda: deque(maxlen=50))

    def rate(self) -> float:
        """Updates a second, lately."""
        return (len(self.times) - 1) / (time.monotonic() - self.times[0]) if len(self.times) > 1 else 0.0


@dataclass
class Counts:
    """Sums over the updates of an epoch: of their mean losses, shares of right answers and norms."""

    told: int = 0
    loss: float = 0.0
    correct: float = 0.0
    norm: float = 0.0
    updates: int = 0


class Server:
    """Listens from its start to its `close`.

    Args:
        served: the method.
        state: the method's state.
        model_state: batch statistics.
        step: where the run stands. An update is one step, or `local_steps`. At the step `limit` all wait.
        spec: what a worker is told: config, facts, local_steps.
        token: whoever knows it may join.
        address: host and port; port 0 takes a free one, which `address` then names.
        timeout: seconds of silence after which a worker is no longer counted.
        say: called with a line when a worker comes or goes.
    """

    def __init__(
        self,
        served: Served,
        state: Any,
        model_state: Any,
        step: int,
        spec: dict[str, Any],
        token: bytes,
        address: tuple[str, int],
        timeout: float,
        say: Callable[[str], None],
    ):
        self._served, self.state, self.model_state = served, state, model_state
        self.step, self.limit, self.updates, self.ended, self._closing = step, step, 0, False, False
        self._open: set[socket.socket] = set()
        self._steps = max(1, spec["local_steps"])
        self._spec, self._token, self._timeout, self._say = spec, token, timeout, say
        self.workers: dict[int, Worker] = {}
        self.guests = 0
        """How many have joined and are not gone; those who are no workers yet compile."""
        self.counts, self._joined = Counts(), 0
        self._places = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self.changed = threading.Condition()
        # Compiled, what is sent is no part of the state, whose memory the next update takes.
        self._send, self._join, self._leave = (
            jax.jit(f) for f in (served.method.send, served.method.join, served.method.leave)
        )
        self._sent = self._send(state)
        self._listener = Listener(address, self)
        self.address = self._listener.server_address[:2]
        threading.Thread(target=self._listener.serve_forever, args=(0.1,), daemon=True).start()

    def close(self, finished: bool, patience: float = 3.0) -> None:
        """Hangs up. Those who joined a finished run are told so first. Others look for the server again."""
        with self.changed:
            self.ended, self._closing = finished, True
            self.changed.notify_all()
        until = time.monotonic() + patience
        while finished and self.guests and time.monotonic() < until:
            time.sleep(0.02)
        self._listener.shutdown()
        self._listener.server_close()
        for sock in list(self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        # A thread that is within JAX when Python ends takes the process down.
        until = time.monotonic() + patience
        while self._open and time.monotonic() < until:
            time.sleep(0.02)

    def table(self) -> Table:
        """The workers, one a row."""
        if not self.workers:
            return Table("nobody is at work", box=None)
        table = Table("worker", "from", "updates", "a second", "staleness", "refused", box=None)
        for w in list(self.workers.values()):
            row = w.number, w.name, w.updates, f"{w.rate():.1f}", f"{w.staleness:.1f}", w.refused
            table.add_row(*map(str, row))
        return table

    def line(self) -> str:
        """How many workers there are, how fast they are, and how stale, in one line."""
        workers = list(self.workers.values())
        staleness = [w.staleness for w in workers if w.updates]
        mean = f", staleness {sum(staleness) / len(staleness):.1f}" if staleness else ""
        rate = sum(w.rate() for w in workers)
        return f"{len(workers)} worker{'s' * (len(workers) != 1)}, {rate:.1f} updates a second{mean}"

    # Each connection has a thread, which runs what follows.

    def talk(self, sock: socket.socket, host: str) -> None:
        if not self._places.acquire(blocking=False):
            return
        worker, why = None, ""
        self._open.add(sock)
        try:
            wire.admit(sock, self._token)
            sock.settimeout(_FIRST_SECONDS)
            header, _ = wire.receive(sock)
            wire.expect(header, "join")
            format: Any = header.get("wire")
            if format not in get_args(payload.Wire):
                raise wire.ProtocolError(f"wire {format!r}")
            with self.changed:
                self._joined += 1
                number = self._joined
                params, states = payload.names(self._sent), payload.names(self.model_state)
            wire.send(
                sock,
                {"kind": "spec", "worker": number, "params": params, "model_state": states} | self._spec,
            )
            name = re.sub(r"[^\w.:-]", "?", str(header.get("name"))[:60])
            worker = Worker(number, f"{host} {name}", None, self.updates)
            with self.changed:
                self.guests += 1
                self.changed.notify_all()
            self._serve(sock, worker, format)
        except wire.WrongToken:
            self._say(f"refused a connection from {host}: wrong token")
        except (wire.ProtocolError, OSError) as error:
            if worker is None and not isinstance(error, wire.Closed):
                self._say(f"refused a connection from {host}: {error or type(error).__name__}")
            if isinstance(error, TimeoutError):
                why = f", silent for --timeout {self._timeout:g}"
        finally:
            if worker is not None:
                self._left(worker, why)
                with self.changed:
                    self.guests -= 1
                    self.changed.notify_all()
            self._places.release()
            self._open.discard(sock)

    def _serve(self, sock: socket.socket, worker: Worker, format: payload.Wire) -> None:
        arrays, states = payload.layout(self._sent, format), payload.plain(self.model_state)
        room = bytearray(payload.size(arrays) + payload.size(states))
        while True:
            header, body = wire.receive(sock, room)
            wire.expect(header, "fetch", "push", "leave")
            if header["kind"] == "leave":
                return
            if header["kind"] == "push":
                found = payload.from_bytes(body, [*arrays, *states])
                self._push(worker, header, format, found[: len(arrays)], found[len(arrays) :])
                sock.settimeout(self._timeout)
                if worker.refused_in_a_row >= REFUSALS:
                    why = f"its last {REFUSALS} updates were not finite"
                    self._left(worker)  # First, so that nobody counts a worker that knows it was dropped.
                    wire.send(sock, {"kind": "dropped", "why": why})
                    self._say(f"dropped worker {worker.number} ({worker.name}): {why}")
                    return
            with self.changed:
                ended, sent, states_now, step = self.ended, self._sent, self.model_state, self.step
                worker.seen = self.updates
            if self._closing and not ended:
                return
            if ended:
                wire.send(sock, {"kind": "done"})
                continue
            if payload.downlink(format) == "bfloat16":
                sent = payload.narrow(sent)
            leaves = jax.tree.leaves((sent, states_now))
            wire.send(sock, {"kind": "params", "step": step}, payload.to_bytes(leaves))

    def _push(
        self,
        worker: Worker,
        header: wire.Header,
        format: payload.Wire,
        arrays: list[np.ndarray],
        states: list[np.ndarray],
    ) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self._closing or self.step < self.limit)
            if self._closing:
                return
            if worker.number not in self.workers:
                # Only now, because nobody should wait for a worker that still compiles.
                self.state, worker.part = self._join(self.state)
                self.workers[worker.number] = worker
                self._say(f"worker {worker.number} is at work ({worker.name}); {self.line()}")
            share = jnp.float32(1 / len(self.workers))
            got = receive(
                self._served.method, format, self.state, worker.part, self.model_state, arrays, states, share
            )
            self.state, worker.part, self.model_state, self._sent = got[:4]
            worker.times.append(time.monotonic())
            if not bool(got.taken):
                worker.refused, worker.refused_in_a_row = worker.refused + 1, worker.refused_in_a_row + 1
                return
            gap = self.updates - worker.seen
            worker.updates, worker.refused_in_a_row = worker.updates + 1, 0
            worker.staleness += (gap - worker.staleness) / min(worker.updates, 20)
            self.updates, self.step = self.updates + 1, self.step + self._steps
            self._count(header, float(got.norm))
            self.changed.notify_all()
            if self._served.waits:
                self._wait(worker)

    def _wait(self, worker: Worker) -> None:
        """Waits until the round is over, because the worker begins its next one there."""
        mine = int(self.state.rounds)
        if int(self.state.arrivals):
            self.changed.wait_for(lambda: self._closing or int(self.state.rounds) != mine)

    def _count(self, header: wire.Header, norm: float) -> None:
        counts = self.counts
        counts.updates, counts.norm = counts.updates + 1, counts.norm + norm
        loss, correct = header.get("loss"), header.get("correct")
        if not isinstance(loss, int | float) or not isinstance(correct, int | float):
            return
        if abs(loss) < 1e30 and 0 <= correct <= 1:  # Else the sums would not fit the run's arrays.
            counts.told += 1
            counts.loss, counts.correct = counts.loss + loss, counts.correct + correct

    def _left(self, worker: Worker, why: str = "") -> None:
        with self.changed:
            if self.workers.pop(worker.number, None) is None:
                return
            self.state = self._leave(self.state, worker.part)
            self._sent = self._send(self.state)
            self.changed.notify_all()
            if not self._closing:
                self._say(f"worker {worker.number} is gone ({worker.name}{why}); {self.line()}")


class Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], server: Server | None = None):
        self._server = server
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, socketserver.BaseRequestHandler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert self._server is not None
        self._server.talk(request, client_address[0])


def token_of(path: Path) -> bytes:
    """The token in this file, which only its owner can read. The first start makes it."""
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
    token = path.read_bytes().strip()
    if len(token) < SHORTEST_TOKEN:  # A kill before the line was written leaves an empty file.
        raise InputError(f"{path}: holds no token; remove it, and the next start makes one")
    return token
