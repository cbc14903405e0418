"""`nag-optax serve` and `work` within this process: a served run is a run, and mistakes are named."""

import dataclasses
import io
import json
import socket
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from nag_optax.cli import run
from nag_optax.parallel import wire
from nag_optax.parallel.options import ServeOptions, Serving, WorkOptions, serving, training
from nag_optax.parallel.serve import serve
from nag_optax.parallel.worker import WorkerLoop, _Work, work
from nag_optax.train import load
from nag_optax.train.data import load_dataset
from nag_optax.train.errors import InputError
from nag_optax.train.options import Options
from nag_optax.train.parallel import find_devices
from nag_optax.train.runner import train
from nag_optax.train.spec import resolve
from nag_optax.train.transfer import facts_of
from tests.parallel.conftest import port_of, written

SMALL = ServeOptions(model="mlp", num_epochs=2, batch_size=64, warmup_epochs=0.0, port=0, timeout=60.0)

_needs_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")


@pytest.fixture(autouse=True)
def _flax_promotes(standard_promotion):
    """Flax and Optax's schedules mix dtypes."""


def served(
    options: ServeOptions, workers: int, console: Console | None = None, after: float = 0.0, **how: Any
) -> dict[str, Any]:
    """The summary of a run in this process, with workers in this process, who come `after` some seconds."""
    found: list[Any] = []

    def one(thing: Any, *inputs: Any) -> None:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            found.append(thing(*inputs))

    folder = options.run_dir
    assert folder is not None
    before = written(folder)
    threads = [threading.Thread(target=one, args=(serve, options, console or Console(quiet=True)))]
    threads[0].start()
    port = port_of(folder, before)
    # The test ends soon where the server fails.
    joins = WorkOptions(f"127.0.0.1:{port}", token_file=folder / "token", patience=10.0, **how)
    threads += [threading.Thread(target=one, args=(work, joins, Console(quiet=True))) for _ in range(workers)]
    time.sleep(after)
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


def test_the_time_without_a_worker_is_neither_compiling_nor_an_epochs(tmp_path):
    """It is told as waiting."""
    folder, screen = tmp_path / "run", io.StringIO()
    options = dataclasses.replace(SMALL, num_epochs=1, run_dir=folder)
    summary = served(options, 1, console=Console(file=screen), after=0.5)
    row = json.loads((folder / "metrics.jsonl").read_text())
    assert row["waiting_seconds"] > 0.25 and summary["compile_seconds"] > 0
    apart = row["waiting_seconds"] + summary["compile_seconds"]
    assert apart + row["seconds"] < summary["wall_seconds"]
    assert "waiting for workers\n" in (said := screen.getvalue()) and "compiling\n" not in said


