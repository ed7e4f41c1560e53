"""The agents of one behaviour of a Unity scene, played through mlagents-envs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from .protocol import SECONDS_TO_QUIT, Agents, Trouble, features_of, free_port, nobody

LONGEST_WAIT = 1000  # steps of the engine in which an agent is to be asked for its next action


def _unique(names: Sequence[str]) -> list[str]:
    """Names of which later ones that are the same have a number."""
    before = [names[:i].count(name) for i, name in enumerate(names)]
    return [f"{name}#{count + 1}" if count else name for name, count in zip(names, before)]


class UnityGame:
    """The agents of one behaviour of a Unity scene.

    An agent of Unity has a number for each episode: a row is a place that such numbers take in turn. One whose place is
    not taken again yet is out of play. A step of this game lasts until agents are asked for actions again. All that are
    in play must then be asked, so that every action answers the observation that it was chosen on; others are refused.
    """

    def __init__(self, target: str, options: dict[str, Any]) -> None:
        from mlagents_envs.environment import UnityEnvironment
        from mlagents_envs.exception import UnityTimeOutException
        from mlagents_envs.side_channel.engine_configuration_channel import EngineConfigurationChannel

        channel = EngineConfigurationChannel()
        channel.set_configuration_parameters(time_scale=float(options["speed"]))
        port, seconds = int(target) if target.isdigit() else free_port(), int(options["timeout"])
        try:
            self._env = UnityEnvironment(
                file_name=None if target.isdigit() else target,
                base_port=port,
                seed=int(options["seed"]) % 2**31,
                timeout_wait=seconds,
                additional_args=list(options["arguments"]),
                side_channels=[channel],
            )
        except UnityTimeOutException as error:
            raise Trouble(nobody(target, seconds)) from error
        self._env.reset()
        self._name = self._chosen(options["behaviour"])
        spec = self._env.behavior_specs[self._name]
        self._order = sorted(
            range(len(spec.observation_specs)), key=lambda k: len(spec.observation_specs[k].shape) == 3
        )
        self.about = self._described(spec)
        for _ in range(LONGEST_WAIT):
            if count := len(self._env.get_steps(self._name)[0].agent_id):
                break
            self._env.step()
        else:
            raise Trouble(f"no agent of '{self._name}' asked for an action in {LONGEST_WAIT} steps")
        width = len(self.about["features"]) + sum(int(np.prod(image["shape"])) for image in self.about["images"])
        self.agents = Agents(count, width, sum(self.about["actions"].get("sizes", ())))
        self._slots: dict[int, int] = {}  # number of an agent -> its row

    def _chosen(self, asked: str) -> str:
        names: list[str] = list(self._env.behavior_specs)
        short = [name.partition("?")[0] for name in names]
        fitting = [name for name, own in zip(names, short) if asked in (name, "" if short.count(own) > 1 else own)]
        if len(found := fitting if asked else names) == 1:
            return found[0]
        listed = ", ".join(name if short.count(own) > 1 else own for name, own in zip(names, short)) or "none"
        raise Trouble(f"it has the behaviours {listed}; choose one of them with the keyword behaviour")

    def _described(self, spec: Any) -> dict[str, Any]:
        """Names of numbers and images, and the actions. An agent's behaviour is a part of all its names."""
        own = self._name.partition("?")[0]
        sensors = [spec.observation_specs[k] for k in self._order]
        names = [re.sub(r"_size\d+", "", sensor.name) or "sensor" for sensor in sensors]
        features, images = [], []
        for name, sensor in zip(_unique(names), sensors):
            if len(sensor.shape) != 3:
                stacked = re.match(r"StackingSensor_size(\d+)_", sensor.name)
                frames, count = int(stacked[1]) if stacked else 1, int(np.prod(sensor.shape))
                one = features_of(f"{own}.{name}", count // frames)
                features += [f"frame_{k}:{number}" for k in range(frames) for number in one] if stacked else one
                continue
            moves = [int(side) & 2 for side in sensor.dimension_property]  # TRANSLATIONAL_EQUIVARIANCE: not channels
            first = len(moves) == 3 and not moves[0] and moves[2]
            shown = {"name": f"{own}.{name}", "shape": list(sensor.shape), "channels": "first" if first else "last"}
            images.append({**shown, "bytes": False})
        action = spec.action_spec
        if action.continuous_size and action.discrete_size:
            raise Trouble("its agents have continuous and discrete actions at once, and Graft plays one of the kinds")
        kind = "continuous" if action.continuous_size else "discrete"
        count = action.continuous_size or action.discrete_size
        actions = {"names": features_of(f"{own}.{kind}", count)}
        sizes = {"sizes": list(action.discrete_branches)} if action.discrete_size else {}
        return {"features": features, "images": images, "actions": {**actions, **sizes}}

    def reset(self) -> None:
        self._env.reset()
        self._slots.clear()
        self.agents.alive[:] = False
        self._wait()

    def step(self, actions: Any) -> None:
        self.agents.begin_step()
        self._send(actions)
        self._env.step()
        self._wait()

    def _wait(self) -> None:
        """Step the engine until agents are asked for their next actions."""
        for _ in range(LONGEST_WAIT):
            if self._take():
                return
            self._env.step()
        raise Trouble(f"agents of '{self._name}' were not asked for an action in {LONGEST_WAIT} steps")

    def _send(self, actions: Any) -> None:
        """Send the actions of all agents in play, who are asked together; others' are zeros."""
        asked = self._env.get_steps(self._name)[0].agent_id
        spec = self._env.behavior_specs[self._name].action_spec
        given = spec.empty_action(len(asked))
        numbers = given.continuous if spec.continuous_size else given.discrete
        for i, agent in enumerate(asked):
            if (slot := self._slots.get(int(agent))) is not None:
                numbers[i] = actions[slot]
        self._env.set_actions(self._name, given)

    def _take(self) -> bool:
        """Keep what the engine shows; returns whether agents are asked. Raises Trouble where only some of them are."""
        shown = self.agents
        asked, ended = self._env.get_steps(self._name)
        seen = self._flat(ended)
        for i, agent in enumerate(ended.agent_id):
            slot = self._slots.pop(int(agent), None)
            if slot is None:
                continue
            shown.alive[slot] = False
            shown.rewards[slot] += ended.reward[i] + ended.group_reward[i]
            shown.final[slot] = seen[i]
            flags = shown.truncated if ended.interrupted[i] else shown.terminated
            flags[slot] = True
        numbers = [int(agent) for agent in asked.agent_id]
        if numbers and not set(self._slots) <= set(numbers):
            raise Trouble(
                f"agents of '{self._name}' are asked for actions at different steps; give all of them the same "
                f"Decision Period and Decision Step, or play builds with one agent each"
            )
        seen, masks = self._flat(asked), asked.action_mask
        for i, agent in enumerate(numbers):
            slot = self._slots.get(agent)
            if slot is not None:
                shown.rewards[slot] += asked.reward[i] + asked.group_reward[i]
            else:
                taken = set(self._slots.values())
                slot = next((s for s in range(len(shown.alive)) if s not in taken), None)
                if slot is None:  # more agents than there were at first: these wait for a place
                    continue
                self._slots[agent] = slot
            shown.obs[slot], shown.alive[slot] = seen[i], True
            if masks is not None:
                shown.forbidden[slot] = np.concatenate([branch[i] for branch in masks])
        return bool(numbers)

    def _flat(self, steps: Any) -> Any:
        """Observations (n, width) of steps: numbers first, then images."""
        parts = [steps.obs[k] for k in self._order]
        return np.concatenate([part.reshape(len(part), int(np.prod(part.shape[1:]))) for part in parts], 1)

    def close(self) -> None:
        self._env._close(SECONDS_TO_QUIT)  # then it is killed; `close` would wait for the whole timeout
