"""DQN of Stable-Baselines3 with a transfer method's gradients."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, cast

import numpy as np
import torch
from pydantic import Field
from stable_baselines3 import DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.dqn.policies import DQNPolicy

from graft.agents.networks.activation import Activation
from graft.agents.networks.policy_network import Distribution, PolicyNetwork, check_finite
from graft.agents.sb3.algorithm import ALGORITHMS
from graft.agents.sb3.gradients import MethodGradients
from graft.agents.sb3.off_policy import OffPolicy, following, last_minibatch
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training.algorithm import Count, Positive, Share
from graft.agents.training.backend import Batch
from graft.agents.training.divergence import Columns
from graft.envs.core.random_actions import allowed_actions
from graft.errors import GraftError


class NetworkQ(BasePolicy):
    """The Q values of a PolicyNetwork."""

    def __init__(self, observation_space: Any, action_space: Any, network: PolicyNetwork) -> None:
        super().__init__(observation_space, action_space)
        self.network = network

    def forward(self, obs: PyTorchObs) -> torch.Tensor:
        """Q values (N, A) of raw observations; raises Unstable where training diverged."""
        outputs = self.network(obs)
        check_finite(outputs)
        return cast(torch.Tensor, outputs.action)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> torch.Tensor:
        return cast(torch.Tensor, self(observation).argmax(1))


class NetworkDQNPolicy(DQNPolicy):
    """The library's Q network and target network around a PolicyNetwork, without the library's layers."""

    q_net: NetworkQ  # type: ignore[assignment]
    q_net_target: NetworkQ  # type: ignore[assignment]

    def __init__(
        self, observation_space: Any, action_space: Any, lr_schedule: Schedule, network: PolicyNetwork, **kwargs: Any
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, net_arch=[], normalize_images=False, **kwargs)
        self.q_net = NetworkQ(observation_space, action_space, network)
        self.q_net_target = copy.deepcopy(self.q_net)
        self.q_net_target.set_training_mode(False)
        self.optimizer = self.optimizer_class(network.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _build(self, lr_schedule: Schedule) -> None: ...


class TransferDQN(MethodGradients, DQN):
    """`stable_baselines3.DQN` whose loss, exploration and update are the library's.

    Where actions are forbidden, exploration draws among the others; the largest Q value is never one of theirs.
    """

    def _sample_action(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        actions, stored = super()._sample_action(*args, **kwargs)
        assert isinstance(self.policy, NetworkDQNPolicy)
        schemas = self.policy.q_net.network.schemas
        forbidden = schemas.forbidden(self._last_obs)
        if forbidden is None:
            return actions, stored
        rows = np.arange(len(actions))
        drawn = allowed_actions(schemas.action, self.action_space.np_random.random((len(rows), 1)), forbidden)
        allowed = np.where(forbidden[rows, actions], drawn, actions)  # what was drawn freely stays uniform
        return allowed, allowed

    def columns(self) -> Columns:
        return last_minibatch(self.replay_buffer)._asdict

    def minibatch(self) -> tuple[PolicyNetwork, Batch]:
        assert isinstance(self.policy, NetworkDQNPolicy)
        sample = last_minibatch(self.replay_buffer)
        batch = Batch(sample.observations, sample.actions.squeeze(1), following=following(sample))
        return self.policy.q_net.network, batch


@ALGORITHMS.register("dqn")
@dataclass(frozen=True, kw_only=True)
class DQNAlgorithm(OffPolicy):
    """Deep Q-learning (Mnih et al. 2015) for discrete actions; no double Q-learning, as in the library.

    The policy head's rows are the Q values; the value head is not used. The target network starts as a copy. Networks
    have ReLU unless the config says otherwise (``network: {activation: own}``).

    Attributes:
        target_update: env steps between updates of the target network.
        exploration_fraction: share of the budget over which the share of random steps falls from
            ``exploration_initial`` to ``exploration_final``. The batch explores as one: all environments or none.
        max_grad_norm: gradients are clipped to this norm.
    Raises:
        GraftError: as in `OffPolicy`; or a ``target_update`` of fewer env steps than one step of the batch.
    """

    distribution: ClassVar[Distribution | None] = "greedy"
    activation: ClassVar[Activation | None] = "relu"
    learner_class: ClassVar[type[BaseAlgorithm]] = TransferDQN
    policy_class: ClassVar[type[BasePolicy]] = NetworkDQNPolicy

    learning_rate: Positive = 1e-3
    batch: Count = 128
    gradient_steps: Annotated[int, Field(ge=-1)] = 4
    target_update: Count = 500
    exploration_fraction: Annotated[float, Field(gt=0, le=1)] = 0.15
    exploration_initial: Share = 1.0
    exploration_final: Share = 0.05
    max_grad_norm: Positive = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_update < self.num_envs:
            raise GraftError(
                f"target_update={self.target_update} is not allowed: a step of {self.num_envs} environments is "
                f"{self.num_envs} env steps; give at least as many."
            )

    def arguments(self, env: BatchVecEnv) -> dict[str, Any]:
        return {
            **super().arguments(env),
            "target_update_interval": self.target_update,
            "exploration_fraction": self.exploration_fraction,
            "exploration_initial_eps": self.exploration_initial,
            "exploration_final_eps": self.exploration_final,
            "max_grad_norm": self.max_grad_norm,
        }
