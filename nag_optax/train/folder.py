"""The folder of a run: its files, and what may be done to a folder that holds some already."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from nag_optax.train.config import load_config
from nag_optax.train.errors import InputError

CONFIG, METRICS, SUMMARY, CURVES, CHECKPOINTS = (
    "config.json",
    "metrics.jsonl",
    "summary.json",
    "curves.png",
    "checkpoints",
)
_LOCK = ".lock"
_Config = TypeVar("_Config", bound=Any)  # TrainConfig, CompareConfig


class RunFolder:
    """The files of one run. What the disk refuses is an InputError that names the folder."""

    files: tuple[str, ...] = (CONFIG, METRICS, SUMMARY, CURVES)
    folders: tuple[str, ...] = (CHECKPOINTS,)

    def __init__(self, config: Any, load: Callable[[Path], Any] = load_config):
        assert config.run_dir is not None
        self.path: Path = config.run_dir
        self._config, self._load = config, load

    def check(self) -> None:
        """Refuses to mix two runs, or to overwrite one, unless asked to.

        Raises:
            InputError: says what the folder holds and what can be done.
        """
        config = self._config
        if config.overwrite and config.resume:
            raise InputError("--overwrite: goes without --resume; name one of the two")
        with self._writing():
            holds_run = (self.path / CONFIG).exists()
            if self.path.is_symlink() and not self.path.exists():
                raise InputError(f"--run-dir {self.path}: is a link to nowhere; name a folder")
            if self.path.exists() and not self.path.is_dir():
                raise InputError(f"--run-dir {self.path}: is a file; name a folder")
            empty = not self.path.exists() or all(p.name == _LOCK for p in self.path.iterdir())
        if config.resume and not holds_run:
            raise InputError(f"--run-dir {self.path}: holds no run; start one without --resume")
        if config.resume and (differences := self._load(self.path / CONFIG).differences(config)):
            raise InputError(
                f"--run-dir {self.path}: holds a run with another configuration: {'; '.join(differences)}; "
                "name another folder"
            )
        if not (config.resume or config.overwrite or empty):
            raise InputError(
                f"--run-dir {self.path}: is not empty; --resume continues its run, --overwrite replaces it, "
                "or name another folder"
            )

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """The folder as this process's own: made, locked, cleared if asked, its configuration written."""
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / _LOCK, "w")
        with lock:
            if not _locked(lock):
                raise InputError(f"--run-dir {self.path}: another process is at work there; wait for it")
            self.check()  # Again: another run may have come and gone since.
            with self._writing():
                if self._config.overwrite:
                    for name in self.folders:
                        shutil.rmtree(self.path / name, ignore_errors=True)
                    for name in self.files:
                        (self.path / name).unlink(missing_ok=True)
            self.write(CONFIG, self._config.to_json())
            yield
            (self.path / _LOCK).unlink(missing_ok=True)

    def write(self, name: str, text: str) -> None:
        """Complete or not at all, whenever the process is killed."""
        with self._writing():
            partial = self.path / f"{name}.partial"
            partial.write_text(text)
            os.replace(partial, self.path / name)

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        """`metrics.jsonl`, a row a line."""
        self.write(METRICS, "".join(json.dumps(row) + "\n" for row in rows))

    def rows(self) -> list[dict[str, Any]]:
        """Rows of `metrics.jsonl`; a line cut short ends them."""
        rows: list[dict[str, Any]] = []
        path = self.path / METRICS
        for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def summary(self) -> dict[str, Any] | None:
        """`summary.json`, if the run has ended and the file is whole."""
        path = self.path / SUMMARY
        try:
            return json.loads(path.read_text()) if path.exists() else None
        except ValueError:
            return None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"--run-dir {self.path}: cannot be used ({error})") from None


def with_stored_options(
    config: _Config, given: set[str], load: Callable[[Path], Any] = load_config
) -> _Config:
    """On --resume: the configuration that the folder holds, with the options given on top.

    So `--resume --run-dir DIR` is enough, and an option that contradicts the folder is found out.
    """
    if not config.resume:
        return config
    folder = config.run_dir or config.resolved().run_dir
    assert folder is not None
    stored = load(folder / CONFIG)
    return dataclasses.replace(stored, **{name: getattr(config, name) for name in given})


def _locked(file: IO[str]) -> bool:
    """Takes the file's lock, which the system frees however the process ends."""
    try:
        import fcntl
    except ImportError:  # Not on Windows; two runs at once are not noticed there.
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
