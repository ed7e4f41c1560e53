"""Configs: abbreviations, overrides, and an error in one sentence for everything that is wrong."""

from __future__ import annotations

import re

import pytest
from support.tiny_experiment import write_config

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.envs.factory import schemas
from graft.errors import GraftError
from graft.experiments.config.experiment import load_config
from graft.experiments.config.packaged import packaged_configs
from graft.experiments.plan.pairs import expand
from graft.experiments.run import kind_of
from graft.transfer.method import label


@pytest.mark.parametrize("name", packaged_configs())
def test_packaged_configs_expand(name):
    config = load_config(name)
    assert config.name == name
    try:
        graph = kind_of(config).expand(config)
    except GraftError as error:
        if "install it with" in str(error):
            pytest.skip(str(error))
        raise
    assert graph.comparisons or graph.continual


def test_abbreviations_mean_the_same_as_the_long_form(tmp_path):
    short = load_config(str(write_config(tmp_path, targets="Graft/Hunt-v0", methods="frozen", algorithm="ppo")))
    long = load_config(
        str(
            write_config(
                tmp_path,
                sources=[{"id": "Graft/Dodge-v0"}],
                targets=[{"id": "Graft/Hunt-v0", "kwargs": {}}],
                methods=[{"frozen": {}}],
                algorithm={"name": "ppo"},
            )
        )
    )
    assert expand(short).stages.keys() == expand(long).stages.keys()


def test_overrides_reach_inside_lists_and_abbreviations(tmp_path):
    path = str(write_config(tmp_path, algorithm="ppo"))
    config = load_config(
        path,
        [
            "targets.0.kwargs.slip=0.5",
            "methods.0.frozen.depth=1",
            "algorithm.gamma=0.9",
            "seeds=[4, 7]",
            "transfer.steps=1e3",
        ],
    )
    assert config.targets[0].kwargs == {"slip": 0.5}
    assert label(config.method_list()[2]) == "frozen(depth=1)"
    assert config.algorithm_and_name()[1].gamma == 0.9
    assert config.seeds == [4, 7]
    assert config.transfer.steps == 1000


def test_a_target_takes_the_names_of_its_source(tmp_path):
    names = {"observation": {"is_solid": "hedge"}, "attributes": {"is_pickup": "shiny"}}
    source = {"id": "Graft/Gather-v0", "schema": names}
    target = {"id": "Graft/Gather-v0", "kwargs": {"slip": 0.5}, "schema": {"as": "source"}}
    config = load_config(str(write_config(tmp_path, sources=[source], targets=[target])))
    assert schemas(config.targets[0].task) == schemas(config.sources[0].task)
    assert "hedge" in schemas(config.targets[0].task).observation.names
    assert all(stage.recall for stage in expand(config).stages.values() if stage.kind == "transfer" and stage.source)
    network = PolicyNetwork(schemas(config.sources[0].task), NetworkConfig(), 0)
    Checkpoint.of(network, config.sources[0].task).save(tmp_path / "c")
    trained = load_config(str(write_config(tmp_path, sources=[{"checkpoint": str(tmp_path / "c")}], targets=[target])))
    assert schemas(trained.targets[0].task) == schemas(config.targets[0].task)
    with pytest.raises(GraftError, match=r"as: source of Graft/Gather-v0 needs one source, and there are 2"):
        load_config(str(write_config(tmp_path, sources=[source, "Graft/Dodge-v0"], targets=[target])))
    with pytest.raises(GraftError, match=r"as: source needs the source's task, and .*manifest.json cannot be read"):
        load_config(str(write_config(tmp_path, sources=[{"checkpoint": str(tmp_path)}], targets=[target])))


