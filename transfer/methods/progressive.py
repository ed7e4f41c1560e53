"""Progressive networks: a fresh column with lateral connections from the frozen source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.networks.progressive import EARLIER, ProgressiveNetwork, same_view
from graft.envs.core.schema import Schemas
from graft.errors import GraftError
from graft.transfer.method import FRESH_WEIGHTS, METHODS, Built, State, TransferMethod
from graft.transfer.transplant import NewChannels, transplant
from graft.transfer.transplant_report import TensorRow, TransplantReport


@METHODS.register("progressive")
@dataclass(frozen=True, kw_only=True)
class Progressive(TransferMethod):
    """A fresh column, which trains, beside the source's columns, which are frozen with their own heads.

    Attributes:
        new_channels: what a new observation starts from in the source's column, see `transplant`.
        rename: target name -> name it had in the source, for observations.
        strict: whether any loss in the transplant of the source's column is an error.
    Source: Rusu et al. 2016, "Progressive Neural Networks", eq. 2 (`ProgressiveNetwork`).
    """

    new_channels: NewChannels = "attributes"
    rename: Mapping[str, str] = field(default_factory=dict)
    strict: bool = False

    provides: ClassVar[frozenset[str]] = frozenset({"fresh_weights", "needs_task"})
    conflicts: ClassVar[Mapping[str, str]] = FRESH_WEIGHTS

    def build(self, source: Checkpoint | None, target: Schemas, architecture: NetworkConfig, seed: int) -> Built:
        """A fresh column of ``architecture`` beside the source's network.

        Raises:
            GraftError: the source has several columns and other observations; the transplant fails; or the columns do
                not fit together (`ProgressiveNetwork`).
        """
        assert source is not None, "a method that uses a source is always given one"
        earlier, carried = self._earlier(source, target, seed)
        network = ProgressiveNetwork.beside(earlier, target, architecture, seed)
        return Built(network, _report(network, carried))

    def view(self, network: PolicyNetwork, state: State, task: int) -> PolicyNetwork:
        """The network as it was when the task was its newest; the whole network for tasks that are still to come."""
        columns = network.columns if isinstance(network, ProgressiveNetwork) else [network]
        return columns[min(task, len(columns) - 1)]

    def _earlier(self, source: Checkpoint, target: Schemas, seed: int) -> tuple[PolicyNetwork, TransplantReport]:
        """The source's network for the target's observations, with its own actions."""
        if same_view(source.schemas.observation, target.observation) and not self.rename:
            return source.build(), TransplantReport(tuple(TensorRow(n, "copied", 1.0) for n in source.tensors), ())
        network = source.build()
        if isinstance(network, ProgressiveNetwork):
            raise GraftError(
                f"A source of {len(network.columns)} columns can't be moved to other observations: the target's are "
                f"{', '.join(target.observation.names)}, the source's "
                f"{', '.join(source.schemas.observation.names)}; choose a source of one column."
            )
        return transplant(
            source,
            Schemas(target.observation, source.schemas.action),
            heads="by_name",
            new_channels=self.new_channels,
            rename=self.rename,
            strict=self.strict,
            seed=seed + 1,  # the new column starts from the seed itself, and nothing in both is to be the same
            distribution=source.network.distribution,
        )


def _report(network: ProgressiveNetwork, carried: TransplantReport) -> TransplantReport:
    """A row for every tensor of the network: those of the earlier columns as they were carried, the others as new."""
    moved = {f"{EARLIER}.{row.tensor}": row for row in carried.rows if row.status != "dropped"}
    rows = [
        replace(moved[name], tensor=name)
        if name in moved
        else TensorRow(name, "initialised", 0.0, "new column", wanted=False)
        for name in network.state_dict()
    ]
    rows += [row for row in carried.rows if row.status == "dropped"]
    lost = [f"{EARLIER}.{name}" if f"{EARLIER}.{name}" in moved else name for name in carried.lost]
    return TransplantReport(tuple(rows), tuple(lost))
