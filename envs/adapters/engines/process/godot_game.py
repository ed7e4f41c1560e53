"""The agents of a Godot scene, played through godot-rl."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import Any

import numpy as np

from .protocol import Agents, Trouble, features_of, free_port, nobody


class _Watched:
    """A socket that raises Trouble where the game has gone or is silent: the library would wait without end."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection, self._seconds = connection, seconds
        connection.settimeout(seconds)

    def recv(self, count: int) -> bytes:
        try:
            data = self._connection.recv(count)
        except OSError as error:
            raise Trouble(f"the game did not answer within {self._seconds:g} seconds") from error
        if not data:
            raise Trouble("the game has ended")
        return data

    def sendall(self, data: bytes) -> None:
        try:
            self._connection.sendall(data)
        except OSError as error:
            raise Trouble("the game has ended") from error

    def close(self) -> None:
        self._connection.close()


class GodotGame:
    """The agents of a Godot scene, all in play at every step.

    A done agent has terminated, or was truncated where its ``get_info`` has ``TimeLimit.truncated``. Games reset it
    before they show it, so the last observation of an episode is the one before.
    """

    def __init__(self, target: str, options: dict[str, Any]) -> None:
        from godot_rl.core.godot_env import GodotEnv
        from godot_rl.core.utils import convert_macos_path

        seconds = float(options["timeout"])

        class Env(GodotEnv):  # type: ignore[misc]
            DEFAULT_TIMEOUT = GodotEnv.DEFAULT_TIMEOUT = seconds

            def _set_platform_suffix(self, env_path: str) -> str:
                """The path as it is: the library would put another suffix to it."""
                path = os.path.abspath(env_path)
                return convert_macos_path(path) if sys.platform == "darwin" and path.endswith(".app") else path

            def check_platform(self, filename: str) -> None:
                pass

            def _launch_env(self, env_path: str, port: int, *_: Any, **__: Any) -> None:
                """As the library does, but with words that may have spaces."""
                words = [f"--port={port}", f"--env_seed={options['seed']}", f"--speedup={options['speed']:g}"]
                shown = ["--disable-render-loop", "--headless"]
                self.proc = subprocess.Popen([env_path, *words, *shown, *options["arguments"]], start_new_session=True)

            def _start_server(self) -> Any:
                try:
                    return _Watched(super()._start_server(), seconds)
                except socket.timeout as error:  # noqa: UP041 (another class before Python 3.10)
                    raise Trouble(nobody(target, seconds)) from error

        port = int(target) if target.isdigit() else free_port()
        self._env = Env(env_path=None if target.isdigit() else target, port=port)
        spaces, moves = self._env.observation_spaces, self._env.action_spaces
        if any(space != spaces[0] for space in spaces) or any(space != moves[0] for space in moves):
            raise Trouble("its agents differ in what they see or do, and rows of a batch are alike")
        self._seen, self._moves = spaces[0].spaces, moves[0].spaces
        flat = {key: space for key, space in self._seen.items() if len(space.shape) != 3}
        images = {key: space for key, space in self._seen.items() if len(space.shape) == 3}
        if any(not hasattr(space, "low") for space in flat.values()):
            raise Trouble("its observations have a discrete space; show it as numbers")
        ranges = {
            key: {"bytes": True} if space.dtype == np.uint8 else {"bytes": False, "low": -1}
            for key, space in images.items()
        }
        shown = [{"name": k, "shape": list(s.shape), "channels": None, **ranges[k]} for k, s in images.items()]
        features = [name for key, space in flat.items() for name in features_of(key, int(np.prod(space.shape)))]
        self.about = {"features": features, "images": shown, "actions": self._acts()}
        self._keys = [*flat, *images]
        width = len(features) + sum(int(np.prod(space.shape)) for space in images.values())
        self.agents = Agents(self._env.num_envs, width)

    def _acts(self) -> dict[str, Any]:
        discrete = [hasattr(space, "n") for space in self._moves.values()]
        if all(discrete):
            return {"names": list(self._moves), "sizes": [int(space.n) for space in self._moves.values()]}
        if any(discrete):
            raise Trouble("its agents have continuous and discrete actions at once, and Graft plays one of the kinds")
        return {"names": [name for key, space in self._moves.items() for name in features_of(key, space.shape[0])]}

    def reset(self) -> None:
        self._take(self._env.reset()[0])
        self.agents.alive[:] = True

    def step(self, actions: Any) -> None:
        shown = self.agents
        shown.begin_step()
        given = [self._split(row) for row in actions]
        seen, rewards, done, _, infos = self._env.step(given, order_ij=True)
        shown.final[:] = shown.obs
        shown.rewards[:] = rewards
        cut = np.array([bool(info.get("TimeLimit.truncated", False)) for info in infos], np.bool_)
        shown.truncated[:] = np.array(done, np.bool_) & cut
        shown.terminated[:] = np.array(done, np.bool_) & ~cut
        self._take(seen)

    def _split(self, row: Any) -> list[Any]:
        """An agent's actions by key, as the library takes them."""
        parts, start = [], 0
        for space in self._moves.values():
            if hasattr(space, "n"):
                parts.append(int(row[start]))
                start += 1
            else:
                parts.append(row[start : start + space.shape[0]])
                start += space.shape[0]
        return parts

    def _take(self, seen: Any) -> None:
        for row, shown in zip(self.agents.obs, seen):
            parts = [np.asarray(shown[key], np.float32) for key in self._keys]
            for key, part in zip(self._keys, parts):
                if part.shape != self._seen[key].shape:
                    raise Trouble(f"'{key}' has the shape {part.shape}, and its space says {self._seen[key].shape}")
            row[:] = np.concatenate([part.ravel() for part in parts])

    def close(self) -> None:
        self._env.close()
