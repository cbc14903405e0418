"""`nag-optax work`: computes gradients for a server, and looks for it again when it is gone."""

import dataclasses
import random
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

from nag_optax.parallel import wire
from nag_optax.parallel.client import Client, connect, parsed_address, read_token
from nag_optax.parallel.options import WorkOptions
from nag_optax.parallel.served import at_step
from nag_optax.train.data import Dataset, Statistics, load_dataset, source_of
from nag_optax.train.data.stream import epoch_order
from nag_optax.train.errors import InputError, collected_signals, interrupted, reason
from nag_optax.train.loop import Loop
from nag_optax.train.options import Options
from nag_optax.train.parallel import Device, find_devices
from nag_optax.train.rows import Split
from nag_optax.train.spec import Spec, resolve, with_data_at
from nag_optax.train.step import TrainState, gradients, train_step
from nag_optax.train.transfer import check_same_shapes


def work(options: WorkOptions, console: Console | None = None) -> int:
    """Works for a server until its run ends, and returns how many updates it has sent.

    Args:
        options: where the server is, and what to bring.
        console: shows what happens; None is standard output.

    Raises:
        InputError: if an option is wrong, the server does not take the token, or has dropped this worker.
        Interrupted: after SIGINT or SIGTERM, once it has left the server.
    """
    console = console or Console()
    if options.max_updates is not None and options.max_updates < 1:
        raise InputError(f"--max-updates {options.max_updates}: must be a whole number of at least 1")
    if not options.patience >= 0:
        raise InputError(f"--patience {options.patience}: must be at least 0")
    parsed_address(options.address)
    read_token(options.token_file)
    with collected_signals() as interrupts:
        return _Work(options, console, interrupts).carry_out()


class _Work:
    def __init__(self, options: WorkOptions, console: Console, interrupts: list[int]):
        self._options, self._console, self._interrupts = options, console, interrupts
        self._loop: WorkerLoop | None = None
        self._made_for: Any = None
        self._updates = 0

    def carry_out(self) -> int:
        lost, tries = time.monotonic(), 0
        while True:
            try:
                with connect(
                    self._options.address, self._options.token_file, wire_format=self._options.wire
                ) as server:
                    if self._with(server):
                        self._say(f"{self._updates} updates sent, {server.sent / 1e6:.1f} MB")
                        return self._updates
            except (OSError, wire.ProtocolError) as error:
                if isinstance(error, wire.WrongToken) and self._loop is None:
                    raise InputError(f"--address {self._options.address}: {error}") from None
                # A server that is killed amid the greeting looks as if it did not take the token.
                why = reason(error) or "it is silent"
                if self._lately:
                    lost, tries, self._lately = time.monotonic(), 0, False
                if time.monotonic() - lost > self._options.patience:
                    raise InputError(
                        f"--address {self._options.address}: no server answers ({why})"
                    ) from None
                if not tries:
                    self._say(f"no server at {self._options.address} ({why}); trying again")
            # At random, so that not all workers try at the same time.
            pause = min(5.0, 0.1 * 2**tries) * random.uniform(0.5, 1.0)
            tries += 1
            until = time.monotonic() + pause
            while time.monotonic() < until and not self._interrupts:
                time.sleep(0.02)
            if self._interrupts:
                raise interrupted(self._interrupts, f"; {self._updates} updates were sent")

    _lately = False
    """Whether the server has answered since it was last lost."""

    def _with(self, server: Client) -> bool:
        """Works until the run ends, or the updates are enough."""
        run = server.config, server.facts, server.local_steps
        if self._loop is None or run != self._made_for:
            self._loop, self._made_for = self._made(server), run
        loop = self._loop
        loop.begin(server.worker, server.step)
        said = f"worker {server.worker} of {self._options.address}: {server.config['dataset']} · "
        self._say(f"{said}{server.config['model']}, {len(loop.dataset.train.labels):,} images")
        while not server.done:
            if self._interrupts:
                raise interrupted(self._interrupts, f"; {self._updates} updates were sent")
            update, model_state, loss, correct = loop.update(server)
            server.push(update, model_state=model_state, loss=loss, correct=correct)
            self._lately = True
            self._updates += not server.done
            if self._updates == self._options.max_updates:
                break
        return True

    def _made(self, server: Client) -> "WorkerLoop":
        try:
            spec = resolve(Options(**server.config, run_dir=Path()))
        except TypeError as error:
            where = f"--address {self._options.address}"
            raise InputError(f"{where}: the server is of another version ({reason(error)})") from None
        spec = with_data_at(spec, self._options.data_dir)
        spec = dataclasses.replace(spec, device=self._options.device, resident="yes")
        if server.local_steps:  # The outer optimizer is the server's.
            spec = dataclasses.replace(spec, optimizer=spec.inner, inner=None)
        dataset = load_dataset(spec, server.facts, self._console)
        check_same_shapes(dataset, server.facts, source_of(spec))
        dataset = dataset._replace(statistics=Statistics.of(server.facts))
        loop = WorkerLoop(spec, dataset, find_devices(spec.device, 1), server.local_steps)
        if jax.tree.map(np.shape, loop.params) != jax.tree.map(np.shape, server.params):
            raise InputError(f"--address {self._options.address}: has another {spec.model} than this machine")
        return loop

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


