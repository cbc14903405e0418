"""The server with workers in other processes, who die, freeze, lag and send nonsense."""

import os
import signal
import stat
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nag_optax.parallel import connect, dana_zero, delayed_nesterov
from nag_optax.parallel.server import REFUSALS, token_of
from nag_optax.train.errors import InputError
from tests.helpers import assert_trees_equal, eventually
from tests.parallel.conftest import START, TOKEN, address, plain


@pytest.mark.parametrize("method", [dana_zero(0.05), delayed_nesterov(0.05)], ids=["dana", "delayed"])
def test_a_client_gets_what_the_method_sends(method, serving):
    """To the bit: over the wire in float32 nothing is lost."""
    server = serving(plain(method))
    first, before = server._sent, jax.tree.map(np.array, server._sent)
    state, worker = method.join(method.init(jax.tree.map(jnp.asarray, START)))
    receive, send = jax.jit(method.receive), jax.jit(method.send)
    with connect(address(server), TOKEN) as client:
        for i in range(5):
            gradient = jax.tree.map(np.asarray, client.params)
            client.push(gradient, model_state={"mean": np.full(2, i, np.float32)})
            state, worker = receive(state, worker, gradient)
            assert_trees_equal(client.params, jax.tree.map(np.asarray, send(state)))
            assert client.step == i + 1
            # Of one worker the statistics are the server's.
            np.testing.assert_array_equal(client.model_state["mean"], i)
        assert client.sent == 5 * (9 + 2) * 4 and client.received == 6 * (9 + 2) * 4
    eventually(lambda: not server.workers)
    # Whoever is still sending these has them, though the state's memory went to later states.
    assert_trees_equal(jax.tree.map(np.asarray, first), before)


@pytest.mark.parametrize(("wire_format", "sent"), [("bfloat16", 2 * 9), ("int8", 9 + 2 * 4)])
def test_parameters_come_in_bfloat16_where_updates_are_not_float32(wire_format, sent, serving):
    """The nearest ones, as float32 arrays; the server's own stay float32, and so do batch statistics."""
    server = serving()
    with connect(address(server), TOKEN, wire_format=wire_format) as client:
        client.push(client.params)
        for found, kept in zip(jax.tree.leaves(client.params), jax.tree.leaves(server._sent), strict=True):
            assert found.dtype == np.float32 and kept.dtype == jnp.float32
            np.testing.assert_array_equal(found, kept.astype(jnp.bfloat16).astype(jnp.float32))
            assert (found != kept).any()
        assert client.sent == sent + 2 * 4 and client.received == 2 * (2 * 9 + 2 * 4)


@pytest.mark.parametrize(
    ("update", "named"),
    [
        (
            {"w": np.ones((3, 2)), "b": np.ones(3)},
            r"w\'\] has shape \(3, 2\), but its parameter has shape \(2, 3\)",
        ),
        ({"w": np.ones(3), "b": np.ones((2, 3))}, "has shape"),
        ([np.ones(3), np.ones((2, 3))], "different trees"),
        (np.ones(9), "is an array"),
    ],
)
def test_an_update_of_another_tree_or_shape_is_named(update, named, serving):
    """It may have the right bytes. The server would add them in another order."""
    server = serving()
    with connect(address(server), TOKEN) as client:
        with pytest.raises(ValueError, match=named):
            client.push(update)
        with pytest.raises(ValueError, match="has shape"):
            client.push(client.params, model_state={"mean": np.ones(3)})
        client.push(client.params, model_state={"mean": np.ones(2)})  # Of another dtype.
    assert server.step == 1


def test_no_thread_is_at_work_after_the_end(serving):
    """One that is within JAX when Python ends would abort it."""
    others = set(threading.enumerate())
    server = serving()
    with connect(address(server), TOKEN) as client:
        client.push(client.params)
        (thread,) = (t for t in {*threading.enumerate()} - others if "process_request_thread" in t.name)
        server.close(finished=False)
        eventually(lambda: not thread.is_alive())
        assert not server.workers and int(server.state.updates) == 1


def test_who_still_computes_a_first_update_when_the_run_ends_is_told_so(serving):
    """It may still compile. If nobody told it, it would look for the server in vain, and fail."""
    server = serving()
    with connect(address(server), TOKEN) as client:
        closing = threading.Thread(target=server.close, args=(True, 60.0))
        closing.start()
        closing.join(0.5)  # Enough to hang up.
        client.push(client.params)
        assert client.done
    closing.join(60)
    assert not closing.is_alive()


def test_batch_statistics_are_a_moving_mean_over_the_workers(serving):
    server = serving()
    with connect(address(server), TOKEN) as a, connect(address(server), TOKEN) as b:
        for client in (a, b):
            client.push(client.params, model_state={"mean": np.zeros(2, np.float32)})
        a.push(a.params, model_state={"mean": np.ones(2, np.float32)})
        np.testing.assert_array_equal(a.model_state["mean"], 0.5)


