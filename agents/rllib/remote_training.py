"""Calls to RLlib's learners and runners, which may be in other processes, and their state in a snapshot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from ray.rllib.core import DEFAULT_MODULE_ID

from graft.agents.checkpoints.learner_state import arrays, restore_freezing, tensors
from graft.agents.checkpoints.snapshot import SavedState
from graft.agents.networks.policy_network import PolicyNetwork, Unstable
from graft.agents.rllib.learner import TransferLearner
from graft.agents.rllib.runner import BatchRunner
from graft.agents.training.backend import Hooks
from graft.agents.training.critics import CriticTensors
from graft.envs.core.faults import Faults

T = TypeVar("T")

Packed = tuple[dict[str, Any], Mapping[str, Any]]
"""A `SavedState` for other processes: arrays, as some of torch's types cannot be sent there."""


class RemoteTraining:
    """A training by RLlib's ``algorithm``, and this process's copies of what it trains.

    ``network``, ``partners`` and the hooks' state are this process's; those that train may be in other processes.
    """

    def __init__(
        self, algorithm: Any, network: PolicyNetwork, hooks: Hooks, partners: Mapping[str, PolicyNetwork]
    ) -> None:
        self.algorithm, self._network, self._hooks, self._partners = algorithm, network, hooks, partners

    def learners(self, call: Callable[[TransferLearner], T]) -> list[T]:
        """What ``call`` returns for each learner; raises what it raises in one of them."""
        results = list(self.algorithm.learner_group.foreach_learner(call))
        for result in results:
            if not result.ok:
                raise result.get()
        return [result.get() for result in results]

    def runners(self, call: Callable[[BatchRunner], T]) -> list[T]:
        """What ``call`` returns for each runner, in the order of their environments."""
        return cast(list[T], self.algorithm.env_runner_group.foreach_env_runner(call))

    def failure(self) -> Exception | None:
        """What one of several learners failed with, where the others only miss it."""
        asked = self.algorithm.learner_group.foreach_learner(lambda learner: learner.failure, healthy_only=False)
        errors = [result.get() for result in asked if result.ok and result.get() is not None]
        return next((error for error in errors if type(error) is not RuntimeError), next(iter(errors), None))

    def complete(self, error: Unstable) -> None:
        """Add to what ended the training when that was, and a minibatch where it has none (of a runner)."""
        error.env_steps = self.algorithm.env_steps
        error.batch = error.batch or self.learners(lambda learner: learner.divergence.last())[0]

    def fetch(self) -> SavedState:
        """The first learner's state, which this process's networks and hooks take over."""
        saved = _unpacked(self.learners(lambda learner: _packed(learner.save()))[0])
        self._take_over(saved)
        return saved

    def send_method_state(self) -> None:
        """Send the state of this process's hooks to learners in other processes."""
        if self._hooks.state is not None and self.algorithm.config.num_learners:
            state = _packed(self._hooks.state.save())
            self.learners(lambda learner: learner.restore_method(_unpacked(state)))

    def _take_over(self, saved: SavedState) -> None:
        self._network.load_exactly(saved.group("network"))
        for policy, partner in self._partners.items():
            partner.load_exactly(saved.group(f"partner {policy}"))
        restore_freezing(self._network, saved.values["trains"], saved.values["frozen"])
        if self._hooks.state is not None:
            self._hooks.state.restore(SavedState(saved.group("method"), saved.values["method"]))

    def load_critics(self, critics: CriticTensors) -> None:
        """Fill the learners' critics, where they have any beside the network."""
        packed = _packed(SavedState(critics, {}))
        self.learners(lambda learner: _load_critics(learner, packed))

    def critics(self) -> CriticTensors:
        """Of the first learner."""
        return dict(_unpacked(self.learners(_packed_critics)[0]).tensors)

    def schedule(self, progress: float) -> None:
        """Call the method's schedule in every learner, and send the weights to the runners."""
        self.learners(lambda learner: learner.schedule(progress))
        self.algorithm.send_weights()

    def faults(self) -> list[Faults]:
        return cast(list[Faults], self.algorithm.faults())

    def save(self) -> SavedState:
        parts = {"learner": self.fetch()}
        randoms = self.learners(lambda learner: _packed(learner.random_state().save()))
        parts |= {f"random {i}": _unpacked(saved) for i, saved in enumerate(randoms)}
        states = self.runners(lambda runner: runner.save_state())
        parts |= {f"runner {i}": SavedState(tensors(state), {}) for i, state in enumerate(states)}
        if self.algorithm.memory is not None:
            parts["memory"] = self.algorithm.memory.save()
        held = {f"{part}/{name}": t for part, saved in parts.items() for name, t in saved.tensors.items()}
        values = {part: dict(saved.values) for part, saved in parts.items()}
        return SavedState(held, {"parts": values, "env_steps": self.algorithm.env_steps})

    def restore(self, saved: SavedState) -> None:
        parts = {name: SavedState(saved.group(name), values) for name, values in saved.values["parts"].items()}
        self._take_over(parts["learner"])
        packed = _packed(parts["learner"])
        self.learners(lambda learner: learner.restore(_unpacked(packed)))
        randoms = [_packed(parts[f"random {i}"]) for i in range(sum(name.startswith("random ") for name in parts))]
        self.learners(lambda learner: learner.random_state().restore(_unpacked(randoms[learner._learner_index])))
        states = [arrays(parts[f"runner {i}"].tensors) for i in range(sum(n.startswith("runner ") for n in parts))]
        self.runners(lambda runner: runner.restore_state(states[runner.index]))
        if self.algorithm.memory is not None:
            self.algorithm.memory.restore(parts["memory"])
        self.algorithm.send_weights()
        self.algorithm.env_steps = saved.values["env_steps"]

    def begin_episodes(self, seed: int) -> None:
        """Fresh episodes of all runners' environments; number i is seeded with ``seed + i``."""
        self.runners(lambda runner: runner.begin_episodes(seed))

    def metrics(self) -> dict[str, float]:
        """The first learner's last minibatch, by Graft's tags."""
        measured = self.algorithm.results[0][DEFAULT_MODULE_ID] if self.algorithm.results else {}
        return {tag: float(measured[name].peek()) for name, tag in self.algorithm.tags.items() if name in measured}


def _load_critics(learner: TransferLearner, packed: Packed) -> None:
    if learner.critic_state is not None:
        learner.critic_state.load(_unpacked(packed).tensors)


def _packed_critics(learner: TransferLearner) -> Packed:
    state = learner.critic_state
    return _packed(SavedState({} if state is None else state.save(), {}))


def _packed(saved: SavedState) -> Packed:
    return {name: tensor.detach().cpu().numpy() for name, tensor in saved.tensors.items()}, saved.values


def _unpacked(packed: Packed) -> SavedState:
    return SavedState(tensors({name: array.copy() for name, array in packed[0].items()}), packed[1])
