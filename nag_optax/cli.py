"""The command `nag-optax`. It imports inside its functions: --help is fast, and Ctrl-C is heard at once."""

import importlib
import os
import sys
from typing import Any

_NEEDED = (
    *("flax", "orbax.checkpoint", "sklearn", "tyro", "rich", "matplotlib", "PIL", "grain", "absl"),
    "flatbuffers",
)
_CARRY_OUT = {
    "train": "nag_optax.train.runner:train",
    "predict": "nag_optax.train.predict:predict",
    "evaluate": "nag_optax.train.evaluate:evaluate",
    "export": "nag_optax.export.run:export_run",
    "compare": "nag_optax.compare:compare",
    "serve": "nag_optax.parallel.serve:serve",
    "work": "nag_optax.parallel.worker:work",
}
_FOLDERS = {
    "train": "nag_optax.train.folder:RunFolder",
    "compare": "nag_optax.compare.folder:ComparisonFolder",
    "serve": "nag_optax.parallel.options:ServedFolder",
}
"""Of the commands that --resume."""


def main() -> None:
    """Entry point of the command line."""
    code = run(sys.argv[1:])
    jax = sys.modules.get("jax")
    if code and jax is not None and jax.distributed.is_initialized():
        # A normal exit would wait for the other processes, which wait for this one.
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Runs the command and returns its exit code."""
    try:
        # From here on: a KeyboardInterrupt amid JAX's import may be lost in one of its callbacks.
        from nag_optax.train.signals import collected_signals

        with collected_signals() as interrupts:
            return _run(arguments, interrupts)
    except KeyboardInterrupt:
        resumable = arguments and arguments[0] in _FOLDERS
        kept = "; --resume goes on from the latest checkpoint, if there is one" if resumable else ""
        return _fail(f"stopped at once{kept}", 130)
    except BrokenPipeError:
        return 1


def _run(arguments: list[str], interrupts: list[int]) -> int:
    if arguments == ["--version"]:
        import nag_optax

        print(f"nag-optax {nag_optax.__version__}")
        return 0
    if missing := [name for name in _NEEDED if not _installed(name)]:
        return _fail(
            f"this command needs {', '.join(missing)}: install the extra, pip install 'nag_optax[train]'",
            2,
        )
    from nag_optax.train.errors import TrainError

    try:
        from nag_optax.train.command_line import parse

        _execute(parse(arguments or ["--help"]), arguments, interrupts)
    except TrainError as error:
        return _fail(str(error), error.exit_code)
    return 0


def _execute(options: Any, arguments: list[str], interrupts: list[int]) -> None:
    _check(interrupts)
    _keep_programs()
    if arguments[0] in _FOLDERS and options.resume:
        from nag_optax.train.command_line import parse_over
        from nag_optax.train.errors import InputError
        from nag_optax.train.folder import stored_options

        # So `--resume --run-dir DIR` is enough, and an option that contradicts the folder is found out.
        folder = _imported(_FOLDERS[arguments[0]])
        stored = stored_options(options, folder)
        options = parse_over(stored, arguments)
        try:
            folder.resolve(options)
        except InputError as error:  # It may name an option that nobody typed.
            raise InputError(f"{error}; --resume takes all other options from {stored.run_dir}") from None
    if arguments[0] == "train":
        from nag_optax.train.spec import resolve

        spec = resolve(options)  # Before JAX is imported: a mistake, and the first line, are there at once.
        if not spec.process_id:
            print(f"{spec.dataset} · {spec.model} · {spec.optimizer}", flush=True)
    from rich.console import Console

    from nag_optax.train.bar import busy

    with busy(Console(stderr=True), "importing JAX"):
        carry_out = _imported(_CARRY_OUT[arguments[0]])
    _check(interrupts)
    carry_out(options)


def _keep_programs() -> None:
    """Has JAX keep what it compiles for the next command, unless the user told it where to."""
    import warnings

    # A kill amid a write leaves half a program. It is compiled again, and nobody has to know.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = os.path.join(_cache_folder(), "nag_optax", "jax")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:  # A home that cannot be written: each command compiles anew.
        return
    # JAX reads these when it is imported. Half of the time goes into a hundred small programs: keep them all.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def _cache_folder() -> str:
    """Where this system keeps the caches of a user's programs."""
    variable, usual = {
        "win32": ("LOCALAPPDATA", "~/AppData/Local"),
        "darwin": ("", "~/Library/Caches"),
    }.get(sys.platform, ("XDG_CACHE_HOME", "~/.cache"))
    return os.environ.get(variable) or os.path.expanduser(usual)


def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _check(interrupts: list[int]) -> None:
    """Ends the command if a signal came while it imported."""
    from nag_optax.train.signals import interrupted

    if interrupts:
        raise interrupted(interrupts, " before it began")


def _fail(message: str, code: int) -> int:
    print(f"nag-optax: {message}", file=sys.stderr)
    return code


def _installed(name: str) -> bool:
    import importlib.util

    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


if __name__ == "__main__":
    main()
