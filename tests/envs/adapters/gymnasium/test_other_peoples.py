"""What other people's environments lack: metadata, arguments, packages, ids that exist; each is said in a sentence."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from graft import envs
from graft.envs import GraftError, Task
from graft.envs.adapters.packages import missing_package


class Bare(gym.Env[Any, Any]):
    """As made for the old Gym: its metadata is None. It pays ``size``."""

    metadata = None  # type: ignore[assignment]
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, size: float = 1.0) -> None:
        self.size = size

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.ones(2, np.float32), self.size, False, False, {}


class Needy(Bare):
    """It can't be made without two arguments."""

    def __init__(self, board: int, rules: str, size: float = 1.0) -> None:
        super().__init__(size)
        self.board, self.rules = board, rules


class OfInstance(Bare):
    """Its metadata is None once it is made."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.metadata = None  # type: ignore[assignment]


class Words(Bare):
    """Its metadata is a sentence."""

    metadata = "by somebody"  # type: ignore[assignment]


class Broken(Bare):
    """It can't be made with the packages that are installed, whatever it is given."""

    def __init__(self, size: float = 1.0) -> None:
        super().__init__(size)
        raise AssertionError


KINDS = {"Broken-v0": Broken, "Bare-v0": Bare, "Needy-v0": Needy, "OfInstance-v0": OfInstance, "Words-v0": Words}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    for name, kind in KINDS.items():
        gym.register(name, entry_point=kind, max_episode_steps=3)
    yield
    for name in KINDS:
        del gym.registry[name]


@pytest.mark.parametrize("name", ["Bare-v0", "OfInstance-v0", "Words-v0"])
def test_metadata_may_be_none_or_no_dictionary(name: str) -> None:
    env = envs.make(Task(name), 2, 0)
    env.reset()
    obs, rewards, *_ = env.step(np.array([0, 1]))
    assert (obs.tolist(), rewards.tolist()) == ([[1.0, 1.0]] * 2, [1.0, 1.0])
    assert [env.step(np.array([0, 1]))[3].tolist() for _ in range(2)] == [[False] * 2, [True] * 2]
    env.close()


def test_arguments_that_are_missing_are_named() -> None:
    with pytest.raises(GraftError, match=r"'Needy-v0' needs board and rules; give kwargs: \{board: ..., rules: ...\}"):
        envs.make(Task("Needy-v0"), 1, 0)
    with pytest.raises(GraftError, match=r"'Needy-v0' needs rules; give kwargs: \{rules: ...\}"):
        envs.make(Task("Needy-v0", {"board": 3}), 1, 0)
    env = envs.make(Task("Needy-v0", {"board": 3, "rules": "old", "size": 0.5}), 1, 0)
    env.reset()
    assert env.step(np.array([0]))[1].tolist() == [0.5]


@pytest.mark.parametrize("kwargs", [{}, {"max_episode_steps": 5}, {"size": 2.0}])
def test_an_environment_that_cannot_be_made_is_not_blamed_on_its_keywords(kwargs: dict[str, Any]) -> None:
    where = r"AssertionError \(test_other_peoples.py:\d+, in __init__\)"
    with pytest.raises(GraftError, match=rf"Task 'Broken-v0' cannot be made: {where}\.$") as refused:
        envs.make(Task("Broken-v0", kwargs), 1, 0)
    assert isinstance(refused.value.__cause__, AssertionError), "with its traceback, for its author"


def missing(name: str) -> GraftError:
    return missing_package("Task 'X-v0'", ModuleNotFoundError(f"No module named '{name}'", name=name))


def test_modules_are_not_packages() -> None:
    assert str(missing("cv2")).endswith("install it: `pip install opencv-python`")
    assert str(missing("sklearn.tree")).endswith("install it: `pip install scikit-learn`")
    assert str(missing("minigrid.core")).endswith("install it: `pip install 'graft-rl[games]'`")
    unknown = str(missing("warehouse.robots"))
    assert "needs the Python module 'warehouse.robots', which is not installed" in unknown
    assert "pip install" not in unknown, "which package brings it is not known"


def test_what_fails_to_load_is_not_called_missing() -> None:
    library = ImportError("libGL.so.1: cannot open shared object file", name="cv2")
    assert "cannot be imported: libGL.so.1: cannot open" in str(missing_package("Task 'X-v0'", library))


def test_a_module_that_lacks_another_names_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "farm_games.py").write_text("import skimage\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "skimage", None)  # as if it were not installed
    with pytest.raises(GraftError, match=r"Module 'farm_games' of task .* install it: `pip install scikit-image`"):
        envs.make(Task("farm_games:Farm-v0"), 1, 0)
    monkeypatch.setitem(sys.modules, "highway_env", None)
    with pytest.raises(GraftError, match="install the package with `pip install highway-env`, or put its folder on"):
        envs.make(Task("highway_env:highway-v0"), 1, 0)


def test_an_id_of_a_module_is_answered_with_that_modules_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = f"{Bare.__module__}:Bare"
    (tmp_path / "pole_games.py").write_text(f"import gymnasium\ngymnasium.register('Mast-v0', entry_point='{place}')\n")
    (tmp_path / "no_games.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.raises(GraftError) as refused:
            envs.make(Task("pole_games:CartPol-v1"), 1, 0)
        assert str(refused.value) == "Unknown task 'pole_games:CartPol-v1'; allowed: pole_games:Mast-v0."
        with pytest.raises(GraftError, match="module 'no_games' registers no environments with Gymnasium"):
            envs.make(Task("no_games:CartPole-v9"), 1, 0)
    finally:
        gym.registry.pop("Mast-v0", None)
        for name in ("pole_games", "no_games"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize("given", ["stocks-v0", "Catan-v1", "highway-fast-v0"])
def test_nothing_is_suggested_that_is_another_game(given: str) -> None:
    with pytest.raises(GraftError) as refused:
        envs.make(Task(given), 1, 0)
    assert "Did you mean" not in str(refused.value)
    assert f"Ids of other packages name the module that registers them: package:{given}." in str(refused.value)
