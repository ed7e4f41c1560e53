"""PPO of RLlib, on arrays instead of episode objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from graft.agents.rllib.algorithm import ALGORITHMS, Algorithm
from graft.agents.rllib.algorithm_mixin import AlgorithmMixin
from graft.agents.rllib.learner import TransferLearner
from graft.agents.rllib.runner import BatchRunner, Fragment
from graft.agents.training.algorithm import PPOOptions


class TransferPPOLearner(TransferLearner, PPOTorchLearner):
    """RLlib's PPO learner with a method's hooks; its loss is the library's."""


class TransferPPO(AlgorithmMixin, PPO):
    """RLlib's PPO; its runners compute advantages, so RLlib's connectors are not used."""

    def training_step(self) -> None:
        config, (_, learners) = self.config, self.actor_groups()
        assert isinstance(config, PPOConfig)
        self.fragments = self.sample_all()
        self.env_steps += sum(fragment.env_steps for fragment in self.fragments)
        batches = _batches(self.fragments, max(1, config.num_learners))
        self.results = ()
        if not batches:
            return  # no row was in play
        self.results = tuple(
            learners.update(
                batch=MultiAgentBatch(batches, max(map(len, batches.values()))),
                timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: self.env_steps},
                num_epochs=config.num_epochs,
                minibatch_size=config.minibatch_size,
            )
        )
        self.send_weights()


def _batches(fragments: tuple[Fragment, ...], learners: int) -> dict[str, SampleBatch]:
    """A batch for each policy that was in play."""
    by_policy = {DEFAULT_MODULE_ID: fragments}
    for policy in fragments[0].others:
        by_policy[policy] = tuple(fragment.others[policy] for fragment in fragments)
    batches = {policy: _together(its, learners) for policy, its in by_policy.items()}
    return {policy: batch for policy, batch in batches.items() if batch is not None}


def _together(fragments: tuple[Fragment, ...], learners: int) -> SampleBatch | None:
    """All states, with normalised advantages; the last few are dropped where learners can't share them evenly."""
    columns = {name: np.concatenate([f.columns[name] for f in fragments]) for name in fragments[0].columns}
    gained = columns[Postprocessing.ADVANTAGES]
    count = len(gained) - len(gained) % learners
    if not count:
        return None
    # As RLlib's own connector does it.
    columns[Postprocessing.ADVANTAGES] = (gained - gained.mean()) / max(1e-4, float(gained.std()))
    # Each learner gets a contiguous part: interleaved, so that it has states of all environments and times.
    order = np.concatenate([np.arange(first, count, learners) for first in range(learners)])
    return SampleBatch({name: column[order] for name, column in columns.items()})


def settings(options: PPOOptions, learners: int = 1, budget: int | None = None) -> dict[str, Any]:
    """Arguments of `PPOConfig.training` for ``options``; several learners share each minibatch."""
    rate = options.learning_rate
    states = options.num_envs * options.num_steps
    return {
        "lr": [[0, rate], [budget, 0.0]] if options.anneal_lr and budget else rate,
        "gamma": options.gamma,
        "lambda_": options.gae_lambda,
        "train_batch_size_per_learner": max(1, states // learners),
        "minibatch_size": max(1, min(options.minibatch, states) // learners),
        "num_epochs": options.epochs,
        "entropy_coeff": options.entropy,
        "clip_param": options.clip,
        "vf_loss_coeff": options.value,
        "vf_clip_param": float("inf"),
        "use_kl_loss": False,
        "grad_clip": options.max_grad_norm,
        "grad_clip_by": "global_norm",
    }


@ALGORITHMS.register("ppo")
@dataclass(frozen=True, kw_only=True)
class PPOAlgorithm(PPOOptions, Algorithm):
    """Proximal policy optimisation (Schulman et al. 2017) for actions of every kind.

    As with Stable-Baselines3, but advantages have mean 0 and deviation 1 in the rollout instead of in each minibatch.
    """

    squads: ClassVar[bool] = True

    def config(self, num_learners: int, budget: int | None = None) -> AlgorithmConfig:
        return (
            PPOConfig(algo_class=TransferPPO)
            .env_runners(env_runner_cls=BatchRunner, rollout_fragment_length=self.num_steps)
            .training(**settings(self, max(1, num_learners), budget))
            .learners(learner_class=TransferPPOLearner, add_default_connectors_to_learner_pipeline=False)
        )
