"""A run and its folder: train, log, checkpoint, resume, sum up."""

import json
import math
import signal
import statistics
import time
from typing import Any

from rich.console import Console

from nag_optax.train.checkpoints import Checkpoints
from nag_optax.train.config import TrainConfig
from nag_optax.train.data import Dataset, load_dataset
from nag_optax.train.devices import find_devices
from nag_optax.train.errors import Diverged, InputError, Interrupted
from nag_optax.train.figures import draw_curves
from nag_optax.train.folder import (
    CHECKPOINTS,
    CONFIG,
    CURVES,
    METRICS,
    SUMMARY,
    check_folder,
    read_rows,
    read_summary,
    remove_run,
    write_text,
)
from nag_optax.train.loop import Loop, Metrics, TrainState, chunk_lengths
from nag_optax.train.progress import RunProgress, summary_table
from nag_optax.train.signals import collected_signals


def train(config: TrainConfig, console: Console | None = None) -> dict[str, Any]:
    """Carries out the run of a configuration, or what is left of it, and returns its summary.

    Args:
        config: what to train; a None takes its default from the table of `defaults.py`.
        console: where to show progress and result; None is standard output.

    Returns:
        The content of `summary.json`.

    Raises:
        InputError: if an option or a file is wrong; nothing is overwritten then.
        Diverged: if the loss is no longer finite.
        Interrupted: after SIGINT or SIGTERM, once a checkpoint is saved.

    Example:
        >>> import tempfile, pathlib
        >>> from nag_optax.train.config import TrainConfig
        >>> from nag_optax.train.run import train
        >>> folder = pathlib.Path(tempfile.mkdtemp()) / "run"
        >>> with open("/dev/null", "w") as silent:
        ...     summary = train(TrainConfig(model="mlp", num_epochs=3, run_dir=folder), Console(file=silent))
        >>> summary["test_accuracy"] > 0.9
        True
    """
    started = time.perf_counter()
    console = console or Console()
    with collected_signals() as interrupts:
        config = config.resolved()
        assert config.run_dir is not None
        devices = find_devices(config.device, config.num_devices)
        check_folder(config)
        dataset = load_dataset(config)
        return _Run(config, dataset, Loop(config, dataset, devices), console, interrupts, started).carry_out()


