"""A training by RLlib whose learners and runners are in this process or in others: what it asks of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

from ray.rllib.core import DEFAULT_MODULE_ID

from graft.agents.checkpoints.learner_state import arrays, restore_freezing, tensors
from graft.agents.checkpoints.snapshot import SavedState
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.rllib.learner import TransferLearner
from graft.agents.rllib.runner import BatchRunner
from graft.agents.training.backend import Hooks
from graft.envs.core.faults import Faults

T = TypeVar("T")


class RemoteTraining:
    """A training by RLlib's ``algorithm``: what it knows, and what this process knows of it.

    ``network`` and the hooks' state are this process's; those that train may be elsewhere.
    """

    def __init__(
        self, algorithm: Any, network: PolicyNetwork, hooks: Hooks, partners: Mapping[str, PolicyNetwork]
    ) -> None:
        self.algorithm, self._network, self._hooks, self._partners = algorithm, network, hooks, partners

    def learners(self, call: Callable[[TransferLearner], T]) -> list[T]:
        """What ``call`` gives for each learner; what it raises in one of them is raised here."""
        results = list(self.algorithm.learner_group.foreach_learner(call))
        for result in results:
            if not result.ok:
                raise result.get()
        return [result.get() for result in results]

    def runners(self, call: Callable[[BatchRunner], T]) -> list[T]:
        """What ``call`` gives for each runner, in the order of their environments."""
        found: list[T] = self.algorithm.env_runner_group.foreach_env_runner(call)
        return found

    def failure(self) -> Exception | None:
        """What one of several learners failed with, when the others only miss it."""
        asked = self.algorithm.learner_group.foreach_learner(_failure, healthy_only=False)
        found = [result.get() for result in asked if result.ok and result.get() is not None]
        return next((error for error in found if type(error) is not RuntimeError), next(iter(found), None))

    def fetch(self) -> SavedState:
        """The first learner's state, which this process's network and hooks take over."""
        saved = _unpacked(self.learners(_saved)[0])
        self._take_over(saved)
        return saved

    def give_back(self) -> None:
        """Let learners in other processes take over the state of this process's hooks."""
        if self._hooks.state is not None and self.algorithm.config.num_learners:
            self.learners(partial(_hooks_restored, saved=_packed(self._hooks.state.save())))

    def _take_over(self, saved: SavedState) -> None:
        self._network.load_exactly(saved.group("network"))
        for policy, partner in self._partners.items():
            partner.load_exactly(saved.group(f"partner {policy}"))
        restore_freezing(self._network, saved.values["trains"], saved.values["frozen"])
        if self._hooks.state is not None:
            self._hooks.state.restore(SavedState(saved.group("method"), saved.values["method"]))

    def schedule(self, progress: float) -> None:
        """Move the method's schedule on, in every learner."""
        self.learners(partial(_schedule, progress=progress))
        self.algorithm.send_weights()

    def faults(self) -> list[Faults]:
        """Of each runner's environments."""
        found: list[Faults] = self.algorithm.faults()
        return found

    def save(self) -> SavedState:
        """For a snapshot: learner, random numbers of each learner, runners, env steps."""
        learner = self.fetch()
        parts = {"learner": learner}
        parts |= {f"random {i}": _unpacked(saved) for i, saved in enumerate(self.learners(_randomness))}
        parts |= {
            f"runner {i}": SavedState(tensors(found), {}) for i, found in enumerate(self.runners(_state_of_runner))
        }
        if self.algorithm.memory is not None:
            parts["memory"] = self.algorithm.memory.save()
        held = {f"{part}/{name}": t for part, saved in parts.items() for name, t in saved.tensors.items()}
        values = {part: dict(saved.values) for part, saved in parts.items()}
        return SavedState(held, {"parts": values, "env_steps": self.algorithm.env_steps})

    def restore(self, saved: SavedState) -> None:
        """Inverse of `save`."""
        parts = {name: SavedState(saved.group(name), values) for name, values in saved.values["parts"].items()}
        self._take_over(parts["learner"])
        self.learners(partial(_restored, saved=_packed(parts["learner"])))
        randoms = [_packed(parts[f"random {i}"]) for i in range(sum(name.startswith("random ") for name in parts))]
        self.learners(partial(_put_randomness_back, saved=randoms))
        states = [arrays(parts[f"runner {i}"].tensors) for i in range(sum(n.startswith("runner ") for n in parts))]
        self.runners(partial(_restored_runner, saved=states))
        if self.algorithm.memory is not None:
            self.algorithm.memory.restore(parts["memory"])
        self.algorithm.send_weights()
        self.algorithm.env_steps = saved.values["env_steps"]

    def metrics(self) -> dict[str, float]:
        """Of the first learner's last minibatch, by Graft's tags."""
        measured = self.algorithm.results[0][DEFAULT_MODULE_ID] if self.algorithm.results else {}
        return {tag: float(measured[name].peek()) for name, tag in self.algorithm.tags.items() if name in measured}


class _Packed(NamedTuple):
    """A `SavedState` for other processes: arrays, as some of torch's types do not get there."""

    arrays: dict[str, Any]
    values: Any


def _packed(saved: SavedState) -> _Packed:
    return _Packed({name: tensor.detach().cpu().numpy() for name, tensor in saved.tensors.items()}, saved.values)


def _unpacked(packed: _Packed) -> SavedState:
    return SavedState(tensors({name: array.copy() for name, array in packed.arrays.items()}), packed.values)


# What other processes are asked to do; they get it by name.


def _failure(learner: TransferLearner) -> Exception | None:
    return learner.failure


def _saved(learner: TransferLearner) -> _Packed:
    return _packed(learner.save())


def _restored(learner: TransferLearner, saved: _Packed) -> None:
    learner.restore(_unpacked(saved))


def _hooks_restored(learner: TransferLearner, saved: _Packed) -> None:
    assert learner.hooks.state is not None
    learner.hooks.state.restore(_unpacked(saved))


def _state_of_runner(runner: BatchRunner) -> dict[str, Any]:
    return runner.save()


def _restored_runner(runner: BatchRunner, saved: list[dict[str, Any]]) -> None:
    runner.restore(saved[runner.index])


def _randomness(learner: TransferLearner) -> _Packed:
    return _packed(learner.randomness().save())


def _put_randomness_back(learner: TransferLearner, saved: list[_Packed]) -> None:
    learner.randomness().restore(_unpacked(saved[learner._learner_index]))


def _schedule(learner: TransferLearner, progress: float) -> None:
    learner.schedule(progress)
