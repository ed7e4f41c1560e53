"""Parts of one's own: the templates in the docs keep their contracts and train; ``graft check`` says what is broken."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.errors import GraftError
from graft.experiments.check import main
from graft.experiments.config.describe import describe
from graft.experiments.config.experiment import load_config
from graft.experiments.contracts.part import check
from graft.experiments.plan.pairs import expand
from graft.experiments.plan.stage import Graph
from graft.experiments.stages.run_stage import run_stage
from graft.experiments.store.records import Store

PAGE = (Path(__file__).parents[2] / "docs" / "own-parts.md").read_text(encoding="utf-8")
TEXTS = re.findall(r"^```py\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
TEMPLATES = {text.removeprefix('"""').partition(".py: ")[0]: text for text in TEXTS}
"""Module -> text."""
PARTS = sorted(set(re.findall(r"my_\w+:\w+", PAGE)))
QUICK = {
    "seeds": 1,
    "pretrain": {"steps": 128},
    "transfer": {"steps": 128},
    "evaluation": {"every": 1000, "episodes": 4, "num_envs": 4},
    "recall": 4,
}
SMALL = {"num_envs": 8, "num_steps": 16, "minibatch": 64, "epochs": 1}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the templates, which is the working directory."""
    for module, text in TEMPLATES.items():
        (tmp_path / f"{module}.py").write_text(text, encoding="utf-8")
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def written(folder: Path) -> str:
    """The config of the page, of a short training, as a file."""
    (text,) = re.findall(r"^```yml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    keys = yaml.safe_load(text)
    keys["algorithm"] |= SMALL
    file = folder / "own_parts.yaml"
    file.write_text(yaml.safe_dump({**keys, **QUICK}), encoding="utf-8")
    return str(file)


def expanded(folder: Path) -> Graph:
    return expand(load_config(written(folder)))


def test_there_is_a_template_of_each_kind() -> None:
    assert PARTS == [
        "my_algorithm:DecayedPPO",
        "my_encoder:ResidualMLP",
        "my_method:Decay",
        "my_view:CENTRES",
        "my_wrapper:Hidden",
    ]
    assert {part.partition(":")[0] for part in PARTS} == set(TEMPLATES)
    assert all(len(text.splitlines()) <= 32 for text in TEMPLATES.values())


@pytest.mark.parametrize(
    "part", [pytest.param(p, marks=pytest.mark.slow if p.startswith(("my_a", "my_m")) else ()) for p in PARTS]
)
def test_a_template_keeps_its_contracts(own: Path, part: str) -> None:
    said: list[str] = []
    assert check(part, {}, "CartPole-v1", said.append) == 0, "\n".join(said)
    assert len(said) >= 5
    assert said[-1] == "all of its contracts are kept"


def test_an_experiment_with_the_templates_trains(own: Path) -> None:
    """The checkpoint says which files took part; its network is refused where the encoder is missing."""
    graph, store = expanded(own), Store(own / "out")
    for stage in graph.stages.values():
        run_stage(stage, store, lambda *_: None)
        assert store.record(stage.id)["status"] == "done"
    last = next(c for c in graph.comparisons if c.source is not None and "decay" in str(c.method).lower())
    folder = store.folder(last.stages[0]) / "checkpoint"
    checkpoint = Checkpoint.load(folder)
    parts = checkpoint.record["stage"]["own_parts"]
    assert sorted(parts) == ["my_algorithm", "my_encoder", "my_method", "my_wrapper"]
    assert "start.blocks.1.weight" in checkpoint.parts["method"]
    (own / "my_encoder.py").unlink()
    del sys.modules["my_encoder"]
    loaded = Checkpoint.load(folder)
    with pytest.raises(GraftError, match=r"^Module 'my_encoder' of encoder .* cannot be imported"):
        loaded.build()


def test_options_of_ones_own_are_described(own: Path) -> None:
    assert "    share: float = 0.1" in describe("my_method:Decay").splitlines()
    assert "    weight_decay: float = 0.0" in describe("my_algorithm:DecayedPPO").splitlines()
    with pytest.raises(GraftError, match="'my_wrapper:Hidden' is no method and no algorithm: it must be a subclass of"):
        describe("my_wrapper:Hidden")


def test_a_changed_file_starts_the_stages_that_use_it_over(own: Path) -> None:
    before = {stage.label: stage.id for stage in expanded(own).stages.values()}
    (own / "my_method.py").write_text(TEMPLATES["my_method"] + "\n# changed\n", encoding="utf-8")
    after = {stage.label: stage.id for stage in expanded(own).stages.values()}
    assert [label for label in before if before[label] != after[label]] == [
        label for label in before if label.startswith("my_method:Decay(")
    ]
    (own / "my_wrapper.py").write_text(TEMPLATES["my_wrapper"] + "\n# changed\n", encoding="utf-8")
    again = {stage.label: stage.id for stage in expanded(own).stages.values()}
    assert [label.split(" ")[0] for label in after if after[label] == again[label]] == ["pretrain"]


BROKEN = """
from dataclasses import dataclass
import torch
from graft.transfer.method import FromSource, Step
from my_encoder import ResidualMLP

