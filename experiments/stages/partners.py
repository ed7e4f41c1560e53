"""Partners: policies that are trained with a stage's own, in squads whose teams all learn."""

from __future__ import annotations

from pathlib import Path

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork, build_network
from graft.agents.training.backend import Partners
from graft.envs.factory import schemas
from graft.errors import GraftError
from graft.experiments.plan.stage import Stage
from graft.transfer.method import label
from graft.transfer.session import TransferSession

FOLDER = "policies"
"""Of the partners' checkpoints, in a stage's folder or in its checkpoint of faults."""

OWN_ENTRIES = ("evaluation", "transplant")
"""Entries of a checkpoint's record that hold for the stage's own network only."""


def build_partners(stage: Stage, network: PolicyNetwork) -> Partners | None:
    """Fresh networks of the partners of ``network``; None without a squad.

    Raises:
        GraftError: ``share_encoder`` with a network of several columns, or with a method that rewrites weights.
    """
    squad = stage.squad
    if squad is None:
        return None
    if squad.share_encoder and network.config.kind != "plain":
        raise GraftError(
            f"share_encoder of {stage.task}: a network of kind '{network.config.kind}' has no encoder that another "
            f"policy could use alone; leave share_encoder out, or use a method with a network of one column."
        )
    if squad.share_encoder and stage.method is not None and "rewrites_weights" in stage.method.words():
        raise GraftError(
            f"share_encoder of {stage.task}: {label(stage.method)} rewrites units of the encoder together with what "
            f"reads them in one network, and the other policies read them, too; leave share_encoder out, or use "
            f"another method."
        )
    networks = {}
    for policy, task in squad.partners(stage.task).items():
        networks[policy] = build_network(schemas(task), stage.network, stage.partner_seed(policy))
        if squad.share_encoder:
            networks[policy].encoder = network.encoder
    return Partners(squad.policy_mapping, networks)


def save_partners(
    stage: Stage, partners: Partners | None, folder: Path, own: Checkpoint, session: TransferSession
) -> None:
    """A checkpoint of each partner, which may be the source of another experiment.

    Args:
        own: of the stage's own network; the source of a shared encoder is its source.
        session: of that network; its method may have parts of its own in a shared encoder.
    """
    if stage.squad is None or partners is None:
        return
    shared = stage.squad.share_encoder
    common = {name: value for name, value in own.record.items() if name not in OWN_ENTRIES}
    for policy, task in stage.squad.partners(stage.task).items():
        network = partners.networks[policy]
        if shared:
            network = session.method.finish(network, session.state)
        record = common | {"policy": policy, "random_seeds": [stage.partner_seed(policy), stage.random_seeds()[1]]}
        made = Checkpoint.of(network, task, lineage=own.lineage if shared else (), record=record)
        made.save(folder / FOLDER / policy)
