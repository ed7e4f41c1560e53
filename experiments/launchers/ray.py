"""Runs a stage graph on a Ray cluster, which places the workers."""

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
from graft.errors import GraftError
from graft.experiments.launchers.launcher import StageQueue, Watcher, at_least, usable_cores
from graft.experiments.launchers.pool import POLL_SECONDS, SHARED, Lost, Pool, Worker
from graft.experiments.launchers.worker import Done, Hello, Progress, StageWorker
from graft.experiments.plan.stage import Graph, Stage
from graft.experiments.store.records import Store

SECONDS_TO_END = 10.0
"""A worker that does not end itself in this time is killed."""


class RayLauncher:
    """Runs stages in the order of the graph, each as soon as its source is done, wherever the cluster has room.

    A worker or node that dies costs a stage what it did since its last snapshot: it goes on from there in another
    worker, ``retries`` times at most. What a stage itself raises fails it at once.

    Where the calling process is connected to Ray already, that cluster is used, whatever ``address`` says.

    Args:
        jobs: stages at once, at most; None for as many as fit into the cluster, nodes that join later included.
            An autoscaler brings nodes for ``jobs`` stages where those that are there do not suffice; for None it does
            not.
        env_workers: processes that slow environments of a stage are spread over (`envs.make`).
        address: "auto" joins the cluster that runs on this machine or that RAY_ADDRESS names, "local" starts one here
            for the time of the run, HOST:PORT joins that one.
        cpus: cores that a stage takes; None for as many as ``env_workers``. gpus: GPUs or the fraction of one.
        retries: how often a stage is begun again whose worker died.
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
        """Of one stage, in words."""
        return _amount(self.cpus, "CPU") + (f" and {_amount(self.gpus, 'GPU')}" if self.gpus else "")

    def run(self, graph: Graph, todo: list[str], store: Store, watcher: Watcher) -> dict[str, str]:
        """See `graft.experiments.launchers.launcher.Launcher`.

        Raises:
            GraftError: there is no such cluster, none of its nodes has what a stage needs, or one does not have
                Graft or the experiment's folder.
        """
        with connected(self.address, usable_cores()):
            return self._pool(store, watcher).run(graph, todo)

    def serve(self, agenda: StageQueue, store: Store, watcher: Watcher) -> None:
        """See `graft.experiments.launchers.launcher.Launcher`; raises as `run`."""
        with connected(self.address, usable_cores()):
            self._pool(store, watcher).serve(agenda)

    def _pool(self, store: Store, watcher: Watcher) -> Pool:
        cluster = _RayCluster(self, store.out.resolve())
        return Pool(cluster, self.need, self.jobs, self.retries, store, watcher, self.wait)


def _amount(number: float, what: str) -> str:
    return f"{number:g} {what}{'' if number <= 1 and number else 's'}"


def _nodes() -> list[dict[str, Any]]:
    """Those that are alive."""
    return [node for node in ray.nodes() if node["Alive"]]


class _Actor(StageWorker):
    """The worker as Ray runs it."""

    def node(self) -> str:
        """Id of the node it is on."""
        return str(ray.get_runtime_context().get_node_id())


class _RayCluster:
    """See `graft.experiments.launchers.pool.Cluster`."""

    def __init__(self, launcher: RayLauncher, out: Path) -> None:
        self._launcher, self._out = launcher, out

    def room(self) -> int:
        """Stages that fit into it."""
        return sum(self._fits(node["Resources"]) for node in _nodes())

    def _fits(self, has: dict[str, float]) -> int:
        gpus, stages = self._launcher.gpus, math.floor(has.get("CPU", 0) / self._launcher.cpus)
        if gpus:
            whole = math.floor(has.get("GPU", 0))
            stages = min(stages, whole * math.floor(1 / gpus) if gpus <= 1 else whole // int(gpus))
        return stages

    def describe(self) -> str:
        """Its nodes, and how many stages fit into them."""
        nodes, room = _nodes(), self.room()
        most = [
            f"{_amount(n['Resources'].get('CPU', 0), 'CPU')}, {_amount(n['Resources'].get('GPU', 0), 'GPU')}"
            for n in nodes
        ]
        kinds = ", ".join(f"{most.count(kind)} of {kind}" for kind in dict.fromkeys(most))
        return f"{_amount(len(nodes), 'Ray node')} ({kinds}) with room for {_amount(room, 'stage')} at once"

    def ask(self, token: str) -> _RayWorker:
        """For one more worker."""
        return _RayWorker(self._launcher, self._out, token)

    def wait(self, workers: Sequence[Worker], seconds: float) -> None:
        """Until one of them has said hello or is done with its stage."""
        pending = [w.pending for w in workers if isinstance(w, _RayWorker) and w.pending is not None]
        if pending:
            ray.wait(pending, timeout=seconds)
        else:
            time.sleep(seconds)

    def dismiss(self, workers: Sequence[Worker]) -> None:
        """End them. Those at work end themselves: when Ray kills one, it says so before that has ended."""
        mine = [worker for worker in workers if isinstance(worker, _RayWorker)]
        with contextlib.suppress(RayError):
            ends = [worker.end() for worker in mine if worker.where]
            if ends:
                ray.wait(ends, num_returns=len(ends), timeout=SECONDS_TO_END)
        for worker in mine:
            worker.kill()


class _RayWorker:
    """See `graft.experiments.launchers.pool.Worker`.

    Attributes:
        pending: what it was told to do last, hello or a stage; None when that is done.
    """

    def __init__(self, launcher: RayLauncher, out: Path, token: str) -> None:
        remote: Any = ray.remote  # its types know fewer options than it does
        made = remote(
            num_cpus=launcher.cpus,
            num_gpus=launcher.gpus,
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={"watch": 1},
        )
        self._actor = made(_Actor).remote(str(out), launcher.env_workers, launcher.gpus > 0)
        self.where = ""
        self._stages = self._reports = 0
        self.pending: Any = self._actor.hello.remote(token, SHARED)
        self._place: Any = self._beside("node")
        self._looked: Any = None
        self._asked = 0.0

    def _beside(self, method: str) -> Any:
        """Call a method while it works."""
        return getattr(self._actor, method).options(concurrency_group="watch").remote()

    def _look(self) -> None:
        self._asked, self._looked = time.monotonic(), self._beside("look")

    def greet(self) -> Hello | None:
        """See `Worker`."""
        if not _ready(self.pending):
            return None
        try:
            hello: Hello = ray.get(self.pending)
            node = ray.get(self._place)
        except RayError as error:
            self.kill()
            if isinstance(error, RayTaskError) or getattr(error, "actor_init_failed", False):
                reason = message_lines(error)[-1]
                raise GraftError(
                    f"A worker can't start; is Graft installed on all nodes, in the same version? {reason}"
                ) from error
            raise Lost(_why(error)) from error
        self.pending = None
        addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in _nodes()}
        address = addresses.get(node, "that is gone")
        shared = list(addresses.values()).count(address) > 1
        self.where = f"node {address} {node[:6]}" if shared else f"node {address}"
        self._look()
        return hello

    def give(self, stage: Stage) -> None:
        """See `Worker`."""
        self._stages, self._reports = self._stages + 1, 0
        self.pending = self._actor.work.remote(stage)

    def hear(self) -> Progress | Done | None:
        """See `Worker`."""
        try:
            if _ready(self.pending):
                done: Done = ray.get(self.pending)
                self.pending = None
                return done
            return self._progress()
        except RayTaskError as error:  # no death: the stage could not even be begun
            self.pending = None
            return Done(f"{type(error.cause).__name__}: {error.cause}", Progress())
        except RayError as error:
            self.kill()
            raise Lost(_why(error)) from error

    def _progress(self) -> Progress | None:
        if not _ready(self._looked):
            return None
        found: Progress = ray.get(self._looked)
        if time.monotonic() - self._asked >= POLL_SECONDS:
            self._look()
        if found.stage != self._stages or found.reports == self._reports:
            return None
        self._reports = found.reports
        return found

    def end(self) -> Any:
        """Let it end itself; returns what is pending until it has."""
        return self._beside("end")

    def kill(self) -> None:
        """Let Ray end it, wherever it has come to."""
        with contextlib.suppress(RayError):
            ray.kill(self._actor)


def _ready(ref: Any) -> bool:
    return ref is not None and bool(ray.wait([ref], timeout=0)[0])


def _why(error: RayError) -> str:
    """What Ray knows of a worker's death, without its advice."""
    lines = message_lines(error)
    told = next((line for line in lines if line.startswith("The actor is dead because")), lines[0])
    told = told.removeprefix("The actor is dead because ").split(" Some common causes")[0]
    return told.split(" Worker exit detail:")[0].rstrip(". ")[:200]
