"""Measures the Nesterov server: how many updates it takes, and what happens when something dies.

    python -m benchmarks.parallel --data-dir DIR --json parallel.json

DIR holds MNIST's four IDX files. All goes over loopback, and all processes share the machine's cores.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.options import Parser, writable_file

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
WORKERS = (1, 2, 4)
WIRES = ("float32", "bfloat16", "int8")
WIRE_SIZE = 1_000_000
TARGET, EPOCHS = 0.97, 5
RATE_COLUMNS = ("numbers", "MB an update", *(f"{n} worker{'s' * (n > 1)}" for n in WORKERS))
WIRE_COLUMNS = ("wire", "bytes an update", "updates a second")
TIME_COLUMNS = ("MNIST, mlp, five epochs", "s to 97 %", "s in all", "test accuracy", "updates")
LEGEND = [
    "Updates a second: the server runs DANA-Zero. The workers compute nothing and send one gradient again "
    "and again.",
    f"wire: two workers send updates of {WIRE_SIZE:,} numbers. The parameters come back in float32, or in "
    "bfloat16 with the other two formats.",
    "s to 97 %: from the start of the command to the end of the first epoch with that accuracy on the test "
    "images. The workers start as soon as the server listens.",
    "one killed, one slow: one of the three gets SIGKILL after the first epoch. Another one stands still for "
    "four fifths of the time.",
    "by Ray: `--workers 3`.",
    "Other programs used the two cores as well, so rates are lower and times longer than alone.",
]
_CLIENT = """
import sys
import numpy as np
from nag_optax.parallel import connect
with connect(sys.argv[1], sys.argv[2], wire_format=sys.argv[3]) as server:
    rng = np.random.default_rng(0)
    gradient = {n: rng.standard_normal(p.shape, np.float32) for n, p in server.params.items()}
    while not server.done:
        server.push(gradient)
"""
_TOKEN = "benchmark" * 4


def tree(size: int) -> dict[str, Any]:
    """So many numbers, in arrays of a network's shapes."""
    import numpy as np

    width = round((size / 2) ** 0.5)
    return {"a": np.zeros((width, width), np.float32), "b": np.zeros(size - width**2, np.float32)}


def rate(size: int, workers: int, wire: str = "float32", seconds: float = 2.0) -> dict[str, Any]:
    """Updates a second of a server of that size, and the bytes of one."""
    import jax.numpy as jnp

    from nag_optax.parallel import dana_zero, payload
    from nag_optax.parallel.served import Served
    from nag_optax.parallel.server import Server

    params = {name: jnp.asarray(leaf) for name, leaf in tree(size).items()}
    method = dana_zero(1e-6)
    served = Served(method, False, method.init, lambda fresh, state: state)
    spec = {"config": {}, "facts": {}, "local_steps": 0}
    address, said = ("127.0.0.1", 0), lambda line: None
    server = Server(served, method.init(params), {}, 0, spec, _TOKEN.encode(), address, 60.0, said)
    server.limit = sys.maxsize
    command = [sys.executable, "-c", _CLIENT, f"127.0.0.1:{server.address[1]}", _TOKEN, wire]
    clients = [subprocess.Popen(command) for _ in range(workers)]
    try:
        wait(lambda: len(server.workers) == workers and server.updates > 10 * workers)
        before, started = server.updates, time.perf_counter()
        time.sleep(seconds)
        found = (server.updates - before) / (time.perf_counter() - started)
    finally:
        server.close(finished=True)
        for client in clients:
            client.wait(60)
    return {
        "size": size,
        "workers": workers,
        "wire": wire,
        "bytes": payload.size(payload.layout(params, wire)),  # pyright: ignore[reportArgumentType]
        "updates_per_second": found,
    }


