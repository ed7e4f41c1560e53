"""DQN and SAC so small that they learn in a moment."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from graft import envs
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork, build_network
from graft.agents.sb3 import ALGORITHMS, architecture_for, train
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training.backend import Evaluation, Hooks, TrainJob
from graft.envs.core.task import Task
from support.tiny_tasks import REACH, TASK, small_config, weights

QUIET = Evaluation(every=10_000, episodes=8, num_envs=8)
STEPS = 60
"""Env steps of `learned`: 15 steps of 4 environments, of which those after the fifth are followed by 2 updates."""
UPDATES = 20
OPTIONS = {"num_envs": 4, "batch": 16, "buffer": 500, "learning_starts": 20, "gradient_steps": 2, "learning_rate": 3e-3}


@dataclass(frozen=True)
class Small:
    """An algorithm with its options, and what it learns on where nothing else is given."""

    name: str
    task: Task
    own: Mapping[str, Any]

    def algorithm(self, **options: Any) -> Any:
        return ALGORITHMS[self.name](**{**OPTIONS, **self.own, **options})

    def network(self, seed: int = 0, task: Task | None = None, config: NetworkConfig | None = None) -> PolicyNetwork:
        schemas = envs.schemas(task or self.task)
        config = config or small_config(schemas.observation.kind)
        return build_network(schemas, architecture_for(self.algorithm(), config), seed)

    def learner(self, network: PolicyNetwork, gradients: Any = None, task: Task | None = None, **options: Any) -> Any:
        algorithm = self.algorithm(**options)
        env = BatchVecEnv(envs.make(task or self.task, algorithm.num_envs, 0))
        return algorithm.learner(network, env, 3, gradients, "cpu")

    def learned(self, network: PolicyNetwork, gradients: Any = None, **options: Any) -> dict[str, torch.Tensor]:
        """The weights after `STEPS` env steps."""
        self.learner(network, gradients, **options).learn(STEPS)
        return weights(network)

    def trained(
        self,
        budget: int = 300,
        seed: int = 0,
        evaluation: Evaluation = QUIET,
        hooks: Any = None,
        task: Task | None = None,
        **options: Any,
    ) -> SimpleNamespace:
        """A network after the whole of `train`, what that returned, and what it recorded as (env_steps, values)."""
        network, records = self.network(), []
        result = train(
            TrainJob(
                network,
                task or self.task,
                self.algorithm(**options),
                budget,
                seed,
                lambda n, values: records.append((n, dict(values))),
                evaluation,
                hooks or Hooks(),
                "cpu",
            )
        )
        return SimpleNamespace(network=network, result=result, records=records)


small_dqn = Small("dqn", TASK, {"target_update": 16})
small_sac = Small("sac", REACH, {"critic": (16,)})


def moved(after: Mapping[str, torch.Tensor], before: Mapping[str, torch.Tensor]) -> set[str]:
    return {name for name in after if not torch.equal(after[name], before[name])}


class Features(BaseFeaturesExtractor):
    """A copy of an encoder, as the library's policies take it."""

    def __init__(self, space: Any, encoder: Any) -> None:
        super().__init__(space, encoder.out_dim)
        self.encoder = copy.deepcopy(encoder)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.encoder(obs)
