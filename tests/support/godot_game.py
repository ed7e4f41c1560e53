"""A small game that speaks the protocol of Godot RL Agents: agents on a line walk to a target.

Run as ``python godot_game.py --port=11008``, as Godot's builds are; it connects to the library and ends with it.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import time

AGENTS, SPAN, STEPS = 4, 5, 20


def exactly(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        part = connection.recv(count - len(found))
        if not part:
            sys.exit()
        found += part
    return found


class Walker:
    """One agent: it sees where it is and where the target is; with ``sonar``, also how far that is, to both sides."""

    def __init__(self, sonar: bool) -> None:
        self.sonar = sonar
        self.begin()

    def begin(self) -> None:
        self.place, self.target, self.steps = random.randint(-SPAN, SPAN), random.randint(-SPAN, SPAN), 0

    def seen(self) -> dict[str, list[float]]:
        shown = {"obs": [self.place / SPAN, self.target / SPAN]}
        if self.sonar:
            distance = (self.target - self.place) / SPAN
            shown["sonar"] = [max(distance, 0.0), max(-distance, 0.0)]
        return shown

    def step(self, move: int) -> tuple[float, bool, bool]:
        self.place = max(-SPAN, min(SPAN, self.place + move - 1))
        self.steps += 1
        there, late = self.place == self.target, self.steps == STEPS
        if there or late:
            self.begin()
        return 1.0 if there else -0.05, there or late, late and not there


def play(port: int, sonar: bool, fails_after: int = -1) -> None:
    """Play until the library closes; with ``fails_after``, end after so many steps."""
    for _ in range(6000):
        try:
            connection = socket.create_connection(("127.0.0.1", port))
            break
        except OSError:
            time.sleep(0.1)
    walkers = [Walker(sonar) for _ in range(AGENTS)]

    def say(message: dict[str, object]) -> None:
        text = json.dumps(message).encode()
        connection.sendall(len(text).to_bytes(4, "little") + text)

    while True:
        asked = json.loads(exactly(connection, int.from_bytes(exactly(connection, 4), "little")))
        if asked["type"] == "env_info":
            space = {key: {"size": [len(values)], "space": "box"} for key, values in walkers[0].seen().items()}
            move = {"move": {"size": 3, "action_type": "discrete"}}
            say({"type": "env_info", "n_agents": AGENTS, "observation_space": space, "action_space": move})
        elif asked["type"] == "reset":
            for walker in walkers:
                walker.begin()
            say({"type": "reset", "obs": [walker.seen() for walker in walkers]})
        elif asked["type"] == "action":
            if fails_after == 0:
                sys.exit()
            fails_after -= 1
            steps = [walker.step(action["move"]) for walker, action in zip(walkers, asked["action"])]
            rewards, done, late = (list(column) for column in zip(*steps))
            infos = [{"TimeLimit.truncated": cut} for cut in late]
            obs = [walker.seen() for walker in walkers]
            say({"type": "step", "obs": obs, "reward": rewards, "done": done, "info": infos})
        elif asked["type"] == "close":
            return


if __name__ == "__main__":
    given = dict(argument.lstrip("-").split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    play(int(given["port"]), given.get("sonar") == "yes", int(given.get("fails_after", -1)))
