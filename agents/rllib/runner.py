"""An EnvRunner that plays a native batch of environments without a Python loop over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from graft.agents.rllib.module import NetworkModule
from graft.agents.rllib.rollout_collector import Array, EndedEpisodes, RolloutCollector, StepResult
from graft.envs.core.faults import Faults
from graft.envs.core.schema import ObservationSchema
from graft.envs.core.task import Task, TaskVectorEnv
from graft.envs.factory import make


class RunnerEnvConfig(NamedTuple):
    """What runners play: environment i of all runners together is seeded with ``seed + i``.

    ``plays``, of a squad whose teams all learn: team -> policy (an RLlib module's name).
    """

    task: Task
    observation: ObservationSchema
    seed: int
    reward_scale: float
    workers: int
    plays: Mapping[str, str] | None = None


class Fragment(NamedTuple):
    """What a runner has sampled.

    Attributes:
        columns: observations, actions, their log-probabilities and the distribution's inputs, advantages and value
            targets of the states of rows in play, (states, ...), in the order in which they came.
        env_steps: taken, those of rows out of play included. rows: environments. ended: episodes.
        others: in a squad, what the policies beside this one have sampled.
    """

    columns: dict[str, Array]
    env_steps: int
    rows: int
    ended: EndedEpisodes
    others: Mapping[str, Fragment] = {}


class BatchRunner(SingleAgentEnvRunner):
    """RLlib's runner, whose environments are one `TaskVectorEnv` and whose samples are arrays, not episode objects.

    It acts, estimates advantages and counts as Stable-Baselines3 does, under same-step autoreset: rewards of a
    truncated episode are followed by the value of its last observation, and rows out of play are left out.
    ``env_config`` has a `RunnerEnvConfig` under ``world``.

    Attributes:
        index: among the runners, 0 = the one with the first environments.
    """

    env: TaskVectorEnv | None
    module: NetworkModule

    def make_env(self) -> None:
        """The runner's share of the batch."""
        world: RunnerEnvConfig = self.config.env_config["world"]
        share = self.config.num_envs_per_env_runner
        self.index = max((self.worker_index or 0) - 1, 0)
        self.num_envs = share
        first = world.seed + self.index * share
        self.env = make(world.task, share, first, observation=world.observation, workers=world.workers)
        self._all = np.ones(share, np.bool_)
        self._world = world

    def make_module(self) -> None:
        """Called by RLlib after the environments were made."""
        super().make_module()  # type: ignore[no-untyped-call]  # Ray's
        world = self._world
        self.player = RolloutCollector(
            self.module, self.num_envs, world.seed * 1009 + self.index, world.reward_scale, self._device
        )

    def sample(self, **_: Any) -> Fragment:  # type: ignore[override]  # arrays, not episodes
        """``rollout_fragment_length`` steps of every environment."""
        env, player, length = self.env, self.player, self.config.rollout_fragment_length
        assert env is not None
        if not player.started:
            obs, infos = env.reset()
            player.start(obs, infos.get("alive", self._all))
        player.begin(length)
        for _step in range(length):
            obs, rewards, terminated, truncated, infos = env.step(player.act())
            alive = infos.get("alive", self._all)
            player.see(StepResult(obs, rewards, terminated, truncated, alive, infos.get("final_obs")))
        return self.fragment()

    def fragment(self) -> Fragment:
        """What the player has recorded."""
        return fragment_of(self.player, self.config)

    def get_metrics(self) -> dict[str, Any]:
        """None of RLlib's: a `Fragment` says what was sampled."""
        return {}

    @property
    def faults(self) -> Faults:
        """Of its environments."""
        assert self.env is not None
        return self.env.faults

    def apply(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What ``func`` gives for this runner; where it raises, RLlib would end the process, and lose what it was."""
        return func(self, *args, **kwargs)

    def load_weights(self, weights: Mapping[str, Mapping[str, Array]]) -> None:
        """Of each policy's network, by name."""
        found = weights[DEFAULT_MODULE_ID]
        self.module.network.load_exactly({name: torch.as_tensor(array) for name, array in found.items()})

    def save(self) -> dict[str, Array]:
        """What its next samples depend on, beside the weights; its environments' state can be saved.

        Arrays, as some of torch's types do not get from one process to another.
        """
        assert self.env is not None
        inner = self.env.save_state()
        return {f"batch.{name}": array.copy() for name, array in inner.items()} | self.player.save()

    def restore(self, saved: Mapping[str, Array]) -> None:
        """Inverse of `save`."""
        inner = {name.removeprefix("batch."): array for name, array in saved.items() if name.startswith("batch.")}
        assert self.env is not None
        self.env.restore_state(inner)
        self.player.restore(saved)


def fragment_of(player: RolloutCollector, config: Any) -> Fragment:
    """What a player has recorded, with advantages by the options of an algorithm's ``config``."""
    assert player.steps is not None
    columns = player.steps.columns(player.following(), config.gamma, config["lambda_"])
    return Fragment(columns, player.steps.rewards.size, player.rows, player.ended)
