"""A run and its folder: train, log, checkpoint, resume, sum up."""

import json
import math
import shlex
import statistics
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from typing import Any

import jax
from rich.console import Console

from nag_optax.train.advice import divergence, too_high
from nag_optax.train.checkpoints import Checkpoints
from nag_optax.train.data import Dataset, load_dataset, source_of
from nag_optax.train.errors import Diverged, InputError, StreamError
from nag_optax.train.folder import CHECKPOINTS, METRICS, SUMMARY, Follower, RunFolder
from nag_optax.train.follow import Arrivals, arrivals_of
from nag_optax.train.loop import Loop
from nag_optax.train.measure import Metrics
from nag_optax.train.options import Options
from nag_optax.train.processes import check_alike, devices_of_all, joined, largest
from nag_optax.train.progress import RunProgress, summary_table
from nag_optax.train.rows import Split
from nag_optax.train.signals import collected_signals, interrupted
from nag_optax.train.spec import Spec, resolve
from nag_optax.train.step import TrainState
from nag_optax.train.stopping import best_row, stop_reason
from nag_optax.train.tensorboard import check_installed, event_file
from nag_optax.train.transfer import Weights, check_same_data, facts_of, standardised_as, starting_weights


def train(
    options: Options, console: Console | None = None, *, make_loop: Callable[..., Loop] = Loop
) -> dict[str, Any]:
    """Carries out a run, or what is left of it, and returns its summary."""
    started = time.perf_counter()
    console = console or Console()
    with collected_signals() as interrupts, joined(spec := resolve(options)):
        devices = devices_of_all(spec.device, spec.num_devices)
        if spec.tensorboard:
            check_installed()
        if follows := jax.process_index() > 0:
            console = Console(quiet=True)
        folder = Follower(spec) if follows else RunFolder(spec)
        folder.check()
        arrivals = arrivals_of(spec, folder)
        among = {} if arrivals is None else {"among": arrivals.among}
        dataset = load_dataset(spec, None, console, devices[jax.process_index() * spec.num_devices], **among)
        check_alike(spec, dataset.digest, dataset.streamed)
        facts = Checkpoints(folder.path / CHECKPOINTS).data_facts() if spec.resume else None
        if facts is not None:
            check_same_data(dataset, facts, source_of(spec))
        loop = make_loop(spec, dataset, devices)
        weights = None
        if facts is None and spec.init_from is not None:
            weights = starting_weights(spec.init_from, loop, devices, lambda line: _say(console, line))
            facts = weights.facts
        if facts is not None:
            # Weights are of use with the standardisation that they were trained with.
            dataset = loop.dataset = standardised_as(dataset, facts)
        # Before the folder is touched: the counter of steps is an int32.
        if (steps := spec.num_epochs * loop.steps_per_epoch) >= 2**31:
            raise InputError(f"--num-epochs {spec.num_epochs}: makes {steps} steps; at most {2**31 - 1}")
        where = f"{len(devices)} {devices[0].platform} device{'s' * (len(devices) > 1)}"
        if spec.coordinator is not None:
            where += f" in {jax.process_count()} processes"
        _say(
            console,
            f"{loop.num_parameters:,} parameters on {where}, learning rate {spec.learning_rate:g}, "
            f"{steps:,} steps",
        )
        if dataset.streamed:
            by = f", decoded in {loop.num_workers} processes" * bool(loop.num_workers)
            _say(console, f"{len(dataset.train.labels):,} images are streamed{by}")
        if spec.dry_run:
            return {}
        with folder.claimed(), closing(loop):
            run = _Run(spec, folder, dataset, loop, weights, arrivals, console, interrupts, started)
            return run.carry_out()


