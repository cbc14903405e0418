"""A run: it trains, logs, saves, resumes and sums up in its folder."""

import json
import math
import shlex
import statistics
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
from rich.console import Console

from nag_optax.train.checkpoints import Checkpoints
from nag_optax.train.checks import flag
from nag_optax.train.curves import check_installed, event_file
from nag_optax.train.data import Dataset, Statistics, load_dataset, source_of
from nag_optax.train.errors import Diverged, InputError, StreamError, collected_signals, interrupted
from nag_optax.train.folder import CHECKPOINTS, METRICS, SUMMARY, Follower, RunFolder, as_begun
from nag_optax.train.follow import Arrivals
from nag_optax.train.loop import Loop
from nag_optax.train.metrics import best_row, divergence, stop_reason, too_high
from nag_optax.train.options import Options
from nag_optax.train.parallel import check_alike, devices_of_all, joined, largest
from nag_optax.train.progress import LiveBar, busy, epoch_line, say, shown, summary_table
from nag_optax.train.registry import preset_row
from nag_optax.train.rows import Split
from nag_optax.train.spec import Spec, fit_batch, resolve
from nag_optax.train.step import TrainState
from nag_optax.train.transfer import check_same_data, facts_of, starting_weights


def train(
    options: Options, console: Console | None = None, *, make_loop: Callable[..., Loop] = Loop
) -> dict[str, Any]:
    """Carries out a run, or what is left of it, and returns the content of `summary.json`.

    `make_loop` makes the `Loop` that takes the steps. The errors are those of `trained.run`.
    """
    started = time.perf_counter()
    console = console or Console()
    with collected_signals() as interrupts, joined(spec := resolve(as_begun(options))):
        with busy(console, "looking for devices"):
            devices = devices_of_all(spec.device, spec.num_devices)
        if spec.tensorboard:
            check_installed()
        if follows := jax.process_index() > 0:
            console = Console(quiet=True)
        folder = Follower(spec) if follows else RunFolder(spec)
        folder.check()
        arrivals = Arrivals(spec, folder) if spec.follow else None
        among = {} if arrivals is None else {"among": arrivals.among}
        dataset = load_dataset(spec, None, console, devices[jax.process_index() * spec.num_devices], **among)
        check_alike(spec, dataset.digest, dataset.streamed)
        facts = Checkpoints(folder.path / CHECKPOINTS).data_facts() if spec.resume else None
        if facts is not None:
            check_same_data(dataset, facts, source_of(spec))
        count = len(dataset.train.labels)
        folder.spec = spec = fit_batch(spec, count, partial(say, console), jax.process_count())
        with busy(console, "making the model"):
            loop = make_loop(spec, dataset, devices)
        weights = None
        if facts is None and spec.init_from is not None:
            weights, facts = starting_weights(spec.init_from, loop, devices, partial(say, console))
        if facts is not None:
            # Weights are of use with the standardisation that they were trained with.
            dataset = loop.dataset = dataset._replace(statistics=Statistics.of(facts))
        where = f"{len(devices)} {devices[0].platform} device{'s' * (len(devices) > 1)}"
        if spec.coordinator is not None:
            where += f" in {jax.process_count()} processes"
        if spec.preset is not None:
            chosen = (f"{flag(name)} {getattr(spec, name)}" for name in preset_row(spec.preset).options)
            say(console, f"--preset {spec.preset}: {' '.join(chosen)}")
        say(console, dataset.sizes)
        rate = f"learning rate {spec.learning_rate:g}"
        steps = spec.num_epochs * loop.steps_per_epoch
        how_long = f"{steps:,} step{'s' * (steps > 1)} of {spec.batch_size} images"
        say(console, f"{loop.num_parameters:,} parameters on {where}\n{how_long}, {rate}")
        if dataset.streamed:
            by = f", decoded in {loop.num_workers} processes" * bool(loop.num_workers)
            say(console, f"{len(dataset.train.labels):,} images are streamed{by}")
        if spec.dry_run:
            return {}
        with folder.claimed(), closing(loop):
            run = _Run(spec, folder, dataset, loop, weights, arrivals, console, interrupts, started)
            return run.carry_out()


