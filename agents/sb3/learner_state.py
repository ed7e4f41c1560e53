"""The state of a Stable-Baselines3 learner between two rollouts: how it is saved, and put back."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm

from agents.encoder import Encoder
from agents.snapshot import Saved


def tensors(found: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    """The arrays as tensors."""
    return {name: torch.from_numpy(np.require(array, requirements=["C", "W"])) for name, array in found.items()}


def numbers(thing: object) -> dict[str, float]:
    """Attributes that are plain numbers: all counters, whatever a library calls them, and some constants."""
    return {name: value for name, value in vars(thing).items() if isinstance(value, int | float)}


class Learner:
    """A learner of the library: weights, what is frozen, optimisers, counters, and what it remembers of the rollouts.

    What a learner's tensors are, the library says itself, so this holds for PPO as for algorithms with target networks,
    an entropy coefficient or a replay buffer. Where a subclass keeps more than numbers, it has to be added here.
    """

    def __init__(self, learner: BaseAlgorithm) -> None:
        self._learner = learner

    def _named(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Modules and optimisers, and single tensors, by the library's names."""
        stateful, single = self._learner._get_torch_save_params()
        find = {name: attrgetter(name)(self._learner) for name in (*stateful, *single)}
        return {name: find[name] for name in stateful}, {name: find[name] for name in single}

    def save(self) -> Saved:
        """Copies of small things, references to large ones."""
        learner, policy = self._learner, self._learner.policy
        stateful, single = self._named()
        found = {f"single/{name}": tensor for name, tensor in single.items()}
        optimisers: dict[str, Any] = {}
        for name, thing in stateful.items():
            if isinstance(thing, torch.optim.Optimizer):
                held, optimisers[name] = _optimiser_state(thing)
            else:
                held = thing.state_dict()
            found.update({f"{name}/{key}": tensor for key, tensor in held.items()})
        assert isinstance(learner._last_obs, np.ndarray)
        assert learner._last_episode_starts is not None
        found |= tensors({"last/obs": learner._last_obs, "last/starts": learner._last_episode_starts})
        buffer, place = _replay_state(learner)
        found |= buffer
        values = {
            "numbers": numbers(learner),
            "optimisers": optimisers,
            "replay": place,
            "trains": [name for name, p in policy.named_parameters() if p.requires_grad],
            "frozen": {name: m.frozen_blocks for name, m in policy.named_modules() if isinstance(m, Encoder)},
            "episodes": list(learner.ep_info_buffer or ()),
            "successes": [float(success) for success in learner.ep_success_buffer or ()],
            "actions": learner.action_space.np_random.bit_generator.state,
            "pending": _pending(learner),
        }
        return Saved(found, values)

    def restore(self, saved: Saved) -> None:
        """All of it, in place."""
        learner, values = self._learner, saved.values
        stateful, single = self._named()
        for name, thing in stateful.items():
            held = {key.removeprefix(f"{name}/"): t for key, t in saved.tensors.items() if key.startswith(f"{name}/")}
            if isinstance(thing, torch.optim.Optimizer):
                _restore_optimiser(thing, held, values["optimisers"][name])
            else:
                thing.load_state_dict(held)
        with torch.no_grad():
            for name, tensor in single.items():
                tensor.copy_(saved.tensors[f"single/{name}"])
        _restore_freezing(learner.policy, values["trains"], values["frozen"])
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


def _optimiser_state(optimiser: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors by ``<parameter index>/<name>``, and what is no tensor."""
    state = optimiser.state_dict()
    entries = {(str(i), key): value for i, entry in state["state"].items() for key, value in entry.items()}
    held = {f"{i}/{key}": value for (i, key), value in entries.items() if isinstance(value, torch.Tensor)}
    plain = [[i, key, value] for (i, key), value in entries.items() if not isinstance(value, torch.Tensor)]
    return held, {"groups": state["param_groups"], "plain": plain}


def _restore_optimiser(optimiser: torch.optim.Optimizer, held: dict[str, torch.Tensor], rest: dict[str, Any]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in held.items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = tensor
    for index, key, value in rest["plain"]:
        state.setdefault(int(index), {})[key] = value
    groups = [
        # JSON has no tuples, and Adam has some.
        {k: tuple(v) if isinstance(now.get(k), tuple) else v for k, v in saved.items()}
        for saved, now in zip(rest["groups"], optimiser.param_groups, strict=True)
    ]
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def _restore_freezing(policy: torch.nn.Module, trains: list[str], frozen: Mapping[str, int]) -> None:
    """What a schedule froze or thawed since the network was built."""
    for name, module in policy.named_modules():
        if isinstance(module, Encoder):
            module.frozen_blocks = frozen[name]
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(name in trains)


def _pending(learner: BaseAlgorithm) -> list[Any]:
    """Metrics that the logger holds but has not written yet, in their order."""
    log = learner.logger
    found = {name: value for name, value in log.name_to_value.items() if isinstance(value, int | float | np.number)}
    return [[n, float(v), log.name_to_count.get(n, 0), list(log.name_to_excluded[n])] for n, v in found.items()]


def _replay_state(learner: BaseAlgorithm) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The filled part of the replay buffer, and how far that is; nothing where there is none."""
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
