"""--follow: what arrives is in the next epoch and in the record, and a run that is resumed replays it."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nag_optax.train.data.stream import grown_order
from nag_optax.train.errors import InputError, Interrupted
from nag_optax.train.loop import Loop
from nag_optax.train.options import EvaluateOptions, Options
from nag_optax.train.runner import train
from nag_optax.train.spec import resolve
from nag_optax.train.trained import evaluate
from tests.helpers import eventually
from tests.train.conftest import output
from tests.train.streaming import options_of, write_picture, write_pictures


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "set")


def at_steps(monkeypatch, **calls: Callable[[], object]) -> None:
    """Calls `step6`, say, before that step."""
    run = Loop.run_chunk

    def calling(self, state, count):
        calls.get(f"step{int(state.step)}", lambda: None)()
        return run(self, state, count)

    monkeypatch.setattr(Loop, "run_chunk", calling)


def record(folder: Path) -> list[list[str]]:
    return [
        [name for name, _ in json.loads(line)]
        for line in (folder / "pictures.jsonl").read_text().splitlines()
    ]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["train_loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_an_epoch_has_all_new_pictures_and_a_part_of_the_others():
    for epoch, new in ((3, True), (4, False)):
        rows = grown_order(0, epoch, 100, 24, (3, 10))
        assert len(set(rows)) == len(rows) == 24 and rows.dtype == np.int32
        assert (set(range(90, 100)) <= set(rows)) == new
        assert not new or not set(rows[:10]) == set(range(90, 100))  # They are not all at the front.
        np.testing.assert_array_equal(rows, grown_order(0, epoch, 100, 24, (3, 10)))
    assert set(grown_order(0, 3, 100, 24, (3, 30))) <= set(range(70, 100))
    assert sorted(set(grown_order(0, 3, 22, 24, (3, 1)))) == list(range(22))  # The last batch is filled up.


def test_what_arrives_is_in_the_next_epoch_and_a_resumed_run_replays_it(
    pictures, tmp_path, console, monkeypatch
):
    names = [f"train/{name}/new{i}.png" for name in ("cat", "dog") for i in range(3)]

    def arrive() -> None:
        for i, name in enumerate(names):
            write_picture(pictures / name, 50 + i)

    seen, take = [], Loop._streamed
    monkeypatch.setattr(Loop, "_streamed", lambda self, step: seen.append(take(self, step)) or seen[-1])
    options = options_of(pictures, follow=True, num_epochs=4, run_dir=tmp_path / "run")
    with monkeypatch.context() as patched:
        at_steps(patched, step2=arrive)
        train(options, console)
    assert "6 pictures arrived; 27 in all" in output(console)
    assert [len(line) for line in record(tmp_path / "run")] == [21, 6, 0, 0]
    assert record(tmp_path / "run")[1] == names and len(losses(tmp_path / "run")) == 4
    assert len(seen) == 24  # An epoch keeps its steps.
    epochs = [np.concatenate([batch.images for batch in seen[i : i + 6]]) for i in range(0, 24, 6)]
    whole, kept = losses(tmp_path / "run"), [len(np.unique(epoch, axis=0)) for epoch in epochs]
    assert kept == [21, 24, 24, 24]

    for name in names:
        (pictures / name).unlink()
    with monkeypatch.context() as patched, pytest.raises(Interrupted, match="at step 9, which is saved"):
        # After the record is written; then more arrive, and the run is resumed in the midst of an epoch.
        at_steps(patched, step2=arrive, step8=lambda: os.kill(os.getpid(), signal.SIGINT))
        train(dataclasses.replace(options, overwrite=True), console)
    write_picture(pictures / "train" / "cat" / "late.png", 99)
    again = dataclasses.replace(options, resume=True)
    train(again, console)
    assert losses(tmp_path / "run")[:2] == whole[:2]
    assert record(tmp_path / "run")[1:3] == [names, ["train/cat/late.png"]]

    for change, message in (
        (lambda path: path.write_bytes(b"x"), "has 1 bytes; .*the run took it in"),
        (Path.unlink, "cannot be read"),
    ):
        change(pictures / names[0])
        with pytest.raises(InputError, match=f"{names[0]}: {message}"):
            train(again, console)


@pytest.mark.exhaustive
def test_without_an_arrival_it_is_the_run_of_a_fixed_folder(pictures, tmp_path, console):
    for name, follow in (("a", False), ("b", True)):
        train(options_of(pictures, follow=follow, run_dir=tmp_path / name), console)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_what_cannot_be_used_is_passed_over_with_a_warning(pictures, tmp_path, console, monkeypatch):
    shutil.rmtree(pictures / "test")  # A hash holds out one sixth, 12.png among others.

    def arrive() -> None:
        (pictures / "train" / "cat" / "broken.png").write_text("hello")
        write_picture(pictures / "train" / "hen" / "0.png", 70)
        write_picture(pictures / "train" / "dog" / "large.png", 71, side=7)
        (pictures / "train" / "cat" / "notes.txt").write_text("hello")
        (pictures / "train" / "loose.png").write_text("hello")
        for i in range(100, 130):
            write_picture(pictures / "train" / "cat" / f"{i}.png", i)

    options = options_of(pictures, follow=True, num_epochs=3, run_dir=tmp_path / "run")
    with monkeypatch.context() as patched:
        at_steps(patched, step2=arrive)
        at = {"step7": lambda: write_picture(pictures / "train" / "cat" / "broken.png", 72)}
        at_steps(patched, **at)
        train(options, console)
    said = output(console)
    for warning in (
        "cat/broken.png: cannot be decoded (it is no JPEG, PNG, WebP or BMP file); it is passed over",
        "dog/large.png: has 8 x 7 pixels, the others have 8 x 6; it is passed over",
        "train/hen: the run knows no such class; it is passed over",
    ):
        assert said.count(f"{warning}\n") == 1
    lines = record(tmp_path / "run")
    assert 15 < len(lines[1]) < 30  # 25 are expected of 30, with a deviation of 2.
    assert lines[2] == ["train/cat/broken.png"]  # Once it is whole.


def test_a_picture_that_is_half_copied_when_the_run_begins_is_taken_in_later(
    pictures, tmp_path, console, monkeypatch
):
    shutil.rmtree(pictures / "test")
    half, bad = (pictures / "train" / "cat" / name for name in ("half.png", "bad.png"))
    write_picture(half, 72)
    whole = half.read_bytes()
    half.write_bytes(whole[:60])
    bad.write_text("hello")
    options = options_of(
        pictures, follow=True, skip_unreadable=True, train_only=True, num_epochs=2, run_dir=tmp_path / "run"
    )
    with monkeypatch.context() as patched:
        at_steps(patched, step2=lambda: half.write_bytes(whole))
        train(options, console)
    assert [len(line) for line in record(tmp_path / "run")] == [21, 1]
    assert output(console).count("bad.png") == 1  # It was named at the beginning.
    bad.unlink()
    longer = dataclasses.replace(options, resume=True, num_epochs=4)
    lost = f"{pictures / 'train'}: cannot be read \\(No such file or directory\\)$"
    with monkeypatch.context() as patched, pytest.raises(InputError, match=lost):
        # At the end of an epoch, as where a drive is unplugged.
        patched.setattr(Loop, "gradient_norm", lambda *_: float(bool(pictures.rename(tmp_path / "away"))))
        train(longer, console)
    (tmp_path / "away").rename(pictures)
    train(longer, console)
    assert [len(line) for line in record(tmp_path / "run")] == [21, 1, 0, 0]


def test_what_arrived_does_not_choose_the_validation_images_anew(pictures, tmp_path, console, monkeypatch):
    def arrive() -> None:
        for i in range(6):
            write_picture(pictures / "train" / "cat" / f"new{i}.png", 50 + i)

    options = options_of(pictures, follow=True, validation=0.4, num_epochs=2, run_dir=tmp_path / "run")
    with monkeypatch.context() as patched:
        at_steps(patched, step2=arrive)
        train(options, console)
    found = evaluate(EvaluateOptions(tmp_path / "run"), console)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    measured = [pytest.approx(row["validation_loss"], rel=1e-5) for row in rows]  # To rounding.
    assert found["validation_loss"] in measured


def test_it_goes_with_pictures_that_are_streamed(pictures):
    assert resolve(options_of(pictures, follow=True, resident="auto")).resident == "no"
    with pytest.raises(InputError, match="--follow: is only for --dataset folder, not for --dataset digits"):
        resolve(Options(follow=True))


@pytest.mark.exhaustive
def test_a_run_that_is_killed_goes_on_with_the_record(pictures, tmp_path):
    """With worker processes, from the command line."""
    options = ["--dataset", "folder", "--data-dir", str(pictures), "--model", "mlp"]
    options += ["--follow", "--data-workers", "1", "--batch-size", "4"]
    command = [sys.executable, "-m", "nag_optax.cli", "train", *options]

    def start(name: str, epochs: int, *more: str) -> subprocess.Popen:
        words = [*command, "--num-epochs", str(epochs), "--run-dir", name, *more]
        return subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL)

    process = start("a", 100_000)
    eventually((tmp_path / "a" / "pictures.jsonl").exists, process)
    for i in range(10):
        write_picture(pictures / "new.png", i)
        (pictures / "new.png").rename(pictures / "train" / "dog" / f"new{i}.png")
    eventually(lambda: sum(map(len, record(tmp_path / "a"))) == 31, process)
    process.kill()
    process.wait()
    before = record(tmp_path / "a")
    epochs = len(before) + 3
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    write_picture(pictures / "train" / "cat" / "late.png", 99)
    for name in ("a", "b"):
        assert start(name, epochs, "--resume").wait() == 0
        assert record(tmp_path / name)[: len(before)] == before
    assert losses(tmp_path / "a") == losses(tmp_path / "b") and len(losses(tmp_path / "a")) == epochs
