"""What ``graft bench train`` times: PPO by a library in a process of its own, which trains a round when told.

``python -m graft.experiments.benchmarks.trainers CASE LIBRARY`` reads a line for each round, and answers with JSON.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork, build_network
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training.algorithm import PPOOptions
from graft.agents.training.memory import keep_freed_memory
from graft.envs.core.task import Task
from graft.envs.factory import make, schemas

GRAFT, SB3, RLLIB, SBX, RSL = "Graft", "SB3", "RLlib", "sbx-rl", "rsl-rl-lib"

EPISODE = 500  # steps of one on screens

PRODUCT = 768
"""Rows and columns of the matrices whose product is the machine's limit."""


class Screens(gym.Env[NDArray[np.uint8], np.int64]):
    """Screens of 4 x 84 x 84 random pixels, which cost nothing to make: a stand-in for Atari."""

    def __init__(self) -> None:
        self.observation_space, self.action_space = Box(0, 255, (4, 84, 84), np.uint8), Discrete(6)
        self._screens = np.random.default_rng(0).integers(0, 256, (8, 4, 84, 84)).astype(np.uint8)
        self._age = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        self._age = 0
        return self._screens[0], {}

    def step(self, action: np.int64) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        self._age += 1
        return self._screens[self._age % 8], float(action == 0), self._age == EPISODE, False, {}


SCREENS = "Screens-v0"
if SCREENS not in gym.registry:
    gym.register(SCREENS, entry_point=f"{__name__}:Screens")


class Case(NamedTuple):
    """What is trained, and by which libraries; the options of PPO, but for ``options``, are Graft's defaults."""

    task: Task
    libraries: tuple[str, ...]
    network: NetworkConfig = NetworkConfig()
    frozen: bool = False
    options: Mapping[str, Any] = {}

    @property
    def ppo(self) -> PPOOptions:
        return PPOOptions(anneal_lr=False, **self.options)  # the other libraries' is constant

    def build(self) -> PolicyNetwork:
        network = build_network(schemas(self.task), self.network, 0)
        if self.frozen:
            network.encoder.freeze()
        return network

    def env(self) -> BatchVecEnv:
        return BatchVecEnv(make(self.task, self.ppo.num_envs, 0))


DEEP = (64, 64)  # widths of an mlp below heads of 64 units
CASES = {
    "default": Case(Task("Graft/Dodge-v0"), (GRAFT, SB3, RLLIB)),
    "frozen encoder": Case(Task("Graft/Dodge-v0"), (GRAFT, SB3), frozen=True),
    "nature_cnn": Case(
        Task(f"{__name__}:{SCREENS}"), (GRAFT, SB3, RLLIB), NetworkConfig("nature_cnn"), options={"num_steps": 8}
    ),
    "mlp CartPole": Case(
        Task("CartPole-v1"), (GRAFT, SB3, RLLIB, SBX), NetworkConfig("mlp", {"widths": DEEP, "activation": "tanh"})
    ),
    "mlp HalfCheetah": Case(
        Task("HalfCheetah-v5"),
        (GRAFT, SB3, RLLIB, SBX, RSL),
        NetworkConfig("mlp", {"widths": DEEP, "activation": "tanh"}),
    ),
}

Parts = dict[str, float]  # part of the work -> processor seconds


