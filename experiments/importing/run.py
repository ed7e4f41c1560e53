"""Reads an agent of another library, checks that the network plays the same, and writes its checkpoint."""

from __future__ import annotations

import argparse
import time
from contextlib import closing
from pathlib import Path
from typing import Any, cast, get_args

import torch
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from graft.agents.checkpoints.checkpoint import MANIFEST, Checkpoint
from graft.agents.importing.agent import Imported, import_agent
from graft.agents.importing.files import read_bytes
from graft.agents.importing.parity import Parity, compare, require
from graft.agents.importing.source import Request
from graft.agents.importing.statistics import read_statistics
from graft.agents.networks.activation import Activation
from graft.agents.parity import record
from graft.agents.training.evaluate import evaluate
from graft.envs.core.task import Task
from graft.envs.core.task_string import task_of
from graft.envs.core.yaml_text import LARGEST, parse_yaml
from graft.envs.factory import make, schemas
from graft.errors import GraftError, printable, some, unknown
from graft.experiments.config.experiment import Licence
from graft.experiments.store.provenance import provenance

ENVS = 8
"""Environments that observations are recorded in, and episodes played."""


def run(console: Console, options: argparse.Namespace) -> Checkpoint:
    """Import as the command's ``options`` say; returns the checkpoint that was written."""
    _check_out(options.out, options.force)
    _check_licence(options.licence)
    if options.activation is not None and options.activation not in get_args(Activation):
        raise unknown("activation", options.activation, get_args(Activation))
    task = task_of(options.task)
    request = Request(
        options.file,
        schemas(task),
        cast(Activation | None, options.activation),
        {} if options.names is None else read_names(options.names),
        options.trust,
        options.trust_unconfined,
    )
    given = options.normalise
    statistics = None if given is None else read_statistics(given, options.trust, options.trust_unconfined)
    imported = import_agent(request, options.format, statistics)
    show(console, imported)
    parity, evaluation = _played(imported, task, options)
    console.print(
        f"Parity: {parity.equal:,} of {parity.observations:,} recorded observations have the same action; worst "
        f"difference {parity.worst:.2g}."
    )
    require(parity)
    if evaluation:
        console.print(f"Greedy return: {evaluation['return_mean']:.2f}, mean of {evaluation['episodes']} episodes.")
    found = _checkpoint(imported, task, parity, evaluation, options)
    identity = found.save(options.out)
    console.print(f"Checkpoint {identity[:12]}: {options.out}")
    return found


def _check_out(out: Path, force: bool) -> None:
    if out.exists() and not force:
        raise GraftError(f"{out} exists; give --force to replace it, or another folder.")
    if out.exists() and not (out / MANIFEST).is_file():
        raise GraftError(f"{out} is no checkpoint, so it is not replaced; give another folder.")


def _check_licence(licence: str) -> None:
    try:
        TypeAdapter(Licence).validate_python(licence)
    except ValidationError as error:
        raise GraftError(
            f"--licence is {licence[:80]!r}; an SPDX expression (letters, digits, . + - and brackets) is needed: MIT."
        ) from error


def read_names(path: Path) -> dict[str, Any]:
    """The mapping of ``--names``; raises GraftError for a file that is no such YAML."""
    try:
        found = parse_yaml(read_bytes(path, LARGEST))
    except GraftError:
        raise
    except ValueError as error:
        raise GraftError(f"{path} is not YAML: {printable(str(error), 300)}.") from error
    if not isinstance(found, dict):
        raise GraftError(f"{path} is no mapping of what a tensor is to its name.")
    return found


def _played(imported: Imported, task: Task, options: argparse.Namespace) -> tuple[Parity, dict[str, Any]]:
    """The comparison on recorded observations, and the score of greedy play."""
    network = imported.assembly.network
    with closing(make(task, ENVS, options.seed, observation=network.schemas.observation)) as env:
        parity = compare(imported.policy, network, record(network, env, options.observations, options.seed))
        if not options.episodes or not parity.holds:
            return parity, {}
        dice = torch.Generator().manual_seed(options.seed)
        returns = evaluate(network, env, options.episodes, dice, deterministic=True, seed=options.seed).returns
    half_width = 1.96 * float(returns.std(ddof=1)) / len(returns) ** 0.5 if len(returns) > 1 else None
    return parity, {"episodes": len(returns), "return_mean": float(returns.mean()), "ci95": half_width}


def _checkpoint(
    imported: Imported, task: Task, parity: Parity, evaluation: dict[str, Any], options: argparse.Namespace
) -> Checkpoint:
    """With the file's hash as the root of its lineage."""
    assembly = imported.assembly
    notes = {
        "file": options.file.name,
        "format": imported.format,
        "sha256": imported.sha256,
        **imported.policy.origin,
        "origin": options.origin,
        "tensors": [[row.tensor, list(row.shape), row.to] for row in assembly.rows],
        "unused": assembly.unused,
        "made": assembly.made,
        "parity": parity.to_json(),
    }
    kept = {"evaluation": evaluation} if evaluation else {}
    about = {"import": notes, **kept, "licence": options.licence, "created": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    return Checkpoint.of(assembly.network, task, lineage=(imported.sha256,), record={**about, **provenance()})


def _plain(value: Any) -> str:
    return printable(str(value), 500)


def show(console: Console, imported: Imported) -> None:
    """Print where each tensor of the file went, what was not used, and what is not from the file."""
    origin = {key: value for key, value in imported.policy.origin.items() if value is not None}
    console.print(", ".join(f"{key} {_plain(value)}" for key, value in {"format": imported.format, **origin}.items()))
    table = Table("tensor", "shape", "went to")
    for row in imported.assembly.rows:
        table.add_row(_plain(row.tensor), " x ".join(map(str, row.shape)), _plain(row.to))
    console.print(table)
    for title, entries in (("Not used", imported.assembly.unused), ("Not from the file", imported.assembly.made)):
        grouped: dict[str, list[str]] = {}
        for name, why in entries.items():
            grouped.setdefault(_plain(why), []).append(_plain(name))
        for why, names in grouped.items():
            console.print(f"{title}: {some(names, 4)}: {why}.")