def wait(condition: Callable[[], Any], seconds: float = 300.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise SystemExit("python -m benchmarks.parallel: a process did not do what it should")
        time.sleep(0.01)


class Command:
    """`nag-optax`, in the background, and what it has printed."""

    def __init__(self, folder: Path, *arguments: str):
        self._log = folder / f"{arguments[0]}-{time.monotonic_ns()}.log"
        program = [sys.executable, "-m", "nag_optax.cli", *arguments]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(program, stdout=log, stderr=log)

    def said(self) -> str:
        return self._log.read_text()


@contextmanager
def commands() -> Iterator[tuple[Path, Callable[..., Command]]]:
    """A folder, and what starts a command that keeps its files there; none outlives the block."""
    started: list[Command] = []
    with tempfile.TemporaryDirectory() as folder:

        def start(*arguments: str) -> Command:
            started.append(Command(Path(folder), *arguments))
            return started[-1]

        try:
            yield Path(folder), start
        finally:
            for command in started:
                command.process.kill()
                command.process.wait()


def rows_of(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def training(data: Path, workers: int | None, *, ray: bool = False, trouble: bool = False) -> dict[str, Any]:
    """A run of MNIST to its end, alone or with workers."""
    with commands() as (folder, start):
        run, started, reached, helpers = folder / "run", time.perf_counter(), None, []
        what = ["--dataset", "mnist", "--data-dir", str(data), "--model", "mlp", "--run-dir", str(run)]
        what += ["--num-epochs", str(EPOCHS)]
        if workers is None:
            command = start("train", *what)
        else:
            command = start("serve", *what, "--port", "0", *(["--workers", str(workers)] if ray else []))
            if not ray:
                helpers = joined(start, run, workers)
            if trouble:
                threading.Thread(target=slow, args=(helpers[1].process,), daemon=True).start()
        killed = False
        while command.process.poll() is None:
            rows = rows_of(run)
            if reached is None and any(row["test_accuracy"] >= TARGET for row in rows):
                reached = time.perf_counter() - started
            if trouble and rows and not killed:
                helpers[0].process.kill()
                killed = True
            time.sleep(0.02)
        if command.process.returncode:
            raise SystemExit(f"python -m benchmarks.parallel: a run has failed:\n{command.said()}")
        summary = json.loads((run / "summary.json").read_text())
        return {
            "workers": workers,
            "ray": ray,
            "trouble": trouble,
            "seconds_to_target": reached,
            "seconds": time.perf_counter() - started,
            "test_accuracy": summary["test_accuracy"],
            "steps": summary["steps"],
        }


def joined(start: Callable[..., Command], run: Path, workers: int) -> list[Command]:
    """Workers of a server that has just been started."""
    wait((run / "server.json").exists)
    port = json.loads((run / "server.json").read_text())["port"]
    join = ["work", "--address", f"127.0.0.1:{port}", "--token-file", str(run / "token")]
    return [start(*join) for _ in range(workers)]


def slow(process: subprocess.Popen) -> None:
    """It runs for a fifth of the time."""
    while process.poll() is None:
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.08)
        process.send_signal(signal.SIGCONT)
        time.sleep(0.02)


def recovery() -> dict[str, float]:
    """Seconds after a SIGKILL: until the server has noticed that a worker is gone, and until a server that is
    started again at once has its first update."""
    with commands() as (folder, start):
        run = folder / "run"
        what = ["--model", "mlp", "--num-epochs", "2000", "--run-dir", str(run), "--port", "0"]
        server = start("serve", *what)
        worker, _ = joined(start, run, 2)
        wait(lambda: len(rows_of(run)) > 2 and "2 workers" in server.said())
        worker.process.kill()
        started = time.perf_counter()
        wait(lambda: " is gone " in server.said())
        noticed = time.perf_counter() - started
        server.process.kill()
        started = time.perf_counter()
        server = start("serve", "--resume", "--run-dir", str(run))
        wait(lambda: " is at work " in server.said())
        return {"worker_noticed": noticed, "server_back": time.perf_counter() - started}


def tables(result: dict[str, Any]) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Title, columns and rows of each."""
    by_size = {
        size: [e for e in result["rates"] if e["size"] == size and e["wire"] == "float32"] for size in SIZES
    }
    rates = [
        (
            f"{size:,}",
            f"{4 * size / 1e6:g}",
            *(f"{e['updates_per_second']:.0f}" for n in WORKERS for e in entries if e["workers"] == n),
        )
        for size, entries in by_size.items()
    ]
    wires = [
        (e["wire"], f"{e['bytes']:,}", f"{e['updates_per_second']:.0f}")
        for e in result["rates"]
        if e["size"] == WIRE_SIZE and e["workers"] == 2
    ]
    times = [
        (
            named(e),
            "never" if e["seconds_to_target"] is None else f"{e['seconds_to_target']:.0f}",
            f"{e['seconds']:.0f}",
            f"{e['test_accuracy']:.2%}",
            f"{e['steps']:,}",
        )
        for e in result["runs"]
    ]
    return [
        ("Updates a second", RATE_COLUMNS, rates),
        ("By the format on the wire", WIRE_COLUMNS, wires),
        ("Time to an accuracy", TIME_COLUMNS, times),
    ]


def named(run: dict[str, Any]) -> str:
    if run["workers"] is None:
        return "`nag-optax train`"
    trouble = ", one killed, one slow" if run["trouble"] else ""
    workers = f"{run['workers']} worker{'s' * (run['workers'] > 1)}"
    return f"`nag-optax serve`, {workers}{trouble}{', by Ray' if run['ray'] else ''}"


def recovered(result: dict[str, Any]) -> str:
    """What the page says of it."""
    found = result["recovery"]
    return (
        f"After a SIGKILL the server notices in {found['worker_noticed']:.2f} s that a worker is gone. A "
        "server that is killed and started again at once, with `--resume`, has its first update after "
        f"{found['server_back']:.1f} s."
    )


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks.parallel",
        description="Measures the Nesterov server: updates a second, bytes, time to an accuracy, recovery.",
    )
    parser.add_argument("--data-dir", type=Path, required=True, metavar="DIR", help="MNIST's IDX files")
    parser.add_argument("--json", type=writable_file, metavar="FILE", help="write the result as JSON")
    return parser.parse_args(args)


def main(args: list[str] | None = None) -> None:
    options = parse(args)
    from benchmarks import report

    configurations = [(size, workers, "float32") for size in SIZES for workers in WORKERS]
    configurations += [(WIRE_SIZE, 2, wire) for wire in WIRES[1:]]
    runs = [{"workers": None}, {"workers": 1}, {"workers": 3}]
    runs += [{"workers": 3, "trouble": True}, {"workers": 3, "ray": True}]
    result: dict[str, Any] = {"rates": [], "runs": []}
    with report.progress("servers", len(configurations) + len(runs) + 1) as advance:
        for configuration in configurations:
            result["rates"].append(rate(*configuration))
            advance()
        for run in runs:
            result["runs"].append(training(options.data_dir, **run))
            advance()
        result["recovery"] = recovery()
        advance()
    result = report.environment() | result
    for title, columns, rows in tables(result):
        report.show(f"{title}: {report.headline(result)}", columns, [rows])
    print(recovered(result))
    if options.json:
        report.write_json(options.json, result)


if __name__ == "__main__":
    main()
