"""Parts by ``module:Name`` and by entry points, in every registry."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from support.tiny_tasks import vector

from graft import envs
from graft.agents.networks.encoder import ENCODERS, default_encoder, encoders_for
from graft.envs.builtin.arena.game import ARENAS
from graft.envs.builtin.engine.game import GAMES
from graft.envs.builtin.engine.view import VIEWS
from graft.envs.core import parts
from graft.envs.core.registry import Registry
from graft.envs.core.task import Task
from graft.envs.factory import ADAPTERS
from graft.errors import GraftError
from graft.experiments.config.names import _check
from graft.transfer.method import METHODS, label, parse_method, to_json

MODULE = """
from dataclasses import dataclass
import gymnasium as gym
from graft.agents.networks.encoders.mlp import MLP
from graft.envs.builtin.engine.view import VIEWS, View
from graft.transfer.method import FromSource

@dataclass(frozen=True, kw_only=True)
class Plain(FromSource):
    share: float = 0.5

class Small(MLP):
    default_for = ("vector",)

class Half(gym.RewardWrapper):
    def reward(self, reward):
        return reward / 2

SAME = View("planes, again", VIEWS["planes"].schema)
NUMBER = 3
"""

ENTRY_POINTS = """[graft.methods]
plain = {0}:Plain
frozen = {0}:Plain
broken = {0}:Gone

[graft.encoders]
small = {0}:Small
number = {0}:NUMBER

[graft.views]
same = {0}:SAME

[graft.wrappers]
Half = {0}:Half
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module with a part of each kind."""
    name = "parts_for_test"
    (tmp_path / f"{name}.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def fresh(registry: Registry[Any], monkeypatch: pytest.MonkeyPatch) -> Registry[Any]:
    """Let the registry look for entry points again; afterwards it is as before."""
    list(registry)
    for name in ("_entries", "_plugins", "_plugin_modules"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    monkeypatch.setattr(registry, "_loaded", False)
    return registry


@pytest.fixture
def installed(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The module's name; a distribution offers its parts as entry points, two of which are of no use."""
    folder = tmp_path / "own_parts-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: own-parts\nVersion: 1.0\n", encoding="utf-8")
    (folder / "entry_points.txt").write_text(ENTRY_POINTS.format(module), encoding="utf-8")
    parts._installed.cache_clear()
    return module


def test_every_registry_takes_module_and_name(module: str) -> None:
    assert METHODS[f"{module}:Plain"].__name__ == "Plain"
    assert ENCODERS[f"{module}:Small"].__name__ == "Small"
    assert VIEWS[f"{module}:SAME"].meaning == "planes, again"
    task = Task("Graft/Dodge-v0", {"view": f"{module}:SAME"})
    assert envs.schemas(task) == envs.schemas(Task("Graft/Dodge-v0", {"view": "planes"}))
    method = parse_method({f"{module}:Plain": {"share": 0.25}})
    assert label(method) == f"{module}:Plain(share=0.25)"
    assert to_json(method)["name"] == f"{module}:Plain"
    assert label(parse_method({"chain": [f"{module}:Plain"]})) == f"chain({module}:Plain)"
    assert f"{module}:Plain" not in dict(METHODS.items()), "it is not listed, or runs would depend on what ran before"
    assert default_encoder(vector("ab")) == "mlp"


