"""What robots show beside their state: the dynamics in force, and what happened lately."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from graft import envs
from graft.envs import GraftError, Task
from graft.envs.core.schema import ObservationSchema

DRAWN = {"masspole": {"uniform": [0.05, 0.5]}, "length": 0.7}


def make(mode: str = "SameStep", num_envs: int = 3, **kwargs: Any) -> envs.TaskVectorEnv:
    return envs.make(Task("CartPole-v1", {**DRAWN, **kwargs}), num_envs, 0, AutoresetMode(mode))


def part(schema: ObservationSchema, obs: Any, name: str) -> Any:
    """The numbers of one part, (N, D)."""
    places = [p for n, p in zip(schema.names, schema.places, strict=True) if n.startswith(f"{name}/")]
    return obs[:, places[0].start : places[-1].stop]


def test_names_and_order_of_the_parts() -> None:
    schema = envs.schemas(Task("CartPole-v1", {"show": ["history", "state"], "history": 2})).observation
    assert [(name, p.shape) for name, p in schema.parts] == [("history", (12,)), ("state", (4,))]
    assert schema.names[4:8] == (
        "history/left@-1",
        "history/right@-1",
        "history/cart_position@-2",
        "history/cart_velocity@-2",
    )
    assert schema.names[-1] == "state/pole_velocity"


@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_parts_say_what_the_plain_task_says(mode: str) -> None:
    """Beside a twin that shows its state alone, over many episodes."""
    env, twin = make(mode, show=["state", "dynamics", "history"], history=3), make(mode)
    schema = env.observation_schema
    obs, infos = env.reset()
    seen, _ = twin.reset()
    rng = np.random.default_rng(0)
    lately = np.zeros((3, 3, 6), np.float32)
    ended_before = np.zeros(3, np.bool_)
    for _ in range(120):
        np.testing.assert_array_equal(part(schema, obs, "state"), seen)
        np.testing.assert_array_equal(part(schema, obs, "dynamics"), infos["dynamics"])
        np.testing.assert_array_equal(part(schema, obs, "history"), lately.reshape(3, -1))
        actions = rng.integers(0, 2, 3)
        before = np.concatenate([seen, np.eye(2, dtype=np.float32)[actions]], 1)
        obs, _, terminated, truncated, infos = env.step(actions)
        after, _, ended, cut, twins = twin.step(actions)
        np.testing.assert_array_equal(terminated | truncated, ended | cut)
        lately[:, 1:] = lately[:, :-1].copy()
        lately[:, 0] = before
        over = ended | cut
        if over.any() and mode == "SameStep":
            final = infos["final_obs"][over]
            np.testing.assert_array_equal(part(schema, final, "state"), twins["final_obs"][over])
            np.testing.assert_array_equal(part(schema, final, "history"), lately.reshape(3, -1)[over])
            lately[over] = 0
        elif mode == "NextStep":
            lately[ended_before] = 0  # that step was their reset
            ended_before = over
        seen = after
    assert len(np.unique(part(schema, obs, "dynamics")[:, 1])) == 3


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"show": ["state", "histroy"]}, "Unknown part of show of CartPole-v1 'histroy'.*Did you mean 'history'"),
        ({"show": 5}, r"show=5 of CartPole-v1 is not allowed; give parts: \[state, dynamics, history\]"),
        ({"show": None}, "show=None of CartPole-v1 is not allowed"),
        ({"history": 3}, "history=3 of CartPole-v1 is not allowed"),
        (
            {"show": "history", "history": 0},
            "history=0 of CartPole-v1 is not allowed; it is a whole number",
        ),
        ({"shwo": "state"}, "Unknown keyword of CartPole-v1 'shwo'.*Did you mean 'show'"),
    ],
)
def test_what_cannot_be_shown(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(GraftError, match=complaint):
        make(**given)
