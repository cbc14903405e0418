"""`nag-optax serve`: a training run whose steps are the updates of its workers."""

import dataclasses
import json
import socket
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from nag_optax.parallel.options import (
    SERVER,
    TOKEN,
    ServedFolder,
    ServeOptions,
    Serving,
    serving,
    stored_serving,
    training,
)
from nag_optax.parallel.own_workers import check_installed, own_workers
from nag_optax.parallel.served import checkpoint, dana, outer
from nag_optax.parallel.server import Counts, Listener, Server, token_of
from nag_optax.train.data import Dataset
from nag_optax.train.errors import InputError, collected_signals, reason
from nag_optax.train.folder import RunFolder
from nag_optax.train.loop import Loop
from nag_optax.train.optimizers import make_schedule
from nag_optax.train.parallel import Device
from nag_optax.train.runner import train
from nag_optax.train.spec import Spec
from nag_optax.train.step import TrainState
from nag_optax.train.transfer import facts_of


def serve(options: ServeOptions, console: Console | None = None) -> dict[str, Any]:
    """Carries out a run with workers, or what is left of it, and returns its summary; see `runner.train`.

    Args:
        options: what to train, and how to serve. None stands for a default.
        console: shows progress and result; None is standard output.

    Raises:
        InputError: if an option or a file is wrong, or the port is taken.
        Interrupted: after SIGINT or SIGTERM, once a checkpoint is saved.
    """
    console = console or Console()
    stored: dict[str, Any] = {}
    if options.resume:
        stored = stored_serving(options.run_dir or ServedFolder.resolve(options).run_dir)
        options = dataclasses.replace(options, method=options.method or stored["method"])
    known, run = serving(options, stored), training(options)
    _check_place(known)
    check_installed(known)
    with collected_signals() as interrupts, ExitStack() as stack:
        make_loop = partial(ServedLoop, serving=known, console=console, interrupts=interrupts, stack=stack)
        return train(run, console, make_loop=make_loop)


def _check_place(known: Serving) -> None:
    """Raises, before a folder is made, if the address is taken."""
    try:
        Listener((known.host, known.port)).server_close()
    except (OSError, UnicodeError) as error:
        place = f"--host {known.host} --port {known.port}"
        raise InputError(f"{place}: cannot listen there ({reason(error)})") from None


class ServedLoop(Loop):
    """A loop whose steps are the updates that a server receives. The server starts with the first chunk."""

    command, begins = "serve", "waiting for workers"

    def __init__(
        self,
        spec: Spec,
        dataset: Dataset,
        devices: list[Device],
        *,
        serving: Serving,
        console: Console,
        interrupts: list[int],
        stack: ExitStack,
    ):
        super().__init__(spec, dataset, devices)
        self._serving, self._console, self._interrupts, self._stack = serving, console, interrupts, stack
        if serving.method == "dana":
            self._served = dana(make_schedule(spec, self.steps_per_epoch), spec.momentum or 0.0)
        else:
            rate, momentum = serving.outer_learning_rate, serving.outer_momentum
            self._served = outer(rate, momentum, serving.method == "diloco")
        self._server: Server | None = None
        self.beside = lambda: self._server.table() if self._server else ""

    @property
    def apart(self) -> float:
        return self.compile_seconds + self.waited

    def run_chunk(self, state: TrainState, num_steps: int) -> TrainState:
        """Waits until the workers have taken these steps. A signal ends the waiting sooner."""
        server = self._server = self._server or self._started(state)
        step = int(state.step)
        target = step + num_steps
        with server.changed:
            # Between epochs all wait, so that the parameters that are evaluated are those of the epoch's end.
            server.limit = (step // self.steps_per_epoch + 1) * self.steps_per_epoch
            server.changed.notify_all()
            while server.step < target and not self._interrupts:
                started, at_work, guests = time.perf_counter(), len(server.workers), server.guests
                server.changed.wait(0.2)
                passed = time.perf_counter() - started
                if not at_work and guests:
                    self.compile_seconds += passed
                elif not at_work:
                    self.waited += passed
            counts, step = server.counts, min(server.step, target)
            written = self._checkpoint(server, counts, step)
            if step % self.steps_per_epoch == 0:
                if server.step < step + self.steps_per_epoch:  # Else the next epoch has no update of its own.
                    server.counts = Counts()
                self._say(server.line())
        return jax.device_put(written, self._shardings(written))

    def _checkpoint(self, server: Server, counts: Counts, step: int) -> TrainState:
        norm = counts.norm / max(1, counts.updates)
        state = checkpoint(self._served, self.init(), server.state, server.model_state, step, norm)
        # The means that workers have told of stand for all steps of the epoch up to here.
        seen = ((step - 1) % self.steps_per_epoch + 1) * self.batch_size if step else 0
        loss, correct = (total / max(1, counts.told) for total in (counts.loss, counts.correct))
        return state._replace(
            loss_sum=jnp.float32(loss * seen), correct=jnp.asarray(round(correct * seen), jnp.int32)
        )

    def _started(self, state: TrainState) -> Server:
        known, folder = self._serving, self._spec.run_dir
        token = token_of(folder / TOKEN)
        spec = {
            "config": self._spec.to_dict(),
            "facts": facts_of(self.dataset),
            "local_steps": known.local_steps,
        }
        server = Server(
            self._served,
            self._served.read(state),
            state.model_state,
            int(state.step),
            spec,
            token,
            (known.host, known.port),
            known.timeout,
            self._say,
        )
        self._stack.push(lambda kind, *_: server.close(finished=kind is None))
        steps = int(state.step) % self.steps_per_epoch
        if steps:  # The rest of an epoch goes on with the means of its beginning.
            seen = steps * self.batch_size
            loss, correct = float(state.loss_sum) / seen, int(state.correct) / seen
            server.counts = Counts(told=1, loss=loss, correct=correct)
        host, port = server.address
        known = known._replace(port=port)
        RunFolder(self._spec).write(SERVER, json.dumps(known._asdict(), indent=2) + "\n")
        self._tell(known, folder)
        if known.workers:
            self._stack.enter_context(own_workers(known, self._spec, folder / TOKEN, self._say))
        return server

    def _tell(self, known: Serving, folder: Path) -> None:
        if known.host not in ("127.0.0.1", "::1", "localhost"):
            self._say(
                f"warning: port {known.port} of {known.host} is open to all machines that reach it; "
                "whoever has the token may join, and nothing is encrypted on the way"
            )
        name = socket.gethostname() if known.host in ("0.0.0.0", "::") else known.host
        host = f"[{name}]" if ":" in name else name
        self._say(f"join: nag-optax work --address {host}:{known.port} --token-file {folder / TOKEN}")

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
