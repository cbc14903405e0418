"""Two real processes on this machine train as one; what ends one ends both, and any number goes on."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from nag_optax.cli import run
from tests.helpers import eventually
from tests.train.streaming import write_pictures

OPTIONS = ("--model", "mlp", "--num-epochs", "3", "--batch-size", "64")
"""Those of `finished_run`."""


@pytest.fixture(scope="module")
def start_two() -> Iterator[Callable[..., list[subprocess.Popen[str]]]]:
    """Starts two processes with some options, the second one with more.

    The test keeps their port, so that no other program takes it first; the coordinator may share it.
    """
    with ExitStack() as ports:

        def start(run_dir: Path, *options: str, second: tuple[str, ...] = ()) -> list[subprocess.Popen[str]]:
            port = ports.enter_context(socket.socket())
            port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            port.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{port.getsockname()[1]}"
            together = ("--coordinator", address, "--num-processes", "2", "--run-dir", str(run_dir))
            command = (sys.executable, "-m", "nag_optax.cli", "train", *options, *together)
            return [
                subprocess.Popen([*command, *own], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                for own in (("--process-id", "0"), ("--process-id", "1", *second))
            ]

        yield start


def rows(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run_of_two(start_two: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run in two processes, each with a part of the optimizer's state."""
    import matplotlib.font_manager  # noqa: F401  # Its first import may take long, and then says so.

    run_dir = tmp_path_factory.mktemp("two") / "run"
    first, second = start_two(run_dir, *OPTIONS, "--shard-optimizer")
    out, error = first.communicate(timeout=120)
    assert (first.returncode, error) == (0, ""), error
    assert "parameters on 2 cpu devices in 2 processes" in out and "epoch   3/3" in out
    assert second.communicate(timeout=30) == ("", "") and second.returncode == 0
    return run_dir


@pytest.mark.exhaustive
def test_two_processes_give_the_numbers_of_one(run_of_two, finished_run):
    """To the rounding of sums of 64 in another order, which 69 steps magnify less than a hundredfold."""
    tolerance = 100 * 64 * 2.0**-24
    for two, one in zip(rows(run_of_two), rows(finished_run), strict=True):
        assert two["step"] == one["step"]
        for name in ("train_loss", "test_loss", "gradient_norm"):
            assert two[name] == pytest.approx(one[name], rel=tolerance)
        assert abs(two["test_accuracy"] - one["test_accuracy"]) < 2 / 360
    # Who carried it out is no part of a run.
    assert not {"coordinator", "num_processes"} & json.loads((run_of_two / "config.json").read_text()).keys()


@pytest.mark.exhaustive
def test_two_processes_that_stream_give_the_numbers_of_one(start_two, tmp_path):
    """Each decodes its half of every batch. 12 steps add sums of 4 in another order."""
    pictures = str(write_pictures(tmp_path / "set"))
    fields = "--dataset folder --resident no --data-workers 0 --batch-size 4 --num-epochs 2".split()
    options = (*fields, "--data-dir", pictures, "--model", "tests.train.streaming:Net")
    assert run(["train", *options, "--run-dir", str(tmp_path / "one")]) == 0
    for process in start_two(tmp_path / "two", *options):
        assert process.communicate(timeout=120)[1] == "" and process.returncode == 0
    for two, one in zip(rows(tmp_path / "two"), rows(tmp_path / "one"), strict=True):
        for name in ("train_loss", "test_loss"):
            assert two[name] == pytest.approx(one[name], rel=12 * 4 * 2.0**-24)


@pytest.mark.exhaustive
def test_one_process_goes_on_with_what_two_began(run_of_two, tmp_path, capsys):
    shutil.copytree(run_of_two, tmp_path / "run")
    assert run(["train", "--resume", "--num-epochs", "4", "--run-dir", str(tmp_path / "run")]) == 0
    assert "from step 69" in capsys.readouterr().out
    assert [row["step"] for row in rows(tmp_path / "run")] == [23, 46, 69, 92]


@pytest.mark.exhaustive
@pytest.mark.parametrize("killed", [0, 1])  # Without process 1, process 0 waits for a heartbeat, of 30 s.
def test_where_one_is_killed_the_other_says_so_and_two_go_on(start_two, tmp_path, killed):
    run_dir = tmp_path / "run"
    processes = start_two(run_dir, *OPTIONS[:2], "--num-epochs", "100000", *OPTIONS[4:])
    eventually(lambda: (run_dir / "metrics.jsonl").exists() and len(rows(run_dir)) >= 2, *processes)
    processes[killed].kill()
    other = processes[1 - killed]
    _, error = other.communicate(timeout=60)
    processes[killed].communicate()
    assert other.returncode not in (0, None)
    assert re.fullmatch(r"nag-optax: .*--resume.*\n", error), error

    # They stop together where a signal comes to one of them, and say at which step.
    resumed = start_two(run_dir, "--resume")
    lines = [resumed[0].stdout.readline() for _ in range(7)]  # pyright: ignore[reportOptionalMemberAccess]
    assert re.match(r"resuming .* from step \d+", lines[4]) and lines[6].startswith("epoch")
    resumed[1].send_signal(signal.SIGTERM)
    for process in resumed:
        error = process.communicate(timeout=60)[1]
        assert process.returncode == 128 + signal.SIGTERM
        assert re.search(r"nag-optax: stopped by SIGTERM at step \d+, which is saved", error)


@pytest.mark.exhaustive
def test_processes_of_two_runs_say_so(start_two, tmp_path):
    for process in start_two(tmp_path / "run", *OPTIONS, second=("--seed", "1")):
        error = process.communicate(timeout=60)[1]
        assert process.returncode
        assert error == (
            "nag-optax: the processes do not have the same options and training data; start them alike\n"
        )


@pytest.mark.exhaustive
def test_slurm_tells_the_processes_of_each_other(tmp_path):
    """In the environment that it gives to the two tasks of a step."""
    job = {
        "SLURM_JOB_ID": str(os.getpid()),  # JAX derives the port from it.
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NTASKS": "2",
    }
    options = (
        "--model",
        "mlp",
        "--num-epochs",
        "1",
        "--coordinator",
        "auto",
        "--run-dir",
        str(tmp_path / "run"),
    )
    first, second = (
        subprocess.Popen(
            [sys.executable, "-m", "nag_optax.cli", "train", *options],
            env=os.environ | job | {"SLURM_PROCID": task, "SLURM_LOCALID": task},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for task in "01"
    )
    out, error = first.communicate(timeout=120)
    assert (first.returncode, error) == (0, ""), error
    assert "parameters on 2 cpu devices in 2 processes" in out
    assert second.communicate(timeout=30)[1] == "" and second.returncode == 0


def test_processes_that_cannot_meet_say_so_in_one_line(tmp_path):
    """192.0.2.1 is no address of any machine, and no cluster is found here."""
    command = [sys.executable, "-m", "nag_optax.cli", "train", "--run-dir", str(tmp_path / "run")]
    here = ["--coordinator", "192.0.2.1:1234", "--num-processes", "2", "--process-id", "0"]
    for options, message in (
        (here, "nag-optax: --coordinator 192.0.2.1:1234: "),
        (["--coordinator", "auto"], "--coordinator auto: cannot be used"),
    ):
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60)
        assert done.returncode and done.stderr.count("\n") == 1 and message in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())
