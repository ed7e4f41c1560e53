"""The JSON schemas that ``graft run --schema`` prints."""

from __future__ import annotations

import json

import jsonschema
import pytest

from graft.experiments import run
from graft.experiments.config.experiment import config_schema, read_yaml
from graft.experiments.config.packaged import find_config, packaged_configs

PATCH = {"name": "patch", "sources": "Graft/Gather-v0", "targets": ["Graft/Hunt-v0"], "methods": "frozen"}


@pytest.fixture(scope="module")
def validator():
    schema = config_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_configs_are_of_the_schema(validator):
    for name in packaged_configs():
        validator.validate(read_yaml(find_config(name)))
    validator.validate(PATCH)
    validator.validate({**PATCH, "methods": [{"frozen": {"depth": 2}}], "seeds": [1, 3], "algorithm": "dqn"})


@pytest.mark.parametrize(
    "change", [{"seedz": 3}, {"seeds": 2.5}, {"transfer": {"steps": -1}}, {"targets": [3]}, {"sources": [{"name": 3}]}]
)
def test_mistakes_are_not(validator, change):
    assert not validator.is_valid(PATCH | change)


@pytest.mark.parametrize(("arguments", "key"), [([], "methods"), (["results"], "zero_shot")])
def test_they_are_printed(arguments, key, capsys):
    assert run.main(["--schema", *arguments]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert any(key in model.get("properties", {}) for model in schema["$defs"].values())
