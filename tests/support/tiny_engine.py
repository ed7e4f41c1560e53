"""The worker of engines with a tiny game in place of an engine's library: see `test_bridge`.

Two agents see (steps of their episode, their last action). The first is truncated in step 4; the second dies in step 2,
and is out of play for a step. ``arguments`` say how the game fails in its third step, or what it leaves running.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

from process import protocol, worker
from process.protocol import Agents, Trouble


class Tiny:
    about = {  # noqa: RUF012
        "features": ["clock", "last"],
        "images": [],
        "actions": {"names": ["button"], "sizes": [3]},
    }

    def __init__(self, target: str, options: dict[str, Any]) -> None:
        self.fails, self.steps = options["arguments"], 0
        if "start" in self.fails:
            raise Trouble("there is no licence")
        self.agents = Agents(2, 2, 3)
        if {"refused", "stays", "stuck"} & set(self.fails):
            self._leave(self.fails[1])

    def _leave(self, said: str) -> None:
        """Start a game that does not quit, and does not connect where it is ``refused``."""
        protocol.SECONDS_TO_QUIT = worker.SECONDS_TO_QUIT = 1
        command = ["sh", "-c", f"sleep 600 & echo $! > {said}.new; mv {said}.new {said}; wait"]
        subprocess.Popen(command, start_new_session=True)
        while not os.path.exists(said):
            time.sleep(0.01)
        if "refused" in self.fails:
            raise Trouble(protocol.nobody("a/build", 10))

    def reset(self) -> None:
        self.agents.obs[:], self.agents.alive[:] = 0, True

    def step(self, actions: Any) -> None:
        seen, self.steps = self.agents, self.steps + 1
        if self.steps == 3 and "die" in self.fails:
            os._exit(1)
        if self.steps == 3 and "hang" in self.fails:
            time.sleep(60)
        seen.begin_step()
        seen.forbidden[0, 1] = "forbid" in self.fails
        played, seen.alive[:] = seen.alive.copy(), True
        seen.obs[played, 0] += 1
        seen.obs[:, 1] = actions[:, 0]
        seen.rewards[:] = played * (1 + actions[:, 0])
        seen.final[:] = seen.obs
        seen.truncated[0], seen.terminated[1] = seen.obs[0, 0] == 4, seen.obs[1, 0] == 2
        seen.alive[1] = not seen.terminated[1]
        seen.obs[seen.truncated | seen.terminated] = 0

    def close(self) -> None:
        if "stuck" in self.fails:
            time.sleep(60)


if __name__ == "__main__":  # with Python's own arguments: -m process.worker unity ...
    worker.GAMES["unity"] = Tiny
    worker.main(sys.argv[3:])
