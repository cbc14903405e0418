"""The door: who is let in, and what those who are not get to see."""

import json
import socket
import struct
import threading
import time
from typing import Any

import pytest

from nag_optax.parallel import connect, wire
from nag_optax.train.errors import InputError
from tests.helpers import eventually
from tests.parallel.conftest import TOKEN, address


def frame(header: Any, body: bytes = b"", magic: bytes = b"nag1") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack(">4sIQ", magic, len(text), len(body)) + text + body


def everything(sock: socket.socket) -> bytes:
    """What comes until the other end hangs up."""
    sock.settimeout(20)
    found = b""
    while part := sock.recv(65536):
        found += part
    return found


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + bytes(100), id="http"),
        pytest.param(frame({"kind": "join", "wire": "float32"}), id="no token"),
        pytest.param(frame({"kind": "answer", "number": "0", "proof": "0" * 64}), id="wrong token"),
        pytest.param(frame({"kind": "answer"}), id="no proof"),
        pytest.param(frame(b'{"kind": "answer"', b""), id="no json"),
        pytest.param(frame(b"[" * 1000), id="deep json"),
        pytest.param(frame([1]), id="no object"),
        pytest.param(struct.pack(">4sIQ", b"nag1", 2**31, 0), id="a large header"),
        pytest.param(struct.pack(">4sIQ", b"nag1", 2, 2**60) + b"{}", id="a large body"),
    ],
)
def test_a_client_without_the_token_gets_a_random_number_and_nothing_else(sent: bytes, serving):
    server = serving()
    with socket.create_connection(server.address, 20) as sock:
        try:
            sock.sendall(sent)
            sock.shutdown(socket.SHUT_WR)
            found = everything(sock)
        except TimeoutError:
            raise
        except OSError:  # It hung up before all was sent, and its answer is lost with what it did not read.
            found = b""
    if found:
        _, size, body = struct.unpack(">4sIQ", found[:16])
        header = json.loads(found[16:])
        assert len(found) == 16 + size and body == 0
        assert header.keys() == {"kind", "number"} and header["kind"] == "challenge"
    eventually(lambda: server.said)
    assert len(server.said) == 1 and server.said[0].startswith("refused a connection from 127.0.0.1: ")
    assert not server.workers


def test_a_wrong_token_is_named(serving):
    server = serving()
    with pytest.raises(wire.WrongToken, match="does not take this token"), connect(address(server), "x" * 64):
        pass
    eventually(lambda: server.said == ["refused a connection from 127.0.0.1: wrong token"])


def test_a_false_server_does_not_learn_the_token_and_is_noticed():
    """One that lets everybody in: it cannot prove that it knows the token."""
    here, there = socket.socketpair()

    def pretend() -> None:
        wire.send(there, {"kind": "challenge", "number": "1"})
        seen, _ = wire.receive(there)
        assert TOKEN not in json.dumps(seen)
        wire.send(there, {"kind": "welcome", "proof": seen["proof"]})

    thread = threading.Thread(target=pretend)
    thread.start()
    with pytest.raises(wire.WrongToken, match="does not know"):
        wire.enter(here, TOKEN.encode())
    thread.join()
    here.close()
    there.close()


def test_a_proof_is_of_no_use_a_second_time(serving):
    """The server's number is another one each time."""
    server, numbers = serving(), set()
    for _ in range(3):
        with socket.create_connection(server.address, 20) as sock:
            numbers.add(wire.receive(sock)[0]["number"])
    assert len(numbers) == 3 and {len(number) for number in numbers} == {64}


def test_who_says_nothing_is_shown_out(serving, monkeypatch):
    monkeypatch.setattr(wire, "GREETING_SECONDS", 0.3)
    server = serving()
    with socket.create_connection(server.address) as silent, socket.create_connection(server.address) as slow:
        for byte in frame({"kind": "answer", "number": "0" * 500}):
            try:
                slow.sendall(bytes([byte]))
            except OSError:
                break
            time.sleep(0.05)  # Each byte comes within the time, but the whole takes half a minute.
        else:
            pytest.fail("it was listened to until its end")
        everything(silent)
    eventually(lambda: len(server.said) == 2)


@pytest.mark.parametrize(
    "frames",
    [
        [frame({"kind": "push"}, bytes(7))],
        [frame({"kind": "push"}, bytes(10_000))],
        [frame({"kind": "dance"})],
        [frame({"kind": "push", "loss": "NaN", "correct": []}, bytes(3))],
    ],
)
def test_a_guest_who_talks_nonsense_is_shown_out_and_the_others_stay(frames, serving):
    server = serving()
    with connect(address(server), TOKEN) as good, connect(address(server), TOKEN) as bad:
        good.push(good.params)
        bad._sock.sendall(b"".join(frames))
        bad._sock.settimeout(20)
        with pytest.raises((wire.Closed, ConnectionError)):
            wire.receive(bad._sock)
        good.push(good.params)
        assert server.step == 2 and list(server.workers) == [good.worker]


@pytest.mark.parametrize(
    ("where", "token", "named"),
    [
        ("nowhere", TOKEN, "--address nowhere: must be HOST:PORT"),
        ("host:0", TOKEN, "--address host:0"),
        ("10.0..1:7117", TOKEN, "--address 10.0..1:7117: must be HOST:PORT"),
        ("127.0.0.1:1", "short", "--token-file: holds no token"),
        ("127.0.0.1:1", None, "NAG_OPTAX_TOKEN"),
    ],
)
def test_a_mistake_is_named_before_anything_is_sent(where, token, named, monkeypatch):
    monkeypatch.delenv("NAG_OPTAX_TOKEN", raising=False)
    with pytest.raises(InputError, match=named), connect(where, token):
        pass


def test_a_format_that_is_none_is_named():
    with (
        pytest.raises(InputError, match="^wire_format int4: must be one of float32, bfloat16, int8$"),
        connect("127.0.0.1:1", TOKEN, wire_format="int4"),  # pyright: ignore[reportArgumentType]
    ):
        pass