@dataclass(frozen=True, kw_only=True)
class Forgetful(FromSource):
    def gradients(self, grads, network, state, batch):
        noise = {name: torch.randn_like(g) for name, g in grads.items()}
        return Step({name: g + noise[name] for name, g in grads.items()}, state)

class Raises(ResidualMLP):
    def forward(self, obs):
        raise RuntimeError("sizes differ")
"""


def test_a_broken_part_is_told_in_a_sentence_and_exits_with_1(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "broken_parts.py").write_text(BROKEN, encoding="utf-8")
    assert main(["broken_parts:Raises"]) == 1
    said = capsys.readouterr().out
    assert "RuntimeError in broken_parts.py, line 15: sizes differ." in said
    assert "failed  Raw observations become features (N, out_dim) of type float32 (vector)" in said
    assert main(["broken_parts:Forgetful"]) == 1
    said = capsys.readouterr().out
    assert re.search(
        r"failed  The same call gives the same twice.*\n        .* should be equal to the bit, and differs\.", said
    )
    sys.modules.pop("broken_parts")


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("no_such_parts:Decay", "Module 'no_such_parts' of part 'no_such_parts:Decay' cannot be imported"),
        ("my_method:Decai", r"Unknown part of my_method 'Decai'; allowed: [A-Z][^_]*\. Did you mean 'Decay'\?"),
        (
            "my_encoder:Residual",
            r"'my_encoder:Residual' is no part that Graft knows\..* method: it must be a subclass of ",
        ),
        ("my_method", "The part 'my_method' has no module or no name; give module:Name"),
    ],
)
def test_what_cannot_be_found_is_one_sentence(
    own: Path, part: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([part]) == 2
    said = capsys.readouterr().err
    assert re.search(sentence, said)
    assert said.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--launcher", "ray", "--address", "local"], ["rllib"]], ids=["launcher", "runners"])
@pytest.mark.timeout(1200)
def test_processes_of_ray_find_the_parts(own: Path, words: list[str]) -> None:
    """Those of the launcher, which get stages, and env runners of RLlib, which build the network and the tasks."""
    config = written(own)
    if words == ["rllib"]:
        words = ["backend=rllib", "resources.num_env_runners=1", "algorithm={name: ppo, num_envs: 8, num_steps: 16}"]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "graft", "run", config, "--out", "out", "--jobs", "1", *words]
    done = subprocess.run(command, cwd=own, env=environ, capture_output=True, encoding="utf-8", timeout=1000)
    assert done.returncode == 0, done.stdout + done.stderr


OTHERS = """
import gymnasium as gym
from graft.transfer.method import FromSource
from my_encoder import ResidualMLP
from my_view import View, schema

class Fails(FromSource):
    def consolidate(self, network, state, rollouts, where):
        return 1 / 0

class Nowhere(ResidualMLP):
    kinds = ("sounds",)

class Drawn(gym.RewardWrapper):
    def reward(self, reward):
        import random
        return reward + random.random()

LARGE = View("outside of its bounds", schema, lambda *_: lambda planes, out: out.fill(2.0))
"""


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("Fails", "ZeroDivisionError in other_parts.py, line 9: division by zero."),
        ("Nowhere", "kinds is ('sounds',); it is a tuple of some of planes, pixels, vector, parts."),
        ("Drawn", "the same seed plays differently; draw from self.np_random, not globally."),
        ("LARGE", "player.row, player.column, wall.row, wall.column, hazard.row leaves the bounds of the schema."),
    ],
)
def test_each_kind_can_break_its_contracts(own: Path, part: str, sentence: str) -> None:
    (own / "other_parts.py").write_text(OTHERS, encoding="utf-8")
    sys.modules.pop("other_parts", None)
    said: list[str] = []
    assert check(f"other_parts:{part}", {}, "CartPole-v1", said.append) >= 1
    assert sentence in "\n".join(said)
    sys.modules.pop("other_parts")
