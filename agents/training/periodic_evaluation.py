"""What every backend does between rollouts: tries the network when that is due, and tells which environments failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from graft.agents.checkpoints.snapshot import SavedState
from graft.agents.training.backend import TrainJob, TrainResult
from graft.agents.training.evaluate import evaluate
from graft.envs.core.faults import Faults, sum_faults
from graft.envs.core.task import TaskVectorEnv


class PeriodicEvaluation:
    """The evaluations of a network during its training, and the faults of its environments.

    Args:
        job: the training; its seed is that of the action samples, and the report of its hooks is recorded.
        env: what the network is tried on.
        training_faults: gives those of the environments that the network is trained on.
    """

    def __init__(self, job: TrainJob, env: TaskVectorEnv, training_faults: Callable[[], Iterable[Faults]]) -> None:
        self._network, self._env, self._plan = job.network, env, job.evaluation
        self._report, self._record, self._training_faults = job.hooks.report, job.record, training_faults
        self._generator = torch.Generator(next(job.network.parameters()).device).manual_seed(job.seed)
        self._due = self._known_faults = 0
        self._returns: list[float] = []
        self._means: dict[str, float] = {}

    def save(self) -> SavedState:
        """What the next ones depend on."""
        return SavedState({"generator": self._generator.get_state()}, {"due": self._due, "faults": self._known_faults})

    def restore(self, saved: SavedState) -> None:
        """Inverse of `save`."""
        self._generator.set_state(saved.tensors["generator"])
        self._due, self._known_faults = saved.values["due"], saved.values["faults"]

    def due(self, env_steps: int) -> bool:
        """Whether the next evaluation is, when ``env_steps`` have been taken."""
        return env_steps >= self._due

    def evaluate(self, env_steps: int) -> None:
        """Now, whether due or not."""
        episodes = evaluate(self._network, self._env, self._plan.episodes, self._generator, self._plan.deterministic)
        self._returns, self._means = episodes.returns.tolist(), episodes.means(self._env.groups)
        self._due += self._plan.every
        measured = self._report(self._network) if self._report is not None else {}
        self._record(env_steps, {**episodes.metrics(self._env.groups), **self.new_faults(), **measured})

    def faults(self) -> Faults:
        """Of the environments that it is trained on, and of those that it is evaluated on."""
        return sum_faults([*self._training_faults(), self._env.faults])

    def new_faults(self) -> dict[str, float]:
        """All faults so far as metrics, if there are more of them than before."""
        faults, before = self.faults(), self._known_faults
        self._known_faults = faults.total
        return faults.metrics() if faults.total > before else {}

    def result(self, env_steps: int, seconds: float) -> TrainResult:
        """Of a training that took so much, whose last evaluation was the latest."""
        faults = {kind: count for kind, count in self.faults().items() if count}
        return TrainResult(env_steps, seconds, self._returns, self._means, faults)
