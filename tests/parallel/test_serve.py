"""`nag-optax serve` and `work`: a served run is a run, it outlives its server, and Ray keeps its workers."""

import dataclasses
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from nag_optax.cli import run
from nag_optax.parallel.options import ServeOptions, Serving, WorkOptions, serving, training
from nag_optax.parallel.serve import serve
from nag_optax.parallel.worker import work
from nag_optax.train import load
from nag_optax.train.errors import InputError
from nag_optax.train.runner import train
from tests.parallel.conftest import eventually

SMALL = ServeOptions(model="mlp", num_epochs=2, batch_size=64, warmup_epochs=0.0, port=0, timeout=60.0)


@pytest.fixture(autouse=True)
def _flax_promotes(standard_promotion):
    """Flax and Optax's schedules mix dtypes."""


def port_of(folder: Path, before: int = 0) -> int:
    """Once it listens."""
    eventually(lambda: written(folder) != before, 120)
    return json.loads((folder / "server.json").read_text())["port"]


def written(folder: Path) -> int:
    """When its server was started, 0 for never."""
    path = folder / "server.json"
    return path.stat().st_mtime_ns if path.exists() else 0


def served(options: ServeOptions, workers: int, **how: Any) -> dict[str, Any]:
    """The summary of a run in this process, with workers in this process."""
    found: list[Any] = []

    def one(thing: Any, *inputs: Any) -> None:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            found.append(thing(*inputs, Console(quiet=True)))

    folder = options.run_dir
    assert folder is not None
    before = written(folder)
    threads = [threading.Thread(target=one, args=(serve, options))]
    threads[0].start()
    port = port_of(folder, before)
    # The test ends soon where the server fails.
    joins = WorkOptions(f"127.0.0.1:{port}", token_file=folder / "token", patience=10.0, **how)
    threads += [threading.Thread(target=one, args=(work, joins)) for _ in range(workers)]
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join(300)
    (summary,) = (result for result in found if isinstance(result, dict))
    assert len(found) == workers + 1
    return summary


@pytest.mark.parametrize(
    ("method", "wire", "workers"),
    [
        ("dana", "float32", 1),
        pytest.param("dana", "bfloat16", 2, marks=pytest.mark.exhaustive),
        pytest.param("diloco", "int8", 2, marks=pytest.mark.exhaustive),
    ],
)
def test_a_served_run_is_a_run(method, wire, workers, tmp_path, capsys):
    """Its folder evaluates, predicts and loads, and each update is a step of it."""
    folder = tmp_path / "run"
    options = dataclasses.replace(SMALL, method=method, run_dir=folder)
    if method == "diloco":
        options = dataclasses.replace(options, optimizer="adamw", local_steps=5, num_epochs=6)
    summary = served(options, workers, wire=wire)
    assert options.num_epochs is not None
    assert summary["test_accuracy"] > 0.85 and summary["epochs"] == options.num_epochs
    assert summary["steps"] == options.num_epochs * 23  # 1437 images in batches of 64
    trained = load(folder)
    assert trained.metrics == summary
    assert run(["evaluate", str(folder)]) == 0
    assert f"{summary['test_accuracy']:.2%}" in capsys.readouterr().out
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] and rows[-1]["gradient_norm"] > 0
    if workers == 1:
        return
    # And it goes on, where it was.
    longer = dataclasses.replace(options, resume=True, num_epochs=options.num_epochs + 1)
    assert served(longer, 1)["steps"] == (options.num_epochs + 1) * 23


@pytest.mark.exhaustive
def test_one_worker_of_dana_learns_as_train_does(tmp_path):
    """Other batches, the same method: the losses are near."""
    options = dataclasses.replace(SMALL, num_epochs=4)
    plain = training(dataclasses.replace(options, run_dir=tmp_path / "a"))
    alone = train(plain, Console(quiet=True))
    with_server = served(dataclasses.replace(options, run_dir=tmp_path / "b"), 1)
    assert abs(alone["test_accuracy"] - with_server["test_accuracy"]) < 0.03


