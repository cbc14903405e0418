"""The command `nag-optax`. It imports inside its functions: --help is fast, and Ctrl-C is heard at once."""

import sys

_NEEDED = ("flax", "orbax.checkpoint", "sklearn", "tyro", "rich", "matplotlib")
_RESUMABLE = ("train", "compare")


def main() -> None:
    """Entry point of the command line."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs the command and returns its exit code."""
    try:
        # From here on: a KeyboardInterrupt amid JAX's import may be lost in one of its callbacks.
        from nag_optax.train.signals import collected_signals

        with collected_signals() as interrupts:
            return _run(arguments, interrupts)
    except KeyboardInterrupt:
        resumable = arguments and arguments[0] in _RESUMABLE
        kept = "; --resume goes on from what is saved, if anything is" if resumable else ""
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

        options, given = parse(arguments or ["--help"])
        _execute(options, given, interrupts)
    except TrainError as error:
        return _fail(str(error), error.exit_code)
    return 0


def _execute(options, given: set[str], interrupts: list[int]) -> None:
    from nag_optax.compare.spec import CompareOptions
    from nag_optax.train.folder import with_stored_options
    from nag_optax.train.options import EvaluateOptions

    _check(interrupts)
    if isinstance(options, CompareOptions):
        from nag_optax.compare import compare
        from nag_optax.compare.folder import ComparisonFolder

        _check(interrupts)
        compare(with_stored_options(options, given, ComparisonFolder))
    elif isinstance(options, EvaluateOptions):
        from nag_optax.train.evaluate import evaluate

        _check(interrupts)
        evaluate(options)
    else:
        from nag_optax.train.runner import train

        _check(interrupts)
        train(with_stored_options(options, given))


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