@dataclass
class _Run:
    spec: Spec
    folder: RunFolder
    dataset: Dataset
    loop: Loop
    weights: tuple[Any, Any] | None
    arrivals: Arrivals | None
    console: Console
    interrupts: list[int]
    started: float
    earlier_seconds: float = 0.0
    epoch_seconds: float = 0.0
    waited: float = 0.0
    warned: bool = False
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.checkpoints = Checkpoints(self.folder.path / CHECKPOINTS)
        self.loss_of_a_guess = math.log(self.dataset.num_classes)
        self.test = None if self.spec.train_only else self.dataset.test
        self.say = partial(say, self.console)

    def carry_out(self) -> dict[str, Any]:
        state, loop = self.begin(), self.loop
        total, begin = self.spec.num_epochs * loop.steps_per_epoch, int(state.step)
        if (begin == total or self.stopped()) and (summary := self.folder.read(SUMMARY)):
            why = f": {self.stopped()}" if begin < total else ""  # More epochs alone do not go on with it.
            self.say(f"{self.folder.path} is finished already{why}")
            self.console.print(summary_table(summary, str(self.folder.path)))
            return summary
        writes_events = self.spec.tensorboard and jax.process_index() == 0
        events = event_file(self.folder.path, begin) if writes_events else nullcontext()
        task = {"description": loop.begins, "total": total, "completed": begin, "loss": ""}
        bar = LiveBar(self.console, "{task.fields[loss]}", loop.beside, **task)
        with bar as self.bar, events as self.add_event:
            if self.evaluated * loop.steps_per_epoch < begin == loop.stretch(begin - 1).stop:
                self.log(state)
                self.save(state)
            while int(state.step) < total and not self.stopped():
                state = self.advance(state)
        return self.finish(state)

    def begin(self) -> TrainState:
        """A fresh state, the weights of another run, or the newest checkpoint."""
        path, length, weights = self.folder.path, self.loop.steps_per_epoch, self.weights
        state = self.loop.init(weights)
        restored = self.checkpoints.restore(state, self.say) if self.spec.resume else None
        step = 0 if restored is None else restored.step
        done = step // length
        self.rows = [row for row in self.folder.rows() if row["epoch"] <= done]
        # A signal during the evaluation leaves one to be made.
        if step and self.evaluated * length < self.loop.stretch(step - 1).start:
            raise InputError(
                f"{path / METRICS}: holds {self.evaluated} of the {done} epochs of the "
                "checkpoint; bring the file back, or start again with --overwrite"
            )
        if done > self.spec.num_epochs:
            raise InputError(f"--num-epochs {self.spec.num_epochs}: {path} has {done} already; take more")
        if self.spec.resume:
            self.folder.write_config()  # Not sooner: options that fit nothing must not stay.
        if restored is None:
            if self.spec.resume:
                self.say(f"no checkpoint in {path}: starting from the beginning")
            if weights is not None:
                self.save(state)  # From here on the other run is not needed.
            return state
        self.earlier_seconds = restored.notes["wall_seconds"]
        self.epoch_seconds = restored.notes["epoch_seconds"]
        self.waited = restored.notes["waiting_seconds"]
        self.loop.compile_seconds += restored.notes["compile_seconds"]
        self.say(f"resuming {path} from step {step}")
        return restored.state

    @property
    def evaluated(self) -> int:
        """The number of epochs before the latest evaluation."""
        return self.rows[-1]["epoch"] if self.rows else 0

    def advance(self, state: TrainState) -> TrainState:
        """Trains to the end of the epoch, or to the next evaluation if that is one chunk, and saves."""
        loop, begin = self.loop, int(state.step)
        if self.arrivals is not None:
            self.arrivals.take_in(loop, self.dataset, begin // loop.steps_per_epoch + 1, self.bar.say)
        for length in loop.chunk_lengths(begin):
            self.look(state)
            apart, started, due = loop.apart, time.perf_counter(), int(state.step) + length
            try:
                state = loop.run_chunk(state, length)
            except StreamError as error:
                if jax.process_count() > 1:
                    raise  # The others are amid the step, and end without this one.
                self.save(state)
                raise InputError(f"{error}; step {int(state.step)} is saved; {self.how_to_go_on()}") from None
            self.epoch_seconds += time.perf_counter() - started - (loop.apart - apart)
            if (step := int(state.step)) < due:
                self.look(state)  # A loop that waits for others gives up after a signal.
            epoch, place = divmod(step - 1, loop.steps_per_epoch)
            mean_loss = float(state.loss_sum) / ((place + 1) * loop.batch_size)
            self.check_finite(math.isfinite(mean_loss), state)
            where = f"epoch {epoch + 1}/{self.spec.num_epochs}"
            self.bar.update(self.bar.task, completed=step, description=where, loss=f"loss {shown(mean_loss)}")
        if int(state.step) == loop.stretch(begin).stop:
            self.log(state)
        self.save(state)
        return state

    def log(self, state: TrainState) -> None:
        """Evaluates, and adds a row on the epoch that ends here. Its times are means since the row before."""
        epoch = int(state.step) // self.loop.steps_per_epoch
        seen = self.loop.steps_per_epoch * self.loop.batch_size
        epochs = epoch - self.evaluated
        seconds = self.epoch_seconds / epochs
        norm = self.loop.gradient_norm(state)
        row = {
            "epoch": epoch,
            "step": int(state.step),
            "train_loss": float(state.loss_sum) / seen,
            "train_accuracy": int(state.correct) / seen,
            **self.measured(state, "validation", self.dataset.validation),
            **self.measured(state, "test", self.test),
            "learning_rate": self.loop.learning_rate(state),
            "gradient_norm": norm if math.isfinite(norm) else None,  # JSON knows no infinity.
            "seconds": seconds,
            "images_per_second": seen / seconds,
            "waiting_seconds": (self.waited + self.loop.waited) / epochs,
        }
        self.rows.append(row)
        self.epoch_seconds = self.waited = self.loop.waited = 0.0
        self.folder.write_rows(self.rows)
        if self.add_event is not None:
            self.add_event(row)
        self.bar.say(epoch_line(row, self.spec.num_epochs))
        if row["train_loss"] > 2 * self.loss_of_a_guess and not self.warned:  # No model begins there.
            self.warned = True
            self.bar.say(too_high(self.spec, row, self.loss_of_a_guess))

    def save(self, state: TrainState) -> None:
        self.check_finite(self.loop.is_finite(state), state)
        notes = {
            "wall_seconds": self.wall_seconds(),
            "epoch_seconds": self.epoch_seconds,
            "waiting_seconds": self.waited + self.loop.waited,
            "compile_seconds": self.loop.compile_seconds,
            "data": facts_of(self.dataset),
        }
        best = best_row(self.rows)
        self.checkpoints.save(int(state.step), state, notes, None if best is None else best["step"])

    def wall_seconds(self) -> float:
        return self.earlier_seconds + time.perf_counter() - self.started

    def stopped(self) -> str | None:
        return stop_reason(self.rows, self.spec.target_accuracy, self.spec.patience)

    def measured(self, state: TrainState, name: str, split: Split | None) -> dict[str, float | None]:
        """Loss and accuracy on a split by the names that they have in the files; None where there is none."""
        loss = accuracy = None
        if split is not None:
            loss, accuracy = self.loop.evaluate(state, split, lambda: self.look(state))
            self.check_finite(math.isfinite(loss), state)
        return {f"{name}_loss": loss, f"{name}_accuracy": accuracy}

    def look(self, state: TrainState) -> None:
        """Stops every process if a signal came to one of them."""
        if not (number := largest(max(self.interrupts, default=0))):
            return
        self.interrupts.insert(0, number)
        self.save(state)
        saved = f" at step {int(state.step)}, which is saved; {self.how_to_go_on()}"
        raise interrupted(self.interrupts, saved)

    def check_finite(self, finite: bool, state: TrainState) -> None:
        if not finite:
            step = int(state.step)
            epoch = -(-step // self.loop.steps_per_epoch)
            raise Diverged(divergence(self.spec, self.folder.path, self.checkpoints.steps(), step, epoch))

    def finish(self, state: TrainState) -> dict[str, Any]:
        spec, rows, loop = self.spec, self.rows, self.loop
        # The first epoch warms caches up.
        seconds = statistics.median([row["seconds"] for row in rows[1:] or rows])
        summary = {
            **self.measured(state, "train", self.dataset.train),
            **self.measured(state, "test", self.test),
            "epochs": self.evaluated,
            "steps": int(state.step),
            "wall_seconds": self.wall_seconds(),
            "seconds_per_epoch": seconds,
            "steps_per_second": loop.steps_per_epoch / seconds,
            "compile_seconds": loop.compile_seconds,
            "parameters": loop.num_parameters,
        }
        if (best := best_row(rows)) is not None:
            summary |= {name: rows[-1][name] for name in ("validation_accuracy", "validation_loss")}
            summary |= {"best_epoch": best["epoch"], "best_validation_accuracy": best["validation_accuracy"]}
            early = self.evaluated < spec.num_epochs
            summary["stopped"] = self.stopped() if early else None
            if early:
                self.say(f"stopped after epoch {self.evaluated}: {summary['stopped']}")
        if spec.init_from is not None:
            summary["init_from"] = str(spec.init_from)
        if spec.freeze:
            summary["frozen_parameters"] = loop.num_frozen
        if spec.prune is not None:
            summary |= self.without_zero_units(state)
        self.folder.draw(rows, f"{spec.dataset} · {spec.model} · {spec.optimizer}")
        self.folder.write(SUMMARY, json.dumps(summary, indent=2) + "\n")
        self.console.print(summary_table(summary, str(self.folder.path)))
        return summary

    def without_zero_units(self, state: TrainState) -> dict[str, Any]:
        """The summary of the pruned model."""
        pruned = self.loop.pruned(state)
        splits = {"train": self.dataset.train} | ({} if self.spec.train_only else {"test": self.dataset.test})
        return {
            "units": {name: len(zero) for name, zero in pruned.zero_units.items()},
            "zero_units": {name: int(zero.sum()) for name, zero in pruned.zero_units.items()},
            "pruned_parameters": pruned.num_parameters,
            "pruned_test_accuracy": None,
        } | {
            f"pruned_{name}_accuracy": self.loop.evaluate_model(pruned.model, split).accuracy
            for name, split in splits.items()
        }

    def how_to_go_on(self) -> str:
        resume = f"nag-optax {self.loop.command} --resume --run-dir {shlex.quote(str(self.folder.path))}"
        return f"continue with: {resume}"
