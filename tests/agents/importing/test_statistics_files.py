"""Statistics of observations from files of numbers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from graft.agents.importing.foreign import WHOLE
from graft.agents.importing.statistics import read_statistics
from graft.errors import GraftError

MEAN, VAR = [1.0, -2.0], [4.0, 0.25]


def test_json(tmp_path):
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"mean": MEAN, "var": VAR, "clip": None, "epsilon": 0.5}))
    found = read_statistics(path)[WHOLE]
    assert found.mean.tolist() == MEAN
    torch.testing.assert_close(found.divisor, torch.tensor(VAR).double().add(0.5).sqrt())
    assert found.clip == math.inf
    path.write_text(json.dumps({"mean": MEAN, "var": VAR}))
    assert read_statistics(path)[WHOLE].clip == 10


def test_parts(tmp_path):
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"parts": {"arm": {"mean": MEAN, "var": VAR}, "speed": {"mean": [0], "var": [1]}}}))
    assert {name: one.mean.tolist() for name, one in read_statistics(path).items()} == {"arm": MEAN, "speed": [0]}
    np.savez(tmp_path / "s.npz", **{"arm/mean": MEAN, "arm/var": VAR, "arm/clip": 3.0})
    found = read_statistics(tmp_path / "s.npz")
    assert found.keys() == {"arm"}
    assert (found["arm"].mean.tolist(), found["arm"].clip) == (MEAN, 3)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"mean": MEAN}, "lacks"),
        ({"mean": MEAN, "var": [1.0]}, "mean has 2 numbers, var 1"),
        ({"mean": MEAN, "var": [1.0, -1.0]}, "negative"),
        ({"mean": MEAN, "var": VAR, "cliip": 1}, "cliip"),
    ],
)
def test_mistakes_are_sentences(given, match, tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(given))
    with pytest.raises(GraftError, match=match):
        read_statistics(tmp_path / "s.json")


def test_a_pickle_needs_trust(tmp_path):
    (tmp_path / "s.pkl").write_bytes(b"")
    with pytest.raises(GraftError, match="needs --trust"):
        read_statistics(tmp_path / "s.pkl")


@pytest.mark.slow  # a process that imports the library
def test_a_pickle_of_vec_normalize_that_is_trusted(tmp_path):
    import gymnasium as gym
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    vec = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")]), clip_obs=3.0)
    vec.obs_rms.mean, vec.obs_rms.var = np.arange(4.0), np.arange(1.0, 5.0)
    vec.save(str(tmp_path / "v.pkl"))
    found = read_statistics(tmp_path / "v.pkl", trust=True, unconfined=True)[WHOLE]
    assert found.mean.tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(found.divisor.square(), torch.arange(1.0, 5.0).double(), rtol=1e-6, atol=1e-6)
    assert found.clip == 3
    vec.norm_obs = False
    vec.save(str(tmp_path / "v.pkl"))
    with pytest.raises(GraftError, match="leaves observations as they are"):
        read_statistics(tmp_path / "v.pkl", trust=True, unconfined=True)
