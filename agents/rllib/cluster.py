"""Joining Ray, and what must be there before anybody waits for it."""

from __future__ import annotations

import logging
import os
import signal
import threading

import ray

from agents.backend import Resources
from agents.ray_access import own_token
from envs.errors import GraftError

THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
"""Of each process that Ray starts for us: there are as many of them as cores."""


OURS: list[int] = []
"""Not empty where this process has started a Ray itself."""


def join(resources: Resources) -> None:
    """Make sure that Ray runs, and that ``resources`` can be had from it in one piece.

    Where none runs in this process, one is started on this machine, which ends with the process.

    Raises:
        GraftError: more cores or GPUs than all nodes have together.
    """
    cores = resources.num_env_runners * resources.num_cpus_per_env_runner + resources.num_learners
    gpus = max(1, resources.num_learners) * resources.num_gpus_per_learner
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)  # it greets every subclass with a warning
    if ray.is_initialized() and OURS and cores > ray.cluster_resources().get("CPU", 0.0):
        ray.shutdown()  # of an earlier training that needed less
    if not ray.is_initialized():
        OURS.append(os.getpid())
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        with own_token():
            ray.init(
                "local",
                num_cpus=max(os.cpu_count() or 1, cores),  # logical: more processes than cores may be asked for
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": THREADS},
            )
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray's own handler prints where every thread was
    has = ray.cluster_resources()
    for what, needed in {"CPU": float(cores), "GPU": float(gpus)}.items():
        if needed > has.get(what, 0.0):
            raise GraftError(
                f"The resources need {needed:g} {what}s, and the cluster has {has.get(what, 0.0):g}; "
                f"ask for less, or add nodes."
            )
