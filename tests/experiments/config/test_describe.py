"""The help on methods and algorithms says what their options mean."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from graft.errors import GraftError
from graft.experiments import run
from graft.experiments.config.backends import backend
from graft.experiments.config.describe import describe
from graft.transfer.method import METHODS

RLLIB = {f"rllib/{name}": kind for name, kind in backend("rllib").ALGORITHMS.items()}
KINDS = dict(METHODS.items()) | dict(backend("sb3").ALGORITHMS.items()) | RLLIB


@pytest.mark.parametrize("name", KINDS)
def test_every_option_is_named_with_its_default_and_explained(name):
    text = describe(name)
    explained, _, listed = text.partition("Options and defaults:")
    for option in fields(KINDS[name]):
        assert f"    {option.name}: " in listed
        assert option.name in explained + listed.partition("As in")[2], f"nothing says what {option.name} means"


def test_the_command(capsys):
    assert run.main(["--describe", "packnet"]) == 0
    assert "retrain: int = 20000" in capsys.readouterr().out
    with pytest.raises(GraftError, match=r"Did you mean 'packnet'"):
        describe("pacnet")


def test_the_activation_of_an_algorithms_networks():
    assert "network: {activation: relu}" in describe("dqn")
    assert "network: {activation: own}" in describe("ppo")
    assert "activation" not in describe("finetune")


def test_algorithms_of_both_backends():
    assert describe("appo") == describe("rllib/appo").replace("rllib/appo", "appo", 1)
    assert describe("ppo").startswith("ppo\n")
    assert describe("sb3/ppo").splitlines()[1:] == describe("ppo").splitlines()[1:]
    with pytest.raises(GraftError, match="Did you mean 'rllib/appo'"):
        describe("rllib/apo")


@pytest.mark.slow
def test_ray_is_imported_for_its_algorithms_alone():
    program = "import sys; from graft.experiments.config import describe\n"
    program += "describe.describe('ppo'); print('ray' in sys.modules)"
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    found = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
