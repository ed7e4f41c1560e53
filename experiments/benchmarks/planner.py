"""A planner for built-in games: one-step lookahead by simulated episodes of a policy, on copies of the game's state."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.evaluate import Episodes, eval_mode, play_episodes
from graft.envs.builtin.engine.batch import GameVectorEnv
from graft.envs.core.task import Task
from graft.envs.factory import make
from graft.errors import GraftError


class RolloutPlanner:
    """Plays the action whose simulated continuations by ``network`` give most, in each of a batch of games.

    Each action is tried ``samples`` times: the network goes on for ``horizon`` steps, and its value function says what
    comes after. The k-th trials of all actions have the same random numbers, which are not those of the game itself:
    the planner knows the state and the rules, and not what will be drawn. In expectation it plays at least as well as
    the network, up to the error of its value function.

    Source: Tesauro & Galperin 1996, "On-line policy improvement using Monte-Carlo search"; Bertsekas & Castanon 1999.

    Args:
        env: the batch that it is to play. model: a batch of the same task with ``trials(env, samples)`` games.
        gamma: discount of what is simulated; that of the network's value function.
        seed: of the simulated games and of the network's actions in them.
    """

    def __init__(
        self,
        network: PolicyNetwork,
        env: GameVectorEnv,
        model: GameVectorEnv,
        samples: int = 4,
        horizon: int = 10,
        gamma: float = 0.97,
        seed: int = 0,
    ) -> None:
        self._network, self._env, self._model = network, env, model
        self._samples, self._horizon, self._gamma = samples, horizon, gamma
        self._actions = len(env.schemas.action.names)
        self._rng = np.random.default_rng(seed)
        self._generator = torch.Generator().manual_seed(seed)

    def act(self, _: Any = None) -> NDArray[np.int64]:
        """An action (N,) for each game as it is now; observations are not used."""
        return np.asarray(self.values().argmax(axis=1), np.int64)

    def values(self) -> NDArray[np.float64]:
        """Mean discounted return of each action's trials, (N, A)."""
        count, trials = self._env.num_envs, self._actions * self._samples
        self._copy(trials)
        chosen = np.tile(np.repeat(np.arange(self._actions), self._samples), count)
        totals, live = np.zeros(count * trials), np.ones(count * trials, np.bool_)
        for step in range(self._horizon):
            obs, rewards, terminated, truncated, _ = self._model.step(chosen)
            totals += self._gamma**step * rewards * live
            live &= ~(terminated | truncated)
            if step < self._horizon - 1:
                chosen = self._network.act(torch.as_tensor(obs), self._generator).numpy()
        with torch.no_grad():
            beyond = self._network(torch.as_tensor(obs)).value.double().numpy()
        totals += self._gamma**self._horizon * beyond * live
        means: NDArray[np.float64] = totals.reshape(count, self._actions, self._samples).mean(axis=2)
        return means

    def _copy(self, trials: int) -> None:
        """Set the model's games to ``trials`` copies of each game, with random numbers of their own."""
        state = {name: np.repeat(array, trials, axis=0) for name, array in self._env.save_state().items()}
        count = self._env.num_envs
        keys = self._rng.integers(0, 2**64, (count, 1, self._samples), np.uint64)
        state["rng"][:, 0] = np.broadcast_to(keys, (count, self._actions, self._samples)).reshape(-1)
        state["rng"][:, 1] = 0
        self._model.restore_state(state)


def check_plannable(task: Task) -> None:
    """Raise GraftError for a task whose games cannot be copied, as all but built-in games."""
    with closing(make(task, 1, 0)) as env:
        if not isinstance(env, GameVectorEnv):
            raise GraftError(f"Task '{task.id}' cannot be planned in; give a built-in game, such as Dodge.")


def planned_episodes(
    network: PolicyNetwork, task: Task, episodes: int, seed: int, gamma: float, samples: int = 4, horizon: int = 10
) -> Episodes:
    """Outcomes of a `RolloutPlanner` with ``network``, in up to 32 games at a time.

    Raises:
        GraftError: as of `check_plannable`.
    """
    check_plannable(task)
    games = min(32, episodes)
    with closing(make(task, games, seed)) as env:
        trials = games * len(env.schemas.action.names) * samples
        with closing(make(task, trials, seed)) as model, eval_mode(network):
            assert isinstance(env, GameVectorEnv)
            assert isinstance(model, GameVectorEnv)
            planner = RolloutPlanner(network, env, model, samples, horizon, gamma, seed)
            return play_episodes(planner.act, env, episodes)
