"""The built-in games: ids ``Graft/...``, registered with Gymnasium and made as native batches."""

from __future__ import annotations

from collections.abc import Iterable

import gymnasium as gym

from graft.envs.adapters.packages import READY
from graft.envs.builtin.engine.batch import GameVectorEnv
from graft.envs.builtin.engine.game import GAMES, VIEW, Game
from graft.envs.builtin.engine.view import VIEWS
from graft.envs.core.task import Adapter, BatchOptions, Bounds, Task, TaskVectorEnv
from graft.envs.factory import ADAPTERS
from graft.errors import unknown


class BuiltinAdapter(Adapter):
    """Built-in games, by their Gymnasium ids."""

    prefix = "Graft/"
    renders = own_planes = True

    def ids(self) -> Iterable[str]:
        return GAMES

    def states(self) -> dict[str, str]:
        return {"Built-in games": READY}

    def make(self, task: Task, options: BatchOptions) -> TaskVectorEnv:
        mechanics = dict(task.kwargs)
        render_mode = mechanics.pop("render_mode", None)
        _game(task).resolve(mechanics)
        return GameVectorEnv(task.id, options.num_envs, options.seed, options.autoreset, render_mode, **mechanics)

    def part_modules(self, task: Task) -> tuple[str, ...]:
        return VIEWS.modules(str(task.kwargs.get("view", VIEW)))

    def bounds(self, task: Task) -> Bounds | None:
        """The game's own bounds under any mechanics: a changed game is scored on the scale of the original."""
        return _game(task).bounds


def _game(task: Task) -> Game:
    if task.id not in GAMES:
        known = (task_id for _, adapter in ADAPTERS.items() for task_id in adapter.ids())
        raise unknown("task", task.id, [task_id for task_id in known if task_id.startswith(BuiltinAdapter.prefix)])
    return GAMES[task.id]


def register_with_gymnasium() -> None:
    """Make ``gymnasium.make`` and ``gymnasium.make_vec`` know every built-in game."""
    for game in GAMES:
        if game not in gym.registry:
            gym.register(
                game,
                entry_point="graft.envs.builtin.engine.batch:GameEnv",
                vector_entry_point="graft.envs.builtin.engine.batch:GameVectorEnv",
                kwargs={"game": game},
            )


ADAPTERS.add("builtin", BuiltinAdapter())
