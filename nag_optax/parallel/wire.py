"""Frames over a socket, and who may send them.

    frame = "nag1", bytes of the header (in 4), bytes of the body (in 8), header (JSON), body (raw numbers)

Nothing that is received is ever executed. Both ends prove that they know the token before anything else is
said. Each sends a number that was never used, and HMAC-SHA256 of both numbers under the token. The token
itself is not sent. Nothing is encrypted.
"""

import hmac
import json
import secrets
import socket
import struct
import time
from collections.abc import Iterable
from typing import Any

_HEAD = struct.Struct(">4sIQ")
_MAGIC = b"nag1"
MAX_HEADER = 1 << 20
"""The most bytes of a header, between ends that know the token."""
_MAX_GREETING = 1024
"""The same before they have proved it."""
GREETING_SECONDS = 10.0

Header = dict[str, Any]


class ProtocolError(Exception):
    """What came is not a frame, or not the frame that was due."""


class WrongToken(ProtocolError):
    """The other end does not know the token."""


class Closed(ProtocolError):
    """The other end is gone."""


def send(sock: socket.socket, header: Header, body: Iterable[memoryview] = ()) -> None:
    """Sends a frame; the parts of its body are bytes, one after the other."""
    text, parts = json.dumps(header).encode(), list(body)
    # A buffered file sends small parts together, and copies no large one.
    with sock.makefile("wb") as stream:
        stream.write(_HEAD.pack(_MAGIC, len(text), sum(map(len, parts))) + text)
        for part in parts:
            stream.write(part)


def receive(
    sock: socket.socket,
    room: bytearray | bytes = b"",
    *,
    max_header: int = MAX_HEADER,
    deadline: float | None = None,
) -> tuple[Header, memoryview]:
    """Receives a frame, and returns its header and its body.

    Args:
        sock: its timeout limits each pause within a frame.
        room: takes the body. A frame with a larger body is refused.
        max_header: the most bytes of a header.
        deadline: the frame must be complete at this time of `time.monotonic`.

    Raises:
        ProtocolError: if it is not a frame, or too large.
        Closed: if the other end is gone.
        TimeoutError: if it does not come in time.
    """
    magic, header_size, body_size = _HEAD.unpack(_filled(sock, _new(_HEAD.size), deadline))
    if magic != _MAGIC or header_size > max_header or body_size > len(room):
        raise ProtocolError("it is not a frame of this protocol, or too large")
    try:
        header = json.loads(bytes(_filled(sock, _new(header_size), deadline)))
    except (ValueError, RecursionError) as error:
        raise ProtocolError("the header is not JSON") from error
    if not isinstance(header, dict) or not isinstance(header.get("kind"), str):
        raise ProtocolError("the header names no kind")
    return header, _filled(sock, memoryview(room)[:body_size], deadline)


def expect(header: Header, *kinds: str) -> None:
    if header["kind"] not in kinds:
        raise ProtocolError(f"a frame of kind {header['kind']!r} came where {' or '.join(kinds)} is due")


def admit(sock: socket.socket, token: bytes) -> None:
    """The server's part. It returns if the client knows the token, and proves that the server does.

    Raises:
        WrongToken: if it does not. It has then been told nothing but a random number.
    """
    deadline = time.monotonic() + GREETING_SECONDS
    sock.settimeout(GREETING_SECONDS)
    mine = secrets.token_hex(32)
    send(sock, {"kind": "challenge", "number": mine})
    header, _ = receive(sock, max_header=_MAX_GREETING, deadline=deadline)
    expect(header, "answer")
    theirs, proof = str(header.get("number")), str(header.get("proof"))
    if not hmac.compare_digest(proof.encode(), _proof(token, "client", mine, theirs).encode()):
        raise WrongToken("wrong token")
    send(sock, {"kind": "welcome", "proof": _proof(token, "server", mine, theirs)})


def enter(sock: socket.socket, token: bytes) -> None:
    """The client's part.

    Raises:
        WrongToken: if the server closes the door, or cannot prove that it knows the token.
    """
    deadline = time.monotonic() + GREETING_SECONDS
    sock.settimeout(GREETING_SECONDS)
    header, _ = receive(sock, max_header=_MAX_GREETING, deadline=deadline)
    expect(header, "challenge")
    theirs, mine = str(header.get("number")), secrets.token_hex(32)
    send(sock, {"kind": "answer", "number": mine, "proof": _proof(token, "client", theirs, mine)})
    try:
        header, _ = receive(sock, max_header=_MAX_GREETING, deadline=deadline)
    except (Closed, ConnectionError):
        raise WrongToken("the server does not take this token") from None
    expect(header, "welcome")
    expected = _proof(token, "server", theirs, mine)
    if not hmac.compare_digest(str(header.get("proof")).encode(), expected.encode()):
        raise WrongToken("the server does not know this token")


def _proof(token: bytes, who: str, servers: str, clients: str) -> str:
    return hmac.new(token, f"{who} {servers} {clients}".encode(), "sha256").hexdigest()


def _new(size: int) -> memoryview:
    return memoryview(bytearray(size))


def _filled(sock: socket.socket, room: memoryview, deadline: float | None) -> memoryview:
    rest = room
    while rest:
        if deadline is not None:
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError
            sock.settimeout(left)
        got = sock.recv_into(rest)
        if not got:
            raise Closed("the connection was closed")
        rest = rest[got:]
    return room
