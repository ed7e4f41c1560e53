"""An EnvRunner that plays a native batch of environments without a Python loop over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from graft.agents.checkpoints.snapshotter import steps_to_catch_up
from graft.agents.rllib.module import NetworkModule
from graft.agents.rllib.rollout_collector import Array, EndedEpisodes, RolloutCollector, StepResult
from graft.agents.training.periodic_evaluation import check_size
from graft.envs.core.faults import Faults
from graft.envs.core.schema import ObservationSchema
from graft.envs.core.task import Task
from graft.envs.factory import make


class RunnerEnvConfig(NamedTuple):
    """What runners play: environment i of all runners together is seeded with ``seed + i``.

    ``plays``, in a squad whose teams all learn: team -> policy (an RLlib module's name).
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
        columns: by RLlib's names, of the states of rows in play, (states, ...), in the order of time.
        env_steps: taken, those of rows out of play included. rows: environments. ended: episodes.
        others: in a squad, the fragments of the partner policies.
    """

    columns: dict[str, Array]
    env_steps: int
    rows: int
    ended: EndedEpisodes
    others: Mapping[str, Fragment] = {}


class BatchRunner(SingleAgentEnvRunner):
    """RLlib's runner on one `TaskVectorEnv` under same-step autoreset; its samples are arrays, not episode objects.

    Advantages and episodes are computed as in Stable-Baselines3: the last reward of a truncated episode is followed by
    the value of its final observation, and rows out of play are left out. ``env_config`` has a `RunnerEnvConfig` under
    ``runner_env``.

    Attributes:
        index: among the runners; 0 has the first environments. collectors: by policy.
    """

    collector: ClassVar[type[RolloutCollector]] = RolloutCollector

    env: Any
    module: NetworkModule
    collectors: dict[str, RolloutCollector]

    @property
    def env_config(self) -> RunnerEnvConfig:
        return cast(RunnerEnvConfig, self.config.env_config["runner_env"])

    def make_env(self) -> None:
        config, share = self.env_config, self.config.num_envs_per_env_runner
        self.index = max((self.worker_index or 0) - 1, 0)
        self.num_envs = share
        first = config.seed + self.index * share
        self.env = make(config.task, share, first, observation=config.observation, workers=config.workers)
        check_size(self.env, share)
        self._all = np.ones(share, np.bool_)

    def make_module(self) -> None:
        super().make_module()  # type: ignore[no-untyped-call]  # Ray's
        config = self.env_config
        seed = config.seed * 1009 + self.index
        made = self.collector(self.module, self.num_envs, seed, config.reward_scale, self._device)
        self.collectors = {DEFAULT_MODULE_ID: made}

    def reset_env(self, seed: int | None = None) -> dict[str, tuple[Array, Array]]:
        """First observations, and which rows are in play, by policy; environment i is seeded with ``seed + i``."""
        obs, infos = self.env.reset(seed=seed)
        return {DEFAULT_MODULE_ID: (obs, infos.get("alive", self._all))}

    def step_env(self, actions: dict[str, Array]) -> dict[str, StepResult]:
        """One step with the actions of each policy's rows."""
        obs, rewards, terminated, truncated, infos = self.env.step(actions[DEFAULT_MODULE_ID])
        alive = infos.get("alive", self._all)
        return {DEFAULT_MODULE_ID: StepResult(obs, rewards, terminated, truncated, alive, infos.get("final_obs"))}

    def begin_episodes(self, seed: int | None = None) -> None:
        """Fresh episodes of all environments; those of all runners together are seeded from ``seed`` on.

        In place of others, they are played to where these were.
        """
        first = None if seed is None else seed + self.index * self.num_envs
        steps = steps_to_catch_up(np.concatenate([collector.lengths for collector in self.collectors.values()]))
        for policy, (obs, alive) in self.reset_env(first).items():
            self.collectors[policy].reset(obs, alive)
        dice = [collector.generator.get_state() for collector in self.collectors.values()]
        for _step in range(steps):
            self._play(1)
        for collector, state in zip(self.collectors.values(), dice, strict=True):
            collector.generator.set_state(state)  # what is learned from goes on with the numbers it would have had

    def _play(self, steps: int) -> None:
        """Have the collectors record ``steps`` of every environment, from nothing."""
        for collector in self.collectors.values():
            collector.begin(steps)
        for _step in range(steps):
            results = self.step_env({policy: collector.act() for policy, collector in self.collectors.items()})
            for policy, collector in self.collectors.items():
                collector.record(results[policy])

    def sample(self, **_: Any) -> Fragment:  # type: ignore[override]  # arrays, not episodes
        """``rollout_fragment_length`` steps of every environment."""
        collectors = self.collectors
        if not collectors[DEFAULT_MODULE_ID].started:
            self.begin_episodes()
        self._play(self.config.rollout_fragment_length)
        fragments = {
            policy: Fragment(self.columns(its), its.rollout.rewards.size, its.rows, its.ended)
            for policy, its in collectors.items()
        }
        return fragments.pop(DEFAULT_MODULE_ID)._replace(others=fragments)

    def columns(self, collector: RolloutCollector) -> dict[str, Array]:
        """What a learner gets of a rollout."""
        return collector.rollout.columns(collector.values(collector.obs), self.config.gamma, self.config["lambda_"])

    def get_metrics(self) -> dict[str, Any]:
        return {}

    @property
    def faults(self) -> Faults:
        return cast(Faults, self.env.faults)

    def apply(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call ``func`` with this runner; RLlib's own method ends the process at an error, which loses it."""
        return func(self, *args, **kwargs)

    def load_weights(self, weights: Mapping[str, Mapping[str, Array]]) -> None:
        for policy, arrays in weights.items():
            network = self.collectors[policy].module.network
            network.load_exactly({name: torch.as_tensor(array) for name, array in arrays.items()})

    def state_prefix(self, policy: str) -> str:
        """Of the names of a collector's state."""
        return ""

    def save_state(self) -> dict[str, Array]:
        """What its next samples depend on, beside the weights; of its environments where they are savable."""
        inner = self.env.save_state() if self.env.savable else {}
        state = {f"batch.{name}": array.copy() for name, array in inner.items()}
        for policy, collector in self.collectors.items():
            prefix = self.state_prefix(policy)
            state |= {f"{prefix}{name}": array for name, array in collector.save_state().items()}
        return state

    def restore_state(self, saved: Mapping[str, Array]) -> None:
        if self.env.savable:
            self.env.restore_state(_under("batch.", saved))
        for policy, collector in self.collectors.items():
            collector.restore_state(_under(self.state_prefix(policy), saved))


def _under(prefix: str, saved: Mapping[str, Array]) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in saved.items() if name.startswith(prefix)}
