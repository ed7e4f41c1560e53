"""Messages between Graft and the process that plays a game, and what both say of the game's agents.

A message is two lengths (4 bytes each, big-endian), a JSON object, then bytes of arrays.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

import numpy as np

LENGTHS = struct.Struct(">II")
MOST_TEXT, MOST_BYTES = 1 << 20, 1 << 28  # of a message
ALIVE, TERMINATED, TRUNCATED = 1, 2, 4
SECONDS_TO_QUIT = 5  # of a game that was told to; then it is killed


class Trouble(Exception):
    """What a person is to know, without a full stop."""


def send(connection: socket.socket, text: dict[str, Any], data: bytes = b"") -> None:
    """Send one message."""
    encoded = json.dumps(text).encode()
    connection.sendall(LENGTHS.pack(len(encoded), len(data)) + encoded + data)


def receive(connection: socket.socket) -> tuple[dict[str, Any], bytes]:
    """The next message; raises OSError where the other side has gone or is silent, Trouble for what is no message."""
    text, data = LENGTHS.unpack(exactly(connection, LENGTHS.size))
    if text > MOST_TEXT or data > MOST_BYTES:
        raise Trouble(f"a message of {text + data:,} bytes came, which is too long")
    try:
        found = json.loads(exactly(connection, text).decode())
    except (ValueError, RecursionError) as error:
        raise Trouble("a message came that is no JSON") from error
    if not isinstance(found, dict):
        raise Trouble("a message came that is no JSON object")
    return found, exactly(connection, data)


def exactly(connection: socket.socket, count: int) -> bytes:
    """``count`` bytes; raises OSError where they do not come."""
    found = bytearray()
    while len(found) < count:
        part = connection.recv(min(count - len(found), 1 << 20))
        if not part:
            raise ConnectionResetError("the connection was closed")
        found += part
    return bytes(found)


class Agents:
    """What the agents of a game show, a row each.

    ``final`` and the flags are of the last step; ``forbidden`` (N, A) are the actions that an agent may not choose.
    """

    def __init__(self, count: int, width: int, choices: int = 0) -> None:
        self.obs, self.final = np.zeros((count, width), np.float32), np.zeros((count, width), np.float32)
        self.rewards, self.forbidden = np.zeros(count, np.float32), np.zeros((count, choices), np.bool_)
        self.alive, self.terminated, self.truncated = (np.zeros(count, np.bool_) for _ in range(3))

    def begin_step(self) -> None:
        self.rewards[:] = 0
        self.terminated[:] = self.truncated[:] = False

    def packed(self) -> bytes:
        """Observations, final ones, rewards (float32), flags and forbidden actions (bytes), one after the other."""
        flags = ALIVE * self.alive + TERMINATED * self.terminated + TRUNCATED * self.truncated
        arrays = (self.obs, self.final, self.rewards, flags.astype(np.uint8), self.forbidden)
        return b"".join(array.tobytes() for array in arrays)


def features_of(stem: str, count: int) -> list[str]:
    """Names of the numbers of a sensor or an action; also one has its place, as it may be more of them tomorrow."""
    return [f"{stem}_{i}" for i in range(count)]


def nobody(target: str, seconds: float) -> str:
    """That no game has connected: one that a person starts at a port, or a build, which was started."""
    if target.isdigit():
        return f"no game connected to port {target} in {seconds:g} seconds; start it (in an editor: press Play)"
    return f"the build did not connect in {seconds:g} seconds; check that it is made for training"


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
