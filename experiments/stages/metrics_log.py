"""Metrics of a stage: written to ``metrics.jsonl``, the source of truth, and to TensorBoard."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from graft.envs.core.task import Bounds
from graft.experiments.plan.stage import Stage
from graft.experiments.store.records import METRICS
from graft.transfer.method import label

MetricsCallback = Callable[[int, Mapping[str, float]], None]
"""``(env_steps, {tag: value})``"""


class MetricsLog:
    """Appends metrics to the files of a stage's folder, and passes them to ``callback``."""

    def __init__(self, folder: Path, scale: Bounds | None, callback: MetricsCallback) -> None:
        self._folder = folder
        self._file = (folder / METRICS).open("a", encoding="utf-8")
        self._board = self._new_board()
        self._scale, self._callback = scale, callback

    def _new_board(self, purge_step: int | None = None) -> SummaryWriter:
        return SummaryWriter(str(self._folder / "tb"), flush_secs=20, purge_step=purge_step)

    def __call__(self, env_steps: int, values: Mapping[str, float]) -> None:
        """Record ``values`` (tag -> number) at ``env_steps``."""
        values = dict(values)
        if self._scale is not None and "eval/return_mean" in values:
            values["eval/return_normalized"] = self._scale.normalise(values["eval/return_mean"])
        if not values:
            return
        self._file.write(json.dumps({"env_steps": env_steps, **values}) + "\n")
        self._file.flush()
        self._write_to_board(env_steps, values)
        self._callback(env_steps, values)

    def _write_to_board(self, env_steps: int, values: Mapping[str, float]) -> None:
        for tag, value in values.items():
            self._board.add_scalar(tag, value, env_steps)

    def report_steps(self, env_steps: int) -> None:
        """Tell the callback of env steps without a metric."""
        self._callback(env_steps, {})

    def length(self) -> int:
        """Bytes of ``metrics.jsonl`` so far, all of which are on the disk."""
        self._board.flush()
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def truncate(self, length: int, env_steps: int) -> None:
        """Keep the first ``length`` bytes only, as training continues from the snapshot at ``env_steps``."""
        os.ftruncate(self._file.fileno(), length)
        lines = [json.loads(line) for line in (self._folder / METRICS).read_text(encoding="utf-8").splitlines()]
        last = lines[-1]["env_steps"] if lines else 0
        self._board.close()
        # TensorBoard drops the old file's values from ``last`` on; those that are kept are written once more.
        self._board = self._new_board(purge_step=last)
        for line in lines:
            if line.pop("env_steps") == last:
                self._write_to_board(last, line)
        self.report_steps(env_steps)

    def write_hparams(self, stage: Stage, final_return: float) -> None:
        """The stage's settings and final return, for TensorBoard's HPARAMS tab."""
        method = label(stage.method) if stage.method else "pretrain"
        settings = {"task": str(stage.task), "method": method, "seed": stage.seed, "budget": stage.budget}
        for summary in hparams(settings, {"eval/return_mean": final_return}):  # type: ignore[no-untyped-call]
            self._board._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._board.close()
        os.fsync(self._file.fileno())
        self._file.close()
