"""What an experiment's sources are: a task to pretrain on, or a checkpoint with its task, network and memory."""

from __future__ import annotations

from dataclasses import replace

from agents.checkpoint import Checkpoint
from agents.encoder import default_encoder
from agents.network import NetworkConfig
from envs.errors import GraftError
from envs.task import Task
from experiments.archive import archive_of, inherited, tasks_learned
from experiments.config import Config, SourceConfig
from transfer.method import TransferMethod


def name_of(source: SourceConfig) -> str:
    """As tables and reports call it; no two sources of an experiment have the same."""
    if source.name is not None:
        return source.name
    if source.id is None:
        return f"checkpoint {source.checkpoint}"
    return str(source.task) if source.backend is None else f"{source.task} by {source.backend}"


def task_of(source: SourceConfig) -> Task:
    """What it was, or will be, trained on."""
    return Checkpoint.load(source.checkpoint).task if source.checkpoint else source.task


def last_task(source: SourceConfig, method: TransferMethod) -> int:
    """Index of the source's own task among those that ``method`` knows of."""
    if source.checkpoint is None:
        return 0
    return tasks_learned(archive_of(inherited(Checkpoint.load(source.checkpoint), method))) - 1


def architecture(config: Config, loaded: Checkpoint, source: SourceConfig) -> NetworkConfig:
    """The checkpoint's; a config that asks for another one is an error, as the controls would not compare.

    Of a network of several columns, one column's: the controls and a new column are built alike.
    """
    asked, plain = config.network_config, NetworkConfig()
    found = replace(loaded.network, kind=plain.kind, parts=plain.parts, distribution=plain.distribution)
    encoder = asked.encoder or default_encoder(loaded.schemas.observation)
    if replace(asked, encoder=encoder).to_json() == found.to_json():
        return asked
    if "network" in config.model_fields_set:
        raise GraftError(
            f"The experiment's network is {asked.to_json()}, but the one in {source.checkpoint} is "
            f"{found.to_json()}; leave 'network' out to use the checkpoint's everywhere."
        )
    return found
