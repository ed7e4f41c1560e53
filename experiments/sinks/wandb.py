"""Weights & Biases; ``WANDB_MODE=offline`` keeps its files in the folder ``wandb`` of an experiment."""

from __future__ import annotations

import os
from collections.abc import Mapping

from graft.experiments.sinks.sink import SINKS, Sink, SinkRun


@SINKS.register("wandb")
class WeightsAndBiases(Sink):
    """A run for each stage, with its id, in the project ``WANDB_PROJECT`` or one that has the folder's name."""

    package = extra = "wandb"

    def __init__(self, run: SinkRun) -> None:
        super().__init__(run)
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or run.out.absolute().name,
            id=run.id,
            name=run.name,
            dir=run.out,
            config=dict(run.settings),
            resume="allow" if run.goes_on else None,  # None: another training takes the place of the one before
            settings=wandb.Settings(silent=True, console="off"),
        )

    def scalars(self, env_steps: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=env_steps)

    def text(self, tag: str, markdown: str) -> None:
        self._run.summary[tag] = markdown

    def finish(self, metrics: Mapping[str, float]) -> None:
        self._run.summary.update(dict(metrics))

    def close(self, done: bool) -> None:
        self._run.finish(exit_code=0 if done else 1)
