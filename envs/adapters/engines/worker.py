"""Plays a game of Unity or Godot for Graft. The Python that has the engine's library runs this file, as a process.

It needs that library and numpy alone, not Graft, and runs on Python 3.8. Messages go over a connection within this
machine: two lengths (4 bytes each, big-endian), a JSON object, then bytes of arrays. Requests are ``{"do": "hello",
"pid": ...}``, ``{"do": "reset"}`` and ``{"do": "step"}`` with an action for each agent; every answer is what the game
shows (`Agents.packed`), ``{"taken": true}`` where another client has played since, or ``{"error": ...}``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import select
import socket
import struct
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

LENGTHS = struct.Struct(">II")
MOST_TEXT, MOST_BYTES = 1 << 20, 1 << 28  # of a message
LONGEST_WAIT = 1000  # steps of an engine in which an agent is to be asked for its next action
SECONDS_FOR_A_MESSAGE = 10.0  # that a client has begun to send
SECONDS_FOR_A_CLIENT = 60.0  # to come
ALIVE, TERMINATED, TRUNCATED = 1, 2, 4
NOBODY = "no game connected to port {} within {:g} seconds; start it (in an editor: press Play) and try again"


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
    except ValueError as error:
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


def _features(stem: str, count: int) -> list[str]:
    return [stem] if count == 1 else [f"{stem}_{i}" for i in range(count)]


def _unique(names: Sequence[str]) -> list[str]:
    """Names of which later ones that are the same have a number."""
    before = [names[:i].count(name) for i, name in enumerate(names)]
    return [f"{name}#{count + 1}" if count else name for name, count in zip(names, before)]


class UnityGame:
    """The agents of one behaviour of a Unity scene.

    An agent of Unity has a number for each episode: a row is a place that such numbers take in turn. Agents may be
    asked for actions at different steps: a step of this game lasts until every agent that acted is asked again, or has
    ended; one that is asked sooner repeats its action. One whose place is not taken again yet is out of play.
    """

    def __init__(self, target: str, options: dict[str, Any]) -> None:
        from mlagents_envs.base_env import ActionTuple
        from mlagents_envs.environment import UnityEnvironment
        from mlagents_envs.exception import UnityTimeOutException
        from mlagents_envs.side_channel.engine_configuration_channel import EngineConfigurationChannel

        self._actions = ActionTuple
        channel = EngineConfigurationChannel()
        channel.set_configuration_parameters(time_scale=float(options["speed"]))
        port, seconds = int(target) if target.isdigit() else free_port(), int(options["timeout"])
        try:
            self._env = UnityEnvironment(
                file_name=None if target.isdigit() else target,
                base_port=port,
                seed=int(options["seed"]) % 2**31,
                timeout_wait=seconds,
                additional_args=list(options["arguments"]),
                side_channels=[channel],
            )
        except UnityTimeOutException as error:
            raise Trouble(NOBODY.format(port, seconds)) from error
        self._env.reset()
        self._name = self._chosen(options["behaviour"])
        spec = self._env.behavior_specs[self._name]
        self._order = sorted(
            range(len(spec.observation_specs)), key=lambda k: len(spec.observation_specs[k].shape) == 3
        )
        self.about = self._described(spec)
        for _ in range(LONGEST_WAIT):
            if count := len(self._env.get_steps(self._name)[0]):
                break
            self._env.step()
        else:
            raise Trouble(f"no agent of '{self._name}' asked for an action in {LONGEST_WAIT} steps")
        width = len(self.about["features"]) + sum(int(np.prod(image["shape"])) for image in self.about["images"])
        self.agents = Agents(count, width, sum(self.about["actions"].get("sizes", ())))
        self._slots: dict[int, int] = {}  # number of an agent -> its row

    def _chosen(self, asked: str) -> str:
        names = list(self._env.behavior_specs)
        for name in names:
            if asked in (name, name.partition("?")[0]) or (not asked and len(names) == 1):
                return name
        listed = ", ".join(name.partition("?")[0] for name in names) or "none"
        raise Trouble(f"it has the behaviours {listed}; choose one of them with the keyword behaviour")

    def _described(self, spec: Any) -> dict[str, Any]:
        """Names of numbers and images, and the actions. An agent's behaviour is a part of all its names."""
        own = self._name.partition("?")[0]
        sensors = [spec.observation_specs[k] for k in self._order]
        names = [re.sub(r"^VectorSensor_size\d+$", "VectorSensor", sensor.name) or "sensor" for sensor in sensors]
        features, images = [], []
        for name, sensor in zip(_unique(names), sensors):
            if len(sensor.shape) != 3:
                features += _features(f"{own}.{name}", int(np.prod(sensor.shape)))
                continue
            moves = [int(side) & 2 for side in sensor.dimension_property]  # TRANSLATIONAL_EQUIVARIANCE: not channels
            first = len(moves) == 3 and not moves[0] and moves[2]
            shown = {"name": f"{own}.{name}", "shape": list(sensor.shape), "channels": "first" if first else "last"}
            images.append({**shown, "bytes": False})
        action = spec.action_spec
        if action.continuous_size and action.discrete_size:
            raise Trouble("its agents have continuous and discrete actions at once, and Graft plays one of the kinds")
        kind = "continuous" if action.continuous_size else "discrete"
        count = action.continuous_size or action.discrete_size
        actions = {"names": _features(f"{own}.{kind}", count)}
        sizes = {"sizes": list(action.discrete_branches)} if action.discrete_size else {}
        return {"features": features, "images": images, "actions": {**actions, **sizes}}

    def reset(self) -> None:
        self._env.reset()
        self._slots.clear()
        self.agents.alive[:] = False
        self._take(np.zeros(len(self.agents.alive), np.bool_), set())
        self._wait(None, set())

    def step(self, actions: Any) -> None:
        self.agents.begin_step()
        self._wait(actions, set(np.flatnonzero(self.agents.alive).tolist()))

    def _wait(self, actions: Any, waiting: set[int]) -> None:
        """Step the engine until all rows ``waiting`` are asked again or have ended, and some agent is in play."""
        playing, sent = self.agents.alive.copy(), set()  # type: ignore[var-annotated]
        for _ in range(LONGEST_WAIT):
            if not waiting and self.agents.alive.any():
                return
            sent |= self._send(actions, playing)
            self._env.step()
            waiting -= self._take(playing, sent)
        raise Trouble(f"agents of '{self._name}' were not asked for an action again in {LONGEST_WAIT} steps")

    def _send(self, actions: Any, playing: Any) -> set[int]:
        """Send the actions of all agents that are asked; rows ``playing`` have one. Returns these rows."""
        asked = [self._slots.get(int(agent), -1) for agent in self._env.get_steps(self._name)[0].agent_id]
        spec = self._env.behavior_specs[self._name].action_spec
        given = spec.empty_action(len(asked))
        own = {slot for slot in asked if slot >= 0 and playing[slot]}
        numbers = given.continuous if spec.continuous_size else given.discrete
        for i, slot in enumerate(asked):
            if slot in own:
                numbers[i] = actions[slot]
        if asked:
            self._env.set_actions(self._name, given)
        return own

    def _take(self, playing: Any, sent: set[int]) -> set[int]:
        """Keep what the engine shows; returns rows of ``sent`` that are asked again, and all that have ended.

        ``playing``: rows whose episode is that in which they acted; those that end are taken out.
        """
        shown, answered = self.agents, set()  # type: ignore[var-annotated]
        asked, ended = self._env.get_steps(self._name)
        seen = self._flat(ended)
        for i, agent in enumerate(ended.agent_id):
            slot = self._slots.pop(int(agent), None)
            if slot is None:
                continue
            shown.alive[slot] = False
            if playing[slot]:
                playing[slot] = False
                shown.rewards[slot] += ended.reward[i] + ended.group_reward[i]
                shown.final[slot] = seen[i]
                flags = shown.truncated if ended.interrupted[i] else shown.terminated
                flags[slot] = True
                answered.add(slot)
        seen, masks = self._flat(asked), asked.action_mask
        for i, agent in enumerate(asked.agent_id):
            slot = self._slots.get(int(agent))
            if slot is None:
                taken = set(self._slots.values())
                slot = next((s for s in range(len(shown.alive)) if s not in taken), None)
                if slot is None:  # more agents than there were at first: these wait for a place
                    continue
                self._slots[int(agent)] = slot
            shown.obs[slot], shown.alive[slot] = seen[i], True
            if masks is not None:
                shown.forbidden[slot] = np.concatenate([branch[i] for branch in masks])
            if playing[slot]:
                shown.rewards[slot] += asked.reward[i] + asked.group_reward[i]
                if slot in sent:
                    answered.add(slot)
        return answered

    def _flat(self, steps: Any) -> Any:
        """Observations (n, width) of steps: numbers first, then images."""
        parts = [steps.obs[k] for k in self._order]
        return np.concatenate([part.reshape(len(part), int(np.prod(part.shape[1:]))) for part in parts], 1)

    def close(self) -> None:
        self._env.close()


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

        seconds = float(options["timeout"])

        class Env(GodotEnv):  # type: ignore[misc]
            DEFAULT_TIMEOUT = GodotEnv.DEFAULT_TIMEOUT = seconds

            def _start_server(self) -> Any:
                try:
                    return _Watched(super()._start_server(), seconds)
                except socket.timeout as error:  # noqa: UP041 (another class before Python 3.10)
                    raise Trouble(NOBODY.format(self.port, seconds)) from error

        port = int(target) if target.isdigit() else free_port()
        own = dict(argument.lstrip("-").split("=", 1) for argument in options["arguments"])
        path = None if target.isdigit() else target
        self._env = Env(env_path=path, port=port, seed=int(options["seed"]), speedup=int(options["speed"]), **own)
        spaces, moves = self._env.observation_spaces, self._env.action_spaces
        if any(space != spaces[0] for space in spaces) or any(space != moves[0] for space in moves):
            raise Trouble("its agents differ in what they see or do, and rows of a batch are alike")
        self._seen, self._moves = spaces[0].spaces, moves[0].spaces
        flat = {key: space for key, space in self._seen.items() if len(space.shape) != 3}
        images = {key: space for key, space in self._seen.items() if len(space.shape) == 3}
        if any(not hasattr(space, "low") for space in flat.values()):
            raise Trouble("its observations have a discrete space; show it as numbers")
        shown = [{"name": k, "shape": list(s.shape), "channels": None, "bytes": True} for k, s in images.items()]
        features = [name for key, space in flat.items() for name in _features(key, int(np.prod(space.shape)))]
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
        return {"names": [name for key, space in self._moves.items() for name in _features(key, space.shape[0])]}

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


