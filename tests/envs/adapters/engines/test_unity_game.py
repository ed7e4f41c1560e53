"""Agents of Unity that are asked, and end, at different steps; a script in place of the library's connection."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from graft.envs.adapters.engines.process.unity_game import UnityGame

SCRIPT: list[tuple[dict[int, float], dict[int, tuple[float, bool]]]] = [
    ({0: 0, 1: 0}, {}),  # after a reset, both are asked
    ({0: 1}, {}),
    ({1: 2}, {}),
    ({0: 3}, {}),
    ({1: 10}, {0: (4, True)}),
    ({1: 1, 7: 50}, {}),  # 50 was earned before 7 was seen
    ({7: 6}, {1: (5, False)}),
]
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

    def reset(self) -> None:
        self.clock = 0

    def get_steps(self, name: str) -> tuple[SimpleNamespace, SimpleNamespace]:
        return steps(SCRIPT[self.clock][0], self.clock), steps(SCRIPT[self.clock][1], self.clock)

    def set_actions(self, name: str, given: Any) -> None:
        self.sent.append(dict(zip(SCRIPT[self.clock][0], given.continuous[:, 0].tolist(), strict=True)))

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


def test_a_step_lasts_until_all_that_acted_are_asked_again_or_have_ended(game):
    assert game.about["features"] == ["Crab.VectorSensor_0", "Crab.VectorSensor_1"]
    assert game.about["actions"] == {"names": ["Crab.continuous"]}
    game.reset()
    seen = []
    for actions in ([1, 2], [3, 4], [5, 6], [7, 8]):
        game.step(np.array(actions)[:, None])
        shown = game.agents
        seen.append([x.tolist() for x in (shown.obs, shown.rewards, shown.alive, shown.truncated, shown.terminated)])
        if len(seen) == 2:
            assert shown.final[0].tolist() == [4, 0]
    no, both = [False, False], [True, True]
    assert seen == [
        [[[1, 0], [2, 1]], [1, 2], both, no, no],
        [[[3, 0], [4, 1]], [7, 10], [False, True], [True, False], no],  # 3 before its action was sent, 4 after
        [[[5, 7], [5, 1]], [0, 1], both, no, no],  # the first row is another agent's
        [[[6, 7], [5, 1]], [6, 5], [True, False], no, [False, True]],
    ]
    assert game.agents.final[1].tolist() == [6, 1]
    assert game._env.sent == [{0: 1, 1: 2}, {0: 1}, {1: 4}, {0: 3}, {1: 6}, {1: 8, 7: 7}]
