"""Plays a game of Unity or Godot for Graft, as a process of the Python that has the engine's library.

Run as ``python -m process.worker`` in the folder above; it needs that library and numpy alone, not Graft, and runs on
Python 3.8. Requests are ``{"do": "hello", "pid": ..., "settings": {...}}``, ``{"do": "reset"}`` and ``{"do": "step"}``
with an action for each agent; every answer is what the game shows (`Agents.packed`), ``{"taken": true}`` where another
client has played since, or ``{"error": ...}``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from .godot_game import GodotGame
from .protocol import SECONDS_TO_QUIT, Trouble, receive, send
from .unity_game import UnityGame

SECONDS_FOR_A_MESSAGE = 10.0  # that a client has begun to send
SECONDS_FOR_A_CLIENT = 60.0  # to come

GAMES = {"unity": UnityGame, "godot": GodotGame}


class Unwanted(Trouble):
    """The game is connected with other settings, and nobody plays it."""


class Stranger(Trouble):
    """A client that says what no client says."""


class Started(subprocess.Popen):  # type: ignore[type-arg]
    """A process that a library starts, and its children: a game that does not quit would outlive this process."""

    every: list[Started] = []  # noqa: RUF012

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.leads = hasattr(os, "killpg") and bool(kwargs.get("start_new_session"))
        self.every.append(self)

    def kill(self) -> None:
        if not self.leads:
            super().kill()
            return
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)

    @classmethod
    def end_all(cls) -> None:
        for process in cls.every:
            try:
                process.wait(SECONDS_TO_QUIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Server:
    """Plays ``game`` for clients that take turns; all are of one process at a time, and say the same ``settings``."""

    def __init__(self, game: Any, settings: dict[str, Any]) -> None:
        self._game, self._settings = game, settings
        self.clients: dict[socket.socket, int] = {}  # -> its process
        self._owner: socket.socket | None = None  # whose episodes run

    def answer(self, client: socket.socket, asked: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        """What a request gets; raises Trouble, and whatever the game raises."""
        agents = self._game.agents
        if asked.get("do") == "hello":
            others = {pid for other, pid in self.clients.items() if other is not client} - {0, asked["pid"]}
            if others:
                raise Trouble(f"process {others.pop()} is playing it; run one stage at a time, with --jobs 1")
            said = asked.get("settings", {})
            for name, own in self._settings.items():
                if said.get(name) != own:
                    # One that nobody plays is free for the next.
                    raise (Trouble if any(self.clients.values()) else Unwanted)(
                        f"it was connected with {name} {own!r}, and this task says {said.get(name)!r}; give tasks at a "
                        f"port the same keywords, or ports of their own, and start the game again"
                    )
            self.clients[client] = int(asked["pid"])
            return {"about": self._game.about, "agents": len(agents.alive)}, b""
        if not self.clients[client] or asked.get("do") not in ("reset", "step"):
            raise Stranger("a request is hello, then reset or step")
        if asked.get("do") == "step" and self._owner is not client:
            return {"taken": True}, b""
        if asked.get("do") == "step":
            kind = np.int32 if "sizes" in self._game.about["actions"] else np.float32
            self._game.step(np.frombuffer(data, kind).reshape(len(agents.alive), -1))
        else:
            self._owner = client
            self._game.reset()
        return {}, agents.packed()


def serve(listener: socket.socket, make: Any, linger: float, settings: dict[str, Any]) -> None:
    """Play the game that ``make()`` gives until it fails, or nobody needs it.

    That is so where no client has been there for ``linger`` seconds, and what started this process has ended: in a long
    experiment, a game may have to wait for hours until its turn comes.
    """
    starter = threading.Thread(target=os.read, args=(0, 1), daemon=True)  # its end closes this process's input
    starter.start()
    try:
        server = Server(make(), settings)
    except Exception as error:
        _refuse(listener, _words(error))
        return
    left, clients = time.monotonic() + SECONDS_FOR_A_CLIENT, server.clients
    with contextlib.closing(server._game), listener:
        while clients or starter.is_alive() or time.monotonic() < left:
            for ready in select.select([listener, *clients], [], [], 0.5)[0]:
                if ready is listener:
                    client = listener.accept()[0]
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    client.settimeout(SECONDS_FOR_A_MESSAGE)
                    clients[client] = 0
                    continue
                try:
                    asked, data = receive(ready)
                except (OSError, Trouble):
                    del clients[ready]
                    ready.close()
                    left = time.monotonic() + linger
                    continue
                try:
                    answer, data = server.answer(ready, asked, data)
                except Exception as error:
                    with contextlib.suppress(OSError):
                        send(ready, {"error": _words(error)})
                    if isinstance(error, Unwanted) or (asked.get("do") != "hello" and not isinstance(error, Stranger)):
                        return
                    continue
                try:
                    send(ready, answer, data)
                except OSError:  # part of it may have gone
                    del clients[ready]
                    ready.close()


def _words(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.rstrip(".") if isinstance(error, Trouble) else f"{type(error).__name__}: {text[:400].rstrip('.')}"


def _refuse(listener: socket.socket, why: str) -> None:
    """Say to the next client why there is no game."""
    listener.settimeout(SECONDS_FOR_A_CLIENT)
    with contextlib.suppress(OSError):
        client = listener.accept()[0]
        client.settimeout(SECONDS_FOR_A_MESSAGE)
        receive(client)
        send(client, {"error": why})
        client.close()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=sorted(GAMES))
    parser.add_argument("target")
    parser.add_argument("options", type=json.loads)
    parser.add_argument("--bridge", type=int, default=0)
    parser.add_argument("--linger", type=float, default=0.0)
    given = parser.parse_args(arguments)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(os.name != "nt"))
    listener.bind(("127.0.0.1", given.bridge))
    listener.listen(8)
    print(listener.getsockname()[1], flush=True)
    os.dup2(2, 1)  # libraries print
    sys.stdout = sys.stderr
    # What a client has to say, too: seeds may differ, and the masks are not this process's matter.
    own = {name: value for name, value in given.options.items() if name not in ("seed", "action_masks")}
    subprocess.Popen = Started  # type: ignore[misc]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        make = lambda: GAMES[given.engine](given.target, given.options)  # noqa: E731
        serve(listener, make, given.linger, {"engine": given.engine, "target": given.target, **own})
    finally:
        Started.end_all()


if __name__ == "__main__":
    main()
