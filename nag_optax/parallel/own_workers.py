"""The workers that a server starts itself. Ray runs them, and runs them again when they die."""

import importlib.util
import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nag_optax.parallel.options import Serving, WorkOptions
from nag_optax.train.errors import InputError
from nag_optax.train.spec import Spec


def check_installed(serving: Serving) -> None:
    """Refuses `--workers` without the extra, before a folder is made."""
    if serving.workers and importlib.util.find_spec("ray") is None:
        raise InputError(
            f"--workers {serving.workers}: needs Ray: install the extra, pip install 'nag_optax[parallel]'"
        )


@contextmanager
def own_workers(serving: Serving, spec: Spec, token: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Runs the `--workers` until the block ends. They join the server by its address, as others do.

    Args:
        serving: how many there are, and in which Ray.
        spec: of the run.
        token: the file of the run's token.
        say: told, in one line, that a worker has failed.

    Raises:
        InputError: if Ray does not start.
    """
    ray = _started(serving, token)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(serving.host, serving.host)
    options = WorkOptions(
        f"[{host}]:{serving.port}" if ":" in host else f"{host}:{serving.port}",
        data_dir=None if spec.data_dir is None else spec.data_dir.resolve(),
        device=spec.device,  # pyright: ignore[reportArgumentType]
    )

    class Own:
        def work(self, options: WorkOptions, secret: str) -> None:
            from rich.console import Console

            from nag_optax.parallel.client import VARIABLE
            from nag_optax.parallel.worker import work

            os.environ[VARIABLE] = secret
            work(options, Console(quiet=True))

    actor: Any = ray.remote(max_restarts=-1, max_task_retries=-1, num_cpus=1)(Own)
    actors = [actor.remote() for _ in range(serving.workers)]
    tasks, ended = [own.work.remote(options, token.read_text().strip()) for own in actors], threading.Event()

    def watch() -> None:
        left = tasks
        while left and not ended.is_set():
            over, left = ray.wait(left, timeout=0.5)
            for task in over:
                try:
                    ray.get(task)
                except ray.exceptions.RayError as error:
                    if not ended.is_set():
                        why = str(error).strip().rpartition("\n")[2]
                        say(f"one of --workers {serving.workers} has failed: {why}")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        ray.shutdown()


def _started(serving: Serving, token: Path) -> Any:
    """The module of Ray, which has started, or has joined the cluster of `--ray-address`."""
    # Ray reads these when it is imported.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Else some releases hide GPUs from workers that ask for none, and warn of it.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if serving.ray_address is None:  # A cluster has a token of its own, or none.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN_PATH", str(token.resolve()))
    import ray
    import ray.exceptions

    where = "" if serving.ray_address is None else f" --ray-address {serving.ray_address}"
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        # A child that begins another program at once is none of JAX's concern.
        warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
        ray.init(
            address=serving.ray_address or "local",
            include_dashboard=None if serving.ray_address else False,
            num_cpus=None if serving.ray_address else serving.workers,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, OSError, ValueError, ray.exceptions.RayError) as error:
        why = str(error).partition("\n")[0]
        raise InputError(f"--workers {serving.workers}{where}: Ray does not start ({why})") from None
    finally:
        for number, handler in handlers.items():  # Ray takes them for itself.
            signal.signal(number, handler)
    return ray
