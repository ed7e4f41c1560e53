"""What stages took together, and the estimates that follow."""

from __future__ import annotations

import pytest

from graft.experiments.config.experiment import CostFactors
from graft.experiments.report import costs
from graft.transfer.metrics import break_even, transfer_efficiency

STAGE = {
    "updates": 6,
    "wall_seconds": 9.0,
    "core_seconds": 3600.0,
    "gpu_seconds": 1800.0,
    "peak_bytes": 5,
    "flops": 4e9,
    "flops_per_update": 1,
    "flops_per_inference": 1,
    "inference_ms": 0.5,
}


def test_energy_is_seconds_times_watts_and_carbon_is_energy_times_grams():
    factors = CostFactors(watts_per_core=10, watts_per_gpu=300, grams_per_kwh=500)
    found = costs.together([STAGE, {**STAGE, "peak_bytes": 9}], factors, seeds=2)
    assert found["watt_hours"] == pytest.approx(10 + 150)
    assert found["grams_co2e"] == pytest.approx(0.16 * 500)
    assert (found["updates"], found["flops"], found["peak_bytes"]) == (6, 4e9, 9)


def test_what_a_stage_does_not_know_is_no_number():
    assert costs.together([STAGE, None], CostFactors()) is None
    assert costs.together([STAGE, {**STAGE, "flops": None}], CostFactors())["flops"] is None
    stages = [{"kind": "pretrain", "env_steps": 7, "seconds": 60.0}]
    assert costs.sentence({"stages": stages}).endswith("1.0 minutes of training.")


def test_the_sentence_is_one_short_line():
    stages = [{"kind": "transfer", "env_steps": 9, "seconds": 60.0, "cost": STAGE}]
    data = {"stages": stages, "cost": costs.of_experiment(stages, CostFactors())}
    assert costs.sentence(data) == (
        "Cost: 9 env steps of transfer, 6 updates, 4 GFLOP, 60.0 minutes of one core, up to 5 B; by "
        "estimate 112 Wh, 53 g CO2e."
    )
    stages.append({"kind": "transfer", "env_steps": 0, "seconds": 0.0, "status": "failed"})
    assert costs.sentence(data).endswith("53 g CO2e (of the 1 of 2 stages that have ended well).")


def test_the_first_transfer_pays_where_its_efficiency_is_above_one():
    assert transfer_efficiency(60, 100, 20) == pytest.approx(100 / 80)
    for before in (60, 100):
        assert (transfer_efficiency(before, 100, 20) > 1) is (break_even(before, 100, 20) == 1)