class Timed:
    """Processor seconds spent in functions, by part of the work; one that calls another counts for its own part."""

    def __init__(self) -> None:
        self.parts: Parts = {}

    def wrap(self, thing: Any, name: str, part: str) -> None:
        """Count calls of ``thing.name`` for ``part``."""
        inner = getattr(thing, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return inner(*args, **kwargs)
            finally:
                self.parts[part] = self.parts.get(part, 0.0) + time.process_time() - start

        object.__setattr__(thing, name, timed)


class Trainer(NamedTuple):
    """``train`` takes a rollout and updates; ``parts`` returns what its parts took since they were last asked for."""

    train: Callable[[], object]
    parts: Callable[[], Parts]
    evaluate: Callable[[], object] | None = None


def no_parts() -> Parts:
    return {}


def _parts_of(learner: Any, inference: tuple[tuple[Any, str], ...]) -> Callable[[], Parts]:
    """The parts of a learner of Stable-Baselines3; ``inference``: what is called in rollouts alone."""
    timed = Timed()
    timed.wrap(learner.env.env, "step", "environment")
    timed.wrap(learner, "train", "update")
    timed.wrap(learner, "collect_rollouts", "rollout")
    for thing, name in inference:
        timed.wrap(thing, name, "inference")

    def parts() -> Parts:
        found, timed.parts = timed.parts, {}
        rollout = found.pop("rollout")
        return {**found, "buffer": rollout - found["environment"] - found["inference"]}

    return parts


def graft(case: Case) -> Trainer:
    """The Stable-Baselines3 backend."""
    from graft.agents.sb3.algorithms.ppo import PPOAlgorithm
    from graft.agents.training.backend import Evaluation
    from graft.agents.training.evaluate import evaluate

    keep_freed_memory()
    network, plan = case.build(), Evaluation()
    learner: Any = PPOAlgorithm(**case.options).learner(network, case.env(), 0, None, "cpu")
    steps, eval_env = case.ppo.num_envs * case.ppo.num_steps, make(case.task, plan.num_envs, 1)
    return Trainer(
        lambda: learner.learn(steps, reset_num_timesteps=False),
        _parts_of(learner, ((learner, "_outputs"), (learner, "_values"))),
        lambda: evaluate(network, eval_env, plan.count(last=False), torch.Generator(), seed=0),
    )


def sb3(case: Case) -> Trainer:
    """Stable-Baselines3's PPO as it comes, with the same layers, on Graft's batch of environments."""
    from graft.agents.sb3.baseline_ppo import baseline_ppo

    learner: Any = baseline_ppo(case.build(), case.env(), case.ppo, 0)
    steps = case.ppo.num_envs * case.ppo.num_steps
    return Trainer(
        lambda: learner.learn(steps, reset_num_timesteps=False),
        _parts_of(learner, ((learner.policy, "forward"), (learner.policy, "predict_values"))),
    )


def rllib(case: Case) -> Trainer:
    """RLlib's PPO with its own runner and learner, on the same network."""
    from graft.agents.ray_session.session import join
    from graft.agents.rllib.baseline_ppo import baseline_ppo
    from graft.agents.training.backend import Resources

    join(Resources())
    return Trainer(baseline_ppo(case.build(), case.task, case.ppo, 0).train, no_parts)


def sbx(case: Case) -> Trainer:
    """PPO of sbx (JAX): two networks as deep as ours, one for the policy and one for the value."""
    from graft.agents.sb3.baseline_ppo import arguments

    options, widths = case.ppo, [*DEEP, *case.network.head]
    learner = importlib.import_module("sbx").PPO(
        "MlpPolicy", case.env(), policy_kwargs={"net_arch": widths}, seed=0, **arguments(options)
    )
    steps = options.num_envs * options.num_steps
    return Trainer(lambda: learner.learn(steps, reset_num_timesteps=False), no_parts)


def rsl(case: Case) -> Trainer:
    """PPO of rsl-rl (torch): two networks as deep as ours; it takes real-valued actions alone."""
    options, widths = case.ppo, [*DEEP, *case.network.head]
    batch = case.env()
    pack = importlib.import_module("tensordict").TensorDict

    class Env:
        """The batch as rsl-rl takes it."""

        num_envs, num_actions = options.num_envs, int(np.prod(batch.action_space.shape or (0,)))
        max_episode_length, device, cfg = 1000, "cpu", None
        episode_length_buf = torch.zeros(options.num_envs, dtype=torch.long)

        def __init__(self) -> None:
            self._obs = batch.reset()

        def get_observations(self) -> Any:
            return pack({"policy": torch.as_tensor(self._obs)}, [options.num_envs])

        def step(self, actions: torch.Tensor) -> Any:
            low, high = batch.action_space.low, batch.action_space.high  # type: ignore[attr-defined]
            step = batch.step_batch(np.clip(actions.numpy(), low, high))
            self._obs = step.observations
            cut = torch.zeros(options.num_envs)
            cut[step.cut] = 1.0
            dones = torch.as_tensor(step.dones).long()
            return self.get_observations(), torch.as_tensor(step.rewards), dones, {"time_outs": cut}

    model = {"class_name": "MLPModel", "hidden_dims": widths, "activation": "tanh", "obs_normalization": False}
    normal = {"class_name": "GaussianDistribution", "init_std": 1.0, "std_type": "log"}
    config = {
        "num_steps_per_env": options.num_steps,
        "save_interval": 10**9,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "actor": {**model, "distribution_cfg": normal},
        "critic": dict(model),
        "algorithm": {
            "class_name": "PPO",
            "num_learning_epochs": options.epochs,
            "num_mini_batches": options.num_envs * options.num_steps // options.minibatch,
            "clip_param": options.clip,
            "gamma": options.gamma,
            "lam": options.gae_lambda,
            "value_loss_coef": options.value,
            "entropy_coef": options.entropy,
            "learning_rate": options.learning_rate,
            "max_grad_norm": options.max_grad_norm,
            "use_clipped_value_loss": False,
            "schedule": "fixed",
            "normalize_advantage_per_mini_batch": True,
        },
    }
    runner = importlib.import_module("rsl_rl.runners").OnPolicyRunner(Env(), config, log_dir=None, device="cpu")
    return Trainer(lambda: runner.learn(1), no_parts)


TRAINERS: dict[str, Callable[[Case], Trainer]] = {GRAFT: graft, SB3: sb3, RLLIB: rllib, SBX: sbx, RSL: rsl}


def flops(case: Case) -> float:
    """Floating-point operations of matrix products and convolutions in an update, without those of frozen blocks."""
    from torch.utils.flop_counter import FlopCounterMode

    network, options = case.build(), case.ppo
    states = options.num_envs * options.num_steps
    size = min(options.minibatch, states)
    obs = torch.zeros(size, *network.schemas.observation.shape)
    depth = network.frozen_depth
    hidden = network.whole_prefix(obs, depth)
    with FlopCounterMode(display=False) as counter:
        outputs = network.suffix(hidden, depth)
        torch.autograd.backward([outputs.action.sum(), outputs.value.sum()])
    return float(counter.get_total_flops()) * options.epochs * states / size


def product_rate() -> float:
    """Floating-point operations per processor second of a large matrix product."""
    a, b = torch.ones(PRODUCT, PRODUCT), torch.ones(PRODUCT, PRODUCT)
    start = time.process_time()
    a @ b
    return 2 * PRODUCT**3 / (time.process_time() - start)


def main(name: str, library: str) -> None:
    """Train a round for each line of the standard input; what libraries print goes to the standard error."""
    answers, sys.stdout = sys.stdout, sys.stderr
    torch.set_num_threads(1)
    trainer = TRAINERS[library](CASES[name])
    evaluating = 0.0
    for _ in sys.stdin:
        start = time.process_time()
        trainer.train()
        seconds = time.process_time() - start
        answer: dict[str, Any] = {"seconds": seconds, "parts": trainer.parts()}
        if trainer.evaluate is not None:
            if not evaluating:  # once: it takes long
                start = time.process_time()
                trainer.evaluate()
                evaluating = time.process_time() - start
            answer |= {"evaluation": evaluating, "flops": flops(CASES[name]), "product": product_rate()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