@pytest.mark.exhaustive
def test_one_worker_of_dana_learns_as_train_does(tmp_path):
    """Other batches, the same method: the losses are near."""
    options = dataclasses.replace(SMALL, num_epochs=4)
    plain = training(dataclasses.replace(options, run_dir=tmp_path / "a"))
    alone = train(plain, Console(quiet=True))
    with_server = served(dataclasses.replace(options, run_dir=tmp_path / "b"), 1)
    assert abs(alone["test_accuracy"] - with_server["test_accuracy"]) < 0.03


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"optimizer": "adam"}, "--optimizer adam"),
        ({"momentum_schedule": "sutskever"}, "momentum-schedule sutskever"),
        ({"weight_decay": 0.1}, "--weight-decay 0.1: cannot be combined with --method dana"),
        ({"prune": "group_l2=1"}, "--prune group_l2=1"),
        ({"method": "diloco", "optimizer": "gpa"}, "--optimizer gpa"),
        ({"local_steps": 3}, "--local-steps 3: is only for --method delayed or diloco"),
        ({"method": "diloco", "local_steps": 0}, "--local-steps 0"),
        ({"method": "delayed", "outer_momentum": 1.0}, "--outer-momentum 1.0"),
        ({"workers": -1}, "--workers -1"),
        ({"port": 70000}, "--port 70000"),
        ({"host": ""}, '--host "": must be an address of this machine'),  # Else it would listen at all.
        ({"timeout": 0.0}, "--timeout 0.0"),
        ({"timeout": 1e9}, "--timeout 1000000000.0: must be a number above 0 and up to 1e6"),
        ({"ray_address": "auto"}, "--ray-address auto: is only for --workers"),
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


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::", marks=_needs_ipv6)])
def test_a_port_that_is_taken_is_named_before_a_folder_is_made(host, tmp_path):
    """IPv6's "::" stands for all addresses of IPv4 too."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"--port {port}: cannot listen there \(Address already in use"):
            options = dataclasses.replace(SMALL, host=host, port=port, run_dir=tmp_path / "run")
            serve(options, Console(quiet=True))
    assert not (tmp_path / "run").exists()


def test_a_worker_gives_up_after_its_patience(tmp_path, monkeypatch):
    monkeypatch.setenv("NAG_OPTAX_TOKEN", "0" * 64)
    with pytest.raises(InputError, match=r"127.0.0.1:1: no server answers \(Connection refused\)"):
        work(WorkOptions("127.0.0.1:1", patience=0.0), Console(quiet=True))


def test_a_token_that_was_right_once_is_tried_again(monkeypatch):
    """A server that is killed amid the greeting hangs up as one that does not take the token."""
    from nag_optax.parallel import worker

    def hangs_up(*_: Any, **__: Any) -> None:
        raise wire.WrongToken("the server does not take this token")

    monkeypatch.setattr(worker, "connect", hangs_up)
    monkeypatch.setenv("NAG_OPTAX_TOKEN", "0" * 64)
    fresh = _Work(WorkOptions("host:1", patience=0.2), Console(quiet=True), [])
    with pytest.raises(InputError, match="^--address host:1: the server does not take this token$"):
        fresh.carry_out()
    fresh._loop = SimpleNamespace()  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(InputError, match="host:1: no server answers .the server does not take this token"):
        fresh.carry_out()


def test_a_server_of_another_version_is_named():
    server = SimpleNamespace(config={"model": "mlp", "of_later": 1})
    loop = _Work(WorkOptions("host:1"), Console(quiet=True), [])
    with pytest.raises(InputError, match="--address host:1: the server is of another version .*'of_later'"):
        loop._made(server)  # pyright: ignore[reportArgumentType]


def test_a_worker_follows_a_server_that_was_started_with_other_steps(monkeypatch):
    """What it has compiled stays for the same run alone."""
    worker_of, made = _Work(WorkOptions("host:1"), Console(quiet=True), []), []
    loop = SimpleNamespace(begin=lambda *_: None, dataset=SimpleNamespace(train=SimpleNamespace(labels=())))
    monkeypatch.setattr(worker_of, "_made", lambda server: made.append(server.local_steps) or loop)
    for steps in (20, 20, 5):
        run = {"config": {"dataset": "", "model": ""}, "facts": {}, "local_steps": steps}
        worker_of._with(SimpleNamespace(**run, worker=1, step=0, done=True))  # pyright: ignore[reportArgumentType]
    assert made == [20, 5]


def test_a_worker_of_a_run_that_goes_on_draws_other_batches():
    """The server counts its workers from 1 again."""
    spec = resolve(Options(model="mlp", batch_size=64))
    loop = WorkerLoop(spec, load_dataset(spec, None, Console(quiet=True)), find_devices("cpu", 1), 0)

    def rows(worker: int, step: int) -> list[int]:
        loop.begin(worker, step)
        return loop._batch_rows(0).tolist()

    first = rows(1, 0)
    assert first == rows(1, 0) and first != rows(1, 23) != rows(2, 23)


def test_workers_without_ray_are_refused_before_a_folder_is_made(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    options = dataclasses.replace(SMALL, workers=2, run_dir=tmp_path / "run")
    with pytest.raises(InputError, match=r"^--workers 2: needs Ray: install the extra"):
        serve(options, Console(quiet=True))
    assert not (tmp_path / "run").exists()


def test_a_worker_with_another_model_or_data_for_digits_is_refused():
    """One of the same name, such as a user's own in another version."""
    spec = resolve(Options(model="mlp", batch_size=64))
    facts = facts_of(load_dataset(spec, None, Console(quiet=True)))
    server = SimpleNamespace(config=spec.to_dict(), facts=facts, local_steps=0, params={"w": np.zeros(3)})
    with pytest.raises(InputError, match="--address host:1: has another mlp than this machine"):
        _Work(WorkOptions("host:1"), Console(quiet=True), [])._made(server)  # pyright: ignore[reportArgumentType]
    elsewhere = WorkOptions("host:1", data_dir=Path("nowhere"))
    with pytest.raises(InputError, match="--data-dir nowhere: --dataset digits is built in"):
        _Work(elsewhere, Console(quiet=True), [])._made(server)  # pyright: ignore[reportArgumentType]


@pytest.mark.exhaustive
def test_an_epoch_without_an_update_of_its_own_has_the_loss_of_the_update_that_reached_beyond_it(tmp_path):
    folder = tmp_path / "run"
    options = dataclasses.replace(SMALL, method="delayed", local_steps=50, num_epochs=6, run_dir=folder)
    served(options, 1)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["train_loss"] for row in rows]
    # Of 23 steps each: the updates of 50 steps reach steps 50, 100 and 150.
    assert losses[0] == losses[1] > losses[2] == losses[3] > losses[4] == losses[5] > 0


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
