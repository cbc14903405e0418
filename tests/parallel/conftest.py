"""What the server's tests share: a server of a small quadratic in this process, and workers in others."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from nag_optax.parallel.dana import dana_zero
from nag_optax.parallel.served import Served
from nag_optax.parallel.server import Server
from tests.helpers import eventually

TOKEN = "0123456789abcdef" * 4
START = {"w": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.float32)}


def plain(method: Any, waits: bool = False) -> Served:
    """A method by itself: no run, no checkpoint."""
    return Served(method, waits, lambda state: state, lambda fresh, state: state)


@pytest.fixture
def serving() -> Iterator[Callable[..., Server]]:
    servers = []

    def start(served: Served | None = None, timeout: float = 20.0, params: Any = START) -> Server:
        served = served or plain(dana_zero(0.05))
        state = served.method.init({name: jnp.asarray(leaf) for name, leaf in params.items()})
        spec = {"config": {}, "facts": {}, "local_steps": 0}
        said: list[str] = []
        statistics = {"mean": jnp.zeros(2)}
        server = Server(
            served, state, statistics, 0, spec, TOKEN.encode(), ("127.0.0.1", 0), timeout, said.append
        )
        server.limit = 10**9
        server.said = said  # pyright: ignore[reportAttributeAccessIssue]
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close(finished=False)


def address(server: Server) -> str:
    host, port = server.address
    return f"{host}:{port}"


def port_of(folder: Path, before: int = 0) -> int:
    """Once it listens."""
    eventually(lambda: written(folder) != before)
    return json.loads((folder / "server.json").read_text())["port"]


def written(folder: Path) -> int:
    """When its server was started, 0 for never."""
    path = folder / "server.json"
    return path.stat().st_mtime_ns if path.exists() else 0


# A worker that waits, and sends the gradient of ½|p|² times a factor.
SCRIPT = """
import sys, time
import numpy as np
from nag_optax.parallel import connect
address, token, factor, pause = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
with connect(address, token) as server:
    while not server.done:
        time.sleep(pause)
        server.push({name: np.float32(factor) * leaf for name, leaf in server.params.items()})
"""


@pytest.fixture
def processes() -> Iterator[Callable[..., subprocess.Popen]]:
    started = []

    def start(server: Server, factor: float = 1.0, pause: float = 0.0) -> subprocess.Popen:
        command = [sys.executable, "-c", SCRIPT, address(server), TOKEN, str(factor), str(pause)]
        started.append(
            subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()