class _Run:
    def __init__(
        self,
        spec: Spec,
        folder: RunFolder,
        dataset: Dataset,
        loop: Loop,
        weights: Weights | None,
        arrivals: Arrivals | None,
        console: Console,
        interrupts: list[int],
        started: float,
    ):
        self._spec, self._dataset, self._loop = spec, dataset, loop
        self._weights, self._arrivals = weights, arrivals
        self._console, self._interrupts, self._started = console, interrupts, started
        self._folder, self._num_epochs = folder, spec.num_epochs
        self._checkpoints = Checkpoints(folder.path / CHECKPOINTS)
        self._earlier_seconds = self._epoch_seconds = self._waited = 0.0
        self._loss_of_a_guess = math.log(dataset.num_classes)
        self._rows: list[dict[str, Any]] = []

    def carry_out(self) -> dict[str, Any]:
        state, loop = self._begin(), self._loop
        total, begin = self._num_epochs * loop.steps_per_epoch, int(state.step)
        if (begin == total or self._stopped()) and (summary := self._folder.summary()):
            self._say(f"{self._folder.path} is finished already")
            self._console.print(summary_table(summary, str(self._folder.path)))
            return summary
        writes_events = self._spec.tensorboard and jax.process_index() == 0
        events = event_file(self._folder.path, begin) if writes_events else nullcontext()
        progress = RunProgress(self._console, self._num_epochs, loop.steps_per_epoch, begin, loop.beside)
        with progress as self._progress, events as self._add_event:
            if len(self._rows) < begin // loop.steps_per_epoch:
                self._end_epoch(state, len(self._rows) + 1)
            while (step := int(state.step)) < total and not self._stopped():
                state = self._epoch(state, step // loop.steps_per_epoch + 1)
        return self._finish(state)

    def _begin(self) -> TrainState:
        """A fresh state, one with the weights of another run, or that of the newest checkpoint."""
        weights = self._weights
        state = self._loop.init(None if weights is None else (weights.params, weights.model_state))
        restored = self._checkpoints.restore(state, self._say) if self._spec.resume else None
        step = 0 if restored is None else restored.step
        done = step // self._loop.steps_per_epoch
        self._rows = [row for row in self._folder.rows() if row["epoch"] <= done]
        # A signal during the evaluation leaves one to be made.
        if done - len(self._rows) > (step % self._loop.steps_per_epoch == 0 < step):
            raise InputError(
                f"{self._folder.path / METRICS}: holds {len(self._rows)} of the {done} epochs of the "
                "checkpoint; bring the file back, or start again with --overwrite"
            )
        if step > self._num_epochs * self._loop.steps_per_epoch:
            raise InputError(
                f"--num-epochs {self._num_epochs}: {self._folder.path} is in epoch "
                f"{-(-step // self._loop.steps_per_epoch)} already; name more"
            )
        if self._spec.resume:
            self._folder.write_config()  # Not sooner: options that fit nothing must not stay.
        if restored is None:
            if self._spec.resume:
                self._say(f"no checkpoint in {self._folder.path}: starting from the beginning")
            if weights is not None:
                self._save(state)  # From here on the other run is not needed.
            return state
        self._earlier_seconds = restored.notes["wall_seconds"]
        self._epoch_seconds = restored.notes["epoch_seconds"]
        self._waited = restored.notes.get("waiting_seconds", 0.0)
        self._loop.compile_seconds += restored.notes["compile_seconds"]
        self._say(f"resuming {self._folder.path} from step {step}")
        return restored.state

    def _epoch(self, state: TrainState, epoch: int) -> TrainState:
        loop = self._loop
        begin = (epoch - 1) * loop.steps_per_epoch
        if self._arrivals is not None:
            self._arrivals.take_in(loop, self._dataset, epoch, self._progress.say)
        for length in loop.chunk_lengths(int(state.step) - begin):
            self._look(state)
            compiled, started, due = loop.compile_seconds, time.perf_counter(), int(state.step) + length
            try:
                state = loop.run_chunk(state, length)
            except StreamError as error:
                self._save(state)
                saved = f"step {int(state.step)} is saved; continue with: {self._resume_command()}"
                raise InputError(f"{error}; {saved}") from None
            compiling = loop.compile_seconds - compiled
            self._epoch_seconds += time.perf_counter() - started - compiling
            if (step := int(state.step)) < due:
                self._look(state)  # A loop that waits for others gives up after a signal.
            mean_loss = float(state.loss_sum) / ((step - begin) * loop.batch_size)
            if not math.isfinite(mean_loss):
                raise Diverged(self._divergence(step, epoch))
            self._progress.advance(step, epoch, mean_loss)
        self._end_epoch(state, epoch)
        return state

    def _end_epoch(self, state: TrainState, epoch: int) -> None:
        self._log(state, epoch)
        self._save(state)

    def _log(self, state: TrainState, epoch: int) -> None:
        seen = self._loop.steps_per_epoch * self._loop.batch_size
        test = None if self._spec.train_only else self._evaluate(state, self._dataset.test)
        held_out = self._dataset.validation
        validation = None if held_out is None else self._evaluate(state, held_out)
        norm = self._loop.gradient_norm(state)
        row = {
            "epoch": epoch,
            "step": int(state.step),
            "train_loss": float(state.loss_sum) / seen,
            "train_accuracy": int(state.correct) / seen,
            "validation_loss": None if validation is None else validation.loss,
            "validation_accuracy": None if validation is None else validation.accuracy,
            "test_loss": None if test is None else test.loss,
            "test_accuracy": None if test is None else test.accuracy,
            "learning_rate": self._loop.learning_rate(state),
            "gradient_norm": norm if math.isfinite(norm) else None,  # JSON knows no infinity.
            "seconds": self._epoch_seconds,
            "images_per_second": seen / self._epoch_seconds,
            "waiting_seconds": self._waited + self._loop.waited,
        }
        if test is not None and not math.isfinite(test.loss):
            raise Diverged(self._divergence(int(state.step), epoch))
        self._rows.append(row)
        self._epoch_seconds = self._waited = self._loop.waited = 0.0
        self._folder.write_rows(self._rows)
        if self._add_event is not None:
            self._add_event(row)
        self._progress.epoch(row)
        if self._first_far_off() is row:
            self._progress.say(self._warning(row))

    def _save(self, state: TrainState) -> None:
        if not self._loop.is_finite(state):
            raise Diverged(self._divergence(int(state.step), int(state.step) // self._loop.steps_per_epoch))
        notes = {
            "wall_seconds": self._earlier_seconds + time.perf_counter() - self._started,
            "epoch_seconds": self._epoch_seconds,
            "waiting_seconds": self._waited + self._loop.waited,
            "compile_seconds": self._loop.compile_seconds,
            "data": facts_of(self._dataset),
        }
        best = best_row(self._rows)
        self._checkpoints.save(int(state.step), state, notes, None if best is None else best["step"])

    def _stopped(self) -> str | None:
        return stop_reason(self._rows, self._spec.target_accuracy, self._spec.patience)

    def _evaluate(self, state: TrainState, split: Split) -> Metrics:
        return self._loop.evaluate(state, split, lambda: self._look(state))

    def _look(self, state: TrainState) -> None:
        """Stops every process if a signal came to one of them."""
        if not (number := largest(max(self._interrupts, default=0))):
            return
        self._interrupts.insert(0, number)
        step = int(state.step)
        self._save(state)
        raise interrupted(
            self._interrupts, f" at step {step}, which is saved; continue with: {self._resume_command()}"
        )

    def _divergence(self, step: int, epoch: int) -> str:
        return divergence(self._spec, self._folder.path, self._checkpoints.steps(), step, epoch)

    def _first_far_off(self) -> dict[str, Any] | None:
        """The first epoch with more than twice the loss of a guess, where no model begins."""
        return next((row for row in self._rows if row["train_loss"] > 2 * self._loss_of_a_guess), None)

    def _warning(self, row: dict[str, Any]) -> str:
        return too_high(self._spec, row, self._loss_of_a_guess)

    def _finish(self, state: TrainState) -> dict[str, Any]:
        train = self._evaluate(state, self._dataset.train)
        if not math.isfinite(train.loss):
            raise Diverged(self._divergence(int(state.step), self._num_epochs))
        test = None if self._spec.train_only else self._evaluate(state, self._dataset.test)
        # The first epoch warms caches up.
        seconds = statistics.median(
            [row["seconds"] for row in self._rows[1:]] or [row["seconds"] for row in self._rows]
        )
        summary = {
            "train_accuracy": train.accuracy,
            "test_accuracy": None if test is None else test.accuracy,
            "train_loss": train.loss,
            "test_loss": None if test is None else test.loss,
            "epochs": len(self._rows),
            "steps": int(state.step),
            "wall_seconds": self._earlier_seconds + time.perf_counter() - self._started,
            "seconds_per_epoch": seconds,
            "steps_per_second": self._loop.steps_per_epoch / seconds,
            "compile_seconds": self._loop.compile_seconds,
            "parameters": self._loop.num_parameters,
        }
        if (best := best_row(self._rows)) is not None:
            summary |= {name: self._rows[-1][name] for name in ("validation_accuracy", "validation_loss")}
            summary |= {"best_epoch": best["epoch"], "best_validation_accuracy": best["validation_accuracy"]}
            early = len(self._rows) < self._num_epochs
            summary["stopped"] = self._stopped() if early else None
            if early:
                self._say(f"stopped after epoch {len(self._rows)}: {summary['stopped']}")
        if self._spec.init_from is not None:
            summary["init_from"] = str(self._spec.init_from)
        if self._spec.freeze:
            summary["frozen_parameters"] = self._loop.num_frozen
        if self._spec.prune is not None:
            summary |= self._without_zero_units(state)
        title = f"{self._spec.dataset} · {self._spec.model} · {self._spec.optimizer}"
        self._folder.draw(self._rows, title)
        self._folder.write(SUMMARY, json.dumps(summary, indent=2) + "\n")
        self._console.print(summary_table(summary, str(self._folder.path)))
        if train.loss > self._loss_of_a_guess and (row := self._first_far_off()):
            self._say(self._warning(row))
        return summary

    def _without_zero_units(self, state: TrainState) -> dict[str, Any]:
        """The summary of the pruned model."""
        pruned = self._loop.pruned(state)

        def accuracy(split: Split) -> float:
            return self._loop.evaluate_model(pruned.model, split).accuracy

        return {
            "units": {name: len(zero) for name, zero in pruned.zero_units.items()},
            "zero_units": {name: int(zero.sum()) for name, zero in pruned.zero_units.items()},
            "pruned_parameters": pruned.num_parameters,
            "pruned_train_accuracy": accuracy(self._dataset.train),
            "pruned_test_accuracy": None if self._spec.train_only else accuracy(self._dataset.test),
        }

    def _resume_command(self) -> str:
        return f"nag-optax {self._loop.command} --resume --run-dir {shlex.quote(str(self._folder.path))}"

    def _say(self, line: str) -> None:
        _say(self._console, line)


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True)
