"""Names that users give to spaces, and what a second version of their package keeps of the first."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from graft import envs
from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.sb3 import ALGORITHMS, train
from graft.agents.training.backend import TrainJob
from graft.agents.training.evaluate import evaluate
from graft.envs import GraftError, Task
from graft.transfer.method import parse_method

PACKAGE = '''
import gymnasium, numpy

class Valet(gymnasium.Env):
    """Park on the spot: pays 1 - distance to it; what else is shown does not matter."""

    def __init__(self, version=1):
        self.version = version
        self.observation_names = ["place", "spot", "radio"] if version == 1 else ["weather", "spot", "place"]
        self.action_names = ["back", "wait", "forward"] + (["honk"] if version == 2 else [])
        self.observation_space = gymnasium.spaces.Box(-2, 2, (3,), numpy.float32)
        self.action_space = gymnasium.spaces.Discrete(len(self.action_names))

    def _look(self):
        shown = {"place": self.place, "spot": self.spot, "radio": self.np_random.uniform(-1, 1), "weather": 1.0}
        return numpy.array([shown[name] for name in self.observation_names], numpy.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.spot, self.clock = self.np_random.uniform(-1, 1), self.np_random.uniform(-1, 1), 0
        return self._look(), {}

    def step(self, action):
        move = {"back": -0.2, "forward": 0.2}.get(self.action_names[action], 0.0)
        self.place, self.clock = numpy.clip(self.place + move, -2, 2), self.clock + 1
        return self._look(), 1 - abs(self.place - self.spot), False, self.clock == 20, {}

gymnasium.register("Valet-v1", Valet, kwargs={"version": 1})
gymnasium.register("Valet-v2", Valet, kwargs={"version": 2})
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a user's package that registers both versions."""
    (tmp_path / "valet_park").mkdir()
    (tmp_path / "valet_park" / "__init__.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "valet_park"
    sys.modules.pop("valet_park", None)


def returns(network: PolicyNetwork, task: Task) -> np.ndarray:
    env = envs.make(task, 64, 99)
    try:
        return evaluate(network, env, 256, torch.Generator().manual_seed(0), deterministic=True).returns
    finally:
        env.close()


@pytest.mark.slow
def test_a_second_version_keeps_the_skill_of_the_first(package: str) -> None:
    """It adds an observation, drops one, reorders the rest and adds an action."""
    old, new = Task(f"{package}:Valet-v1"), Task(f"{package}:Valet-v2")
    network = PolicyNetwork(envs.schemas(old), NetworkConfig("mlp", {"widths": [32, 32]}), 0)
    train(
        TrainJob(network, old, ALGORITHMS["ppo"](num_envs=16, num_steps=40, minibatch=160), 20_000, 0, lambda *_: None)
    )
    source = Checkpoint.of(network, old)
    method = parse_method({"finetune": {"heads": "by_name", "new_channels": "zero"}})
    moved, report = method.build(source, envs.schemas(new), source.network, 1)
    details = {row.tensor: row.detail for row in report.rows}
    assert details["encoder.blocks.0.1.weight"] == "new: weather (zero); dropped: radio"
    assert details["policy.out.weight"] == "new: honk (random)"
    assert set(report.lost) == {"weather", "radio", "honk"}
    fresh = PolicyNetwork(envs.schemas(new), NetworkConfig("mlp", {"widths": [32, 32]}), 0)
    skill, kept, untrained = returns(network, old), returns(moved, new), returns(fresh, new)
    noise = skill.std() / np.sqrt(len(skill))
    assert abs(kept.mean() - skill.mean()) < 4 * noise
    assert skill.mean() - untrained.mean() > 20 * noise


def test_a_list_names_everything_and_a_mapping_some() -> None:
    task = Task("Acrobot-v1", {"schema": {"observation": list("abcdef"), "action": {"torque_zero": "rest"}}})
    observation, action = envs.schemas(task)
    assert observation.names == tuple("abcdef")
    assert action.names == ("torque_negative", "rest", "torque_positive")


def test_a_task_takes_the_names_of_another_that_looks_the_same() -> None:
    other = {"id": "MountainCar-v0", "kwargs": {"schema": {"observation": ["x", "v"], "attributes": {"v": "speed"}}}}
    for given in ("MountainCar-v0", other):
        like = Task.from_json({"id": given} if isinstance(given, str) else given)
        task = Task("MountainCar-v0", {"gravity": 0.003, "schema": {"as": given}})
        assert envs.schemas(task) == envs.schemas(like)
    with pytest.raises(GraftError, match="MountainCarContinuous-v0 takes 1 box actions, MountainCar 3 discrete"):
        envs.make(Task("MountainCarContinuous-v0", {"schema": {"as": "MountainCar-v0"}}), 1, 0)
    with pytest.raises(GraftError, match="'as' is not for teams"):
        envs.make(Task("Graft/Pursuit-v0", {"schema": {"as": "MountainCar-v0"}}), 1, 0)
    with pytest.raises(GraftError, match=r"schema of Graft/Gather-v0: channels is known of these pictures"):
        envs.make(Task("Graft/Gather-v0", {"schema": {"channels": "first"}}), 1, 0)


def test_attributes_are_words_about_an_observation() -> None:
    given = {"observation": {"wall": "hedge"}, "attributes": {"hedge": ["solid", "green"], "coin": "shiny"}}
    observation = envs.schemas(Task("Graft/Gather-v0", {"view": "planes", "schema": given})).observation
    words = dict(zip(observation.names, observation.attributes, strict=True))
    assert (words["hedge"], words["coin"]) == (("green", "solid"), ("shiny",))
    assert words["player"] == ("self",)


def test_names_of_parts_reach_what_reads_them() -> None:
    given = {"observation": {"state/pole_angle": "state/lean", "state/pole_velocity": "fall"}}
    given |= {"attributes": {"state/lean": ["angle"]}}
    schemas = envs.schemas(Task("CartPole-v1", {"show": ["state", "dynamics"], "schema": given}))
    names = ("state/cart_position", "state/cart_velocity", "state/lean", "state/fall")
    assert schemas.observation.names[-4:] == names
    stem = next(s for s in PolicyNetwork(schemas, NetworkConfig(), 0).encoder.stems if ".state." in s.name)
    assert stem.names == names
    assert stem.attributes[2] == ("angle",)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"observation": ["a", "b"]}, "schema of Acrobot-v1 gives 2 names where there are 6: cos_angle_1, sin_angle_1"),
        ({"action": {"torque_zer": "rest"}}, "Unknown name in schema of Acrobot-v1 'torque_zer'.*'torque_zero'"),
        ({"actions": ["a"]}, "Unknown entry of schema of Acrobot-v1 'actions'.*Did you mean 'action'"),
        ({"observation": ["a"] * 6}, "Observation names must be unique"),
        ({"attributes": {"x": "y"}}, "Unknown name of an observation of Acrobot-v1 'x'"),
        ({"attributes": "y"}, "attributes='y' is not allowed"),
        ({"attributes": {"sin_angle_1": 5}}, "attributes of sin_angle_1 are 5; give words"),
        (7, "schema=7 of Acrobot-v1 is not allowed"),
        ({"channels": "middle"}, "schema of Acrobot-v1: channels: 'middle' is not allowed; give first or last"),
        ({"channels": "last"}, "schema of Acrobot-v1: channels: last is for pictures of three sides"),
        ({"as": "CartPole-v1"}, "as: CartPole-v1 is not possible, as Acrobot-v1 shows vector 6, CartPole-v1 vector 4"),
        ({"as": 5}, "schema of Acrobot-v1: as: 5 is not allowed; give the id of a task"),
        ({"as": "Acrobot-v1", "action": ["a"]}, "'as' takes all names of another task; leave the others out"),
    ],
)
def test_names_that_do_not_fit(given: object, complaint: str) -> None:
    with pytest.raises(GraftError, match=complaint):
        envs.make(Task("Acrobot-v1", {"schema": given}), 1, 0)


def test_names_change_neither_bounds_nor_labels_beyond_recognition() -> None:
    plain, named = Task("Acrobot-v1"), Task("Acrobot-v1", {"schema": {"observation": [c * 12 for c in "abcdef"]}})
    assert envs.bounds(named) == envs.bounds(plain)
    assert len(str(named)) < 40
    assert str(named) != str(plain)
