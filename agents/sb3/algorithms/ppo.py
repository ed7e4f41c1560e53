"""PPO of Stable-Baselines3 with a transfer method's gradients; its rollouts and updates are written for speed."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import explained_variance
from torch import nn

from graft.agents.networks.policy_network import Outputs, PolicyNetwork, check_finite
from graft.agents.sb3.algorithm import ALGORITHMS, Algorithm
from graft.agents.sb3.baseline_ppo import arguments
from graft.agents.sb3.gradients import MethodGradients
from graft.agents.sb3.policy import NetworkPolicy
from graft.agents.sb3.ppo_loss import Taken, Terms, Weights, backward, draw, means
from graft.agents.sb3.rollout_buffer import TensorRolloutBuffer
from graft.agents.sb3.vec_env import BatchVecEnv, Step
from graft.agents.training.algorithm import PPOOptions
from graft.agents.training.backend import Batch, NextSteps
from graft.agents.training.divergence import Columns, unstable


class _Inputs(NamedTuple):
    """Tensors of a rollout, on the training's device: what minibatches are gathered from, by numbers of steps.

    ``hidden``: output of the network's frozen blocks, at ``depth``; the observations where none are frozen.
    """

    observations: torch.Tensor
    hidden: torch.Tensor
    depth: int
    actions: torch.Tensor
    rest: torch.Tensor  # (S, 3): old log-probabilities, advantages, returns

    def columns(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """A minibatch of these steps, by name."""
        log_probs, advantages, returns = self.rest[rows].unbind(1)
        return {
            "observations": self.observations[rows],
            "actions": self.actions[rows],
            "log_probs": log_probs,
            "advantages": advantages,
            "returns": returns,
        }


class TransferPPO(MethodGradients, PPO):
    """`stable_baselines3.PPO` with rollouts and updates of its own: the same random numbers, minibatches, loss and
    advantages, and so the same weights to rounding.

    - No distribution objects, and the loss has no graph: `ppo_loss` gives its gradients.
    - A rollout is stored in place (`TensorRolloutBuffer`); values of all episodes that a time limit has cut in a step
      are one forward pass.
    - What the first blocks of the encoder make of an observation is kept from the rollout where they are frozen, for
      all epochs; a method still sees raw observations.
    - Adam is fused.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with warnings.catch_warnings():
            # A last minibatch that is smaller than the others is allowed, as the config's documentation says.
            warnings.filterwarnings("ignore", "You have specified a mini-batch size", UserWarning)
            super().__init__(*args, **kwargs)
        self._batch: Batch | None = None
        self._columns: Columns = dict
        self._hidden: torch.Tensor | None = None  # of this rollout's frozen blocks, (steps * N, ...)
        self._depth = 0
        convolves = any(isinstance(module, nn.Conv2d) for module in self._network.modules())
        if convolves and len(self._buffer.obs_shape) == 3 and self.device.type == "cpu":
            self._buffer.arrange(channels_last=True)

    @property
    def _network(self) -> PolicyNetwork:
        return cast(NetworkPolicy, self.policy).network

    @property
    def _buffer(self) -> TensorRolloutBuffer:
        return cast(TensorRolloutBuffer, self.rollout_buffer)

    def minibatch(self) -> tuple[PolicyNetwork, Batch]:
        assert self._batch is not None
        return self._network, self._batch

    def columns(self) -> Columns:
        return self._columns

    # Rollouts

    def collect_rollouts(self, env: Any, callback: BaseCallback, rollout_buffer: Any, n_rollout_steps: int) -> bool:
        """Play ``n_rollout_steps`` steps of all environments into the buffer; False where ``callback`` ends training.

        The library's `update_locals` of callbacks is not called.
        """
        buffer = self._buffer
        assert isinstance(env, BatchVecEnv)
        assert isinstance(self._last_obs, np.ndarray)
        self.policy.set_training_mode(False)
        buffer.reset()
        callback.on_rollout_start()
        self._depth, self._hidden = self._network.frozen_depth, None
        sizes = self._network.schemas.action.sizes
        with torch.no_grad():
            for place in range(n_rollout_steps):
                obs = buffer.begin_step(self._last_obs, cast(NDArray[Any], self._last_episode_starts))
                outputs = self._outputs(obs, place, n_rollout_steps)
                check_finite(outputs)
                actions, log_prob = draw(outputs, sizes)
                step = env.step_batch(actions.cpu().numpy())
                self.num_timesteps += env.num_envs
                if not callback.on_step():
                    return False
                cast(Any, self.ep_info_buffer).extend(step.episodes.values())
                buffer.end_step(actions, self._rewards(step), outputs.value, log_prob)
                self._last_obs, self._last_episode_starts = step.observations, step.dones
            last = self._values(self._last_obs)
        buffer.compute_returns_and_advantage(last_values=last, dones=cast(Any, self._last_episode_starts))
        callback.on_rollout_end()
        return True

    def _outputs(self, obs: torch.Tensor, place: int, steps: int) -> Outputs:
        """The network's, and what its frozen blocks give is kept."""
        hidden = self._network.prefix(obs.to(self.device), self._depth)
        if self._depth:
            if self._hidden is None:
                self._hidden = torch.empty(steps, *hidden.shape, dtype=hidden.dtype, device=hidden.device)
            self._hidden[place] = hidden
        return self._network.suffix(hidden, self._depth)

    def _values(self, observations: Any) -> torch.Tensor:
        return cast(torch.Tensor, self._network(torch.as_tensor(observations, device=self.device)).value)

    def _rewards(self, step: Step) -> NDArray[np.float32]:
        """Rewards, with the discounted value of what would have come after a time limit."""
        rewards = step.rewards
        if len(step.cut):
            rewards[step.cut] += self.gamma * self._values(step.finals[step.cut]).cpu().numpy()
        return rewards

    # Updates

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        """By the env steps before the rollout: a learning rate that is annealed to 0 is not 0 in the last update, and a
        budget of one rollout trains.
        """
        super()._update_current_progress_remaining(num_timesteps - self.n_steps * self.n_envs, total_timesteps)

    def train(self) -> None:
        """One update of the policy from the rollout buffer; raises Unstable where training diverged."""
        rows = self._buffer.rows()
        if not len(rows):
            return  # no row was in play
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        weights = Weights(cast(Any, self.clip_range)(self._current_progress_remaining), self.ent_coef, self.vf_coef)
        inputs, terms = self._inputs(), []
        for _ in range(self.n_epochs):
            order = torch.from_numpy(rows[np.random.permutation(len(rows))]).to(self.device)
            terms.append(self._epoch(inputs, order, weights))
            self._n_updates += 1
        self._batch = self._hidden = None
        self._log(np.array(terms, np.float64), weights.clip, rows)

    def _inputs(self) -> _Inputs:
        buffer, device = self._buffer, self.device
        actions = buffer.tensor("actions", device)
        if self._network.schemas.action.kind == "discrete":
            actions = actions.flatten()
        columns = (buffer.tensor(name, device) for name in ("log_probs", "advantages", "returns"))
        observations = buffer.tensor("observations", device)
        hidden, depth = observations, 0
        if self._hidden is not None:
            hidden, depth = self._hidden.flatten(0, 1), self._depth
        return _Inputs(observations, hidden, depth, actions, torch.stack(tuple(columns), 1))

    def _epoch(self, inputs: _Inputs, order: torch.Tensor, weights: Weights) -> list[Terms]:
        """Every step of ``order`` once, in minibatches that follow each other."""
        network, optimizer, sizes = self._network, self.policy.optimizer, self._network.schemas.action.sizes
        actions, rest = inputs.actions[order], inputs.rest[order]
        parameters, found = list(network.parameters()), []
        for start in range(0, len(order), self.batch_size):
            part = slice(start, start + self.batch_size)
            rows = order[part]
            hidden = inputs.hidden[rows]
            self._columns = partial(inputs.columns, rows)
            if self._gradients is not None:
                seen = inputs.observations[rows] if inputs.depth else hidden
                self._batch = Batch(seen, actions[part], following=partial(self._following, rows))
            for parameter in parameters:
                parameter.grad = None
            taken = Taken(actions[part], *rest[part].unbind(1))
            found.append(backward(network.suffix(hidden, inputs.depth), sizes, taken, weights))
            optimizer.step()
        terms = means(torch.cat(found, 1), self.batch_size, weights)
        for number, each in enumerate(terms):
            if not math.isfinite(each.loss):  # with gradients that are, as of a value loss that overflows
                raise unstable("the loss", partial(inputs.columns, torch.split(order, self.batch_size)[number]))
        return terms

    def _following(self, rows: torch.Tensor, most: int) -> NextSteps:
        """Of a minibatch of these steps; the last step of a rollout, and of an episode, has none."""
        after, starts = rows + self.n_envs, self._buffer.tensor("episode_starts", rows.device)
        last = len(starts) - 1
        goes_on = (after <= last) & (starts[after.clamp(max=last)] == 0)
        chosen = goes_on.nonzero().flatten()[:most]
        return NextSteps(chosen, self._buffer.tensor("observations", rows.device)[after[chosen]])

    def _log(self, terms: NDArray[np.float64], clip: float, rows: NDArray[np.int64]) -> None:
        """``terms``: of every epoch and minibatch, (epochs, minibatches, 6)."""
        mean = Terms(*terms.mean((0, 1)).tolist())
        values, returns = self._buffer.values.reshape(-1)[rows], self._buffer.returns.reshape(-1)[rows]
        logged = {
            "entropy_loss": mean.entropy_loss,
            "policy_gradient_loss": mean.policy_loss,
            "value_loss": mean.value_loss,
            "approx_kl": float(terms[-1].mean(0)[Terms._fields.index("approx_kl")]),
            "clip_fraction": mean.clip_fraction,
            "loss": float(terms[-1, -1, Terms._fields.index("loss")]),
            "explained_variance": explained_variance(values, returns),
            "clip_range": clip,
        }
        for name, value in logged.items():
            self.logger.record(f"train/{name}", value)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")


@ALGORITHMS.register("ppo")
@dataclass(frozen=True, kw_only=True)
class PPOAlgorithm(PPOOptions, Algorithm):
    """Proximal policy optimisation (Schulman et al. 2017) for actions of every kind."""

    learner_class: ClassVar[type[BaseAlgorithm]] = TransferPPO
    policy_class: ClassVar[type[BasePolicy]] = NetworkPolicy

    def arguments(self, env: BatchVecEnv) -> dict[str, Any]:
        """The library's."""
        acted = (lambda: env.acted) if env.env.dead_rows else None
        return {
            **arguments(self),
            "rollout_buffer_class": TensorRolloutBuffer,
            "rollout_buffer_kwargs": {"acted": acted},
        }
