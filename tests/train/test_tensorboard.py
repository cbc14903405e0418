"""`--tensorboard`: the event files hold the metrics, also of a run that goes on."""

import dataclasses
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto import event_pb2

from nag_optax.train.curves import EVENTS, event_file
from nag_optax.train.errors import InputError
from nag_optax.train.runner import train
from tests.train.conftest import SMALL

# protobuf makes these classes when the module is imported.
Event, SessionLog = event_pb2.Event, event_pb2.SessionLog  # pyright: ignore[reportAttributeAccessIssue]


def events(path: Path) -> Iterator[Any]:
    """Of a file of records: a length of 8 bytes, its checksum of 4, the content, its checksum of 4."""
    content = path.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        yield Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]


def scalars(path: Path) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for event in events(path):
        for value in event.summary.value:
            found.setdefault(event.step, {})[value.tag] = value.simple_value
    return found


def test_events_are_the_rows_of_the_metrics(tmp_path, console):
    run_dir = tmp_path / "run"
    options = dataclasses.replace(SMALL, tensorboard=True, warmup_epochs=0.0, run_dir=run_dir)
    train(dataclasses.replace(options, num_epochs=1), console)
    train(dataclasses.replace(options, num_epochs=2, resume=True), console)
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    files = sorted(run_dir.glob("events.out.tfevents.*"))
    for row, path in zip(rows, files, strict=True):
        numbers = {name: value for name, value in row.items() if name != "step" and value is not None}
        # Events keep float32.
        assert scalars(path) == {row["step"]: pytest.approx(numbers, rel=2**-23)}
    # What a run that was killed wrote of steps that come again counts no more.
    starts = [event.step for event in events(files[1]) if event.session_log.status == SessionLog.START]
    assert starts == [rows[0]["step"] + 1]

    train(dataclasses.replace(options, num_epochs=1, tensorboard=False, overwrite=True), console)
    assert not list(run_dir.glob("events*"))


def test_runs_that_begin_within_a_second_have_files_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1.8e9)
    for step in (0, 9, 100):  # TensorBoard reads files in the order of their names.
        with event_file(tmp_path, step) as add:
            add({"step": step + 1, "test_loss": 0.5})
    found = [scalars(path) for path in sorted(tmp_path.glob(EVENTS))]
    assert found == [{step: {"test_loss": 0.5}} for step in (1, 10, 101)]


def test_without_tensorboardx_one_line_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^--tensorboard: needs .* pip install 'nag_optax\[tensorboard\]'$"):
        train(dataclasses.replace(SMALL, tensorboard=True, run_dir=tmp_path / "run"))
    assert not list(tmp_path.iterdir())