class _Run:
    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        loop: Loop,
        console: Console,
        interrupts: list[int],
        started: float,
    ):
        assert config.run_dir is not None and config.num_epochs is not None
        self._config, self._dataset, self._loop = config, dataset, loop
        self._console, self._interrupts, self._started = console, interrupts, started
        self._folder, self._num_epochs = config.run_dir, config.num_epochs
        self._checkpoints = Checkpoints(self._folder / CHECKPOINTS)
        self._earlier_seconds = 0.0
        self._epoch_seconds = 0.0
        self._rows: list[dict[str, Any]] = []

    def carry_out(self) -> dict[str, Any]:
        state = self._begin()
        loop = self._loop
        total = self._num_epochs * loop.steps_per_epoch
        if int(state.step) == total and (summary := read_summary(self._folder / SUMMARY)):
            self._say(f"{self._folder} is finished already")
            self._console.print(summary_table(summary, str(self._folder)))
            return summary
        with RunProgress(
            self._console, self._num_epochs, loop.steps_per_epoch, int(state.step)
        ) as self._progress:
            while (step := int(state.step)) < total:
                state = self._epoch(state, step // loop.steps_per_epoch + 1)
        return self._finish(state)

    def _begin(self) -> TrainState:
        """A fresh folder and state, or those of the newest checkpoint."""
        state = self._loop.init()
        try:
            if self._config.overwrite:
                remove_run(self._folder)
            self._folder.mkdir(parents=True, exist_ok=True)
            restored = self._checkpoints.restore(state, self._say) if self._config.resume else None
            step = 0 if restored is None else restored.step
            done = step // self._loop.steps_per_epoch
            self._rows = [row for row in read_rows(self._folder / METRICS) if row["epoch"] <= done]
            write_text(self._folder / METRICS, "".join(json.dumps(row) + "\n" for row in self._rows))
            write_text(self._folder / CONFIG, self._config.to_json())
        except OSError as error:
            raise InputError(f"--run-dir {self._folder}: cannot be written ({error})") from None
        if restored is None:
            if self._config.resume:
                self._say(f"no checkpoint in {self._folder}: starting from the beginning")
            return state
        self._earlier_seconds = restored.notes["wall_seconds"]
        self._epoch_seconds = restored.notes["epoch_seconds"]
        self._loop.compile_seconds += restored.notes["compile_seconds"]
        self._say(f"resuming {self._folder} from step {step}")
        return restored.state

    def _epoch(self, state: TrainState, epoch: int) -> TrainState:
        loop = self._loop
        begin = (epoch - 1) * loop.steps_per_epoch
        for length in chunk_lengths(
            int(state.step) - begin, loop.steps_per_epoch, self._config.steps_per_report
        ):
            if self._interrupts:
                self._stop(state)
            compiled, started = loop.compile_seconds, time.perf_counter()
            state = loop.run_chunk(state, length)
            compiling = loop.compile_seconds - compiled
            self._epoch_seconds += time.perf_counter() - started - compiling
            step = int(state.step)
            mean_loss = float(state.loss_sum) / ((step - begin) * loop.batch_size)
            if not math.isfinite(mean_loss):
                raise Diverged(self._divergence(step, epoch))
            self._progress.advance(step, epoch, mean_loss)
        self._log(state, epoch)
        self._save(state)
        return state

    def _log(self, state: TrainState, epoch: int) -> None:
        seen = self._loop.steps_per_epoch * self._loop.batch_size
        test = None if self._config.train_only else self._loop.evaluate(state, self._dataset.test)
        row = {
            "epoch": epoch,
            "step": int(state.step),
            "train_loss": float(state.loss_sum) / seen,
            "train_accuracy": int(state.correct) / seen,
            "test_loss": None if test is None else test.loss,
            "test_accuracy": None if test is None else test.accuracy,
            "seconds": self._epoch_seconds,
        }
        if test is not None and not math.isfinite(test.loss):
            raise Diverged(self._divergence(int(state.step), epoch))
        self._rows.append(row)
        self._epoch_seconds = 0.0
        try:
            with open(self._folder / METRICS, "a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise InputError(f"--run-dir {self._folder}: cannot be written ({error})") from None
        self._progress.epoch(row)

    def _save(self, state: TrainState) -> None:
        if not self._loop.is_finite(state):
            raise Diverged(self._divergence(int(state.step), int(state.step) // self._loop.steps_per_epoch))
        notes = {
            "wall_seconds": self._earlier_seconds + time.perf_counter() - self._started,
            "epoch_seconds": self._epoch_seconds,
            "compile_seconds": self._loop.compile_seconds,
        }
        self._checkpoints.save(int(state.step), state, notes)

    def _stop(self, state: TrainState) -> None:
        number = self._interrupts[0]
        step = int(state.step)
        self._save(state)
        raise Interrupted(
            f"stopped by {signal.Signals(number).name} at step {step}, which is saved; "
            f"continue with: {self._resume_command()}",
            number,
        )

    def _divergence(self, step: int, epoch: int) -> str:
        kept = self._checkpoints.steps()
        where = f"the checkpoint of step {kept[0]} is kept" if kept else "no checkpoint was written yet"
        return (
            f"the loss is not finite at step {step} (epoch {epoch}); {where} in {self._folder}. "
            f"Lower --learning-rate {self._config.learning_rate:g}, or add --clip-norm 1, in a new --run-dir"
        )

    def _finish(self, state: TrainState) -> dict[str, Any]:
        if self._interrupts:
            self._stop(state)
        train = self._loop.evaluate(state, self._dataset.train)
        none = Metrics(None, None)  # type: ignore[arg-type]
        test = none if self._config.train_only else self._loop.evaluate(state, self._dataset.test)
        # The first epoch warms caches up.
        seconds = statistics.median(
            [row["seconds"] for row in self._rows[1:]] or [row["seconds"] for row in self._rows]
        )
        summary = {
            "train_accuracy": train.accuracy,
            "test_accuracy": test.accuracy,
            "train_loss": train.loss,
            "test_loss": test.loss,
            "epochs": self._num_epochs,
            "steps": int(state.step),
            "wall_seconds": self._earlier_seconds + time.perf_counter() - self._started,
            "seconds_per_epoch": seconds,
            "steps_per_second": self._loop.steps_per_epoch / seconds,
            "compile_seconds": self._loop.compile_seconds,
            "parameters": self._loop.num_parameters,
            "finished": True,
        }
        title = f"{self._config.dataset} · {self._config.model} · {self._config.optimizer}"
        try:
            draw_curves(self._rows, title, self._folder / CURVES)
            write_text(self._folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
        except OSError as error:
            raise InputError(f"--run-dir {self._folder}: cannot be written ({error})") from None
        self._console.print(summary_table(summary, str(self._folder)))
        return summary

    def _resume_command(self) -> str:
        return f"nag-optax train --resume --run-dir {self._folder}"

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)
