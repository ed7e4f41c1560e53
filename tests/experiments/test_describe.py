"""The help on methods and algorithms says what their options mean."""

from __future__ import annotations

from dataclasses import fields

import pytest

from agents.sb3 import ALGORITHMS
from envs.errors import GraftError
from experiments import run
from experiments.describe import describe
from transfer.method import METHODS

KINDS = dict(METHODS.items()) | dict(ALGORITHMS.items())


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
