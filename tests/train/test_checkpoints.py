"""Checkpoints: whole or absent, and damage is noticed whichever file it hits."""

import gc
import importlib.metadata
import json
import logging
import os
import resource
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from nag_optax.train.checkpoints import Checkpoints
from nag_optax.train.errors import InputError


def state(value: float):
    return {"params": {"w": jnp.full((50, 40), value), "b": jnp.zeros(3)}, "none": None, "empty": ()}


def notes(step: int):
    return {"seconds": float(step), "data": {"mean": float(step)}}


@pytest.fixture
def checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (10, 20, 30, 40):
        checkpoints.save(step, state(float(step)), notes(step))
    return checkpoints


def restore(checkpoints: Checkpoints):
    said: list[str] = []
    return checkpoints.restore(state(0.0), said.append), said


def test_the_newest_comes_back_to_the_bit_and_the_last_three_are_kept(checkpoints):
    restored, said = restore(checkpoints)
    assert restored is not None and said == []
    assert (restored.step, restored.notes) == (40, notes(40))
    jax.tree.map(np.testing.assert_array_equal, restored.state, state(40.0))
    assert checkpoints.steps() == [40, 30, 20]


def test_the_best_is_kept_beside_the_last_three_and_comes_back_first_if_asked_for(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step, best in ((10, 10), (20, 20), (30, 20), (40, 20), (50, 20), (60, 20)):
        checkpoints.save(step, state(float(step)), notes(step), best)
    assert checkpoints.steps() == [60, 50, 40, 20]
    assert not (tmp_path / "10").exists()
    said = []
    steps = [checkpoints.restore(state(0.0), said.append, best=best) for best in (False, True)]
    assert [restored and restored.step for restored in steps] == [60, 20] and said == []
    (tmp_path / "20.json").write_text("{")
    restored = checkpoints.restore(state(0.0), said.append, best=True)
    assert restored is not None and restored.step == 60
    assert "20 is damaged" in said[0] and "using that of step 60" in said[0]


def test_an_empty_folder_has_none(tmp_path):
    assert Checkpoints(tmp_path).restore(state(0.0), print) is None
    assert Checkpoints(tmp_path / "missing").steps() == []


def files(folder):
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]


def test_a_flipped_bit_in_any_file_is_noticed(checkpoints, tmp_path):
    newest = tmp_path / "checkpoints" / "40"
    assert len(files(newest)) >= 4
    for path in files(newest):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        restored, said = restore(checkpoints)
        assert restored is not None and restored.step == 30, path
        assert len(said) == 1 and str(newest) in said[0] and "using that of step 30" in said[0]
        path.write_bytes(content)
    assert restore(checkpoints)[0].step == 40  # pyright: ignore[reportOptionalMemberAccess]


def test_a_flipped_bit_in_the_record_is_noticed(checkpoints, tmp_path):
    path = tmp_path / "checkpoints" / "40.json"
    content = path.read_bytes()
    for name in (b'"notes"', b'"seconds": 40', b'"files"', b'"folder": "40'):
        end = content.index(name) + len(name) - 1
        path.write_bytes(content[:end] + bytes([content[end] ^ 1]) + content[end + 1 :])
        restored, said = restore(checkpoints)
        assert restored is not None and restored.step == 30 and len(said) == 1, name
        assert checkpoints.data_facts() == {"mean": 30.0}