def test_updates_that_are_not_finite_are_refused_and_counted_and_their_sender_is_dropped(serving):
    server = serving()
    with connect(address(server), TOKEN) as good, connect(address(server), TOKEN) as bad:
        good.push(good.params)
        before = jax.tree.map(np.array, (server.state.params, server.state.velocity))
        bad.push({"w": np.full((2, 3), np.nan, np.float32), "b": np.ones(3, np.float32)})
        bad.push(bad.params, model_state={"mean": np.full(2, np.inf, np.float32)})
        assert_trees_equal((server.state.params, server.state.velocity), before)
        assert server.step == 1 and server.workers[bad.worker].refused == 2
        bad.push(bad.params)  # One good one, and the count begins anew.
        with pytest.raises(InputError, match=f"its last {REFUSALS} updates were not finite"):
            for _ in range(REFUSALS):
                bad.push(jax.tree.map(lambda x: x * np.nan, bad.params))
        good.push(good.params)
        assert server.step == 3 and list(server.workers) == [good.worker]


def test_a_round_of_diloco_waits_for_all_who_are_there_and_for_nobody_who_is_silent(serving):
    server = serving(plain(delayed_nesterov(1.0, 0.0, wait=True), waits=True), timeout=600.0)
    with connect(address(server), TOKEN) as a, connect(address(server), TOKEN) as b:
        a.push(a.params)
        waiting = threading.Thread(target=b.push, args=(b.params,))
        waiting.start()
        eventually(lambda: server.updates == 2)
        assert int(server.state.rounds) == 1  # b's place in the round is taken, and a's is empty.
        server._timeout = 0.2
        a.push(jax.tree.map(lambda x: x * np.nan, a.params))  # From here on a is silent.
        waiting.join(60)
        assert int(server.state.rounds) == 2
    (line,) = (line for line in server.said if line.startswith(f"worker {a.worker} is gone"))
    assert ", silent for --timeout 0.2); 1 worker, " in line


@pytest.mark.parametrize(
    "told", [{"loss": 10**400, "correct": 1}, {"loss": 1.0, "correct": 1e300}, {"loss": "1", "correct": None}]
)
def test_numbers_that_nobody_can_add_up_are_left_out(told, serving):
    """And the updates that came with them are not."""
    server = serving()
    with connect(address(server), TOKEN) as client:
        client.push(client.params, **told)
        client.push(client.params, loss=2.0, correct=0.5)
        counts = server.counts
        assert (counts.updates, counts.told, counts.loss, counts.correct) == (2, 1, 2.0, 0.5)


@pytest.mark.exhaustive
def test_a_worker_killed_frozen_slow_or_mad_changes_nothing_for_the_others(serving, processes):
    server = serving(timeout=5.0)
    of = {name: processes(server, 1.0, 0.01) for name in ("good", "killed", "frozen")}
    of |= {"slow": processes(server, 1.0, 0.5), "mad": processes(server, np.nan, 0.05)}

    def updates(name: str) -> int:
        found = [w for w in list(server.workers.values()) if w.name.endswith(f":{of[name].pid}")]
        return found[0].updates if found else -1

    eventually(lambda: all(updates(name) > 0 for name in ("good", "killed", "frozen", "slow")))
    os.kill(of["killed"].pid, signal.SIGKILL)
    os.kill(of["frozen"].pid, signal.SIGSTOP)
    done = updates("good")
    eventually(lambda: updates("killed") == updates("frozen") == -1)
    eventually(lambda: updates("good") > done + 20)
    assert of["mad"].wait(60) == 1 and "were not finite" in of["mad"].communicate()[1]
    assert updates("slow") > 0 and {w.refused for w in server.workers.values()} == {0}
    # Those who were dropped took their momentum along: the mean loss is that of the parameters, which fall.
    with server.changed:  # The next update takes the memory of the state.
        assert max(float(abs(leaf).max()) for leaf in jax.tree.leaves(server.state.params)) < 0.2
    # The frozen one finds out when it wakes.
    os.kill(of["frozen"].pid, signal.SIGCONT)
    assert of["frozen"].wait(60) == 1


def test_the_token_is_made_once_and_for_its_owner_alone(tmp_path):
    token = token_of(tmp_path / "token")
    assert len(token) == 64 and token == token_of(tmp_path / "token") != token_of(tmp_path / "other")
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600
    (tmp_path / "token").write_text("")  # As a kill before the first line leaves it.
    with pytest.raises(InputError, match="token: holds no token; remove it, and the next start makes one"):
        token_of(tmp_path / "token")
