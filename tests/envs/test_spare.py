"""Arrays that are handed out again are nobody's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import envs
from envs import Task
from envs.engine.spare import KEPT, Spare


def test_what_is_held_is_not_handed_out_again():
    spare = Spare((3,), np.uint8)
    held = [spare.take() for _ in range(3 * KEPT)]
    assert len({array.ctypes.data for array in held}) == 3 * KEPT


def test_what_is_dropped_is_handed_out_again():
    spare = Spare((3,), np.uint8)
    places = []
    for _ in range(10):
        array = spare.take()
        places.append(array.ctypes.data)
        del array
    assert len(set(places)) == 1


@pytest.mark.parametrize(
    "hold", [lambda a: a[:2], lambda a: a.reshape(3, 1)[1:], torch.from_numpy, memoryview, lambda a: [a]]
)
def test_views_and_tensors_hold_an_array(hold):
    spare = Spare((3,), np.uint8)
    array = spare.take()
    place, held = array.ctypes.data, hold(array)
    del array
    assert spare.take().ctypes.data != place
    del held
    assert spare.take().ctypes.data == place


def test_observations_that_are_kept_do_not_change():
    env = envs.make(Task("Graft/Shoot-v0", {"view": "pixels", "fall_rate": 0.4}), 4, 0)
    kept = [env.reset()[0]]
    copies = [kept[0].copy()]
    rng = np.random.default_rng(0)
    for _ in range(60):
        obs, _, _, _, infos = env.step(rng.integers(6, size=4))
        kept.append(obs)
        if "final_obs" in infos:
            kept.append(infos["final_obs"])
        copies += [array.copy() for array in kept[len(copies) :]]
    assert len(kept) > 61, "no episode ended"
    for array, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
