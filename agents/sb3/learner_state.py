"""The state of a Stable-Baselines3 learner between two rollouts."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from operator import attrgetter
from typing import Any, cast

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from graft.agents.checkpoints.learner_state import (
    freezing,
    optimiser_state,
    restore_freezing,
    restore_optimiser,
    tensors,
)
from graft.agents.checkpoints.snapshot import SavedState


def counters(thing: object) -> dict[str, float]:
    """Attributes that are plain numbers: all counters, and some constants."""
    return {name: value for name, value in vars(thing).items() if isinstance(value, int | float)}


def network_optimizer(learner: BaseAlgorithm) -> torch.optim.Optimizer:
    """The optimiser of the network: the actor's where there is an actor, else the policy's."""
    return cast(torch.optim.Optimizer, getattr(learner.policy, "actor", learner.policy).optimizer)


class SavableLearner:
    """A learner as a `Savable`: weights, freezing, optimisers, counters, replay buffer and log.

    The library lists a learner's tensors. Where a subclass keeps more than these and numbers, it has to be added here.
    """

    def __init__(self, learner: BaseAlgorithm) -> None:
        self._learner = learner

    def _named(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        stateful, single = self._learner._get_torch_save_params()
        find = {name: attrgetter(name)(self._learner) for name in (*stateful, *single)}
        return {name: find[name] for name in stateful}, {name: find[name] for name in single}

    def save(self) -> SavedState:
        learner, policy = self._learner, self._learner.policy
        stateful, single = self._named()
        state = {f"single/{name}": tensor for name, tensor in single.items()}
        optimisers: dict[str, Any] = {}
        for name, thing in stateful.items():
            if isinstance(thing, torch.optim.Optimizer):
                held, optimisers[name] = optimiser_state(thing)
            else:
                held = thing.state_dict()
            state.update({f"{name}/{key}": tensor for key, tensor in held.items()})
        assert isinstance(learner._last_obs, np.ndarray)
        assert learner._last_episode_starts is not None
        state |= tensors({"last/obs": learner._last_obs, "last/starts": learner._last_episode_starts})
        buffer, place = _replay_state(learner)
        state |= buffer
        values = {
            "numbers": counters(learner),
            "optimisers": optimisers,
            "replay": place,
            **freezing(policy),
            "episodes": list(learner.ep_info_buffer or ()),
            "successes": [float(success) for success in learner.ep_success_buffer or ()],
            "actions": learner.action_space.np_random.bit_generator.state,
            "pending": _pending(learner),
        }
        return SavedState(state, values)

    def restore(self, saved: SavedState) -> None:
        learner, values = self._learner, saved.values
        stateful, single = self._named()
        for name, thing in stateful.items():
            held = saved.group(name)
            if isinstance(thing, torch.optim.Optimizer):
                restore_optimiser(thing, held, values["optimisers"][name])
            else:
                thing.load_state_dict(held)
        with torch.no_grad():
            for name, tensor in single.items():
                tensor.copy_(saved.tensors[f"single/{name}"])
        restore_freezing(learner.policy, values["trains"], values["frozen"])
        for name, number in values["numbers"].items():
            setattr(learner, name, number)
        learner._last_obs = saved.tensors["last/obs"].numpy()
        learner._last_episode_starts = saved.tensors["last/starts"].numpy()
        learner.ep_info_buffer = deque(values["episodes"], learner._stats_window_size)
        learner.ep_success_buffer = deque(values["successes"], learner._stats_window_size)
        learner.action_space.np_random.bit_generator.state = values["actions"]
        for name, value, count, excluded in values["pending"]:
            learner.logger.record(name, value, tuple(excluded))
            if count:
                learner.logger.name_to_count[name] = count
        _restore_replay(learner, saved.tensors, values["replay"])


def _pending(learner: BaseAlgorithm) -> list[Any]:
    """Metrics that the logger has not written yet, in their order."""
    log = learner.logger
    values = {name: value for name, value in log.name_to_value.items() if isinstance(value, int | float | np.number)}
    return [[n, float(v), log.name_to_count.get(n, 0), list(log.name_to_excluded[n])] for n, v in values.items()]


def _replay_state(learner: BaseAlgorithm) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The filled part of the replay buffer, and its position; empty without one."""
    buffer = getattr(learner, "replay_buffer", None)
    if buffer is None:
        return {}, {}
    filled = buffer.size()
    held = {f"replay/{n}": array[:filled] for n, array in vars(buffer).items() if isinstance(array, np.ndarray)}
    return tensors(held), {"pos": buffer.pos, "full": bool(buffer.full)}


def _restore_replay(learner: BaseAlgorithm, saved: Mapping[str, torch.Tensor], place: Mapping[str, Any]) -> None:
    if place:
        buffer = learner.replay_buffer  # type: ignore[attr-defined]
        buffer.pos, buffer.full = place["pos"], place["full"]
        for name, tensor in saved.items():
            group, _, rest = name.partition("/")
            if group == "replay":
                getattr(buffer, rest)[: buffer.size()] = tensor.numpy()
