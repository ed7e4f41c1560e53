"""Runs stages on a Ray cluster, which places the workers."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # or Ray prints the story of every lost worker as well

import ray
from ray.exceptions import RayError, RayTaskError

from graft.agents.ray_session.session import check_address, connected, message_lines
from graft.command import at_least
from graft.errors import GraftError
from graft.experiments.launchers.launcher import RunListener, StageQueue, usable_cores
from graft.experiments.launchers.pool import POLL_SECONDS, SHARED, Pool, Worker, WorkerLost
from graft.experiments.launchers.worker import StageProgress, StageResult, StageWorker, WorkerInfo
from graft.experiments.plan.stage import Stage
from graft.experiments.store.records import Store

END_SECONDS = 10.0
"""A worker that does not end itself in this time is killed."""


class RayLauncher:
    """Runs stages in the order of the queue, wherever the cluster has room.

    A worker or node that dies costs a stage what it did since its last snapshot: it continues from there in another
    worker, ``retries`` times at most. What a stage itself raises fails it at once.

    Where the calling process is connected to Ray already, that cluster is used, whatever ``address`` says.

    Args:
        jobs: stages at once, at most; None for as many as fit into the cluster, nodes that join later included.
            An autoscaler brings nodes for ``jobs`` stages where those that are there do not suffice; for None it does
            not.
        env_workers: processes that slow environments of a stage are spread over (`graft.envs.make`).
        address: "auto" joins the cluster that runs on this machine or that RAY_ADDRESS names, "local" starts one here
            for the time of the run, HOST:PORT joins that one.
        cpus: cores that a stage takes; None for as many as ``env_workers``. gpus: GPUs or the fraction of one.
        retries: how often a stage is started again whose worker died.
        wait: seconds to wait, at the start, for a node that has what a stage takes.
    """

    def __init__(
        self,
        jobs: int | None = None,
        env_workers: int = 1,
        *,
        address: str = "auto",
        cpus: int | None = None,
        gpus: float = 0.0,
        retries: int = 3,
        wait: int = 0,
    ) -> None:
        at_least(1, jobs=jobs, workers=env_workers, cpus=cpus)
        at_least(0, retries=retries, wait=wait)
        if not (0 <= gpus <= 1 or (math.isfinite(gpus) and gpus > 1 and gpus == int(gpus))):
            raise GraftError(f"--gpus {gpus} is not allowed; it is a fraction of one GPU or a whole number of them.")
        check_address(address)
        self.jobs, self.env_workers, self.address = jobs, env_workers, address
        self.cpus, self.gpus = cpus or env_workers, gpus
        self.retries, self.wait = retries, wait

    @property
    def need(self) -> str:
        """What one stage needs of a node, as text."""
        return _amount(self.cpus, "CPU") + (f" and {_amount(self.gpus, 'GPU')}" if self.gpus else "")

    def run(self, queue: StageQueue, store: Store, listener: RunListener) -> None:
        """Raises GraftError where there is no such cluster, or a node lacks what stages need, Graft or the folder."""
        with connected(self.address, usable_cores()):
            cluster = _RayCluster(self, store.out.resolve())
            Pool(cluster, self.need, self.jobs, self.retries, store, listener, self.wait).run(queue)


def _amount(number: float, what: str) -> str:
    return f"{number:g} {what}{'' if number <= 1 and number else 's'}"


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


class _Actor(StageWorker):
    """The worker as a Ray actor."""

    def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())


class _RayCluster:
    def __init__(self, launcher: RayLauncher, out: Path) -> None:
        self._launcher, self._out = launcher, out

    def capacity(self) -> int:
        return sum(self._fits(node["Resources"]) for node in _nodes())

    def _fits(self, has: dict[str, float]) -> int:
        gpus, stages = self._launcher.gpus, math.floor(has.get("CPU", 0) / self._launcher.cpus)
        if gpus:
            whole = math.floor(has.get("GPU", 0))
            stages = min(stages, whole * math.floor(1 / gpus) if gpus <= 1 else whole // int(gpus))
        return stages

    def describe(self) -> str:
        nodes, room = _nodes(), self.capacity()
        most = [", ".join(_amount(node["Resources"].get(what, 0), what) for what in ("CPU", "GPU")) for node in nodes]
        kinds = ", ".join(f"{most.count(kind)} of {kind}" for kind in dict.fromkeys(most))
        return f"{_amount(len(nodes), 'Ray node')} ({kinds}) with room for {_amount(room, 'stage')} at once"

    def request(self, token: str) -> _RayWorker:
        return _RayWorker(self._launcher, self._out, token)

    def wait(self, workers: Sequence[Worker], seconds: float) -> None:
        pending = [w.pending for w in workers if isinstance(w, _RayWorker) and w.pending is not None]
        if pending:
            ray.wait(pending, timeout=seconds)
        else:
            time.sleep(seconds)

    def end(self, workers: Sequence[Worker]) -> None:
        """End them. Those at work exit themselves, as Ray reports a kill before the process has ended."""
        mine = [worker for worker in workers if isinstance(worker, _RayWorker)]
        with contextlib.suppress(RayError):
            ends = [worker.exit() for worker in mine if worker.where]
            if ends:
                ray.wait(ends, num_returns=len(ends), timeout=END_SECONDS)
        for worker in mine:
            worker.kill()


class _RayWorker:
    """``pending``: reference to the result of `StageWorker.prepare` or of a stage; None when that was received."""

    def __init__(self, launcher: RayLauncher, out: Path, token: str) -> None:
        remote: Any = ray.remote  # its types know fewer options than it does
        made = remote(num_cpus=launcher.cpus, num_gpus=launcher.gpus, max_restarts=0, concurrency_groups={"control": 1})
        self._actor = made(_Actor).remote(str(out), launcher.env_workers, launcher.gpus > 0)
        self.where = ""
        self._stages = self._reports = 0
        self.pending: Any = self._actor.prepare.remote(token, SHARED)
        self._node: Any = self._call("node")
        self._progress: Any = None
        self._last_request = 0.0

    def _call(self, method: str) -> Any:
        """Call a method in the worker's second thread, also while it runs a stage."""
        return getattr(self._actor, method).options(concurrency_group="control").remote()

    def _request_progress(self) -> None:
        self._last_request, self._progress = time.monotonic(), self._call("progress")

    def poll_ready(self) -> WorkerInfo | None:
        if not _ready(self.pending):
            return None
        try:
            info: WorkerInfo = ray.get(self.pending)
            node = ray.get(self._node)
        except RayError as error:
            self.kill()
            if isinstance(error, RayTaskError) or getattr(error, "actor_init_failed", False):
                question = "is Graft installed on all nodes, in the same version?"
                raise GraftError(f"A worker can't start; {question} {message_lines(error)[-1]}") from error
            raise WorkerLost(_reason(error)) from error
        self.pending = None
        addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in _nodes()}
        address = addresses.get(node, "that is gone")
        shared = list(addresses.values()).count(address) > 1
        self.where = f"node {address} {node[:6]}" if shared else f"node {address}"
        self._request_progress()
        return info

    def start(self, stage: Stage) -> None:
        self._stages, self._reports = self._stages + 1, 0
        self.pending = self._actor.run.remote(stage)

    def poll(self) -> StageProgress | StageResult | None:
        try:
            if _ready(self.pending):
                result: StageResult = ray.get(self.pending)
                self.pending = None
                return result
            return self._new_progress()
        except RayTaskError as error:  # it lives: the stage could not even be started
            self.pending = None
            return StageResult(f"{type(error.cause).__name__}: {error.cause}", StageProgress())
        except RayError as error:
            self.kill()
            raise WorkerLost(_reason(error)) from error

    def _new_progress(self) -> StageProgress | None:
        if not _ready(self._progress):
            return None
        progress: StageProgress = ray.get(self._progress)
        if time.monotonic() - self._last_request >= POLL_SECONDS:
            self._request_progress()
        if progress.stage != self._stages or progress.reports == self._reports:
            return None
        self._reports = progress.reports
        return progress

    def exit(self) -> Any:
        """Let it exit; returns a reference that is ready when it has."""
        return self._call("exit")

    def kill(self) -> None:
        with contextlib.suppress(RayError):
            ray.kill(self._actor)


def _ready(ref: Any) -> bool:
    return ref is not None and bool(ray.wait([ref], timeout=0)[0])


def _reason(error: RayError) -> str:
    """Why a worker died, as far as Ray knows, without its advice."""
    lines = message_lines(error)
    reason = next((line for line in lines if line.startswith("The actor is dead because")), lines[0])
    reason = reason.removeprefix("The actor is dead because ").split(" Some common causes")[0]
    return reason.split(" Worker exit detail:")[0].rstrip(". ")[:200]
