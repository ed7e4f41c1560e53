"""An update of a replay algorithm, by the learner that would train: to measure what it costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from gymnasium.vector import AutoresetMode
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork, build_network
from graft.agents.sb3.off_policy import OffPolicy
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training.algorithm import architecture_for
from graft.agents.training.backend import Gradients
from graft.envs.core.schema import Schemas
from graft.envs.core.task import TaskVectorEnv

UPDATES = 3


class _Spaces(TaskVectorEnv):
    """A batch of one that is never played."""

    def __init__(self, schemas: Schemas) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}
        self._set_schemas(1, *schemas)


def update_of(algorithm: OffPolicy, network: PolicyNetwork, gradients: Gradients | None = None) -> Callable[[], None]:
    """A function that updates ``network`` once, on empty states; fresh critics, where there are any."""
    small = replace(algorithm, num_envs=1, buffer=algorithm.batch)
    device = str(network.policy.out.weight.device)
    learner = small.learner(network, BatchVecEnv(_Spaces(network.schemas)), 0, gradients, device)
    assert isinstance(learner, OffPolicyAlgorithm)
    assert learner.replay_buffer is not None
    learner.set_logger(Logger(None, []))
    learner.replay_buffer.full = True  # of zeros
    return lambda: learner.train(1, algorithm.batch)


def seconds_per_update(algorithm: OffPolicy, schemas: Schemas, network: NetworkConfig) -> float:
    """Processor seconds of one update: the least of a few, of a fresh network on empty states.

    What else runs on the machine does not count.
    """
    update = update_of(algorithm, build_network(schemas, architecture_for(algorithm, network), 0))
    times = []
    for _ in range(1 + UPDATES):  # the first one prepares the optimisers
        start = time.process_time()
        update()
        times.append(time.process_time() - start)
    return min(times[1:])
