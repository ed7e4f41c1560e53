"""Joining Ray, and what must be there before anybody waits for it."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import threading

import ray
from ray.util.placement_group import get_current_placement_group, placement_group, remove_placement_group

from graft.agents.ray_session.auth import own_token
from graft.agents.ray_session.cleanup import marked, reaped
from graft.agents.training.backend import Resources
from graft.envs.supervision.processes import ONE_THREAD
from graft.errors import GraftError

SECONDS_FOR_ROOM = 600.0
"""To wait for others to leave a cluster, before a training gives up."""

SECONDS_SILENT = 10.0
"""Of these, before it says that it waits; so long what has just ended may still hold its cores."""

OWN: dict[str, contextlib.ExitStack] = {}
"""Address of a Ray that this process has started itself -> what ends it."""


@atexit.register
def _end() -> None:
    while OWN:
        OWN.popitem()[1].close()


def join(resources: Resources) -> None:
    """Make sure that Ray runs, and that ``resources`` can be had from it in one piece.

    Where this process is connected to none, one is started on this machine, which ends with the process, however that
    ends. In one that was there before, which others may use as well, it waits until there is room.

    Raises:
        GraftError: more cores or GPUs than all nodes have together; or others did not leave in time.
    """
    cores = resources.num_env_runners * resources.num_cpus_per_env_runner + resources.num_learners
    gpus = max(1, resources.num_learners) * resources.num_gpus_per_learner
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)  # it greets every subclass with a warning
    if ray.is_initialized() and _is_own() and cores > ray.cluster_resources().get("CPU", 0.0):
        _end()  # of an earlier training that needed less
    if not ray.is_initialized():
        _start(cores)
    has = ray.cluster_resources()
    for what, needed in {"CPU": float(cores), "GPU": float(gpus)}.items():
        if needed > has.get(what, 0.0):
            raise GraftError(
                f"The resources need {needed:g} {what}s, and the cluster has {has.get(what, 0.0):g}; "
                f"ask for less, or add nodes."
            )
    if not _is_own():
        _wait_for_room(resources)


def _is_own() -> bool:
    return ray.get_runtime_context().gcs_address in OWN


def _start(cores: int) -> None:
    _end()  # what is left of one that somebody else has shut down
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with contextlib.ExitStack() as stack:
        mark = stack.enter_context(reaped())
        with marked(mark), own_token():
            ray.init(
                "local",
                num_cpus=max(os.cpu_count() or 1, cores),  # logical: more processes than cores may be asked for
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": ONE_THREAD},
            )
        stack.callback(ray.shutdown)
        OWN[ray.get_runtime_context().gcs_address] = stack.pop_all()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray's own handler prints where every thread was


def _wait_for_room(resources: Resources) -> None:
    """Until Ray could place all runners and learners: reserved for a moment, as what it says is free is out of date.

    Others may still come first after that; then RLlib waits for its actors.
    """
    runner = {"CPU": float(resources.num_cpus_per_env_runner)}
    gpus = resources.num_gpus_per_learner
    learner = {"GPU": gpus} if gpus else {"CPU": 1.0}  # as RLlib asks for them
    wanted = [runner] * resources.num_env_runners + [learner] * resources.num_learners
    if not wanted or get_current_placement_group() is not None:  # in one, its owner has reserved what is needed
        return
    group = placement_group(wanted)
    try:
        if group.wait(SECONDS_SILENT):
            return
        asked = f"room for {resources.num_env_runners} env runners and {resources.num_learners} learners"
        logging.getLogger(__name__).warning("Waiting for %s in the Ray cluster, which others use.", asked)
        if not group.wait(SECONDS_FOR_ROOM):
            raise GraftError(
                f"The Ray cluster has had no {asked} for {SECONDS_FOR_ROOM:g} s, as others use it or no node is large "
                f"enough; ask for less, run fewer stages at once (--jobs), or add nodes."
            )
    finally:
        remove_placement_group(group)
