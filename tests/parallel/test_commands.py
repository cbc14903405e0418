"""`nag-optax serve` and `work` as commands, in processes that are killed, of Ray, and on two machines."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nag_optax.train import load
from tests.parallel.conftest import eventually, port_of

pytestmark = pytest.mark.exhaustive


def start(*arguments: str, folder: Path, machine: str | None = None) -> subprocess.Popen:
    command = [sys.executable, "-m", "nag_optax.cli", *arguments]
    if machine is not None:
        command = ["ip", "netns", "exec", machine, *command]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with (folder / f"{arguments[0]}-{len(list(folder.iterdir()))}.log").open("w") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


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
    assert "digits · mlp, 1,437 images" in logs(tmp_path)
    assert "no server at" in logs(tmp_path) and "stopped by SIGINT" in logs(tmp_path)
    assert load(folder).metrics["steps"] == 40 * 23


def logs(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.glob("*.log")))


@pytest.fixture
def machines() -> Iterator[dict[str, str]]:
    """Two network namespaces, each a machine of its own to TCP, and where each finds the server."""
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("a network namespace needs root, and iproute2")
    found = {f"nag{os.getpid()}{end}": f"198.51.100.{subnet}" for end, subnet in (("a", 0), ("b", 4))}
    try:
        for name, subnet in found.items():
            head, last = subnet.rsplit(".", 1)
            here, there = (f"{head}.{int(last) + i}" for i in (1, 2))
            found[name] = here
            for command in (
                f"ip netns add {name}",
                f"ip link add {name}0 type veth peer name {name}1",
                f"ip link set {name}1 netns {name}",
                f"ip addr add {here}/30 dev {name}0",
                f"ip link set {name}0 up",
                f"ip -n {name} addr add {there}/30 dev {name}1",
                f"ip -n {name} link set {name}1 up",
            ):
                made = subprocess.run(command.split(), capture_output=True, text=True)
                if made.returncode:
                    pytest.skip(f"{command}: {made.stderr.strip()}")
        yield found
    finally:
        for name in found:
            subprocess.run(["ip", "link", "del", f"{name}0"], capture_output=True)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def test_workers_of_two_machines_train_one_model(tmp_path, machines):
    """And the server says what is open, and how to join."""
    options = "--model mlp --num-epochs 60 --batch-size 64 --run-dir run --host 0.0.0.0 --port 0".split()
    running = [start("serve", *options, folder=tmp_path)]
    try:
        port = port_of(tmp_path / "run")
        for name, address in machines.items():
            join = ["work", "--address", f"{address}:{port}", "--token-file", "run/token"]
            running.append(start(*join, folder=tmp_path, machine=name))
        assert [process.wait(240) for process in running] == [0, 0, 0]
    finally:
        for process in running:
            process.kill()
            process.wait()
    said = logs(tmp_path)
    assert f"warning: port {port} of 0.0.0.0 is open" in said
    assert f"join: nag-optax work --address {socket.gethostname()}:{port} " in said
    updates = [int(count) for count in re.findall(r"(\d+) updates sent", said)]
    assert sum(updates) == 60 * 23 and min(updates) > 0
    assert load(tmp_path / "run").metrics["test_accuracy"] > 0.9


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
            assert logs(tmp_path).count("data.npz: cannot be read (No such file or directory)") == 2
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
