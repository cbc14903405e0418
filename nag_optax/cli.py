"""The command `nag-optax`. It imports inside its functions: --help is fast, and Ctrl-C is heard at once."""

import codecs
import importlib
import io
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
    "evaluate": "nag_optax.train.trained:evaluate",
    "export": "nag_optax.export.run:export_run",
    "compare": "nag_optax.compare:compare",
    "serve": "nag_optax.parallel.serve:serve",
    "work": "nag_optax.parallel.worker:work",
}
_FOLDERS = {
    "train": "nag_optax.train.folder:RunFolder",
    "compare": "nag_optax.compare.spec:ComparisonFolder",
    "serve": "nag_optax.parallel.options:ServedFolder",
}
"""Of the commands that --resume."""


def main() -> None:
    """Entry point of the command line."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        codecs.register_error("nag_optax", _written)
        sys.stdout.reconfigure(errors="nag_optax")
    code = run(sys.argv[1:])
    jax = sys.modules.get("jax")
    if code and jax is not None and jax.distributed.is_initialized():
        # A normal exit would wait for the other processes, which wait for this one.
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _written(error: UnicodeError) -> tuple[str | bytes, int]:
    """Writes the bytes of a file's name that is no text, and an escape for a sign that the encoding lacks."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.backslashreplace_errors(error)


def run(arguments: list[str]) -> int:
    """Runs the command and returns its exit code."""
    try:
        # From here on: a KeyboardInterrupt amid JAX's import may be lost in one of its callbacks.
        from nag_optax.train.errors import collected_signals

        with collected_signals() as interrupts:
            return _run(arguments, interrupts)
    except KeyboardInterrupt:
        resumable = arguments and arguments[0] in _FOLDERS
        kept = "; --resume goes on from the latest checkpoint, if there is one" if resumable else ""
        return _fail(f"stopped at once{kept}", 130)
    except BrokenPipeError:
        return 1
    except OSError as error:  # Such as a full disk below a log or a CSV that the shell writes.
        return _fail(str(error), 1)


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
        _execute(parse(arguments or ["--help"]), arguments, interrupts)
    except TrainError as error:
        return _fail(str(error), error.exit_code)
    return 0


def parse(arguments: list[str]) -> Any:
    """The options that the arguments name. Where tyro cannot read them it says why, and exits with code 2."""
    import tyro

    from nag_optax.compare.spec import CompareOptions
    from nag_optax.parallel.options import ServeOptions, WorkOptions
    from nag_optax.train.errors import InputError
    from nag_optax.train.options import EvaluateOptions, ExportOptions, Options, PredictOptions

    if empty := [word for word in arguments if word.startswith("--") and word.endswith("=")]:
        raise InputError(f"{empty[0]} has no value; see nag-optax {arguments[0]} --help")
    commands = {
        "train": Options,
        "predict": PredictOptions,
        "evaluate": EvaluateOptions,
        "export": ExportOptions,
        "compare": CompareOptions,
        "serve": ServeOptions,
        "work": WorkOptions,
    }
    try:
        return tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="nag-optax",
            description="Image classifiers with Nesterov acceleration. --version prints the version.",
            args=arguments,
            config=_tyro_config(),
        )
    except SystemExit as end:
        if not end.code and arguments[0] in ("train", "serve"):
            print(f"Defaults by dataset and model, the learning rates by optimizer:\n\n{_defaults_table()}")
        raise


def parse_over(stored: Any, arguments: list[str]) -> Any:
    """The options of a command whose defaults are these."""
    import dataclasses

    import tyro

    # A flag can only be set, and what is repeated only grows: they start as the command's own.
    growing = {
        field.name: field.default
        for field in dataclasses.fields(stored)
        if isinstance(field.default, bool | tuple)
    }
    options = tyro.cli(
        type(stored),
        prog=f"nag-optax {arguments[0]}",
        args=arguments[1:],
        default=dataclasses.replace(stored, **growing),
        config=_tyro_config(),
    )
    kept = {name: getattr(options, name) or getattr(stored, name) for name in growing}
    return dataclasses.replace(options, **kept)


def _tyro_config() -> Any:
    import tyro

    return tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalRequiredArgs


def _defaults_table() -> str:
    """The recipes and the learning rates as a table, for --help."""
    from nag_optax.compare.report import markdown_table
    from nag_optax.train.registry import OPTIMIZERS, RECIPES, default_learning_rate, recipe

    columns = [["", "", "epochs", "batch", "schedule", "warm-up", *OPTIMIZERS]]
    for dataset, model in [*RECIPES, ("others", "")]:
        r = recipe(dataset, model)
        rates = [f"{default_learning_rate(row, None, dataset, model):g}" for row in OPTIMIZERS.values()]
        columns.append(
            [dataset, model, str(r.num_epochs), str(r.batch_size), r.schedule, f"{r.warmup_epochs:g}", *rates]
        )
    head, *body = zip(*columns, strict=True)
    return markdown_table(head, body, text=range(len(head)))


def _execute(options: Any, arguments: list[str], interrupts: list[int]) -> None:
    _check(interrupts)
    _keep_programs()
    if arguments[0] in _FOLDERS and options.resume:
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

    from nag_optax.train.progress import busy

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
    from nag_optax.train.errors import interrupted

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
