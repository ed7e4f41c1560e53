"""Metrics of a stage: written to ``metrics.jsonl``, the source of truth, and to sinks such as TensorBoard."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Self

from graft.experiments.plan.stage import Stage
from graft.experiments.sinks.sink import SINKS, Setting, Sink, SinkRun
from graft.experiments.store.records import METRICS
from graft.transfer.method import label

MetricsCallback = Callable[[int, Mapping[str, float]], None]
"""``(env_steps, {tag: value})``"""

FINAL = ("eval/return_mean", "eval/return_normalized", "eval/return_worst_tenth")
"""Tags whose last values sinks show beside a run's settings."""

LONGEST_NAME = 150


class MetricsLog:
    """Appends metrics to the file of a stage's folder, and passes them to its sinks and to ``callback``.

    ``goes_on``: whether the stage was stopped and goes on. ``note``: gets a sentence where a sink fails, which is told
    nothing from then on, and where a metric of `Stage.audit` is above its limit for the first time.
    """

    def __init__(
        self,
        folder: Path,
        stage: Stage,
        callback: MetricsCallback,
        goes_on: bool = False,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._folder = folder
        self._file = (folder / METRICS).open("a", encoding="utf-8")
        self._stage, self._callback, self._note = stage, callback, note
        self._final: dict[str, float] = {}
        self._above: set[str] = set()
        self._sinks: dict[str, Sink] = {}
        self._run = SinkRun(folder.parents[1], stage.id, run_name(stage), settings(stage), goes_on)
        for name in stage.sinks:
            self._try(name, partial(self._open, name))

    def _open(self, name: str) -> None:
        self._sinks[name] = SINKS[name](self._run)

    def _try(self, name: str, do: Callable[[], None]) -> None:
        try:
            do()
        except Exception as error:  # of other people's programs and servers: training matters more
            self._sinks.pop(name, None)
            self._note(f"Note: {self._stage.label} goes on without {name} ({type(error).__name__}: {error}).")

    def _tell(self, do: Callable[[Sink], None]) -> None:
        for name, sink in list(self._sinks.items()):
            self._try(name, partial(do, sink))

    def __call__(self, env_steps: int, values: Mapping[str, float]) -> None:
        """Record ``values`` (tag -> number) at ``env_steps``."""
        values, scale = dict(values), self._stage.scale
        if scale is not None and "eval/return_mean" in values:
            values["eval/return_normalized"] = scale.normalise(values["eval/return_mean"])
        if not values:
            return
        self._file.write(json.dumps({"env_steps": env_steps, **values}) + "\n")
        self._file.flush()
        self._final |= {tag: values[tag] for tag in FINAL if tag in values}
        self._tell(lambda sink: sink.scalars(env_steps, values))
        self._callback(env_steps, values)
        for tag, limit in self._stage.audit.items():
            if tag not in self._above and values.get(tag, limit) > limit:
                self._above.add(tag)
                self._note(
                    f"Warning: {self._stage.label}: {tag} is {values[tag]:.3g} after {env_steps:,} env steps, above "
                    f"its limit of {limit:g}."
                )

    def report_steps(self, env_steps: int) -> None:
        """Tell the callback of env steps without a metric."""
        self._callback(env_steps, {})

    def text(self, tag: str, markdown: str) -> None:
        """Tell sinks a text about the stage, once: those of a stage that goes on have it."""
        if not self._run.goes_on:
            self._tell(lambda sink: sink.text(tag, markdown))

    def length(self) -> int:
        """Bytes of ``metrics.jsonl`` so far, all of which are on the disk."""
        self._tell(lambda sink: sink.flush())
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def truncate(self, length: int, env_steps: int) -> None:
        """Keep the first ``length`` bytes only, as training continues from the snapshot at ``env_steps``."""
        os.ftruncate(self._file.fileno(), length)
        lines = [json.loads(line) for line in (self._folder / METRICS).read_text(encoding="utf-8").splitlines()]
        limits = self._stage.audit.items()
        self._above = {tag for tag, limit in limits if any(line.get(tag, limit) > limit for line in lines)}
        last = lines[-1]["env_steps"] if lines else 0
        kept = {tag: value for line in lines if line.pop("env_steps") == last for tag, value in line.items()}
        self._tell(lambda sink: sink.rewind(last, kept))
        self.report_steps(env_steps)

    def finish(self) -> None:
        """Training has ended: its settings and final scores, for TensorBoard's HPARAMS and the like."""
        self._tell(lambda sink: sink.finish(self._final))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._tell(lambda sink: sink.close(done=kind is None))
        os.fsync(self._file.fileno())
        self._file.close()


def run_name(stage: Stage) -> str:
    """Method, task, seed and id, as a name of a folder."""
    words = re.sub(r"[^\w ().,=+-]", "_", stage.label.replace(" · ", " - "), flags=re.ASCII)
    return f"{words[:LONGEST_NAME]} - {stage.id}"


def settings(stage: Stage) -> dict[str, Setting]:
    """What tells one run from another."""
    rate = getattr(stage.algorithm, "learning_rate", None)
    return {
        "stage": stage.id,
        "kind": stage.kind,
        "task": str(stage.task),
        "method": label(stage.method) if stage.method else "pretrain",
        "source": stage.source or "",
        "seed": stage.seed,
        "budget": stage.budget,
        "backend": stage.backend,
        "algorithm": stage.algorithm_name,
        "encoder": stage.network.encoder or "default",
        **({} if rate is None else {"learning_rate": rate}),
    }
