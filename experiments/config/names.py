"""Checks the names in a config without torch, so that a command refuses a misspelt one at once."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path

from graft.envs.core.parts import is_named, plugins
from graft.envs.factory import schemas
from graft.errors import unknown
from graft.experiments.config.backends import BACKENDS
from graft.experiments.config.experiment import AnyConfig, Config
from graft.experiments.sinks.sink import SINKS


def registered_names(package: str) -> set[str]:
    """What the modules of a package register, read from their source."""
    top, *inner = package.split(".")
    found = find_spec(top)
    assert found is not None
    assert found.submodule_search_locations is not None
    folder = Path(found.submodule_search_locations[0]).joinpath(*inner)
    return {
        name
        for path in folder.rglob("*.py")
        for name in re.findall(r"\.register\(\"(\w+)\"\)", path.read_text(encoding="utf-8"))
    }


def check_names(config: AnyConfig) -> None:
    """Raise GraftError for a backend, algorithm, encoder, method, sink or task that does not exist.

    Where torch is loaded already, nothing would be gained, and names may be registered by other code: only tasks are
    checked then. Options are checked when the experiment is expanded.
    """
    if "torch" not in sys.modules:
        _check_registered(config)
    for sink in config.sinks:
        SINKS[sink].check()
    if isinstance(config, Config):
        tasks = [source.task for source in config.sources if source.checkpoint is None]
        tasks += [target.task for target in config.targets]
    else:
        tasks = [task.task for task in config.sequence]
    for task in tasks:
        schemas(task)


def _check_registered(config: AnyConfig) -> None:
    sources = config.sources if isinstance(config, Config) else []
    for name in [config.backend, *(source.backend for source in sources if source.backend)]:
        if name not in BACKENDS:
            raise unknown("backend", name, BACKENDS)
        algorithms = f"{BACKENDS[name].package}.algorithms", f"graft.algorithms.{name}"
        _check("algorithm", config.algorithm.get("name", "ppo"), *algorithms)
    if config.network.encoder is not None:
        _check("encoder", config.network.encoder, "graft.agents.networks.encoders", "graft.encoders")
    for entry in [*config.methods, *(entry for source in sources for entry in source.methods or ())]:
        if isinstance(entry, str) or (isinstance(entry, dict) and len(entry) == 1):
            named = entry if isinstance(entry, str) else next(iter(entry))
            _check("method", named, "graft.transfer.methods", "graft.methods")


def _check(kind: str, name: object, package: str, group: str) -> None:
    """What ``module:Class`` names is found when the experiment is expanded."""
    if not is_named(name) and str(name) not in (names := registered_names(package) | set(plugins(group))):
        raise unknown(kind, str(name), names)
