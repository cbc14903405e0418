"""Checkpoints: whole or absent, and damage is noticed whichever byte it hits."""

import importlib.metadata
import os
import resource
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nag_optax.train.checkpoints import Checkpoints
from nag_optax.train.errors import InputError
from tests.train.conftest import damage


def state(value: float):
    kinds = {"half": jnp.full(3, value, jnp.bfloat16), "byte": jnp.zeros(2, jnp.int8), "step": jnp.array(3)}
    return {"params": {"w": jnp.full((50, 40), value), **kinds}, "none": None, "empty": ()}


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
    assert jax.tree.map(lambda x: x.dtype, restored.state) == jax.tree.map(lambda x: x.dtype, state(0.0))
    assert checkpoints.steps() == [40, 30, 20]


def test_the_best_is_kept_beside_the_last_three_and_comes_back_first_if_asked_for(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step, best in ((10, 10), (20, 20), (30, 20), (40, 20), (50, 20), (60, 20)):
        checkpoints.save(step, state(float(step)), notes(step), best)
    assert checkpoints.steps() == [60, 50, 40, 20]
    said = []
    steps = [checkpoints.restore(state(0.0), said.append, best=best) for best in (False, True)]
    assert [restored and restored.step for restored in steps] == [60, 20] and said == []
    damage(tmp_path / "20.npz")
    restored = checkpoints.restore(state(0.0), said.append, best=True)
    assert restored is not None and restored.step == 60
    assert "20.npz is damaged" in said[0] and "using that of step 60" in said[0]


def test_an_empty_folder_has_none(tmp_path):
    assert Checkpoints(tmp_path).restore(state(0.0), print) is None
    assert Checkpoints(tmp_path / "missing").steps() == []


def test_a_flipped_bit_in_any_byte_is_noticed(checkpoints, tmp_path):
    newest = tmp_path / "checkpoints" / "40.npz"
    content = newest.read_bytes()
    for place in (*range(0, len(content), 397), *range(len(content) - 20, len(content))):
        newest.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        restored, said = restore(checkpoints)
        assert restored is not None and restored.step == 30, place
        assert said == [
            f"checkpoint {newest} is damaged (it has changed since it was written); using that of step 30"
        ]
        assert checkpoints.data_facts() == {"mean": 30.0}
    newest.write_bytes(content)
    assert restore(checkpoints)[0].step == 40  # pyright: ignore[reportOptionalMemberAccess]


def test_a_file_that_is_cut_short_or_empty_is_noticed(checkpoints, tmp_path):
    damage(tmp_path / "checkpoints" / "40.npz")
    (tmp_path / "checkpoints" / "30.npz").write_bytes(b"")
    restored, said = restore(checkpoints)
    assert restored is not None and restored.step == 20
    assert len(said) == 2


def test_only_damaged_ones_are_an_error_that_says_what_to_do(checkpoints, tmp_path):
    for step in (20, 30, 40):
        damage(tmp_path / "checkpoints" / f"{step}.npz")
    with pytest.raises(InputError, match="none is left: train it again with --overwrite"):
        restore(checkpoints)


def test_a_step_that_is_saved_already_stays_until_the_new_one_is_whole(checkpoints, tmp_path):
    """A limit on file size stands for a disk that fills up."""
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, unlimited[1]))
    try:
        with pytest.raises(InputError, match="step 40 could not be written .File too large") as raised:
            checkpoints.save(40, state(41.0), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert "\n" not in str(raised.value)
    restored, said = restore(checkpoints)
    assert restored is not None and restored.step == 40 and said == []
    np.testing.assert_array_equal(restored.state["params"]["w"], 40.0)
    checkpoints.save(40, state(41.0), {})
    np.testing.assert_array_equal(restore(checkpoints)[0].state["params"]["w"], 41.0)  # pyright: ignore
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"20.npz", "30.npz", "40.npz"}


@pytest.mark.parametrize(("where", "name"), [(os, "replace"), (Path, "unlink")])
def test_a_kill_once_the_new_one_is_whole_leaves_the_new_one(checkpoints, monkeypatch, where, name):
    call = getattr(where, name)

    def killed(*args):
        call(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(where, name, killed)
        checkpoints.save(50, state(41.0), {})
    restored, said = restore(checkpoints)
    assert restored is not None and restored.step == 50 and said == []
    np.testing.assert_array_equal(restored.state["params"]["w"], 41.0)


def test_what_is_damaged_stays_until_the_one_in_its_place_is_whole(checkpoints, tmp_path, monkeypatch):
    damage(tmp_path / "checkpoints" / "40.npz")

    def fail(*args):
        raise OSError("no space")

    with monkeypatch.context() as patched, pytest.raises(InputError, match="no space"):
        patched.setattr(os, "replace", fail)
        checkpoints.save(35, state(35.0), {})
    assert checkpoints.steps() == [40, 30, 20]
    checkpoints.save(35, state(35.0), {})
    assert checkpoints.steps() == [35, 30, 20]
    restored, said = restore(checkpoints)
    assert restored is not None and restored.step == 35 and said == []


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
    assert f"{tmp_path / '7.npz'} is whole, but from another version ({reason})" in str(raised.value)
    assert f"use the packages that wrote it: {written}" in str(raised.value)
    assert "damaged" not in str(raised.value) and "--overwrite" not in str(raised.value) and said == []


def test_a_fault_of_the_program_is_not_called_damage(checkpoints, monkeypatch):
    monkeypatch.setattr(np, "load", None)
    with pytest.raises(TypeError, match="not callable"):
        restore(checkpoints)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="could not be written"):
        Checkpoints(tmp_path / "file" / "checkpoints").save(1, state(1.0), {})