def test_a_missing_file_and_a_damaged_record_are_noticed(checkpoints, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.rmtree(folder / "40" / "state")
    (folder / "30.json").write_text("{")
    restored, said = restore(checkpoints)
    assert restored is not None and restored.step == 20
    assert len(said) == 2


def test_only_damaged_ones_are_an_error_that_says_what_to_do(checkpoints, tmp_path):
    for step in (20, 30, 40):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    with pytest.raises(InputError, match="none is left: train it again with --overwrite"):
        restore(checkpoints)


def test_one_without_its_record_was_not_completed(checkpoints, tmp_path):
    (tmp_path / "checkpoints" / "40.json").unlink()
    restored, said = restore(checkpoints)
    assert restored is not None and restored.step == 30 and said == []
    checkpoints.save(40, state(41.0), {})  # over the remains
    again, _ = restore(checkpoints)
    assert again is not None
    np.testing.assert_array_equal(again.state["params"]["w"], 41.0)


# A save that fails leaves futures of Orbax's event loop, which complain when they are collected: here.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_step_that_is_saved_already_stays_until_the_new_one_is_whole(checkpoints, tmp_path):
    """A limit on file size stands for a disk that fills up, at the first file or at a later one."""
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (20, 200):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
        try:
            with pytest.raises(InputError, match="step 40 could not be written .*File too large"):
                checkpoints.save(40, state(41.0), {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        restored, said = restore(checkpoints)
        assert restored is not None and restored.step == 40 and said == []
        np.testing.assert_array_equal(restored.state["params"]["w"], 40.0)
    checkpoints.save(40, state(41.0), {})
    np.testing.assert_array_equal(restore(checkpoints)[0].state["params"]["w"], 41.0)  # pyright: ignore
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    folder = json.loads((tmp_path / "checkpoints" / "40.json").read_text())["folder"]
    assert names == {"20", "20.json", "30", "30.json", folder, "40.json"}
    gc.collect()


@pytest.mark.parametrize("last_call", ["save_checkpointables", "replace", "rmtree"])
def test_a_kill_at_any_moment_leaves_the_old_one_or_the_new_one(checkpoints, monkeypatch, last_call):
    where = {"save_checkpointables": ocp, "replace": os, "rmtree": shutil}[last_call]
    call = getattr(where, last_call)

    def killed(*args):
        call(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(where, last_call, killed)
        checkpoints.save(40, state(41.0), {})
    restored, said = restore(checkpoints)
    assert restored is not None and restored.step == 40 and said == []
    expected = 40.0 if last_call == "save_checkpointables" else 41.0
    np.testing.assert_array_equal(restored.state["params"]["w"], expected)


def test_what_is_damaged_stays_until_the_one_in_its_place_is_whole(checkpoints, tmp_path, monkeypatch):
    shutil.rmtree(tmp_path / "checkpoints" / "40" / "state")

    def fail(*args):
        raise OSError("no space")

    with monkeypatch.context() as patched, pytest.raises(InputError, match="no space"):
        patched.setattr(os, "replace", fail)
        checkpoints.save(35, state(35.0), {})
    assert checkpoints.steps() == [40, 30, 20]
    assert (tmp_path / "checkpoints" / "40").exists()


def adam_state(**changes):
    adam = {"mu": jnp.ones((3, 2)), "nu": jnp.ones((3, 2)), "count": jnp.array(3)}
    return {"params": jnp.ones((3, 2)), "opt_state": adam | changes}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mini": jnp.ones(3)}, "opt_state/mini is missing, not float32[3]"),
        ({"nu": None}, "opt_state/nu is float32[3, 2], not expected"),
        ({"mu": jnp.ones((2, 3))}, "opt_state/mu is float32[3, 2], not float32[2, 3]"),
        ({"mu": jnp.ones((3, 2), jnp.bfloat16)}, "opt_state/mu is float32[3, 2], not bfloat16[3, 2]"),
    ],
)
def test_a_state_of_another_structure_is_of_another_version_and_not_damaged(tmp_path, changes, reason):
    checkpoints = Checkpoints(tmp_path)
    said: list[str] = []
    checkpoints.save(7, adam_state(), {})
    with pytest.raises(InputError) as raised:
        checkpoints.restore(adam_state(**changes), said.append)
    written = f"nag_optax {importlib.metadata.version('nag_optax')}, optax"
    assert f"{tmp_path / '7'} is whole, but from another version ({reason})" in str(raised.value)
    assert f"use the packages that wrote it: {written}" in str(raised.value)
    assert "damaged" not in str(raised.value) and "--overwrite" not in str(raised.value) and said == []


def test_what_orbax_cannot_read_in_whole_files_is_of_another_version_too(checkpoints, monkeypatch):
    def refuse(*args):
        raise ValueError("no handler: " + "1 2 3 " * 5000 + "\nand more")

    monkeypatch.setattr(ocp, "load_checkpointables", refuse)
    with pytest.raises(InputError, match=r"from another version \(no handler: .{300,400} …\); use"):
        restore(checkpoints)


def test_a_fault_of_the_program_is_not_called_damage(checkpoints, monkeypatch):
    monkeypatch.setattr(ocp, "load_checkpointables", None)
    with pytest.raises(TypeError, match="not callable"):
        restore(checkpoints)


def test_the_logs_of_the_process_are_left_alone(checkpoints, tmp_path):
    levels = {"absl": logging.INFO, "asyncio": logging.WARNING}
    before = {name: logging.getLogger(name).level for name in levels}
    try:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        again = Checkpoints(tmp_path / "checkpoints")
        again.save(50, state(50.0), {})
        assert restore(again)[0] is not None
        assert {name: logging.getLogger(name).level for name in levels} == levels
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def test_saving_after_a_damaged_one_was_passed_over(checkpoints, tmp_path):
    shutil.rmtree(tmp_path / "checkpoints" / "40" / "state")
    checkpoints.save(35, state(35.0), {})
    assert checkpoints.steps() == [35, 30, 20]
    restored, said = restore(checkpoints)
    assert restored is not None and restored.step == 35 and said == []


def test_a_full_disk_is_said_before_orbax_meets_it(checkpoints, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match=r"could not be written \(the disk has 0.0 MB left") as raised:
        checkpoints.save(50, state(50.0), {})
    assert "\n" not in str(raised.value)
    assert checkpoints.steps() == [40, 30, 20]


@pytest.mark.parametrize("kind", [TimeoutError, ValueError])
def test_a_process_that_is_gone_is_no_fault_of_the_disk(kind, checkpoints, monkeypatch):
    """Orbax's barrier raises what a slow disk may raise too, and its sums what a full one may."""

    def waits(*args):
        raise kind("too long")

    monkeypatch.setattr(ocp, "save_checkpointables", waits)
    with pytest.raises(InputError, match=r"could not be written \(too long\)"):
        checkpoints.save(50, state(50.0), {})
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(kind):
        checkpoints.save(50, state(50.0), {})


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="could not be written"):
        Checkpoints(tmp_path / "file" / "checkpoints").save(1, state(1.0), {})
