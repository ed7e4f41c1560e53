"""Set up once for all tests: one thread each, plots without a screen; hand-made tasks and Ray on request."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from support.batches import OPEN
from support.tiny_tasks import TinyTaskAdapter

from graft.envs.factory import ADAPTERS

torch.set_num_threads(1)

TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def batches_are_closed() -> Iterator[None]:
    """Those of `batches.make`."""
    yield
    while OPEN:
        OPEN.pop().close()


@pytest.fixture
def tiny_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `envs.make` make the tasks ``tiny/...``; gone after the test."""
    list(ADAPTERS)  # loads the others
    monkeypatch.setitem(ADAPTERS._entries, "tiny", TinyTaskAdapter())


@pytest.fixture
def one_ray() -> None:
    """Four logical cores, no GPU; started once in a process, and left to the tests that follow: see `no_ray`."""
    import ray

    from graft.agents.ray_session.auth import private_token

    if ray.is_initialized():
        return
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (TESTS, TESTS.parent))))  # of the processes that Ray starts
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        with private_token():
            ray.init("local", num_cpus=4, num_gpus=0, include_dashboard=False, **quiet)
    signal.signal(signal.SIGTERM, handler)  # Ray puts its own there, which other tests would find


@pytest.fixture(scope="module")
def no_ray() -> None:
    """For tests that start clusters of their own: ends what `one_ray` has started."""
    import ray

    ray.shutdown()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file in one process, and all files for which Ray is started in the same one: it takes a quarter of a minute."""
    from xdist.scheduler import LoadFileScheduling

    class WithRayTogether(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "ray" if starts_ray(config.rootpath / file) else file

    return WithRayTogether(config, log)


@cache
def starts_ray(file: Path) -> bool:
    """Whether tests of the file share a Ray; those that end it stay alone."""
    text = file.read_text(encoding="utf-8")
    return "one_ray" in text and "no_ray" not in text


def pytest_sessionfinish() -> None:
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
