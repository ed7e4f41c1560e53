"""MLflow, at ``MLFLOW_TRACKING_URI``; by default in the folder ``mlruns`` of an experiment."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from graft.experiments.sinks.sink import SINKS, Sink, SinkRun

if TYPE_CHECKING:
    from mlflow import MlflowClient

STAGE = "graft.stage"
"""Tag of a run: the stage's id."""

IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""Where they are not set: training waits while a server that is gone is tried again, by default for minutes."""


@SINKS.register("mlflow")
class MLflow(Sink):
    """A run for each stage, in an experiment that has the folder's name; a stage that goes on has one run."""

    package = extra = "mlflow"

    def __init__(self, run: SinkRun) -> None:
        super().__init__(run)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        for name, value in IMPATIENT.items():
            os.environ.setdefault(name, value)
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:  # files: of all its stores, the one that several workers can write into without a server
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = (run.out / "mlruns").absolute().as_uri()
        self._client = MlflowClient(tracking_uri=uri)
        experiment = _experiment(self._client, run.out.absolute().name)
        known = f"tags.`{STAGE}` = '{run.id}'"
        found = list(self._client.search_runs([experiment], known))  # the latest first
        if not run.goes_on:  # the stage starts over: what was killed says so
            for old in found:
                if old.info.status == "RUNNING":
                    self._client.set_terminated(old.info.run_id, "KILLED")
            found = []
        tags = {STAGE: run.id}
        self._id = (
            found[0] if found else self._client.create_run(experiment, tags=tags, run_name=run.name)
        ).info.run_id
        if found:
            self._client.update_run(self._id, status="RUNNING")
        else:
            self._client.log_batch(self._id, params=[Param(key, str(value)) for key, value in run.settings.items()])

    def scalars(self, env_steps: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self._id, [Metric(_key(tag), value, now, env_steps) for tag, value in values.items()])

    def text(self, tag: str, markdown: str) -> None:
        self._client.log_text(self._id, markdown, f"{tag}.md")

    def close(self, done: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if done else "FAILED")


def _key(tag: str) -> str:
    """A tag of letters that MLflow takes, whose files cannot be in a folder that has another tag's name."""
    group, slash, rest = re.sub(r"[^\w/:. -]", "_", tag).partition("/")
    return group + slash + rest.replace("/", ".")


def _experiment(client: MlflowClient, name: str) -> str:
    from mlflow.exceptions import MlflowException

    if (known := client.get_experiment_by_name(name)) is not None:
        return str(known.experiment_id)
    try:
        return str(client.create_experiment(name))
    except MlflowException:  # another worker made it just now
        if (known := client.get_experiment_by_name(name)) is None:
            raise
        return str(known.experiment_id)