@pytest.mark.parametrize(
    ("registry", "name", "sentence"),
    [
        (METHODS, "gone_parts:Plain", "Module 'gone_parts' of method 'gone_parts:Plain' cannot be imported (No module"),
        (METHODS, "{}:Plian", "Unknown method of {} 'Plian'; allowed: Plain. Did you mean 'Plain'?"),
        (
            METHODS,
            "{}:Small",
            "'{}:Small' is no method: it must be a subclass of graft.transfer.method.TransferMethod.",
        ),
        (ENCODERS, "{}:Plain", "'{}:Plain' is no encoder: it must be a subclass of graft.agents.networks.encoder.Enc"),
        (VIEWS, "{}:Plain", "'{}:Plain' is no view: it must be an instance of graft.envs.builtin.engine.view.View."),
        (GAMES, "{}:Gone", "Module '{}' has no 'Gone', and no game, which must be an instance of graft.envs.builtin"),
        (ARENAS, "{}:", "The arena '{}:' has no module or no name; give module:Name."),
        (ADAPTERS, "{}:NUMBER", "'{}:NUMBER' is no adapter: it must be an instance of graft.envs.core.task.Adapter."),
    ],
)
def test_what_cannot_be_used_is_one_sentence(registry: Registry[Any], name: str, sentence: str, module: str) -> None:
    with pytest.raises(GraftError, match=re.escape(sentence.replace("{}", module))):
        registry[name.format(module)]


def test_an_algorithm_of_the_other_backend_is_refused() -> None:
    from graft.agents.rllib import ALGORITHMS

    with pytest.raises(
        GraftError, match=r"is no algorithm: it must be a subclass of graft\.agents\.rllib\.algorithm\."
    ):
        ALGORITHMS["graft.agents.sb3.algorithms.ppo:PPOAlgorithm"]


def test_modules_of_a_part_are_its_own_up_to_grafts(module: str) -> None:
    assert METHODS.modules(f"{module}:Plain") == (module,)
    assert VIEWS.modules(f"{module}:SAME") == (module,)
    assert ENCODERS.modules("mlp") == VIEWS.modules("planes") == ()
    assert parts.modules_of(gym.wrappers.TimeLimit) == ()
    wrapped = Task("CartPole-v1", {"wrappers": [f"{module}:Half", "TimeAwareObservation"]})
    assert envs.factory.part_modules(wrapped) == (module,)


def test_entry_points_stand_beside_grafts_own(installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that Graft has stays Graft's, and one that cannot be loaded is left out; both are said."""
    methods = fresh(METHODS, monkeypatch)
    with pytest.warns(UserWarning, match=r"An entry point of graft\.methods is not used: Graft has a 'frozen'"):
        assert {"plain", "broken"} < set(methods)
    assert methods["frozen"].__name__ == "Frozen"
    with pytest.raises(
        GraftError, match=r"'broken' \(graft\.methods\) of the distribution own-parts cannot be used\. "
    ):
        methods["broken"]
    with pytest.warns(UserWarning, match="'broken'.*has no 'Gone'|Unknown method of"):
        assert "broken" not in dict(methods.items())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "plain" in dict(methods.items())
    assert label(parse_method({"plain": {"share": 0.1}})) == "plain(share=0.1)"
    assert methods.modules("plain") == (installed,)
    _check("method", "plain", "graft.transfer.methods", "graft.methods")
    with pytest.raises(GraftError, match=r"Did you mean 'plain'\?"):
        _check("method", "plian", "graft.transfer.methods", "graft.methods")


def test_encoders_views_and_wrappers_of_entry_points(installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoders, views = fresh(ENCODERS, monkeypatch), fresh(VIEWS, monkeypatch)
    assert encoders["small"].__name__ == "Small"
    with pytest.warns(UserWarning, match=r"'number' \(graft\.encoders\).*is no encoder"):
        assert encoders_for(vector("ab")) == ["mlp", "small"], "the default is Graft's, although the other wants to be"
    assert views["same"].meaning == "planes, again"
    halved = envs.make(Task("CartPole-v1", {"wrappers": ["Half"]}), 1, 0)
    halved.reset()
    assert halved.step([0])[1] == [0.5]
    halved.close()
    with pytest.raises(GraftError, match=r"Unknown wrapper of CartPole-v1 'Halb'.*Did you mean 'Half'\?"):
        envs.make(Task("CartPole-v1", {"wrappers": ["Halb"]}), 1, 0)