def test_controls_come_first_and_once(tmp_path):
    config = load_config(str(write_config(tmp_path, methods=["finetune", "scratch", "finetune"])))
    assert [label(m) for m in config.method_list()] == ["scratch", "random_frozen", "finetune"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("methods=[frozn]", "Unknown method 'frozn'; allowed: .*Did you mean 'frozen'"),
        ("methods=[{frozen: {dept: 1}}]", "option of method frozen 'dept'.*Did you mean 'depth'"),
        ("methods=[{frozen: {depth: 0}}]", "method frozen: depth=0 is not allowed"),
        (
            "methods=[{finetune: {heads: same}}]",
            "finetune: heads='same' is not allowed.*'fresh', 'by_name' or 'shared'",
        ),
        ("methods=[{frozen: {}, finetune: {}}]", "one name with its options"),
        ("transfer.stepz=1", "Unknown key in tiny.yaml under 'transfer' 'stepz'; allowed: steps"),
        ("seedz=1", "Unknown key in tiny.yaml 'seedz'.*Did you mean 'seeds'"),
        ("seeds=0", "seeds=0 is not allowed: give a number of seeds from 1 to 1000, or a list"),
        ("seeds=true", "seeds=True is not allowed"),
        ("seeds=[-1]", "seeds.0=-1 is not allowed"),
        ("seeds=[]", "seeds=.* is not allowed"),
        ("targets=[{id: x, kwarg: {}}]", "Unknown key in tiny.yaml under 'targets.0' 'kwarg'.*Did you mean 'kwargs'"),
        ("targets.0.kwargs.slip=2020-01-01", "targets.0.kwargs.slip=.* is not allowed"),
        ("targets.0.kwargs.slip=2020-13-45", "not a YAML value"),
        ("targets.0.bounds=[1, 1]", "the random policy's mean return, then the expert's, which is higher"),
        ("targets.0.bounds=[.nan, 1]", "is not allowed"),
        ("targets=[Graft/Hunt-v0, Graft/Hunt-v0]", "Target Hunt is listed more than once"),
        ("threshold=.nan", "threshold=nan is not allowed"),
        ("methods=[{frozen: 3}]", "one name with its options, got {'frozen': 3}"),
        ("methods=[3]", "one name with its options, got 3"),
        ("methods=[{random_frozen: {x: 1}}]", "it takes none"),
        ("algorithm.learning_rate=.inf", "learning_rate=inf is not allowed"),
        ("algorithm={num_envs: 1, num_steps: 1}", "rollouts of at least 2 states"),
        ("sources=[{checkpoint: x, kwargs: {slip: 1}}]", "either a task .* or a checkpoint"),
        ("transfer.steps=many", "transfer.steps='many' is not allowed"),
        ("algorithm.name=pop", "Unknown algorithm 'pop'.*Did you mean 'ppo'"),
        ("algorithm.gama=1", "option of algorithm ppo 'gama'.*Did you mean 'gamma'"),
        ("algorithm.gamma=2", "algorithm ppo: gamma=2 is not allowed"),
        ("evaluation.evry=2", "option of evaluation 'evry'.*Did you mean 'every'"),
        ("sources=[{}]", "sources.0={} is not allowed: a source is either a task"),
        ("sources=[{checkpoint: nowhere}]", "no checkpoint at nowhere"),
        ("targets.7.id=x", r"'7' is not an index of a list of 1"),
        ("seeds.x=1", "nothing called 'x' inside 2"),
        ("name=a/b", "name='a/b' is not allowed"),
        ("name=..", "name='..' is not allowed"),
        ("seeds=[", "not a YAML value"),
    ],
)
def test_bad_values_are_explained(tmp_path, override, words):
    with pytest.raises(GraftError, match=words) as caught:
        expand(load_config(str(write_config(tmp_path)), [override]))
    assert "\n" not in str(caught.value)


def test_bad_files_are_explained(tmp_path):
    with pytest.raises(GraftError, match=r"'quickstrt'; allowed: .*Did you mean 'quickstart'"):
        load_config("quickstrt")
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [")
    with pytest.raises(GraftError, match=re.escape("broken.yaml is not valid YAML")):
        load_config(str(broken))
    broken.write_text("- a\n- b\n")
    with pytest.raises(GraftError, match="must hold keys and values"):
        load_config(str(broken))
    broken.write_text("name: x\n")
    with pytest.raises(GraftError, match="methods is missing"):
        load_config(str(broken))


@pytest.mark.parametrize("source", ["foundation", {"id": "foundation", "name": "mine", "methods": ["frozen"]}])
def test_a_checkpoint_that_comes_with_graft_is_a_source_by_its_name(tmp_path, source):
    target = {"id": "CartPole-v1", "schema": {"as": "source"}}
    path = write_config(tmp_path, sources=source, targets=target, network=None)
    (read,) = load_config(str(path)).sources
    named = "foundation" if source == "foundation" else "mine"
    assert (read.id, str(read.checkpoint), read.name) == (None, "foundation", named)


def test_a_misspelt_name_of_such_a_checkpoint_gets_the_right_one(tmp_path):
    with pytest.raises(GraftError, match=r"no checkpoint 'foundatoin'.* did you mean 'foundation'"):
        load_config(str(write_config(tmp_path, sources="foundatoin", network=None)))
