"""DQN of Stable-Baselines3 on a PolicyNetwork, with gradients that pass through a transfer method."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from stable_baselines3 import DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.dqn.policies import DQNPolicy

from graft.agents.networks.policy_network import Distribution, PolicyNetwork, check_finite
from graft.agents.sb3.algorithm import ALGORITHMS
from graft.agents.sb3.gradients import apply_method_gradients
from graft.agents.sb3.off_policy import OffPolicy, last_minibatch
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training.algorithm import Count, Positive, Share
from graft.agents.training.backend import Batch, Gradients
from graft.errors import GraftError


class NetworkQ(BasePolicy):
    """The Q values of a network that was built elsewhere."""

    def __init__(self, observation_space: Any, action_space: Any, network: PolicyNetwork) -> None:
        super().__init__(observation_space, action_space)
        self.network = network

    def forward(self, obs: PyTorchObs) -> torch.Tensor:
        """Q values (N, A) of raw observations.

        Raises:
            Unstable: training diverged.
        """
        outputs = self.network(obs)
        check_finite(outputs)
        values: torch.Tensor = outputs.action
        return values

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> torch.Tensor:
        best: torch.Tensor = self(observation).argmax(1)
        return best


class NetworkDQNPolicy(DQNPolicy):
    """The library's pair of a Q network and a target network; the library's own layers are never made.

    Args:
        network: the Q network, trained in place; the target network starts as a copy of it.
    """

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

    def _build(self, lr_schedule: Schedule) -> None:
        """Nothing to build: the network is given."""


class TransferDQN(DQN):
    """`stable_baselines3.DQN` whose loss, exploration and update are the library's.

    ``gradients`` sees each minibatch's gradients before they are clipped: the library clips between backward and step,
    so its own clipping is set to infinity and done, after ``gradients``, just before the optimiser's step.
    """

    def __init__(self, *args: Any, gradients: Gradients | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._gradients = gradients
        if gradients is not None:
            self._clip_at, self.max_grad_norm = self.max_grad_norm, math.inf
            self.policy.optimizer.register_step_pre_hook(self._before_step)

    def _before_step(self, *_: Any) -> None:
        assert self._gradients is not None
        assert isinstance(self.policy, NetworkDQNPolicy)
        network, sample = self.policy.q_net.network, last_minibatch(self.replay_buffer)
        apply_method_gradients(
            self._gradients, network, Batch(sample.observations, sample.actions.squeeze(1)), self._clip_at
        )


@ALGORITHMS.register("dqn")
@dataclass(frozen=True, kw_only=True)
class DQNAlgorithm(OffPolicy):
    """Deep Q-learning (Mnih et al. 2015) for discrete actions; no double Q-learning, as in the library.

    The Q values are the policy head's rows, so encoder and policy head carry over together; the value head is not
    used and gets no gradient. The target network starts as a copy of the network as it comes.

    Attributes:
        target_update: env steps between updates of the target network.
        exploration_fraction: share of the budget over which the share of random steps falls from
            ``exploration_initial`` to ``exploration_final``. The batch explores as one: all environments or none.
        max_grad_norm: gradients are clipped to this norm.
    Raises:
        GraftError: as in `OffPolicy`; or a ``target_update`` of fewer env steps than one step of the batch.
    """

    distribution: ClassVar[Distribution | None] = "greedy"

    learning_rate: Positive = 5e-4
    batch: Count = 64
    gamma: Share = 0.97
    gradient_steps: Annotated[int, Field(ge=-1)] = 2
    target_update: Count = 1000
    exploration_fraction: Annotated[float, Field(gt=0, le=1)] = 0.2
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

    def learner(
        self, network: PolicyNetwork, env: BatchVecEnv, seed: int, gradients: Gradients | None, device: str
    ) -> BaseAlgorithm:
        """The learner."""
        self.check_network(network)
        self.check_rows(env)
        return TransferDQN(
            NetworkDQNPolicy,
            env,
            **self.arguments(),
            gradients=gradients,
            target_update_interval=self.target_update,
            exploration_fraction=self.exploration_fraction,
            exploration_initial_eps=self.exploration_initial,
            exploration_final_eps=self.exploration_final,
            max_grad_norm=self.max_grad_norm,
            policy_kwargs={"network": network},
            seed=seed,
            device=device,
        )
