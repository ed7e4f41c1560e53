"""The command ``graft advise``: what it refuses before a race, and what it says and writes after one."""

from __future__ import annotations

import json

import pytest
import yaml

from graft.experiments.advise import main
from graft.experiments.search.advice import _sentences

HUNT = ["Graft/Hunt-v0", "evaluation={episodes: 8, num_envs: 8}"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "nan"], "--budget nan is not allowed"),
        (["--budget", "-5"], "--budget -5.0 is not allowed"),
        (["--json", "no/such/x.json"], "there is no folder no/such"),
        (["methods=[scratch]"], "use --methods"),
        (["seeds=[0,1]"], "use --seed"),
        (["sources.0=foundation"], "use --from"),
        (["--steps", "20000", "--budget", "20001"], "give at most 20,000"),
        (["evaluation.episodes=1"], "needs 2 or more"),
    ],
)
def test_what_cannot_race_is_refused_before_it(capsys, arguments, message):
    assert main([*HUNT, *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("steps", [0, 4096])
def test_what_was_not_trained_is_said_not_to_be(steps):
    gain = {"mean": 3.0, "low": 2.0, "high": 4.0, "p": 1e-4, "score": None}
    counts = {"env_steps": steps, "env_steps_of_each": steps // 2, "episodes": 8}
    costs = {"target_steps": 20_000, "budget": steps, "env_steps_of_episodes": 99}
    of = {"pick": "frozen", "why": "clearly better than scratch", "best_of_others": "frozen", "gain": gain}
    said = " ".join(_sentences({**of, **counts, **costs}))
    assert ("Nothing was trained" in said) == (steps == 0)
    assert ("neither trained on the target: +3.00 return" in said) == (steps == 0)
    assert ("each after 2,048 env steps of training" in said) == ("one training each" in said) == (steps > 0)


@pytest.mark.slow
def test_a_look_without_budget_says_what_it_took(capsys, tmp_path):
    methods = "[{finetune: {heads: by_name}}, {frozen: {depth: 9}}]"
    assert main([*HUNT, "--budget", "0", "--methods", methods, "--json", str(tmp_path / "x.json")]) == 0
    said, data = " ".join(capsys.readouterr().out.split()), json.loads((tmp_path / "x.json").read_text())
    assert "Note: frozen(depth=9) is left out" in said
    assert "Cost: 0 env steps of training of a budget of 0, 0% of the target's; episodes that compared took" in said
    assert "Nothing was trained" in said
    assert data["env_steps"] == 0
    assert data["episodes"] == 8
    assert 4 * 8 <= data["env_steps_of_episodes"] <= 4 * 8 * 200  # two candidates, and once more for the gain


@pytest.mark.slow
def test_a_race_prints_lines_to_paste_and_a_gain_of_fresh_levels(tmp_path):
    file = tmp_path / "x.json"
    assert main([*HUNT, "--steps", "20000", "--budget", "8200", "--json", str(file)]) == 0
    data = json.loads(file.read_text())
    assert set(data["spent"].values()) == {2048}
    assert data["env_steps_of_each"] == 2048
    means = data["rounds"][0]["means"]
    assert data["gain"]["mean"] != means[data["best_of_others"]] - means["scratch"]
    assert set(yaml.safe_load(data["config"])) == {"methods", "sources"} if data["pick"] != "scratch" else {"methods"}
