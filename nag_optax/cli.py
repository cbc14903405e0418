"""The command `nag-optax`. Heavy imports live inside the commands, so that --help is fast."""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import io
import itertools
import re
import sys
from collections.abc import Iterator
from typing import Annotated

_COMMANDS = ("train", "evaluate", "compare")
_NEEDED = ("flax", "orbax.checkpoint", "sklearn", "tyro", "rich", "matplotlib")


def main() -> None:
    """Entry point of the command line."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs the command and returns its exit code."""
    if arguments == ["--version"]:
        print(f"nag-optax {importlib.metadata.version('nag_optax')}")
        return 0
    if missing := [name for name in _NEEDED if not _installed(name)]:
        return _fail(
            f"this command needs {', '.join(missing)}: install the extra, pip install 'nag_optax[train]'",
            2,
        )
    from nag_optax.train.errors import TrainError

    try:
        config, given = _parse(arguments or ["--help"])
        return _execute(config, given)
    except TrainError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("stopped at once; --resume goes on from what is saved, if anything is", 130)
    except BrokenPipeError:
        return 1


def _parse(arguments: list[str]):
    """The configuration, and the names of the options that were given."""
    import tyro

    from nag_optax.compare.config import CompareConfig, allowed
    from nag_optax.train.config import EvaluateConfig, TrainConfig
    from nag_optax.train.defaults import defaults_table
    from nag_optax.train.errors import InputError

    commands = (
        Annotated[TrainConfig, tyro.conf.subcommand("train")]
        | Annotated[EvaluateConfig, tyro.conf.subcommand("evaluate")]
        | Annotated[CompareConfig, tyro.conf.subcommand("compare")]
    )
    if not arguments[0].startswith("-") and arguments[0] not in _COMMANDS:
        raise InputError(f"{arguments[0]}: no such command; must be train, evaluate or compare")
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            config = tyro.cli(
                commands,
                prog="nag-optax",
                description="Image classifiers with Nesterov acceleration. --version prints the version.",
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalRequiredArgs),
            )
    except SystemExit as exit:
        if exit.code in (0, None):
            if arguments[0] == "train":
                print(
                    f"Defaults by dataset and model, the learning rates by optimizer:\n\n{defaults_table()}"
                )
            raise
        raise InputError(_one_line(errors.getvalue(), arguments[0])) from None
    options = {argument.split("=")[0] for argument in arguments if argument.startswith("--")}
    names = {option.removeprefix("--").replace("-", "_") for option in options}
    given = names & {field.name for field in dataclasses.fields(config)}
    # The parser takes a list of nothing, which would stand for the default.
    for name in given:
        if getattr(config, name) == ():
            raise InputError(f"--{name.replace('_', '-')} without a value: must be {allowed(name)}")
    return config, given


def _execute(config, given: set[str]) -> int:
    from nag_optax.compare.config import CompareConfig, load_config
    from nag_optax.train.config import EvaluateConfig

    if isinstance(config, CompareConfig):
        from nag_optax.compare.run import compare
        from nag_optax.train.folder import with_stored_options

        compare(with_stored_options(config, given, load_config))
    elif isinstance(config, EvaluateConfig):
        from nag_optax.train.evaluate import evaluate

        evaluate(config)
    else:
        from nag_optax.train.folder import with_stored_options
        from nag_optax.train.run import train

        train(with_stored_options(config, given))
    return 0


def _one_line(message: str, command: str) -> str:
    """The parser's boxed message as one line that names the option, the value and what is allowed."""
    from nag_optax.compare.config import allowed

    # The box is drawn in Unicode or in ASCII; its rules part a title, the message and a hint.
    lines = [line.strip(" │|\n") for line in message.splitlines()]
    parts = [" ".join(part) for rule, part in _runs(lines) if not rule]
    text = parts[1] if len(parts) > 1 and not message.startswith("╭") else parts[0]
    for pattern in (
        r"Error parsing (?P<option>--[\w-]+): .*from \['(?P<value>.*?)'\]",
        r"Error parsing (?P<option>--[\w-]+): .*: '(?P<value>.*?)'",
        r"invalid choice '(?P<value>.*?)' for argument '(?P<option>--[\w-]+)'",
        r"Missing value(?P<value>) for argument '\W*(?P<option>--[\w-]+)",
    ):
        if found := re.search(pattern, text):
            name = found["option"].removeprefix("--").replace("-", "_")
            value = found["value"].replace("', '", " ") or "without a value"
            return f"{found['option']} {value}: must be {allowed(name)}"
    if "RUN_DIR" in text:
        return "RUN_DIR is missing: name the folder of a run, nag-optax evaluate RUN_DIR"
    help_of = f"nag-optax {command} --help" if command in _COMMANDS else "nag-optax --help"
    return f"{text.rstrip('.')}; see {help_of}"


def _runs(lines: list[str]) -> Iterator[tuple[bool, list[str]]]:
    """Runs of rules and of text, without the empty lines."""
    return (
        (rule, list(run))
        for rule, run in itertools.groupby(
            filter(None, lines), key=lambda line: line[0] in "╭╰+" or not line.strip("─-")
        )
    )


def _fail(message: str, code: int) -> int:
    print(f"nag-optax: {message}", file=sys.stderr)
    return code


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


if __name__ == "__main__":
    main()
