"""Box actions: -1 to 1 of the policy are the bounds; an action without both is played as it is, and clipped."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers.utils import rescale_box
from support.tiny_tasks import box

from graft.agents.networks.box_units import carried_units, from_units, to_environment
from graft.envs.core.schema import ActionSchema

INF = math.inf


def schema(*bounds: tuple[float, float]) -> ActionSchema:
    low, high = zip(*bounds, strict=True)
    return ActionSchema("box", tuple("abcdef"[: len(bounds)]), low, high)


def test_each_action_by_its_own_bounds():
    mixed = schema((0.0, 1000.0), (-1.0, 3.0), (-INF, INF), (2.0, INF), (-INF, 5.0), (4.0, 4.0))
    drawn = torch.tensor([[-1.0] * 6, [0.0] * 6, [1.0] * 6, [0.5] * 6, [-9.0] * 6, [9.0] * 6])
    expected = [
        [0.0, -1.0, -1.0, 2.0, -1.0, 4.0],
        [500.0, 1.0, 0.0, 2.0, 0.0, 4.0],
        [1000.0, 3.0, 1.0, 2.0, 1.0, 4.0],
        [750.0, 2.0, 0.5, 2.0, 0.5, 4.0],
        [0.0, -1.0, -9.0, 2.0, -9.0, 4.0],
        [1000.0, 3.0, 9.0, 9.0, 5.0, 4.0],
    ]
    assert to_environment(drawn, mixed).tolist() == expected


def test_finite_bounds_are_played_as_by_gymnasiums_rescaling():
    bounds = [(0.0, 1000.0), (-0.4, 0.4), (-3.0, 1e-3), (1e4, 1e5)]
    ours = schema(*bounds)
    low, high = np.array(bounds, np.float32).T
    drawn = torch.rand(500, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    _, _, theirs = rescale_box(spaces.Box(low, high), np.float32(-1), np.float32(1))
    expected = np.stack([theirs(row) for row in drawn.numpy()])
    np.testing.assert_allclose((to_environment(drawn, ours).numpy() - expected) / (high - low), 0.0, atol=1e-6)


def test_of_minus_one_to_one_nothing_changes_to_the_bit():
    drawn = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(to_environment(drawn, box(["x", "y"])), drawn.clamp(-1.0, 1.0))


@pytest.mark.parametrize("bounds", [(-1e38, 1e38), (1e6, 1e6 + 1), (-3e-30, 1e-30)])
def test_actions_stay_within_any_bounds(bounds):
    low, high = np.float32(bounds[0]), np.float32(bounds[1])
    played = to_environment(torch.tensor([[-1.0], [1.0], [-50.0], [50.0], [0.3]]), schema((float(low), float(high))))
    assert played.flatten()[:4].tolist() == [low, high, low, high]
    assert low < played[4] < high


def test_units_of_rows_are_those_of_what_is_played():
    """Means and deviations of a Gaussian head that is converted to play the same numbers."""
    units = from_units(schema((0.0, 10.0), (-INF, INF)))
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(shape, generator=generator) for shape in ((5, 3), (2, 3), (2,)))
    log_std = torch.tensor([0.5, -0.5])
    moved = [
        units.of_rows(f"policy.{n}", t) for n, t in (("out.weight", weight), ("out.bias", bias), ("log_std", log_std))
    ]
    means = hidden @ moved[0].T + moved[1]
    torch.testing.assert_close(means, torch.tensor([5.0, 1.0]) * (hidden @ weight.T + bias) + torch.tensor([5.0, 0.0]))
    torch.testing.assert_close(moved[2].exp(), torch.tensor([5.0, 1.0]) * log_std.exp())
    back = units.inverse()
    torch.testing.assert_close(back.of_rows("policy.out.bias", moved[1]), bias)


def test_what_is_carried_keeps_its_place_or_its_number():
    source = schema((0.0, 10.0), (-2.0, 2.0), (-INF, INF), (0.0, INF))
    target = schema((-5.0, 5.0), (-INF, INF), (0.0, 4.0), (-INF, INF))
    units = carried_units(source, target, [[0], [1], [2], [3]])
    assert units.gain.tolist() == [1.0, 2.0, 0.5, 1.0]
    assert units.shift.tolist() == [0.0, 0.0, -1.0, 0.0]
    assert carried_units(source, target, [[], [0], [], []]).shift.tolist() == [0.0, 5.0, 0.0, 0.0]