class WorkerLoop(Loop):
    """What a worker computes on batches in an order of its own: a gradient, or how far some steps go."""

    def __init__(self, spec: Spec, dataset: Dataset, devices: list[Device], local_steps: int):
        super().__init__(spec, dataset, devices)
        if self.resident is None:
            raise InputError(
                f"--data-dir {spec.data_dir}: a worker must keep its images on the device; these do not fit"
            )
        self._local_steps = local_steps
        fresh = self.init()
        self.params = jax.eval_shape(lambda tree: tree, fresh.params)
        self._opt_state: Any = fresh.opt_state if local_steps else ()
        plan = self.plan

        def one(state: TrainState, train: Split, statistics: Any, epoch: Any, rows: Any, key: Any):
            images, labels = plan.batch(train, statistics, epoch, rows[0], key)
            (loss, (correct, model_state)), grads = gradients(
                plan.graphdef, state.params, state.model_state, images, labels, key, plan.how
            )
            grads = jax.tree.map(lambda g, f: jnp.zeros_like(g) if f else g, grads, self._frozen)
            if spec.clip_norm is not None:
                grads, _ = optax.clip_by_global_norm(spec.clip_norm).update(grads, optax.EmptyState())
            return grads, model_state, loss, correct / rows.size, ()

        def several(start: TrainState, train: Split, statistics: Any, epoch: Any, rows: Any, key: Any):
            def body(state: TrainState, i: jax.Array) -> tuple[TrainState, None]:
                of_step = jax.random.fold_in(key, i)
                images, labels = plan.batch(train, statistics, epoch, rows[i], of_step)
                step = train_step(plan.graphdef, plan.optimizer, state, images, labels, of_step, plan.how)
                return step, None

            end, _ = jax.lax.scan(body, start, jnp.arange(len(rows)))
            way = jax.tree.map(jnp.subtract, start.params, end.params)
            return way, end.model_state, end.loss_sum / rows.size, end.correct / rows.size, end.opt_state

        self._program = jax.jit(several if local_steps else one)

    def begin(self, worker: int, step: int) -> None:
        """Takes a new place at the server, and with it another order of the data.

        A server that goes on counts its workers from 1 again, and the step tells their orders apart.
        """
        self._taken, self._order = 0, (-1, np.empty(0, np.int32))
        self._order_of = partial(
            epoch_order,
            [self._spec.seed, worker, step],
            num_examples=self.num_examples,
            batch_size=self.batch_size,
        )
        self._dropout = jax.random.fold_in(jax.random.fold_in(jax.random.key(self._spec.seed), worker), step)

    def update(self, server: Client) -> tuple[Any, Any, float, float]:
        """The next update, batch statistics, the mean loss and the share of right answers."""
        count = max(1, self._local_steps)
        rows = np.stack([self._batch_rows(self._taken + i) for i in range(count)])
        key = jax.random.fold_in(self._dropout, self._taken)
        epoch = jnp.int32(self._taken // self.steps_per_epoch)
        self._taken += count
        opt_state = at_step(self._opt_state, jnp.int32(server.step))
        start = TrainState.fresh(server.params, server.model_state, opt_state)
        data = self.resident, self.dataset.statistics
        *update, loss, correct, self._opt_state = self._program(start, *data, epoch, rows, key)
        return *update, float(loss), float(correct)
