"""Graft's side of `process`: finds the Python of an engine, starts the process that plays a game, and asks it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.envs.adapters.engines.process import protocol
from graft.errors import GraftError

INSTALL = {
    "unity": (
        "python3.9 -m venv ~/unity-env",
        "~/unity-env/bin/pip install mlagents-envs==0.28.0 'protobuf<3.21' 'numpy<1.24'",
    ),
    "godot": (
        "python3.11 -m venv ~/godot-env",
        "~/godot-env/bin/pip install --no-deps godot-rl==0.8.2 gymnasium==1.0.0 cloudpickle farama-notifications "
        "typing-extensions numpy",
    ),
}
"""Engine -> the two commands that make an environment with its library, whose pins clash with Graft's."""

LINGER = 300.0
"""Seconds for which a game at a port stays connected when what started its process has ended, and nobody plays it."""

SECONDS_TO_START = 30.0  # a process, not the game
_PROCESSES: list[subprocess.Popen[bytes]] = []  # those that outlive their batch


def variable(engine: str) -> str:
    """The environment variable that says which Python has the engine's library."""
    return f"GRAFT_{engine.upper()}_PYTHON"


def python_of(engine: str) -> str | None:
    """The Python that the user says, as a path, or None where it is not said or not there."""
    return shutil.which(os.path.expanduser(os.environ.get(variable(engine), "")))


def bridge_of(port: str) -> int:
    """The port of the process that plays the game at ``port``."""
    return int(port) + 20000 if int(port) < 2**16 - 20000 else int(port) - 20000


def missing(engine: str) -> str:
    """A sentence with the commands that install the engine's library."""
    return (
        f"{variable(engine)} does not name a Python: make one with `{'` and `'.join(INSTALL[engine])}`, "
        f"then `export {variable(engine)}=~/{engine}-env/bin/python`."
    )


class Game:
    """A connection to a game: of one's own, which ends with it, or one at a port, which others may play in between.

    Attributes:
        about: names and shapes, of the game. agents: how many agents it has.

    Args:
        engine: ``unity`` or ``godot``. target: a port, or the path of a build. options: of the game and its library.
    Raises:
        GraftError: no Python for the engine, a game that does not start, or that another process plays.
    """

    def __init__(self, engine: str, target: str, options: Mapping[str, Any]) -> None:
        self._name, self._timeout = f"{engine}:{target}", float(options["timeout"])
        self._process: subprocess.Popen[bytes] | None = None
        self._place = ""
        self._connection = self._connected(engine, target, options)
        try:
            hello = {"do": "hello", "pid": os.getpid(), "settings": {"engine": engine, "target": target, **options}}
            about, _ = self.ask(hello, self._timeout + SECONDS_TO_START)
        except GraftError:
            self.close()
            raise
        self.about, self.agents = about["about"], int(about["agents"])

    def _connected(self, engine: str, target: str, options: Mapping[str, Any]) -> socket.socket:
        """A connection to the process that plays the game, which is started where none does."""
        if not target.isdigit():
            port, self._process = self._start([engine, target, json.dumps(options)])
            return socket.create_connection(("127.0.0.1", port), SECONDS_TO_START)
        self._place = f", at port {bridge_of(target)},"
        with contextlib.suppress(OSError):
            return socket.create_connection(("127.0.0.1", bridge_of(target)), SECONDS_TO_START)
        linger = ["--bridge", str(bridge_of(target)), "--linger", str(LINGER)]
        port, process = self._start([engine, target, json.dumps(options), *linger])
        print(
            f"Waiting for the game at {self._name}: press Play in the editor, or start it.", file=sys.stderr, flush=True
        )
        _PROCESSES.append(process)
        return socket.create_connection(("127.0.0.1", port), SECONDS_TO_START)

    def _start(self, arguments: list[str]) -> tuple[int, subprocess.Popen[bytes]]:
        """A new process, and the port that it listens on."""
        engine, target = arguments[:2]
        if (python := python_of(engine)) is None:
            raise GraftError(
                f"Task '{self._name}' needs the library of its engine in a Python of its own. {missing(engine)}"
            )
        # A session of its own, so that Ctrl-C ends Graft first; and none of Graft's modules on its path.
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONHOME"}
        environ["PYTHONPATH"] = str(Path(__file__).resolve().parent)
        command = [python, "-m", "process.worker", *arguments]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if target.isdigit() else subprocess.DEVNULL,  # see `worker.serve`
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environ,
            start_new_session=True,
        )
        assert process.stdout is not None
        with process.stdout as said:
            line = said.readline()
        if not line.strip().isdigit():
            process.wait()
            raise GraftError(
                f"The process of '{self._name}' ended at once; does this run? `{python} -c 'import numpy'`"
            )
        return int(line), process

    def send(self, asked: dict[str, Any], data: bytes = b"") -> None:
        """Send a request, to be followed by `answer`; raises GraftError."""
        try:
            protocol.send(self._connection, asked, data)
        except OSError as error:
            raise self._gone() from error

    def answer(self, seconds: float | None = None) -> tuple[dict[str, Any], bytes]:
        """The answer to the last request; raises GraftError where the game or its process has ended or hangs."""
        self._connection.settimeout(2 * self._timeout + SECONDS_TO_START if seconds is None else seconds)
        try:
            said, data = protocol.receive(self._connection)
        except TimeoutError as error:
            raise GraftError(f"The game '{self._name}' does not answer; is it paused? Start it again.") from error
        except (OSError, protocol.Trouble) as error:
            raise self._gone() from error
        if "error" in said:
            raise GraftError(f"The game '{self._name}' cannot be played: {said['error']}.")
        return said, data

    def ask(self, asked: dict[str, Any], seconds: float | None = None) -> tuple[dict[str, Any], bytes]:
        """`send`, then `answer`."""
        self.send(asked)
        return self.answer(seconds)

    def _gone(self) -> GraftError:
        return GraftError(
            f"The process that plays '{self._name}'{self._place} has ended; start the game and give the command again."
        )

    def close(self) -> None:
        self._connection.close()
        if self._process is not None:
            try:
                self._process.wait(SECONDS_TO_START)
            except subprocess.TimeoutExpired:
                self._process.terminate()  # it ends the game, too
                try:
                    self._process.wait(SECONDS_TO_START)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    self._process.wait()
