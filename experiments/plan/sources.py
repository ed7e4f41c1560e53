"""Sources of an experiment: a task to pretrain on, or a checkpoint with its task, network and memory."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from graft.agents.checkpoints.checkpoint import UNSPECIFIED, Checkpoint
from graft.agents.networks.encoder import default_encoder
from graft.agents.networks.policy_network import NetworkConfig
from graft.envs.adapters.spaces import first_line
from graft.envs.core.task import Bounds, Task
from graft.envs.factory import schemas
from graft.errors import GraftError
from graft.experiments.config.experiment import Config, SourceConfig
from graft.transfer.method import TransferMethod
from graft.transfer.task_heads import archive_of, inherited, tasks_learned

NO_DERIVATIVES = re.compile(r"-ND\b", re.IGNORECASE)  # in the ids of Creative Commons licences


@dataclass(frozen=True)
class Source:
    """A source of an experiment; its checkpoint is loaded once.

    Attributes:
        name: unique name for tables and reports.
        task: what it was, or will be, trained on.
        network: architecture of the experiment's fresh networks.
        checkpoint: None where it is to be pretrained.
        unplayable: why the task of a checkpoint can't be made on this machine, such as a package that is missing; its
            schemas are in the checkpoint.
    """

    config: SourceConfig
    name: str
    task: Task
    network: NetworkConfig
    checkpoint: Checkpoint | None = None
    unplayable: str | None = None

    @classmethod
    def resolve(cls, config: Config, source: SourceConfig) -> Source:
        """A source of ``config``; raises GraftError for a missing checkpoint, or one of another network."""
        if source.checkpoint is None:
            name = str(source.task) if source.backend is None else f"{source.task} by {source.backend}"
            return cls(source, source.name or name, source.task, config.network_config)
        loaded = Checkpoint.load(source.checkpoint)
        network = _architecture(config, loaded, source)
        name = source.name or f"checkpoint {source.checkpoint}"
        return cls(source, name, loaded.task, network, loaded, _why_not(loaded.task))

    @property
    def licence(self) -> str | None:
        """SPDX id of its licence, where the config or its checkpoint says one."""
        return self.config.licence or self._own_licence

    @property
    def _own_licence(self) -> str | None:
        """What its checkpoint says."""
        known = UNSPECIFIED if self.checkpoint is None else self.checkpoint.record.get("licence", UNSPECIFIED)
        return None if known == UNSPECIFIED else str(known)

    @property
    def forbids_derivatives(self) -> str | None:
        """The licence, of the config, its checkpoint or an ancestor, that allows none; None where all do."""
        said = [licence for licence in (self.config.licence, self._own_licence) if licence is not None]
        forbidding = next(filter(NO_DERIVATIVES.search, said), None)
        if forbidding is None and self.checkpoint is not None and self.checkpoint.record.get("licence_overridden"):
            return "a licence of an ancestor"
        return forbidding

    @property
    def scale(self) -> Bounds | None:
        """Bounds given in the config, else the registered ones, else None."""
        return self.config.scale_of(self.task)

    def last_task(self, method: TransferMethod) -> int:
        """Index of its own task among those in the checkpoint's memory of ``method``."""
        if self.checkpoint is None:
            return 0
        return tasks_learned(archive_of(inherited(self.checkpoint, method))) - 1


def _why_not(task: Task) -> str | None:
    """Why ``task`` can't be made; None where it can."""
    try:
        schemas(task)
    except Exception as error:  # whatever a third party's package raises
        return first_line(error)
    return None


def _architecture(config: Config, loaded: Checkpoint, source: SourceConfig) -> NetworkConfig:
    """The checkpoint's (of several columns, one column's), as the controls must have the same; not the config's."""
    asked, plain = config.network_config, NetworkConfig()
    own = replace(loaded.network, kind=plain.kind, parts=plain.parts, distribution=plain.distribution)
    asked = replace(asked, activation=asked.activation or own.activation)
    encoder = asked.encoder or default_encoder(loaded.schemas.observation)
    if replace(asked, encoder=encoder).to_json() == own.to_json():
        return asked
    if "network" in config.model_fields_set:
        raise GraftError(
            f"The experiment's network is {asked.to_json()}, but the one in {source.checkpoint} is "
            f"{own.to_json()}; leave 'network' out to use the checkpoint's everywhere."
        )
    return own