def start(*arguments: str, folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "nag_optax.cli", *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with (folder / f"{arguments[0]}-{len(list(folder.iterdir()))}.log").open("w") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


@pytest.mark.exhaustive
def test_a_server_that_is_killed_goes_on_and_its_workers_find_it(tmp_path):
    """And one who is told to leave by Ctrl-C says so."""
    folder = tmp_path / "run"
    options = "--model mlp --num-epochs 40 --batch-size 64 --run-dir run --port".split()
    server = start("serve", *options, "0", folder=tmp_path)
    port = str(port_of(folder))
    join = ["work", "--address", f"127.0.0.1:{port}", "--token-file", "run/token"]
    workers = [start(*join, folder=tmp_path) for _ in range(2)]
    try:
        eventually(lambda: len(list((folder / "checkpoints").glob("*.json"))) > 1, 120)
        server.kill()
        server.wait()
        workers.append(start(*join, folder=tmp_path))
        step = max(int(path.stem) for path in (folder / "checkpoints").glob("*.json"))
        server = start("serve", "--resume", "--run-dir", "run", folder=tmp_path)
        eventually(lambda: f"resuming run from step {step}" in logs(tmp_path), 120)
        eventually(lambda: "3 workers" in logs(tmp_path), 120)
        workers[2].send_signal(signal.SIGINT)
        assert workers[2].wait(60) == 130
        assert server.wait(240) == 0 and [worker.wait(60) for worker in workers[:2]] == [0, 0]
    finally:
        for process in (server, *workers):
            process.kill()
            process.wait()
    assert "no server at" in logs(tmp_path) and "stopped by SIGINT" in logs(tmp_path)
    assert load(folder).metrics["steps"] == 40 * 23


def logs(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.glob("*.log")))


@pytest.mark.exhaustive
def test_ray_starts_a_worker_again(tmp_path):
    options = "--model mlp --num-epochs 400 --batch-size 64 --workers 2 --run-dir run --port 0".split()
    server = start("serve", *options, folder=tmp_path)
    try:
        eventually(lambda: "; 2 workers, " in logs(tmp_path), 240)
        number, pid = re.findall(r"worker (\d+) is at work \(.*:(\d+)\)", logs(tmp_path))[0]
        os.kill(int(pid), signal.SIGKILL)
        eventually(lambda: f"worker {number} is gone" in logs(tmp_path))
        eventually(lambda: logs(tmp_path).count("; 2 workers, ") == 2, 240)
        server.send_signal(signal.SIGTERM)
        assert server.wait(120) == 143
        assert "nag-optax serve --resume --run-dir run" in logs(tmp_path)
    finally:
        server.kill()
        server.wait()


@pytest.mark.exhaustive
def test_workers_start_in_a_ray_cluster_that_runs_and_their_failures_are_told(tmp_path):
    images, labels, data = np.zeros((400, 8, 8), np.uint8), np.arange(400) % 10, tmp_path / "data.npz"
    arrays = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    np.savez(data, allow_pickle=False, **arrays)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    head = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2"]
    head += [
        f"--port={port}",
        "--node-ip-address=127.0.0.1",
        "--include-dashboard=false",
        "--disable-usage-stats",
    ]
    options = "--dataset arrays --data-dir data.npz --model mlp --num-epochs 3000 --run-dir run --port 0"
    options += f" --workers 2 --ray-address 127.0.0.1:{port}"
    # Ray's sockets have paths of at most 107 bytes.
    with tempfile.TemporaryDirectory() as short, (tmp_path / "ray.log").open("w") as log:
        processes = [subprocess.Popen([*head, f"--temp-dir={short}"], stdout=log, stderr=log)]
        try:
            eventually(lambda: "Ray runtime started" in logs(tmp_path), 120)
            processes.append(start("serve", *options.split(), folder=tmp_path))
            port_of(tmp_path / "run")
            data.rename(tmp_path / "elsewhere.npz")
            eventually(lambda: logs(tmp_path).count("one of --workers 2 has failed: ") == 2, 240)
            assert "No such file or directory: '" in logs(tmp_path)
            processes[1].send_signal(signal.SIGTERM)  # Before there was an update.
            assert processes[1].wait(120) == 143 and "stopped by SIGTERM at step 0" in logs(tmp_path)
            (tmp_path / "elsewhere.npz").rename(data)
            processes.append(start("serve", *options.split(), "--resume", folder=tmp_path))
            eventually(lambda: "2 workers" in logs(tmp_path), 240)
            processes[2].send_signal(signal.SIGTERM)
            assert processes[2].wait(120) == 143
            assert processes[0].poll() is None  # The cluster goes on.
        finally:
            for process in processes[::-1]:
                process.terminate()
                process.wait(60)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"optimizer": "adam"}, "--optimizer adam"),
        ({"momentum_schedule": "sutskever"}, "momentum-schedule sutskever"),
        ({"weight_decay": 0.1}, "--weight-decay 0.1: does not go with --method dana"),
        ({"prune": "group_l2=1"}, "--prune group_l2=1"),
        ({"method": "diloco", "optimizer": "gpa"}, "--optimizer gpa"),
        ({"local_steps": 3}, "--local-steps 3: goes with --method delayed or diloco"),
        ({"method": "diloco", "local_steps": 0}, "--local-steps 0"),
        ({"method": "delayed", "outer_momentum": 1.0}, "--outer-momentum 1.0"),
        ({"workers": -1}, "--workers -1"),
        ({"port": 70000}, "--port 70000"),
        ({"timeout": 0.0}, "--timeout 0.0"),
        ({"ray_address": "auto"}, "--ray-address auto: goes with --workers"),
        ({"num_devices": 2}, "--num-devices 2"),
        ({"coordinator": "host:1"}, "--coordinator host:1"),
        ({"follow": True}, "--follow True"),
        ({"resident": "no"}, "--resident no"),
        ({"precision": "bfloat16-parameters"}, "--precision bfloat16-parameters"),
        ({"method": "fast"}, "--method fast"),
    ],
)
def test_a_mistake_is_named(given, named):
    options = ServeOptions(**given)
    with pytest.raises(InputError, match=named.replace("-", "[-]")):
        serving(options, {})
        training(options)


