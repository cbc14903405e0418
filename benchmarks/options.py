"""The command-line options that benchmarks share; an error is one line and exit code 2."""

import argparse
import os
from pathlib import Path
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports an error in one line and keeps the line breaks of a legend."""

    def __init__(self, prog: str, description: str, legend: str | None = None):
        super().__init__(
            prog=prog,
            description=description,
            epilog=legend,
            formatter_class=argparse.RawDescriptionHelpFormatter if legend else argparse.HelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")

    def add_rounds(self, default: int, contenders: str) -> None:
        """`--repeats`, for `timing.interleaved_medians`."""
        self.add_argument(
            "--repeats",
            type=positive,
            default=default,
            metavar="N",
            help=f"rounds; in each of them {contenders} has one sample of 20 ms or more (default: {default})",
        )

    def add_json(self) -> None:
        self.add_argument("--json", type=writable_file, metavar="FILE", help="write the result as JSON")


def positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer; got {text!r}")
    return int(text)


def writable_file(text: str) -> Path:
    """A path that can be written, found out before minutes of measuring."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"must be a file in a directory that exists; got {text!r}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot be written: {text!r}")
    return path
