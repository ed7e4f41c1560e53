"""The agents of one behaviour of a Unity scene, played through mlagents-envs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from .protocol import NOBODY, Agents, Trouble, features_of, free_port

LONGEST_WAIT = 1000  # steps of the engine in which an agent is to be asked for its next action


def _unique(names: Sequence[str]) -> list[str]:
    """Names of which later ones that are the same have a number."""
    before = [names[:i].count(name) for i, name in enumerate(names)]
    return [f"{name}#{count + 1}" if count else name for name, count in zip(names, before)]


class UnityGame:
    """The agents of one behaviour of a Unity scene.

    An agent of Unity has a number for each episode: a row is a place that such numbers take in turn. Agents may be
    asked for actions at different steps: a step of this game lasts until every agent that acted is asked again, or has
    ended; one that is asked sooner repeats its action. One whose place is not taken again yet is out of play.
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
            raise Trouble(NOBODY.format(port, seconds)) from error
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
        for name in names:
            if asked in (name, name.partition("?")[0]) or (not asked and len(names) == 1):
                return name
        listed = ", ".join(name.partition("?")[0] for name in names) or "none"
        raise Trouble(f"it has the behaviours {listed}; choose one of them with the keyword behaviour")

    def _described(self, spec: Any) -> dict[str, Any]:
        """Names of numbers and images, and the actions. An agent's behaviour is a part of all its names."""
        own = self._name.partition("?")[0]
        sensors = [spec.observation_specs[k] for k in self._order]
        names = [re.sub(r"^VectorSensor_size\d+$", "VectorSensor", sensor.name) or "sensor" for sensor in sensors]
        features, images = [], []
        for name, sensor in zip(_unique(names), sensors):
            if len(sensor.shape) != 3:
                features += features_of(f"{own}.{name}", int(np.prod(sensor.shape)))
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
        self._take(np.zeros(len(self.agents.alive), np.bool_), set())
        self._wait(None, set())

    def step(self, actions: Any) -> None:
        self.agents.begin_step()
        self._wait(actions, set(np.flatnonzero(self.agents.alive).tolist()))

    def _wait(self, actions: Any, waiting: set[int]) -> None:
        """Step the engine until all rows ``waiting`` are asked again or have ended, and some agent is in play."""
        playing = self.agents.alive.copy()
        sent: set[int] = set()
        for _ in range(LONGEST_WAIT):
            if not waiting and self.agents.alive.any():
                return
            sent |= self._send(actions, playing)
            self._env.step()
            waiting -= self._take(playing, sent)
        raise Trouble(f"agents of '{self._name}' were not asked for an action again in {LONGEST_WAIT} steps")

    def _send(self, actions: Any, playing: Any) -> set[int]:
        """Send the actions of all agents that are asked; rows ``playing`` have one. Returns these rows."""
        asked = [self._slots.get(int(agent), -1) for agent in self._env.get_steps(self._name)[0].agent_id]
        spec = self._env.behavior_specs[self._name].action_spec
        given = spec.empty_action(len(asked))
        own = {slot for slot in asked if slot >= 0 and playing[slot]}
        numbers = given.continuous if spec.continuous_size else given.discrete
        for i, slot in enumerate(asked):
            if slot in own:
                numbers[i] = actions[slot]
        if asked:
            self._env.set_actions(self._name, given)
        return own

    def _take(self, playing: Any, sent: set[int]) -> set[int]:
        """Keep what the engine shows; returns rows of ``sent`` that are asked again, and all that have ended.

        ``playing``: rows whose episode is that in which they acted; those that end are taken out.
        """
        shown = self.agents
        answered: set[int] = set()
        asked, ended = self._env.get_steps(self._name)
        seen = self._flat(ended)
        for i, agent in enumerate(ended.agent_id):
            slot = self._slots.pop(int(agent), None)
            if slot is None:
                continue
            shown.alive[slot] = False
            if playing[slot]:
                playing[slot] = False
                shown.rewards[slot] += ended.reward[i] + ended.group_reward[i]
                shown.final[slot] = seen[i]
                flags = shown.truncated if ended.interrupted[i] else shown.terminated
                flags[slot] = True
                answered.add(slot)
        seen, masks = self._flat(asked), asked.action_mask
        for i, agent in enumerate(asked.agent_id):
            slot = self._slots.get(int(agent))
            if slot is None:
                taken = set(self._slots.values())
                slot = next((s for s in range(len(shown.alive)) if s not in taken), None)
                if slot is None:  # more agents than there were at first: these wait for a place
                    continue
                self._slots[int(agent)] = slot
            shown.obs[slot], shown.alive[slot] = seen[i], True
            if masks is not None:
                shown.forbidden[slot] = np.concatenate([branch[i] for branch in masks])
            if playing[slot]:
                shown.rewards[slot] += asked.reward[i] + asked.group_reward[i]
                if slot in sent:
                    answered.add(slot)
        return answered

    def _flat(self, steps: Any) -> Any:
        """Observations (n, width) of steps: numbers first, then images."""
        parts = [steps.obs[k] for k in self._order]
        return np.concatenate([part.reshape(len(part), int(np.prod(part.shape[1:]))) for part in parts], 1)

    def close(self) -> None:
        self._env.close()
