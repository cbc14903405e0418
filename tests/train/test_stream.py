"""Streamed images: the batches and the numbers of resident ones, and what ends a stream."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from nag_optax.train import progress
from nag_optax.train.data import load_dataset
from nag_optax.train.data.pictures import Pictures, in_threads, sample
from nag_optax.train.data.stream import Stream, epoch_order, part_of_batches
from nag_optax.train.errors import InputError, Interrupted
from nag_optax.train.loop import Loop
from nag_optax.train.options import Options
from nag_optax.train.parallel import stays_resident
from nag_optax.train.runner import train
from nag_optax.train.spec import resolve
from tests.helpers import eventually, exhaustive
from tests.train.conftest import output
from tests.train.streaming import options_of, write_pictures


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "set")


def loop_of(folder: Path, **fields) -> Loop:
    spec = resolve(options_of(folder, **fields))
    return Loop(spec, load_dataset(spec), jax.devices()[:1])


def assert_equal(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_pictures_are_an_array_that_is_decoded_when_it_is_asked_for(pictures):
    resident, streamed = (
        load_dataset(resolve(options_of(pictures, resident=resident, validation=0.2)))
        for resident in ("yes", "no")
    )
    assert streamed.streamed and not resident.streamed and isinstance(streamed.train.images, Pictures)
    assert streamed.digest == resident.digest
    for name in ("train", "test", "validation"):
        a, b = getattr(resident, name), getattr(streamed, name)
        assert a.images.shape == b.images.shape and a.images.dtype == b.images.dtype
        np.testing.assert_array_equal(np.asarray(b.images), a.images)
        np.testing.assert_array_equal(b.labels, a.labels)
    assert_equal(streamed.statistics, resident.statistics)
    assert sample(10, 20).tolist() == list(range(10)) and len(set(sample(1000, 20))) == 20


@pytest.mark.parametrize("augment", ["crop-flip", exhaustive("none"), exhaustive("resized-crop")])
def test_a_streamed_run_has_the_numbers_of_a_resident_one(pictures, augment):
    resident, streamed = (loop_of(pictures, resident=r, augment=augment) for r in ("yes", "no"))
    a, b = resident.init(), streamed.init()
    for _ in range(2 * resident.steps_per_epoch):  # A step at a time, as both run with this model.
        a = resident.run_chunk(a, 1)
    b = streamed.run_chunk(streamed.run_chunk(b, streamed.steps_per_epoch), streamed.steps_per_epoch)
    assert_equal(a, b)
    # It may begin anywhere, and the other way.
    again = streamed.run_chunk(resident.run_chunk(resident.init(), 1), 3)
    more = resident.run_chunk(resident.init(), 1)
    for _ in range(3):
        more = resident.run_chunk(more, 1)
    assert_equal(again, more)
    assert streamed.evaluate(b, streamed.dataset.test) == resident.evaluate(b, resident.dataset.test)
    streamed.close()


@pytest.mark.four_devices
def test_a_streamed_batch_is_split_over_the_devices(pictures):
    spec = resolve(options_of(pictures))
    loop = Loop(spec, load_dataset(spec), jax.devices()[:4])
    batch = loop._streamed(0)
    rows = epoch_order(0, 0, 21, 4)[:4]
    np.testing.assert_array_equal(batch.images, np.asarray(loop.dataset.train.images[rows]))
    assert [shard.data.shape[0] for shard in batch.images.addressable_shards] == [1] * 4
    loop.close()


def test_the_parts_of_two_processes_are_the_batches_of_one():
    order = partial(epoch_order, 3, num_examples=21, batch_size=4)
    first, second = (part_of_batches(order, part, 2, 4, 1).reshape(-1, 2) for part in (0, 1))
    np.testing.assert_array_equal(np.hstack([first, second]).ravel(), order(1))


def test_arrays_are_streamed_from_memory():
    spec = resolve(Options(model="mlp", resident="no", batch_size=64, num_epochs=2))
    loop = Loop(spec, load_dataset(spec), jax.devices()[:1])
    assert loop.dataset.streamed and loop.num_workers == 0
    rows = epoch_order(0, 0, 1437, 64)
    for step in (0, 1, 22):  # In another order than one after the other, too.
        batch = loop._streamed(step)
        chosen = rows[64 * step : 64 * (step + 1)]
        np.testing.assert_array_equal(batch.images, loop.dataset.train.images[chosen])
        np.testing.assert_array_equal(batch.labels, loop.dataset.train.labels[chosen])
    assert loop.waited > 0
    loop.close()


class _Device:
    def __init__(self, **stats):
        self.memory_stats = lambda: stats or None


def test_what_takes_a_quarter_of_the_memory_is_resident(monkeypatch):
    device = _Device(bytes_limit=4000)
    assert stays_resident("auto", device, 1000) and not stays_resident("auto", device, 1001)
    assert stays_resident("yes", device, 10**9) and not stays_resident("no", device, 1)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4, "SC_PHYS_PAGES": 100}.get)
    assert not stays_resident("auto", device, 101) and stays_resident("auto", _Device(), 100)


def test_a_run_that_was_stopped_goes_on_to_the_same_bits_streamed_or_resident(pictures, tmp_path, console):
    whole = train(options_of(pictures, run_dir=tmp_path / "whole"), console)
    assert "21 images are streamed\n" in output(console)
    part, steps = options_of(pictures, run_dir=tmp_path / "part"), []
    run = Loop.run_chunk

    def stopping(self, state, count):
        steps.append(int(state.step))
        if steps[-1] == 8:
            os.kill(os.getpid(), signal.SIGINT)
        return run(self, state, count)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Loop, "run_chunk", stopping)
        with pytest.raises(Interrupted, match="at step 9, which is saved"):
            train(part, console)
    shutil.copytree(tmp_path / "part", tmp_path / "other")
    for name, resident in (("part", "no"), ("other", "yes")):
        options = dataclasses.replace(part, resume=True, resident=resident, run_dir=tmp_path / name)
        assert train(options, console)["test_loss"] == whole["test_loss"], name
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < row["waiting_seconds"] < row["seconds"] for row in rows)


def test_a_signal_in_the_evaluation_after_an_epoch_loses_nothing(pictures, tmp_path, console, monkeypatch):
    whole = train(options_of(pictures, run_dir=tmp_path / "whole"), console)
    options, measure = options_of(pictures, run_dir=tmp_path / "part"), Loop.evaluate

    def interrupting(self, *args):
        os.kill(os.getpid(), signal.SIGINT)
        return measure(self, *args)

    with monkeypatch.context() as patched, pytest.raises(Interrupted, match="at step 6, which is saved"):
        patched.setattr(Loop, "evaluate", interrupting)
        train(options, console)
    assert train(dataclasses.replace(options, resume=True), console)["test_loss"] == whole["test_loss"]
    files = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("whole", "part")]
    kept = [[json.loads(line) for line in text.splitlines()] for text in files]
    for a, b in zip(*kept, strict=True):
        assert a["train_loss"] == b["train_loss"] and a["gradient_norm"] == b["gradient_norm"]


def test_a_picture_that_goes_bad_ends_the_run_with_its_name_and_a_checkpoint(pictures, tmp_path, console):
    options, run = options_of(pictures, run_dir=tmp_path / "run"), Loop.run_chunk
    path = pictures / "train" / "cat" / "0.png"
    content = path.read_bytes()

    def breaking(self, state, count):
        if int(state.step) == 6:
            path.unlink()
            self.close()  # Nothing was read ahead.
        return run(self, state, count)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Loop, "run_chunk", breaking)
        with pytest.raises(
            InputError, match=r"cat/0.png: cannot be decoded \(.*No such file.*step \d+ is saved"
        ):
            train(options, console)
    path.write_bytes(content)
    assert train(dataclasses.replace(options, resume=True), console)["steps"] == 12


def test_pictures_that_differ_are_named(pictures):
    dataset = load_dataset(resolve(options_of(pictures)))
    images = dataset.train.images
    assert isinstance(images, Pictures)
    for grey, message in (
        ((6, 8, 1), "is in colour"),
        ((5, 8, 3), "has 8 x 6 pixels, the others have 8 x 5"),
    ):
        with pytest.raises(InputError, match=f"train/cat/0.png: {message}"):
            dataclasses.replace(images, image_shape=grey).read(0)


def test_what_cannot_be_decoded_is_left_out_before_the_first_step(pictures, console):
    (pictures / "train" / "cat" / "2.png").write_text("hello")
    options = options_of(pictures, skip_unreadable=True)
    streamed = load_dataset(resolve(options), None, console)
    assert "1 of 25 pictures cannot be decoded and are left out" in output(console)
    resident = load_dataset(resolve(dataclasses.replace(options, resident="yes")), None, console)
    np.testing.assert_array_equal(np.asarray(streamed.train.images), resident.train.images)
    np.testing.assert_array_equal(streamed.train.labels, resident.train.labels)


def test_a_signal_ends_the_decoding(pictures, console):
    """With an answer within one picture, and no picture decoded after it."""
    seen = []

    def items():
        for i in range(1000):
            seen.append(i)
            if i == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield i

    with pytest.raises(Interrupted, match="^stopped by SIGINT while decoding pictures$"):
        list(progress.watched(console, items(), 1000, "decoding pictures"))
    assert seen == [0, 1, 2, 3]
    started = []

    def slow(i: int) -> int:
        started.append(i)
        time.sleep(0.005)  # All of them would take ten seconds on 32 threads.
        return i

    results = in_threads(slow, 64 * 1000)
    assert next(results) == 0
    results.close()
    assert len(started) < 64 * 1000


@pytest.mark.exhaustive  # Processes take seconds to begin.
def test_workers_decode_the_same_batches_and_leave_nothing_behind(pictures):
    images, labels = split = load_dataset(resolve(options_of(pictures))).train
    order = partial(epoch_order, 3, num_examples=21, batch_size=4)
    before = shared_memory(4 * 6 * 8 * 3)
    stream = Stream(split, order, 4, range(4, 600), 2, lambda split: split)
    for step in range(4, 30):
        batch = stream.take()
        rows = epoch_order(3, step // 6, 21, 4)[4 * (step % 6) : 4 * (step % 6 + 1)]
        np.testing.assert_array_equal(batch.images, np.asarray(images[rows]))
        np.testing.assert_array_equal(batch.labels, labels[rows])
    assert len(multiprocessing.active_children()) >= 2
    stream.close()
    assert not multiprocessing.active_children()
    assert shared_memory(4 * 6 * 8 * 3) <= before


def shared_memory(size: int) -> set[Path]:
    """The pieces of shared memory of this size, whichever program has them."""
    found = set()
    for path in Path("/dev/shm").glob("psm_*"):
        with suppress(FileNotFoundError):  # Another program may free its own.
            found |= {path} if path.stat().st_size == size else set()
    return found


@pytest.mark.exhaustive
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_no_worker_outlives_a_command_that_is_interrupted_or_killed(pictures, tmp_path, number, code):
    options = ["--dataset", "folder", "--data-dir", str(pictures), "--model", "mlp", "--num-epochs", "100000"]
    options += ["--resident", "no", "--data-workers", "2", "--batch-size", "4", "--run-dir", "run"]
    command = [sys.executable, "-m", "nag_optax.cli", "train", *options]
    # A group of its own: Ctrl-C goes to all processes of one.
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        eventually((tmp_path / "run" / "metrics.jsonl").exists, process)
        workers = processes_of(process.pid)
        assert len(workers) >= 3
        os.killpg(process.pid, number) if number == signal.SIGINT else process.kill()
        eventually(lambda: not processes_of(process.pid) - {process.pid})
        said = process.communicate()[1]
    assert process.returncode == code
    if number == signal.SIGINT:
        lines = [line for line in said.splitlines() if line]
        assert len(lines) == 2 and "stopping soon" in lines[0] and "which is saved; continue" in lines[1]


def processes_of(group: int) -> set[int]:
    """Those of a process group."""
    done = subprocess.run(["ps", "-eo", "pgid,pid,stat"], capture_output=True, text=True, check=True)
    rows = (line.split() for line in done.stdout.splitlines()[1:])
    return {int(pid) for pgid, pid, stat in rows if int(pgid) == group and not stat.startswith("Z")}
