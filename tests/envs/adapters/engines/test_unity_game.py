"""Agents of Unity that end at different steps; a script in place of the library's connection."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from graft.envs.adapters.engines.process.protocol import Trouble
from graft.envs.adapters.engines.process.unity_game import UnityGame

Script = list[tuple[dict[int, float], dict[int, tuple[float, bool]]]]
SCRIPT: Script = [
    ({0: 0, 1: 0}, {}),  # after a reset, both are asked
    ({}, {}),
    ({0: 1, 1: 2}, {}),
    ({}, {0: (4, True)}),
    ({1: 10, 7: 50}, {}),  # 50 was earned before 7 was seen
    ({}, {1: (5, False)}),
    ({7: 6}, {}),
    ({7: 3, 8: 0, 9: 0}, {}),  # no place for 9
    ({7: 1, 8: 2, 9: 3}, {}),
]
APART: Script = [({0: 0, 1: 0}, {}), ({0: 1}, {}), ({1: 2}, {})]
"""Of each step of the engine: agent that is asked -> reward; agent that ends -> reward, whether interrupted."""


def steps(agents: dict[int, Any], clock: int) -> SimpleNamespace:
    """Agents see (the step, their number)."""
    values = [value if isinstance(value, tuple) else (value, False) for value in agents.values()]
    return SimpleNamespace(
        agent_id=np.array(list(agents), int),
        obs=[np.array([[clock, agent] for agent in agents], np.float32).reshape(-1, 2)],
        reward=np.array([reward for reward, _ in values]),
        group_reward=np.zeros(len(agents)),
        interrupted=np.array([cut for _, cut in values], bool),
        action_mask=None,
    )


class Scripted:
    """The part of ``UnityEnvironment`` that a game uses; ``sent`` are the actions of each step, by agent."""

    def __init__(self, **_: Any) -> None:
        sensor = SimpleNamespace(name="VectorSensor_size2", shape=(2,), dimension_property=(1,))
        action = SimpleNamespace(
            continuous_size=1,
            discrete_size=0,
            discrete_branches=(),
            empty_action=lambda count: SimpleNamespace(continuous=np.zeros((count, 1)), discrete=None),
        )
        self.behavior_specs = {"Crab?team=0": SimpleNamespace(observation_specs=[sensor], action_spec=action)}
        self.sent: list[dict[int, float]] = []
        self.script = SCRIPT

    def reset(self) -> None:
        self.clock = 0

    def get_steps(self, name: str) -> tuple[SimpleNamespace, SimpleNamespace]:
        asked, ended = self.script[self.clock]
        return steps(asked, self.clock), steps(ended, self.clock)

    def set_actions(self, name: str, given: Any) -> None:
        self.sent.append(dict(zip(self.script[self.clock][0], given.continuous[:, 0].tolist(), strict=True)))

    def step(self) -> None:
        self.clock += 1


@pytest.fixture
def game(monkeypatch: pytest.MonkeyPatch) -> Any:
    channel = SimpleNamespace(set_configuration_parameters=lambda time_scale: None)
    for name, found in {
        "environment": {"UnityEnvironment": Scripted},
        "exception": {"UnityTimeOutException": TimeoutError},
        "side_channel.engine_configuration_channel": {"EngineConfigurationChannel": lambda: channel},
    }.items():
        module = ModuleType(name)
        vars(module).update(found)
        monkeypatch.setitem(sys.modules, f"mlagents_envs.{name}", module)
    for name in ("mlagents_envs", "mlagents_envs.side_channel"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    return UnityGame("5004", {"speed": 1, "seed": 0, "timeout": 10, "arguments": (), "behaviour": ""})


def test_every_action_answers_the_observation_that_it_was_chosen_on(game):
    assert game.about["features"] == ["Crab.VectorSensor_0", "Crab.VectorSensor_1"]
    assert game.about["actions"] == {"names": ["Crab.continuous_0"]}
    game.reset()
    seen, shown = [], game.agents
    for _ in range(5):
        game.step(100 * shown.obs[:, :1] + shown.obs[:, 1:])  # 100 x step of the engine + number
        seen.append([x.tolist() for x in (shown.rewards, shown.alive, shown.truncated, shown.terminated)])
        if len(seen) in (2, 3):
            assert shown.final[len(seen) - 2].tolist() == [[3, 0], [5, 1]][len(seen) - 2]
    no, both = [False, False], [True, True]
    assert seen == [
        [[1, 2], both, no, no],
        [[4, 10], both, [True, False], no],  # the first row is another agent's now
        [[6, 5], [True, False], no, [False, True]],
        [[3, 0], both, no, no],
        [[1, 2], both, no, no],
    ]
    assert shown.obs.tolist() == [[8, 7], [8, 8]]
    assert game._env.sent == [{0: 0, 1: 1}, {0: 200, 1: 201}, {1: 401, 7: 407}, {7: 607}, {7: 707, 8: 708, 9: 0}]


def test_agents_that_are_asked_at_different_steps_are_refused(game):
    game._env.script = APART
    game.reset()
    with pytest.raises(Trouble, match=r"'Crab.team=0' are asked for actions at different steps"):
        game.step(np.zeros((2, 1)))


def test_names_do_not_depend_on_sizes(game):
    def named(*sensors: tuple[str, int]) -> list[str]:
        found = [SimpleNamespace(name=name, shape=(size,), dimension_property=(1,)) for name, size in sensors]
        game._order = range(len(found))
        spec = game._env.behavior_specs[game._name]
        return game._described(SimpleNamespace(observation_specs=found, action_spec=spec.action_spec))["features"]

    assert named(("Sonar", 1)) == named(("Sonar", 2))[:1]
    assert named(("VectorSensor_size2_GoalSignal", 2))[0] == "Crab.VectorSensor_GoalSignal_0"
    stacked = named(("StackingSensor_size2_VectorSensor_size2", 4))
    assert stacked == [f"frame_{k}:Crab.StackingSensor_VectorSensor_{i}" for k in (0, 1) for i in (0, 1)]
    assert set(stacked) < set(named(("StackingSensor_size2_VectorSensor_size3", 6)))


def test_a_behaviour_that_two_teams_have(game):
    game._env.behavior_specs = {"Crab?team=0": None, "Crab?team=1": None, "Fish?team=0": None}
    assert game._chosen("Crab?team=1") == "Crab?team=1"
    assert game._chosen("Fish") == "Fish?team=0"
    for asked in ("", "Crab"):
        with pytest.raises(Trouble, match=r"behaviours Crab.team=0, Crab.team=1, Fish;"):
            game._chosen(asked)