GAMES = {"unity": UnityGame, "godot": GodotGame}


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Server:
    """Plays ``game`` for clients that take turns; all of them are of one process at a time."""

    def __init__(self, game: Any) -> None:
        self._game = game
        self.clients: dict[socket.socket, int] = {}  # -> its process
        self._owner: socket.socket | None = None  # whose episodes run

    def answer(self, client: socket.socket, asked: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        """What a request gets; raises Trouble, and whatever the game raises."""
        agents = self._game.agents
        if asked.get("do") == "hello":
            others = {pid for other, pid in self.clients.items() if other is not client} - {0, asked["pid"]}
            if others:
                raise Trouble(f"process {others.pop()} is playing it; run one stage at a time, with --jobs 1")
            self.clients[client] = int(asked["pid"])
            return {"about": self._game.about, "agents": len(agents.alive)}, b""
        if asked.get("do") == "step" and self._owner is not client:
            return {"taken": True}, b""
        if asked.get("do") == "step":
            kind = np.int32 if "sizes" in self._game.about["actions"] else np.float32
            self._game.step(np.frombuffer(data, kind).reshape(len(agents.alive), -1))
        else:
            self._owner = client
            self._game.reset()
        return {}, agents.packed()


def serve(listener: socket.socket, make: Any, linger: float) -> None:
    """Play the game that ``make()`` gives until no client has been there for ``linger`` seconds, or it fails."""
    try:
        server = Server(make())
    except Exception as error:
        _refuse(listener, _words(error))
        return
    left, clients = time.monotonic() + SECONDS_FOR_A_CLIENT, server.clients
    with contextlib.closing(server._game):
        while clients or time.monotonic() < left:
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
                    if asked.get("do") != "hello":
                        return
                    continue
                with contextlib.suppress(OSError):
                    send(ready, answer, data)


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
    serve(listener, lambda: GAMES[given.engine](given.target, given.options), given.linger)


if __name__ == "__main__":
    main()
