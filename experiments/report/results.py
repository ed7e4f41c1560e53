"""The form of ``results.json``: models whose JSON schema ``graft run --schema results`` prints, and its version."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

VERSION = 2
"""1 had no ``version``, ``zero_shot``, ``kept_of`` and ``not_kept``, and ratios and verdicts from one seed."""

Number = float | None
Verdict = Literal["positive", "negative", "unclear", "baseline"] | None


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Interval(_Model):
    """An interquartile mean over seeds with its 95 % interval; null for an end that is infinite or not known."""

    iqm: Number
    low: Number
    high: Number


class Scale(_Model):
    """Mean returns of a random policy and of an expert (null: no scale), and how they were obtained."""

    random: float
    expert: Number
    how: str


class StageCost(_Model):
    """What a stage took, which no result depends on. null: not known.

    Seconds of processors are of all that it started; operations are those of a counted update and forward pass, times
    their numbers; ``inference_ms`` is a forward pass of one observation.
    """

    wall_seconds: float
    core_seconds: float
    gpu_seconds: float
    peak_bytes: int
    updates: int | None
    flops: int | None
    flops_per_update: int | None
    flops_per_inference: int | None
    inference_ms: float


class Cost(_Model):
    """What several stages took together; energy and CO2 are estimates by the stated factors."""

    updates: Number
    wall_seconds: float
    core_seconds: float
    gpu_seconds: float
    flops: Number
    peak_bytes: int
    watt_hours: float
    grams_co2e: float


class RowCost(_Model):
    """Means over seeds: of what came before a transfer (null: nothing, or not known), and of the seed's own stages."""

    before: Cost | None
    own: Cost
    inference_ms: float


class Factors(_Model):
    """Of the estimates."""

    watts_per_core: float
    watts_per_gpu: float
    grams_per_kwh: float


class ExperimentCost(_Model):
    """Of all stages that say what they took."""

    factors: Factors
    total: Cost | None


class Divergence(_Model):
    """A try of a training that diverged; ``file``: the minibatch, in the stage's folder."""

    env_steps: int
    learning_rate: float
    file: str


class Above(_Model):
    """An ``audit/`` metric that went above its limit in a training: its largest value, and when that was."""

    limit: float
    largest: float
    env_steps: int


class StageResult(_Model):
    """What became of a stage."""

    id: str
    kind: Literal["pretrain", "transfer", "consolidate"]
    label: str
    status: Literal["waiting", "running", "stopped", "failed", "diverged", "done"]
    env_steps: int
    seconds: float
    error: str | None
    return_means: dict[str, float] = {}
    faults: dict[str, int] = {}
    clipped: dict[str, Any] = {}
    starts: dict[str, Any] = {}
    race: dict[str, Any] = {}
    diverged: list[Divergence] = []
    audit: dict[str, Above] = {}
    resumed_with_fresh_episodes: dict[str, Any] = {}
    cost: StageCost | None = None


class Heads(_Model):
    """Heads that a method could start from: their score before training, and in how many seeds they were taken."""

    start: float
    seeds: int


class Race(_Model):
    """What raced in the stages of `auto`; by seed, what was kept, the env steps of training of others, and those of the
    episodes by which candidates were compared.
    """

    candidates: list[str]
    kept: list[str]
    env_steps_of_others: list[int]
    env_steps_of_episodes: list[int]


class TransferRow(_Model):
    """One method from one source to one target."""

    source: str | None
    target: str
    method: str
    seeds: int
    missing_seeds: int
    diverged_seeds: int = 0
    evaluations: int
    scored: bool
    estimated: bool
    transfer_ratio: Interval | None
    auc: Interval | None
    areas: list[float]
    bimodal: bool
    zero_shot: Interval | None
    jumpstart: float
    final: float
    final_interval: Interval | None
    finals: list[float]
    domain_gap: Interval | None = None
    asymptotic_gain: float
    steps_to_threshold: Number
    transfer_efficiency: Number = None
    data_efficiency: Number
    forward_transfer: Number
    kept: Interval | None
    kept_of: Interval | None
    not_kept: str | None
    heads: dict[str, Heads]
    better_heads: str | None
    race: Race | None = None
    gain: Interval | None
    probability_of_improvement: Number
    verdict: Verdict
    verdict_alone: Verdict
    starts: Verdict
    p_value: Number
    p_corrected: Number
    env_steps: dict[str, int | None]
    cost: RowCost | None = None
    stages: list[str] = []


class RecoveryRow(_Model):
    """One method on a target that stands in for reality (`sim_to_sim`)."""

    source: str | None
    target: str
    method: str
    seeds: int
    scored: bool
    simulator: Interval | None
    zero_shot: Interval | None
    gap: Interval | None
    recovery_steps: Number
    final: Interval | None
    worst_at_first: Interval | None
    worst_at_last: Interval | None
    forgotten: Interval | None


class AgainstReference(_Model):
    """Performance minus the reference's, and forgetting divided by the reference's."""

    performance: Interval | None
    forgetting: Interval | None


class SequenceRow(_Model):
    """One method on a sequence of tasks."""

    method: str
    seeds: int
    missing_seeds: int
    diverged_seeds: int = 0
    network_per_task: bool
    reference: bool
    average_performance: Interval | None
    bimodal: bool
    forgetting: Interval | None
    backward_transfer: Interval | None
    learned: Interval | None
    forward_transfer: Interval | None
    intransigence: Interval | None
    against_reference: AgainstReference | None
    parameters: int
    bytes_beside: int
    env_steps: dict[str, int]
    cost: RowCost | None = None
    matrix: list[list[Number]]
    matrices: list[list[list[Number]]]
    lifelong: dict[str, list[Number]]
    stages: list[list[str]] = []


class TransferResults(_Model):
    """``results.json`` of a transfer experiment."""

    version: Literal[2]
    name: str
    threshold: float
    bounds: dict[str, Scale] = Field(description="of each target")
    rows: list[TransferRow]
    not_kept: dict[str, str] = Field(description="source -> why its task can't be made on this machine")
    stages: list[StageResult]
    cost: ExperimentCost | None = None
    recovery: list[RecoveryRow] | None = None


class SequenceResults(_Model):
    """``results.json`` of a sequence."""

    version: Literal[2]
    name: str
    sequence: list[str]
    heads: Literal["per_task", "shared"]
    task_known: bool
    bounds: list[Scale] = Field(description="of each task")
    rows: list[SequenceRow]
    stages: list[StageResult]
    cost: ExperimentCost | None = None


RESULTS: TypeAdapter[TransferResults | SequenceResults] = TypeAdapter(TransferResults | SequenceResults)