def test_what_a_run_was_started_with_stays():
    first = serving(ServeOptions(method="diloco", port=1234, local_steps=7), {})
    assert serving(ServeOptions(timeout=3.0), first._asdict()) == first._replace(timeout=3.0)
    assert training(ServeOptions(method="diloco", optimizer="adamw")).inner == "adamw"
    assert set(Serving._fields) <= {field.name for field in dataclasses.fields(ServeOptions)}
    with pytest.raises(InputError, match="started with diloco"):
        serving(ServeOptions(method="dana"), first._asdict())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("work --address nowhere", "--address nowhere: must be HOST:PORT"),
        ("work --max-updates 0", "--max-updates 0"),
        ("work --token-file none", "--token-file none: cannot be read"),
        ("work", "NAG_OPTAX_TOKEN"),
        ("serve --resume --run-dir none", "none/config.json: no such file"),
        ("serve --method dana --optimizer adam", "--method dana is nag"),
    ],
)
def test_the_command_says_it_in_one_line(arguments, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NAG_OPTAX_TOKEN", raising=False)
    assert run(arguments.split()) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("nag-optax: ") and line in captured.err
    assert captured.err.count("\n") == 1 and captured.out == ""


def test_a_port_that_is_taken_is_named_before_a_folder_is_made(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port {port}: cannot listen there"):
            serve(dataclasses.replace(SMALL, port=port, run_dir=tmp_path / "run"), Console(quiet=True))
    assert not (tmp_path / "run").exists()


def test_a_worker_gives_up_after_its_patience(tmp_path, monkeypatch):
    monkeypatch.setenv("NAG_OPTAX_TOKEN", "0" * 64)
    with pytest.raises(InputError, match="127.0.0.1:1: no server answers"):
        work(WorkOptions("127.0.0.1:1", patience=0.0), Console(quiet=True))


def test_data_of_another_shape_are_refused(tmp_path):
    """Before a gradient of them is sent."""
    folder = tmp_path / "run"
    for name, side in (("other", 6), ("mine", 8)):
        images, labels = np.zeros((40, side, side), np.uint8), np.arange(40) % 10
        arrays = {
            "train_images": images,
            "train_labels": labels,
            "test_images": images,
            "test_labels": labels,
        }
        np.savez(tmp_path / f"{name}.npz", allow_pickle=False, **arrays)
    options = dataclasses.replace(
        SMALL, dataset="arrays", data_dir=tmp_path / "mine.npz", batch_size=8, num_epochs=1, run_dir=folder
    )

    def background() -> None:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            serve(options, Console(quiet=True))

    thread = threading.Thread(target=background)
    thread.start()
    join = WorkOptions(f"127.0.0.1:{port_of(folder)}", token_file=folder / "token")
    with pytest.raises(InputError, match="has images of 6 x 6 x 1; the run was trained on 8 x 8 x 1"):
        work(dataclasses.replace(join, data_dir=tmp_path / "other.npz"), Console(quiet=True))
    assert work(dataclasses.replace(join, max_updates=2), Console(quiet=True)) == 2
    assert work(join, Console(quiet=True)) == 3  # of five in all
    thread.join()


@pytest.mark.exhaustive
def test_the_commands_of_the_page_run(tmp_path):
    """In their order; the server without workers of its own runs beside its worker."""
    page = (Path(__file__).parents[2] / "docs" / "server.md").read_text()
    found = re.findall(r"^(nag-optax .*)$", page, re.M)
    assert [words.split()[1] for words in found] == ["serve", "evaluate", "serve", "work"]
    running = []
    try:
        for words in map(shlex.split, found):
            running.append(start(*words[1:], folder=tmp_path))
            if words[-1] == "runs/served":
                port_of(tmp_path / "runs" / "served")
            else:
                assert running[-1].wait(300) == 0, logs(tmp_path)
        assert running[2].wait(60) == 0
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert load(tmp_path / "runs" / "served").metrics["test_accuracy"] > 0.9
    # Without an address that others reach nothing is open, and nothing is said of that.
    assert "warning" not in logs(tmp_path)
