"""The files in the folder of a run, and who may use a folder that holds some already."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, ClassVar, TypeVar

from nag_optax.train.curves import EVENTS, draw_curves
from nag_optax.train.errors import InputError, reason
from nag_optax.train.spec import load_spec, resolve

CONFIG, METRICS, SUMMARY, CURVES, PICTURES, CHECKPOINTS = (
    "config.json",
    "metrics.jsonl",
    "summary.json",
    "curves.png",
    "pictures.jsonl",
    "checkpoints",
)
_LOCK = ".lock"
# What a process that ended before its first file leaves.
_UNUSED = (_LOCK, f"{CONFIG}.partial")
_Options = TypeVar("_Options", bound=Any)  # Options, CompareOptions


class Folder:
    """The files of a run or a comparison. If the disk refuses, an InputError names the folder."""

    kind: ClassVar[str]
    """Its content, in one word."""
    resolve: Callable[[Any], Any]
    """Makes the spec of the options."""
    load: Callable[[Path], Any]
    """Reads the spec that it keeps."""
    files: ClassVar[tuple[str, ...]]
    """Its files and folders beside `config.json`."""

    def __init__(self, spec: Any):
        self.path: Path = spec.run_dir
        self.spec = spec
        """The spec to keep."""

    def check(self) -> None:
        """Refuses to mix two runs, to overwrite one unless asked to, and to use a folder of other files."""
        if self.spec.overwrite and self.spec.resume:
            raise InputError("--overwrite: cannot be combined with --resume")
        config = self.path / CONFIG
        with self.writing():
            holds_config = config.exists()
            empty = not self.path.exists() or all(p.name in _UNUSED for p in self.path.iterdir())
        if self.spec.resume:
            if not holds_config:
                raise InputError(f"--run-dir {self.path}: holds no {self.kind}; start one without --resume")
            if differences := self.load(config).differences(self.spec):
                raise InputError(
                    f"--run-dir {self.path}: holds a {self.kind} with another configuration: "
                    f"{'; '.join(differences)}; name another folder"
                )
        elif not empty:
            try:
                self.load(config)
            except InputError as error:
                raise InputError(
                    f"--run-dir {self.path}: is not empty, and holds no {self.kind} ({error}); name another "
                    "folder"
                ) from None
            if not self.spec.overwrite:
                raise InputError(
                    f"--run-dir {self.path}: is not empty; --resume continues its {self.kind}, --overwrite "
                    "replaces it, or name another folder"
                )

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Makes the folder this process's own: it is created, locked, and cleared if asked.

        The configuration is written too. With --resume `write_config` does so once the rest is restored.
        """
        with self.writing():
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / _LOCK, "w")
        with lock:
            if not _locked(lock):
                raise InputError(f"--run-dir {self.path}: another process is at work there; wait for it")
            self.check()  # Again: another run may have come and gone since.
            if self.spec.overwrite:
                self._clear()
            if not self.spec.resume:
                self.write_config()
            # The lock's file stays. Were it removed, a process that has opened it would lock nothing.
            yield

    def write_config(self) -> None:
        self.write(CONFIG, self.spec.to_json())

    def write(self, name: str, text: str) -> None:
        """Writes the file completely or not at all, whenever the process is killed."""
        with self.writing():
            partial = self.path / f"{name}.partial"
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, self.path / name)

    def read(self, name: str) -> Any:
        """The content of a JSON file, or None where it is missing or damaged."""
        with suppress(OSError, ValueError):
            return json.loads((self.path / name).read_text())
        return None

    @contextmanager
    def writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"--run-dir {self.path}: cannot be used ({reason(error)})") from None

    def _clear(self) -> None:
        """Removes the files that are ours, and no others."""
        with self.writing():
            # The configuration last: until then the folder can be told for ours.
            for name in (*self.files, CONFIG):
                for path in (*self.path.glob(f"{name}.partial"), *self.path.glob(name)):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


class RunFolder(Folder):
    """The files of one run."""

    kind = "run"
    resolve = staticmethod(resolve)
    load = staticmethod(load_spec)
    files = (METRICS, SUMMARY, CURVES, EVENTS, PICTURES, CHECKPOINTS)

    def check(self) -> None:
        super().check()
        # Orbax looks for its files by patterns, and would take these for parts of one.
        if signs := [sign for sign in "*?[\\" if sign in str(self.path.resolve()) and sign != os.sep]:
            raise InputError(
                f"--run-dir {self.path}: no checkpoint can be written in {self.path.resolve()}, because of "
                f"the {signs[0]}; name another folder"
            )

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        """Writes `metrics.jsonl`, with a row in each line."""
        self.write(METRICS, "".join(json.dumps(row) + "\n" for row in rows))

    def draw(self, rows: list[dict[str, Any]], title: str) -> None:
        with self.writing():
            draw_curves(rows, title, self.path / CURVES)

    def rows(self) -> list[dict[str, Any]]:
        return self._lines(METRICS)

    def pictures(self) -> list[list[tuple[str, int]]]:
        """The lines of `pictures.jsonl`, with names and sizes of files."""
        return [[(name, size) for name, size in line] for line in self._lines(PICTURES)]

    def _lines(self, name: str) -> list[Any]:
        """The objects in the lines of a file, up to a damaged one."""
        objects = []
        with suppress(OSError, ValueError):
            for line in (self.path / name).read_text().splitlines():
                objects.append(json.loads(line))
        return objects


class Follower(RunFolder):
    """The folder as the other processes of a run see it. They only read it."""

    def check(self) -> None:
        pass

    @contextmanager
    def claimed(self) -> Iterator[None]:
        yield

    def write(self, name: str, text: str) -> None:
        pass

    def draw(self, rows: list[dict[str, Any]], title: str) -> None:
        pass


def stored_options(options: _Options, kind: type[Folder] = RunFolder) -> _Options:
    """The options that the folder of these options holds."""
    folder = options.run_dir or kind.resolve(options).run_dir
    try:
        stored = kind.load(folder / CONFIG)
    except InputError as error:
        raise InputError(f"--run-dir {error}") from None
    # What a spec lacks belongs to comparisons of the other kind.
    return type(options)(**{f.name: getattr(stored, f.name, f.default) for f in dataclasses.fields(options)})


def as_begun(options: _Options, kind: type[Folder] = RunFolder) -> _Options:
    """The options, with batch size and warm-up of the run that they resume.

    Their defaults depend on the number of images, which may be small, and of epochs, which may grow.
    """
    left = [name for name in ("batch_size", "warmup_epochs") if getattr(options, name, name) is None]
    if options.resume and left:
        with suppress(InputError):  # Folder.check will say so.
            stored = stored_options(options, kind)
            return dataclasses.replace(options, **{name: getattr(stored, name) for name in left})
    return options


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
