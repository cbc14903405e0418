"""`nag-optax serve` and `work` as commands, in processes that are killed, of Ray, and on two machines."""

import ipaddress
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

from nag_optax.parallel.options import PORT
from nag_optax.train import load
from tests.helpers import eventually
from tests.parallel.conftest import port_of

pytestmark = pytest.mark.exhaustive


def start(*arguments: str, folder: Path, machine: str | None = None) -> subprocess.Popen:
    command = [sys.executable, "-m", "nag_optax.cli", *arguments]
    if machine is not None:
        command = ["ip", "netns", "exec", machine, *command]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with (new := folder / "new").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    new.rename(folder / f"{process.pid}.log")
    return process


def said(folder: Path, process: subprocess.Popen) -> str:
    return (folder / f"{process.pid}.log").read_text()


def logs(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("*.log"))


def test_a_server_that_is_killed_goes_on_and_its_workers_find_it(tmp_path):
    """And one who is told to leave by Ctrl-C says so.

    The run does not end before all are there: those who are stand still for the others.
    """
    folder = tmp_path / "run"
    options = "--model mlp --num-epochs 40 --batch-size 64 --run-dir run --port".split()
    server = start("serve", *options, "0", folder=tmp_path)
    port = str(port_of(folder))
    join = ["work", "--address", f"127.0.0.1:{port}", "--token-file", "run/token"]
    workers = [start(*join, folder=tmp_path) for _ in range(2)]
    try:
        eventually(lambda: len(list((folder / "checkpoints").glob("*.json"))) > 1, server, *workers)
        server.kill()
        server.wait()
        for worker in workers:
            worker.send_signal(signal.SIGSTOP)
        workers.append(start(*join, folder=tmp_path))
        step = max(int(path.stem) for path in (folder / "checkpoints").glob("*.json"))
        server = start("serve", "--resume", "--run-dir", "run", folder=tmp_path)
        eventually(lambda: "; 1 worker, " in said(tmp_path, server), server, *workers)
        assert f"resuming run from step {step}" in said(tmp_path, server)
        workers[2].send_signal(signal.SIGSTOP)
        for worker in workers[:2]:
            worker.send_signal(signal.SIGCONT)
        eventually(lambda: "; 3 workers, " in said(tmp_path, server), server, *workers)
        workers[2].send_signal(signal.SIGINT)
        workers[2].send_signal(signal.SIGCONT)
        assert workers[2].wait(60) == 130
        assert server.wait(240) == 0 and [worker.wait(60) for worker in workers[:2]] == [0, 0]
    finally:
        for process in (server, *workers):
            process.kill()
            process.wait()
    assert "digits · mlp, 1,437 images" in logs(tmp_path)
    assert "no server at" in logs(tmp_path) and "stopped by SIGINT" in logs(tmp_path)
    assert load(folder).metrics["steps"] == 40 * 23


@pytest.fixture
def machines() -> Iterator[dict[str, str]]:
    """Two network namespaces, each a machine of its own to TCP, and where each finds the server."""
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("a network namespace needs root, and iproute2")
    # Each process has its own addresses, in the range that is meant for tests of networks.
    first = ipaddress.ip_address("198.18.0.0") + 8 * (os.getpid() % 2**14)
    found = {f"nag{os.getpid()}{end}": str(first + i) for end, i in (("a", 1), ("b", 5))}
    try:
        for name, here in found.items():
            there = ipaddress.ip_address(here) + 1
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
        eventually(lambda: "; 1 worker, " in said(tmp_path, running[0]), *running)
        (first,) = pids_at_work(said(tmp_path, running[0]))[:1]
        os.kill(first, signal.SIGSTOP)  # The other one may need longer to begin than the whole run takes.
        eventually(lambda: "; 2 workers, " in said(tmp_path, running[0]), *running)
        os.kill(first, signal.SIGCONT)
        assert [process.wait(240) for process in running] == [0, 0, 0]
    finally:
        for process in running:
            process.kill()
            process.wait()
    lines = logs(tmp_path)
    assert f"warning: port {port} of 0.0.0.0 is open" in lines
    assert f"join: nag-optax work --address {socket.gethostname()}:{port} " in lines
    updates = [int(count) for count in re.findall(r"(\d+) updates sent", lines)]
    assert sum(updates) == 60 * 23 and min(updates) > 0
    assert load(tmp_path / "run").metrics["test_accuracy"] > 0.9


def pids_at_work(lines: str) -> list[int]:
    """The process numbers of the workers that a server names."""
    return [int(pid) for pid in re.findall(r"worker \d+ is at work \(.*:(\d+)\)", lines)]


def test_ray_starts_a_worker_again(tmp_path):
    options = "--model mlp --num-epochs 100000 --batch-size 64 --workers 2 --run-dir run --port 0".split()
    server = start("serve", *options, folder=tmp_path)
    try:
        eventually(lambda: "; 2 workers, " in logs(tmp_path), server)
        pid = pids_at_work(logs(tmp_path))[0]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: re.search(rf"worker \d+ is gone \(.*:{pid}\)", logs(tmp_path)), server)
        eventually(lambda: logs(tmp_path).count("; 2 workers, ") == 2, server)
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
    head = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2"]
    head += [
        "--port=0",
        "--node-ip-address=127.0.0.1",
        "--include-dashboard=false",
        "--disable-usage-stats",
    ]
    options = "--dataset arrays --data-dir data.npz --model mlp --num-epochs 100000 --run-dir run --port 0"
    # Ray's sockets have paths of at most 107 bytes.
    with tempfile.TemporaryDirectory() as short, (tmp_path / "ray.log").open("w") as log:
        processes = [subprocess.Popen([*head, f"--temp-dir={short}"], stdout=log, stderr=log)]
        try:
            eventually(lambda: re.search("--address='(.*)'", logs(tmp_path)), *processes)
            (cluster,) = re.findall("--address='(.*)'", logs(tmp_path))
            options += f" --workers 2 --ray-address {cluster}"
            processes.append(start("serve", *options.split(), folder=tmp_path))
            port_of(tmp_path / "run")
            data.rename(tmp_path / "elsewhere.npz")
            eventually(lambda: logs(tmp_path).count("one of --workers 2 has failed: ") == 2, *processes)
            assert logs(tmp_path).count("data.npz: cannot be read (No such file or directory)") == 2
            processes[1].send_signal(signal.SIGTERM)  # Before there was an update.
            assert processes[1].wait(120) == 143 and "stopped by SIGTERM at step 0" in logs(tmp_path)
            (tmp_path / "elsewhere.npz").rename(data)
            processes.append(start("serve", *options.split(), "--resume", folder=tmp_path))
            eventually(lambda: "2 workers" in logs(tmp_path), processes[0], processes[2])
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
    running, place = [], f"127.0.0.1:{PORT}"
    try:
        for words in map(shlex.split, found):
            # Another program may hold the port of the page.
            words += ["--port", "0"] * (words[1] == "serve")
            words = [place if word == f"127.0.0.1:{PORT}" else word for word in words]
            running.append(start(*words[1:], folder=tmp_path))
            if "runs/served" in words:
                place = f"127.0.0.1:{port_of(tmp_path / 'runs' / 'served')}"
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
