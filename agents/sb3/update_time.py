"""What an update of a replay algorithm costs on this machine, measured with the learner that would train."""

from __future__ import annotations

import time
from dataclasses import replace

from gymnasium.vector import AutoresetMode
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from graft.agents.networks.policy_network import NetworkConfig, build_network
from graft.agents.sb3.off_policy import OffPolicy
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training.algorithm import architecture_for
from graft.envs.core.schema import Schemas
from graft.envs.core.task import TaskVectorEnv

UPDATES = 3


class _Spaces(TaskVectorEnv):
    """A batch of one that is never played."""

    def __init__(self, schemas: Schemas) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}
        self._set_schemas(1, *schemas)


def seconds_per_update(algorithm: OffPolicy, schemas: Schemas, network: NetworkConfig) -> float:
    """Processor seconds of one update: the least of a few, of a fresh network on empty states.

    What else runs on the machine does not count.
    """
    fresh = build_network(schemas, architecture_for(algorithm, network), 0)
    small = replace(algorithm, num_envs=1, buffer=algorithm.batch)
    learner = small.learner(fresh, BatchVecEnv(_Spaces(schemas)), 0, None, "cpu")
    assert isinstance(learner, OffPolicyAlgorithm)
    assert learner.replay_buffer is not None
    learner.set_logger(Logger(None, []))
    learner.replay_buffer.full = True  # of zeros
    times = []
    for _ in range(1 + UPDATES):  # the first one prepares the optimisers
        start = time.process_time()
        learner.train(1, algorithm.batch)
        times.append(time.process_time() - start)
    return min(times[1:])
