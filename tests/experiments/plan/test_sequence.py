"""The stage graph of a sequence: chains per method and seed, what they share, and what cannot be a sequence."""

from __future__ import annotations

import pytest
from support.tiny_experiment import write_config

from graft.envs.core.task import Task
from graft.envs.factory import schemas
from graft.errors import GraftError
from graft.experiments.config.experiment import load_config
from graft.experiments.plan.sequence import expand_sequence
from graft.transfer.method import TaskPosition, method_name

TASKS = ["Graft/Gather-v0", "Graft/Hunt-v0", "Graft/Dodge-v0"]


def graph_of(tmp_path, **changes):
    changes = {"sources": None, "targets": None, "sequence": TASKS, "methods": ["finetune"], "seeds": 1, **changes}
    return expand_sequence(load_config(str(write_config(tmp_path, **changes))))


def life_of(graph, name):
    return next(life for life in graph.continual if method_name(life.method) == name)


def test_each_task_is_trained_and_consolidated_before_the_next(tmp_path):
    graph = graph_of(tmp_path)
    life = life_of(graph, "finetune")
    chain = [graph.stages[i] for pair in zip(life.trained[0], life.consolidated[0], strict=True) for i in pair]
    assert [s.kind for s in chain] == ["pretrain", "consolidate"] + ["transfer", "consolidate"] * 2
    assert [s.source for s in chain] == [None, *[s.id for s in chain[:-1]]]
    assert [str(s.task) for s in chain[::2]] == ["Gather", "Hunt", "Dodge"]
    assert [s.task for s in chain[::2]] == [s.task for s in chain[1::2]]
    assert [s.position for s in chain] == [None, *[TaskPosition(k, 3) for k in (0, 1, 1, 2, 2)]]
    assert [s.budget for s in chain] == [256, 0] * 3, "finetune sees no states again"
    order = list(graph.stages)
    assert sorted(chain, key=lambda s: order.index(s.id)) == chain, "sources come before what needs them"


def test_recall_is_not_for_sequences(tmp_path):
    with pytest.raises(GraftError, match="recall is for targets"):
        graph_of(tmp_path, sequence=[TASKS[0], {"id": TASKS[1], "recall": {"id": TASKS[0]}}])


def test_every_seed_has_a_chain_of_its_own(tmp_path):
    life = life_of(graph_of(tmp_path, seeds=2), "finetune")
    first, second = ({*life.trained[s], *life.consolidated[s]} for s in (0, 1))
    assert life.seeds == (0, 1)
    assert len(first) == len(second) == 6
    assert not first & second


def test_budgets_and_states_of_a_consolidation_are_the_methods(tmp_path):
    graph = graph_of(tmp_path, methods=[{"packnet": {"retrain": 128}}, "ewc"], transfer={"steps": 512})
    for name in ("packnet", "ewc"):
        life = life_of(graph, name)
        assert [graph.stages[i].budget for i in life.trained[0]] == [256, 512, 512]
        expected = life.method.states + life.method.retraining
        assert expected > 0
        assert [graph.stages[i].budget for i in life.consolidated[0]] == [expected] * 3


def test_the_first_task_is_learned_once_unless_a_method_watches(tmp_path):
    graph = graph_of(tmp_path, methods=["finetune", "ewc", "si"])
    first = {name: life_of(graph, name).trained[0][0] for name in ("scratch", "finetune", "ewc", "si")}
    assert first["scratch"] == first["finetune"] == first["ewc"]
    assert graph.stages[first["ewc"]].method is None
    assert first["si"] != first["ewc"]
    assert method_name(graph.stages[first["si"]].method) == "si"
    assert graph.stages[first["si"]].random_seeds() == graph.stages[first["ewc"]].random_seeds()
    later = [life_of(graph, name).trained[0][1] for name in ("scratch", "finetune", "ewc", "si")]
    assert len(set(later)) == 4


def test_controls_have_a_network_for_each_task(tmp_path):
    graph = graph_of(tmp_path)
    for name in ("scratch", "random_frozen"):
        life = life_of(graph, name)
        assert life.consolidated == ()
        stages = [graph.stages[i] for i in life.trained[0]]
        assert [s.kind for s in stages] == ["pretrain", "transfer", "transfer"]
        assert [s.source for s in stages] == [None] * 3
    own = graph.stages[life_of(graph, "random_frozen").trained[0][0]]
    assert method_name(own.method) == "random_frozen", "only scratch's first task is the plain one"


def test_all_stages_see_the_union_of_the_observations(tmp_path):
    graph = graph_of(tmp_path)
    layouts = {stage.schemas.observation.names for stage in graph.stages.values()}
    shown = dict.fromkeys(name for game in TASKS for name in schemas(Task(game)).observation.names)
    assert layouts == {tuple(shown)}
    other = graph_of(tmp_path, sequence=TASKS[:2])
    assert not graph.stages.keys() & other.stages.keys(), "another layout is another stage"


@pytest.mark.parametrize(
    ("changes", "indices"),
    [
        ({"heads": "per_task"}, [[0], [0, 1], [0, 1, 2]]),
        ({"heads": "shared"}, [[0, 0, 0], [0, 1, 1], [0, 1, 2]]),
        ({"heads": "shared", "task_known": False}, [[0, 0, 0], [1, 1, 1], [2, 2, 2]]),
    ],
)
def test_what_is_recalled_after_each_task(tmp_path, changes, indices):
    graph = graph_of(tmp_path, **changes)
    stages = [graph.stages[i] for i in life_of(graph, "finetune").consolidated[0]]
    assert [[r.index for r in s.recall] for s in stages] == indices
    names = ["Gather", "Hunt", "Dodge"]
    assert [[str(r.task) for r in s.recall] for s in stages] == [names[: len(row)] for row in indices]


def test_shared_heads_replace_the_option(tmp_path):
    graph = graph_of(tmp_path, heads="shared", methods=["finetune", {"ewc": {"heads": "by_name"}}])
    assert [life_of(graph, name).method.heads for name in ("finetune", "ewc")] == ["shared", "shared"]
    assert not life_of(graph, "scratch").method.uses_source


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": [{"finetune": {"heads": "shared"}}]}, "set heads: shared for the whole sequence"),
        ({"heads": "shared", "methods": ["progressive"]}, "gives every task its own heads"),
        ({"task_known": False}, "task_known: false needs heads: shared"),
        ({"task_known": False, "heads": "shared", "methods": ["packnet"]}, "must know the task it is in"),
        ({"heads": "shared", "sequence": ["CartPole-v1", "Acrobot-v1"], "network": None}, "other actions than"),
        ({"sequence": ["Graft/Gather-v0", "CartPole-v1"], "network": None}, "have no union"),
        ({"sequence": ["Graft/Gather-v0"]}, "at least 2"),
    ],
)
def test_what_cannot_be_a_sequence(tmp_path, changes, message):
    with pytest.raises(GraftError, match=message):
        graph_of(tmp_path, **changes)


def test_methods_that_need_the_task_can_share_heads_when_it_is_known(tmp_path):
    graph = graph_of(tmp_path, heads="shared", methods=["packnet"])
    assert life_of(graph, "packnet").method.shares_heads
