"""Training backends by name, their resources, and what each can do.

A new backend is a package of `graft.agents` with what `Backend` says, and two edits outside it: an entry in `BACKENDS`,
and in pyproject.toml its place in the layers of `graft.agents`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from graft.envs.core.options import build_options
from graft.envs.core.registry import Registry
from graft.errors import GraftError, unknown

if TYPE_CHECKING:  # which need torch
    from graft.agents.training.algorithm import Algorithm
    from graft.agents.training.backend import Resources, TrainJob, TrainResult
    from graft.transfer.method import TransferMethod


class BackendEntry(NamedTuple):
    """Package of a backend, imported when it is first used, as Ray takes seconds.

    ``distributed``: whether env runners and learners can be processes of their own. ``multi_policy``: whether it can
    train several policies at once.
    """

    package: str
    distributed: bool = False
    multi_policy: bool = False


DEFAULT = "sb3"
BACKENDS = {
    DEFAULT: BackendEntry("graft.agents.sb3"),
    "rllib": BackendEntry("graft.agents.rllib", distributed=True, multi_policy=True),
}

PRESETS: dict[str, dict[str, Any]] = {
    "local": {},
    "one_gpu": {"num_gpus_per_learner": 1},
    "cluster": {"num_env_runners": 8, "num_learners": 2, "num_gpus_per_learner": 1},
}
"""Name -> options of `Resources`."""


class Backend(Protocol):
    """A package that trains networks."""

    ALGORITHMS: Registry[type[Algorithm]]

    def train(self, job: TrainJob) -> TrainResult:
        """Train the job's network in place."""


def backend(name: str) -> Backend:
    """The package; raises GraftError for an unknown name."""
    if name not in BACKENDS:
        raise unknown("backend", name, BACKENDS)
    return cast(Backend, import_module(BACKENDS[name].package))


def parse_resources(given: str | Mapping[str, Any]) -> Resources:
    """A preset by name, or a mapping with changes to one: ``{preset: cluster, num_env_runners: 4}``.

    Raises:
        GraftError: an unknown preset or key, or a value that is not allowed.
    """
    from graft.agents.training.backend import Resources

    options = {"preset": given} if isinstance(given, str) else dict(given)
    name = str(options.pop("preset", "local"))
    if name not in PRESETS:
        raise unknown("preset of resources", name, PRESETS)
    return build_options("resources", Resources, {**PRESETS[name], **options})


def check_resources(name: str, resources: Resources, method: TransferMethod | None = None) -> None:
    """Raise GraftError where a backend can't train with these resources, or with this method on them."""
    from graft.transfer.method import label

    if not BACKENDS[name].distributed and (resources.num_env_runners or resources.num_learners):
        others = " or ".join(f"backend: {other}" for other, entry in BACKENDS.items() if entry.distributed)
        raise GraftError(
            f"{name} trains in one process: num_env_runners and num_learners must be 0; "
            f"use resources: local or one_gpu, or {others}."
        )
    if method is not None and "rewrites_weights" in method.words() and resources.num_learners > 1:
        raise GraftError(
            f"{label(method)} rewrites weights by what it sees in its minibatch, which differs between learners; "
            f"use num_learners: 0 or 1."
        )
