"""The stage function: builds the network, trains it, and leaves a checkpoint and metrics. Every launcher calls it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from agents.backend import Batch, Grads, Hooks, TrainResult
from agents.checkpoint import Checkpoint
from agents.network import PolicyNetwork
from agents.sb3 import train
from envs.errors import GraftError
from envs.factory import schemas
from envs.task import Bounds
from experiments.graph import Stage
from experiments.store import Store, surroundings, write_json
from transfer.method import State, TransferMethod, label
from transfer.transplant import TransplantReport

Progress = Callable[[int, Mapping[str, float]], None]
"""``(env_steps, {tag: value})``, for whoever watches."""


class Ledger:
    """Writes metrics to ``metrics.jsonl``, the source of truth, and to TensorBoard, and passes them on."""

    def __init__(self, folder: Path, scale: Bounds | None, progress: Progress) -> None:
        self._file = (folder / "metrics.jsonl").open("w")
        self._board = SummaryWriter(str(folder / "tb"), flush_secs=20)
        self._scale, self._progress = scale, progress

    def __call__(self, env_steps: int, values: Mapping[str, float]) -> None:
        """Record ``values`` (tag -> number) at ``env_steps``."""
        values = dict(values)
        if self._scale is not None and "eval/return_mean" in values:
            values["eval/return_normalized"] = self._scale.normalise(values["eval/return_mean"])
        if not values:
            return
        self._file.write(json.dumps({"env_steps": env_steps, **values}) + "\n")
        self._file.flush()
        for tag, value in values.items():
            self._board.add_scalar(tag, value, env_steps)
        self._progress(env_steps, values)

    def summarise(self, stage: Stage, final_return: float) -> None:
        """The stage's settings and outcome for TensorBoard's HPARAMS tab."""
        settings = {"task": str(stage.task), "method": label(stage.method) if stage.method else "pretrain"}
        shown: dict[str, Any] = {**settings, "seed": stage.seed, "budget": stage.budget}
        for summary in hparams(shown, {"eval/return_mean": final_return}):  # type: ignore[no-untyped-call]
            self._board._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End both files, and bring the metrics to the disk."""
        self._board.close()
        os.fsync(self._file.fileno())
        self._file.close()


class _Running:
    """A method's hooks with its state threaded through them."""

    def __init__(self, method: TransferMethod, state: State) -> None:
        self.method, self.state = method, state

    def gradients(self, grads: Grads, network: PolicyNetwork, batch: Batch) -> Grads:
        return self.method.gradients(grads, network, self.state, batch)

    def schedule(self, network: PolicyNetwork, progress: float) -> None:
        self.state = self.method.schedule(network, self.state, progress)

    def hooks(self) -> Hooks:
        """Only what the method overrides, so that plain methods cost nothing."""
        kind = type(self.method)
        return Hooks(
            gradients=self.gradients if kind.gradients is not TransferMethod.gradients else None,
            schedule=self.schedule if kind.schedule is not TransferMethod.schedule else None,
        )


def _source(stage: Stage, store: Store) -> Checkpoint | None:
    if stage.source_folder is not None:
        loaded = Checkpoint.load(stage.source_folder)
        if loaded.id != stage.source:
            raise GraftError(f"The checkpoint in {stage.source_folder} was replaced since the experiment began.")
        return loaded
    return store.checkpoint(stage.source) if stage.source is not None else None


def run_stage(stage: Stage, store: Store, progress: Progress) -> None:
    """Run a stage from its start to its record; what it needs from other stages is in ``store`` already.

    Raises:
        GraftError: the source's checkpoint is damaged, or does not fit the task.
        Unstable: training diverged.
    """
    folder = store.start(stage)
    weights_seed, training_seed = stage.random_seeds()
    source, report, running = _source(stage, store), None, None
    if stage.method is None:
        network = PolicyNetwork(schemas(stage.task), stage.network, weights_seed)
    else:
        network, report = stage.method.build(source, schemas(stage.task), stage.network, weights_seed)
        running = _Running(stage.method, stage.method.init(network, source))
    if report is not None:
        write_json(folder / "transplant.json", report.to_json())
    ledger = Ledger(folder, stage.scale, progress)
    with ledger:
        result = train(
            network,
            stage.task,
            stage.algorithm,
            stage.budget,
            training_seed,
            ledger,
            stage.evaluation,
            running.hooks() if running else None,
        )
        ledger.summarise(stage, _mean(result.final_returns))
    checkpoint = _checkpoint(stage, network, source, running, result, report).save(folder / "checkpoint")
    store.finish(stage, env_steps=result.env_steps, seconds=round(result.seconds, 2), checkpoint=checkpoint)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _checkpoint(
    stage: Stage,
    network: PolicyNetwork,
    source: Checkpoint | None,
    running: _Running | None,
    result: TrainResult,
    report: TransplantReport | None,
) -> Checkpoint:
    returns = torch.tensor(result.final_returns, dtype=torch.float64)
    half_width = 1.96 * float(returns.std()) / len(returns) ** 0.5 if len(returns) > 1 else None
    record = {
        "stage": stage.to_json(),
        "random_seeds": list(stage.random_seeds()),
        "env_steps": result.env_steps,
        "evaluation": {"episodes": len(returns), "return_mean": float(returns.mean()), "ci95": half_width},
        "transplant": None if report is None else report.summary(),
        "licence": "unspecified",
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **surroundings(),
    }
    lineage = () if source is None else (str(source.id), *source.lineage)
    parts = {"method": running.state} if running and running.state else {}
    return Checkpoint.of(network, stage.task, lineage=lineage, record=record, parts=parts)
