"""Mistakes end an experiment before anything is trained."""

from __future__ import annotations

import pytest
from support.tiny_experiment import write_config
from support.tiny_tasks import takes

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import build_network
from graft.envs.core.task import Task
from graft.envs.factory import schemas
from graft.errors import GraftError
from graft.experiments.config.experiment import load_config
from graft.experiments.plan.pairs import expand
from graft.experiments.plan.sequence import expand_sequence
from graft.experiments.stages.preflight import preflight, preflight_sequence
from graft.transfer.method import METHODS

GATHER = "Graft/Gather-v0"


def test_it_finds_what_does_not_fit(tmp_path):
    config = load_config(str(write_config(tmp_path, targets="CartPole-v1", network=None)))
    with pytest.raises(GraftError, match="shares nothing with the source"):
        preflight(expand(config))


def test_it_reports_what_is_carried_over(tmp_path):
    source, target = ({"id": f"Graft/{game}-v0", "kwargs": {"view": "planes"}} for game in ("Dodge", "Hunt"))
    config = load_config(str(write_config(tmp_path, sources=source, targets=target, methods=["frozen"])))
    reports = preflight(expand(config))
    assert [report is None for _, report in reports] == [True, True, False]
    stem = next(row for row in reports[2][1].rows if row.tensor == "encoder.blocks.0.0.weight")
    assert stem.status == "padded"
    assert "enemy (mean of rock)" in stem.detail


def test_a_method_that_has_nothing_to_do_is_found(tmp_path):
    config = load_config(str(write_config(tmp_path, methods=[{"chain": ["frozen", "ewc"]}])))
    with pytest.raises(GraftError, match=r"chain\(frozen, ewc\) on Dodge.*nothing to hold"):
        preflight(expand(config))


def test_every_step_of_a_sequence_is_gone_through(tmp_path):
    sequence = [GATHER, {"id": GATHER, "kwargs": {"invert": True}}, "Graft/Dodge-v0"]
    changes, shown = {"sources": None, "targets": None, "sequence": sequence}, schemas(Task(GATHER))
    good = load_config(
        str(
            write_config(
                tmp_path, methods=[n for n in METHODS if n not in ("auto", "chain") and takes(n, shown)], **changes
            )
        )
    )
    preflight_sequence(expand_sequence(good))
    for bad, message in {"frozen: {depth: 9}": "frozen", "chain: [frozen, mas]": "nothing to hold"}.items():
        config = load_config(str(tmp_path / "tiny.yaml"), [f"methods=[{{{bad}}}]"])
        with pytest.raises(GraftError, match=message):
            preflight_sequence(expand_sequence(config))


@pytest.mark.parametrize("method", ["finetune", "kickstart", "lora"])
def test_a_source_of_several_columns(tmp_path, method):
    """A new column can stand beside it; its tensors cannot be moved one by one."""
    task, config = Task(GATHER), load_config(str(write_config(tmp_path)))
    plain = Checkpoint.of(build_network(schemas(task), config.network_config, 0), task)
    network, _ = METHODS["progressive"]().build(plain, schemas(task), config.network_config, 1)
    record = {"stage": {"method": {"name": "progressive"}}}
    Checkpoint.of(network, task, record=record).save(tmp_path / "npc")
    changes = {"sources": {"checkpoint": str(tmp_path / "npc")}, "targets": GATHER, "network": None}
    reports = preflight(expand(load_config(str(write_config(tmp_path, methods=["progressive"], **changes)))))
    assert [report is None for _, report in reports] == [True, True, False]
    with pytest.raises(GraftError, match=f"{method} on Gather: The source is a progressive network"):
        preflight(expand(load_config(str(write_config(tmp_path, methods=[method], **changes)))))


def test_a_warmup_of_critics_needs_an_algorithm_with_critics(tmp_path):
    config = load_config(str(write_config(tmp_path, methods=[{"finetune": {"critic_warmup": 0.1}}])))
    with pytest.raises(GraftError, match=r"critic_warmup is for algorithms with critics.*sac"):
        preflight(expand(config))


def test_a_candidate_of_a_race_is_checked_though_another_comes_first(tmp_path):
    race = {"auto": {"candidates": ["finetune", {"finetune": {"critic_warmup": 0.1}}]}}
    config = load_config(str(write_config(tmp_path, methods=[race])))
    with pytest.raises(GraftError, match=r"critic_warmup=0.1\) on .*critic_warmup is for algorithms with critics"):
        preflight(expand(config))
