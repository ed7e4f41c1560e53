"""Starting, joining and leaving Ray: for the launcher of stages (`connected`) and for one training (`join`)."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray.util.placement_group import get_current_placement_group, placement_group, remove_placement_group

from graft.agents.ray_session.auth import cluster_token, private_token, reload_auth
from graft.agents.ray_session.cleanup import cleaned_up, marked
from graft.agents.training.backend import Resources
from graft.envs.supervision.processes import ONE_THREAD, one_thread_each
from graft.errors import GraftError

OBJECT_STORE = 100 * 2**20  # bytes of a launcher's own Ray, whose messages are small; Ray would take a third of RAM
STARTS = 3  # at most, of a Ray of our own: its processes have 15 to 30 s to be there, whatever is set and runs beside
ROOM_TIMEOUT = 600.0  # seconds that a training waits for room in a cluster
QUIET_WAIT = 10.0  # of these, before it says that it waits: actors that have just ended may still hold their cores
OWN_CLUSTERS: dict[str, contextlib.ExitStack] = {}  # address of a Ray that `join` started here -> what ends it


@contextlib.contextmanager
def connected(address: str, cores: int) -> Iterator[None]:
    """Be connected to a Ray cluster in this block; the one that this process is in already counts before ``address``.

    ``address``: see `check_address`; ``cores``: logical CPUs of a Ray that is started here. Raises GraftError where
    there is no such cluster, or it can't be joined.
    """
    if ray.is_initialized():
        yield
        return
    check_address(address)
    resolved = "local" if address == "local" else resolve_address(address)
    with contextlib.ExitStack() as stack:
        try:
            stack.callback(reload_auth)
            if resolved == "local":
                with one_thread_each():
                    stack.enter_context(
                        _local_ray(cores, object_store_memory=OBJECT_STORE, logging_level=logging.CRITICAL)
                    )
            else:
                stack.enter_context(cluster_token(resolved))
                ray.init(resolved, log_to_driver=False, logging_level=logging.CRITICAL)
                stack.callback(ray.shutdown)
        except GraftError:
            raise
        except (Exception, SystemExit) as error:  # Ray raises Exception itself, too
            raise GraftError(f"Ray at --address {address} can't be used: {message_lines(error)[0]}") from error
        yield


def check_address(address: str) -> None:
    """Raise GraftError for an ``address`` other than "auto", "local" or HOST:PORT."""
    host, _, port = address.rpartition(":")
    if address not in ("auto", "local") and not (host and "/" not in host and port.isdigit()):
        raise GraftError(
            f"--address {address} is not allowed; it is 'auto', 'local' or HOST:PORT of a cluster's head node."
        )


def resolve_address(address: str) -> str:
    """HOST:PORT of a cluster that answers there; Ray itself would try for minutes, and then end the process."""
    if address == "auto":
        from ray._private.services import get_ray_address_from_environment  # ray.init is the only public way

        try:
            address = get_ray_address_from_environment("auto", None)
        except ConnectionError as error:
            raise GraftError(
                "No Ray cluster runs on this machine; give --address HOST:PORT of one, or --address local to start one."
            ) from error
        check_address(address)
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise GraftError(f"No Ray cluster answers at {address}; give the --address of one that runs.") from error
    return address


def message_lines(error: BaseException) -> list[str]:
    """The lines of an error's message that are not empty, else its class."""
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]


@contextlib.contextmanager
def _local_ray(cores: int, **options: Any) -> Iterator[None]:
    """A Ray on this machine that ends with the block, or with this process, however that ends.

    Raises GraftError where it does not start.
    """
    tries = 1
    while (ends := _start(cores, options, tries)) is None:
        tries += 1
    with ends:
        yield


def _start(cores: int, options: dict[str, Any], tries: int) -> contextlib.ExitStack | None:
    """Start a Ray; returns what ends it, or None where it took too long and is to be tried again."""
    with contextlib.ExitStack() as stack:
        mark = stack.enter_context(cleaned_up())
        with marked(mark), private_token():
            try:
                ray.init("local", num_cpus=cores, include_dashboard=False, log_to_driver=False, **options)
            except (Exception, SystemExit) as error:  # Ray raises Exception itself where its processes take too long
                ray.shutdown()
                if "timed out" in str(error) and tries < STARTS:
                    return None
                said = message_lines(error)[0].partition(". ")[0].rstrip(".")
                raise GraftError(
                    f"Ray can't be started on this machine: {said}{f', {tries} times' * (tries > 1)}; where the "
                    f"machine is overloaded, run fewer stages at once (--jobs) or try again."
                ) from error
        stack.callback(ray.shutdown)
        return stack.pop_all()


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
        _end_own()  # of an earlier training that needed less
    if not ray.is_initialized():
        _start_own(cores)
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
    return ray.get_runtime_context().gcs_address in OWN_CLUSTERS


@atexit.register
def _end_own() -> None:
    while OWN_CLUSTERS:
        OWN_CLUSTERS.popitem()[1].close()


def _start_own(cores: int) -> None:
    _end_own()  # what is left of one that other code has shut down
    with contextlib.ExitStack() as stack:
        # Logical cores: more processes than the machine has may be asked for.
        cores = max(os.cpu_count() or 1, cores)
        stack.enter_context(_local_ray(cores, logging_level=logging.ERROR, runtime_env={"env_vars": ONE_THREAD}))
        OWN_CLUSTERS[ray.get_runtime_context().gcs_address] = stack.pop_all()
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
        if group.wait(QUIET_WAIT):
            return
        asked = f"room for {resources.num_env_runners} env runners and {resources.num_learners} learners"
        logging.getLogger(__name__).warning("Waiting for %s in the Ray cluster, which others use.", asked)
        if not group.wait(ROOM_TIMEOUT):
            raise GraftError(
                f"The Ray cluster has had no {asked} for {ROOM_TIMEOUT:g} s, as others use it or no node is large "
                f"enough; ask for less, run fewer stages at once (--jobs), or add nodes."
            )
    finally:
        remove_placement_group(group)
