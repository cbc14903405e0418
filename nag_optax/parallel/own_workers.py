"""The workers that a server starts on its own machine: Ray runs them, and runs them again when they die."""

import logging
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nag_optax.parallel.options import Serving, WorkOptions
from nag_optax.train.errors import InputError
from nag_optax.train.spec import Spec


@contextmanager
def own_workers(serving: Serving, spec: Spec, token: Path) -> Iterator[None]:
    """So many processes that join the server by its address, as others do, until the block ends.

    Raises:
        InputError: if Ray is missing, or does not start.
    """
    # Before Ray is imported: nothing is reported to its makers, and its own ports ask for the token, too.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN_PATH", str(token.resolve()))
    try:
        import ray
    except ImportError:
        raise InputError(
            f"--workers {serving.workers}: needs Ray: install the extra, pip install 'nag_optax[parallel]'"
        ) from None
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
    except (ConnectionError, RuntimeError, OSError, ValueError) as error:
        raise InputError(f"--workers {serving.workers}: Ray does not start ({error})") from None
    finally:
        for number, handler in handlers.items():  # Ray takes them for itself.
            signal.signal(number, handler)

    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(serving.host, serving.host)
    options = WorkOptions(
        f"[{host}]:{serving.port}" if ":" in host else f"{host}:{serving.port}",
        data_dir=None if spec.data_dir is None else spec.data_dir.resolve(),
        device=spec.device,  # pyright: ignore[reportArgumentType]
    )

    def work(options: WorkOptions, secret: str) -> None:
        from rich.console import Console

        from nag_optax.parallel.client import VARIABLE
        from nag_optax.parallel.worker import work

        os.environ[VARIABLE] = secret
        work(options, Console(quiet=True))

    class Own:
        def work(self, options: WorkOptions, secret: str) -> None:
            work(options, secret)

    actor: Any = ray.remote(max_restarts=-1, max_task_retries=-1, num_cpus=1)(Own)
    actors = [actor.remote() for _ in range(serving.workers)]
    tasks = [own.work.remote(options, token.read_text().strip()) for own in actors]
    try:
        yield
    finally:
        del tasks
        ray.shutdown()
