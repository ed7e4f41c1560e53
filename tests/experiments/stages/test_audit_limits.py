"""Limits of the audit/ metrics: what is above one is said in the run, in its results, and changes nothing else."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from support.tiny_experiment import one_method

from graft.errors import GraftError
from graft.experiments.config.experiment import load_config
from graft.experiments.launchers.launcher import run_graph
from graft.experiments.launchers.local import LocalLauncher
from graft.experiments.plan.pairs import expand
from graft.experiments.report.common import audit_notes, stage_records
from graft.experiments.report.progress import Progress
from graft.experiments.report.results import StageResult
from graft.experiments.store.records import Store

LIMITS = {"spectrum": 1.0, "distance": 1e-6, "kl": 1e-9}


def test_what_is_above_its_limit_is_said_once_and_in_the_results(tmp_path):
    config = load_config(str(one_method(tmp_path, audit=LIMITS, evaluation={"every": 64, "episodes": 8})))
    graph, store, screen = expand(config), Store(tmp_path / "out"), io.StringIO()
    store.open(config)
    stages = list(graph.stages)
    with Progress(Console(file=screen, width=1000), list(graph.stages.values())) as progress:
        assert run_graph(LocalLauncher(1), graph, stages, store, progress) == {}
    transfer, *others = sorted(graph.stages.values(), key=lambda s: s.source is None)
    assert transfer.source is not None
    lines = (store.folder(transfer.id) / "metrics.jsonl").read_text().splitlines()
    logged = [line for line in map(json.loads, lines) if "audit/kl" in line]
    assert len(logged) > 2
    assert logged[0]["audit/kl"] == 0 == logged[0]["audit/distance"] == logged[0]["audit/actions"]
    last = logged[-1]
    assert 0 < last["audit/spectrum"] <= 1
    assert last["audit/distance"] == max(v for tag, v in last.items() if tag.startswith("transfer/distance/"))

    printed = screen.getvalue()
    for tag in ("audit/distance", "audit/kl"):
        value, steps = logged[1][tag], logged[1]["env_steps"]
        said = f"Warning: {transfer.label}: {tag} is {value:.3g} after {steps:,} env steps, above its limit of "
        assert printed.count(said) == 1 == printed.count(f"{transfer.label}: {tag}")
    assert "audit/spectrum is" not in printed
    records = stage_records(graph, store, {})
    (found,) = (record["audit"] for record in records if "audit" in record)
    assert found.keys() == {"audit/distance", "audit/kl"}
    largest = max(logged, key=lambda line: line["audit/kl"])
    assert found["audit/kl"] == {"limit": 1e-9, "largest": largest["audit/kl"], "env_steps": largest["env_steps"]}
    StageResult.model_validate(next(record for record in records if "audit" in record))  # as `graft report` reads it
    distance, _ = audit_notes({"stages": records})
    assert distance.startswith(f"WARNING: audit/distance went above 1e-06: {transfer.label} (")
    assert all("audit/" not in (store.folder(s.id) / "metrics.jsonl").read_text() for s in others)

    without = load_config(str(one_method(tmp_path, evaluation={"every": 64, "episodes": 8})))
    store.check(without)  # the same folder may have other limits
    assert list(expand(without).stages) == stages
    assert not any("audit" in record for record in stage_records(expand(without), store, {}))


@pytest.mark.parametrize("limits", [{"spectrum": 1.5}, {"kl": -1}, {"actions": 2}, {"distances": 1}])
def test_limits_that_no_metric_has_are_refused(tmp_path, limits):
    with pytest.raises(GraftError, match="audit"):
        load_config(str(one_method(tmp_path, audit=limits)))
