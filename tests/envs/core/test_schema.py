"""Schemas: what they refuse, the spaces they describe, and their JSON."""

from __future__ import annotations

import json
import math

import gymnasium as gym
import numpy as np
import pytest

from graft.envs import ActionSchema, GraftError, ObservationSchema

VECTOR = ObservationSchema(
    kind="vector",
    names=("angle", "speed"),
    attributes=((), ("fast", "own")),
    shape=(2,),
    dtype="float32",
    low=(-1.5, -math.inf),
    high=(1.5, math.inf),
)
PLANES = ObservationSchema(
    "planes", ("player", "wall"), (("self",), ("solid",)), (2, 3, 4), "uint8", (0.0, 0.0), (1.0, 2.0)
)
DISCRETE = ActionSchema("discrete", ("noop", "jump"))
BOX = ActionSchema("box", ("hip", "knee"), (-1.0, -math.inf), (1.0, 0.5))


@pytest.mark.parametrize("schema", [VECTOR, PLANES])
def test_observation_json_round_trip(schema: ObservationSchema) -> None:
    text = json.dumps(schema.to_json(), allow_nan=False)
    assert ObservationSchema.from_json(json.loads(text)) == schema


@pytest.mark.parametrize("schema", [DISCRETE, BOX])
def test_action_json_round_trip(schema: ActionSchema) -> None:
    text = json.dumps(schema.to_json(), allow_nan=False)
    assert ActionSchema.from_json(json.loads(text)) == schema


def test_infinite_bounds_are_null_in_json() -> None:
    assert VECTOR.to_json()["low"] == [-1.5, None]
    assert VECTOR.to_json()["high"] == [1.5, None]


def test_vector_space_has_the_bounds_of_its_features() -> None:
    expected = gym.spaces.Box(np.array([-1.5, -np.inf], "f"), np.array([1.5, np.inf], "f"))
    assert VECTOR.space() == expected


def test_planes_space_repeats_the_bounds_of_a_channel_over_its_cells() -> None:
    space = PLANES.space()
    assert space.shape == (2, 3, 4)
    assert space.dtype == np.uint8
    np.testing.assert_array_equal(space.high, np.stack([np.full((3, 4), 1), np.full((3, 4), 2)]))


def test_action_spaces() -> None:
    assert DISCRETE.space() == gym.spaces.Discrete(2)
    assert BOX.space() == gym.spaces.Box(np.array([-1, -np.inf], "f"), np.array([1, 0.5], "f"))


@pytest.mark.parametrize("missing", ["names", "attributes", "low", "high"])
def test_observation_needs_one_of_everything_per_channel(missing: str) -> None:
    data = VECTOR.to_json() | {missing: VECTOR.to_json()[missing][:1]}
    with pytest.raises(GraftError, match=r"shape \(2,\) needs one name, attribute set and bound per channel"):
        ObservationSchema.from_json(data)


def test_observation_names_are_unique() -> None:
    with pytest.raises(GraftError, match="must be unique, got angle, angle"):
        ObservationSchema.from_json(VECTOR.to_json() | {"names": ["angle", "angle"]})


def test_action_names_are_unique() -> None:
    with pytest.raises(GraftError, match="must be unique, got jump, jump"):
        ActionSchema("discrete", ("jump", "jump"))


def test_box_needs_bounds() -> None:
    with pytest.raises(GraftError, match="box of 2 actions needs as many bounds, got 1"):
        ActionSchema("box", ("hip", "knee"), (-1.0,), (1.0,))
