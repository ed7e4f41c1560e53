"""Policies that learn beside a stage's own, in squads whose teams all learn: their networks and checkpoints."""

from __future__ import annotations

from pathlib import Path

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork, build_network
from graft.agents.training.backend import Partners
from graft.envs.factory import schemas
from graft.errors import GraftError
from graft.experiments.plan.graph import Stage
from graft.transfer.method import label
from graft.transfer.session import TransferSession

FOLDER = "policies"
"""In a stage's folder, or in its checkpoint where environments failed: one of each policy that learned beside."""

ABOUT_ONE = ("evaluation", "transplant")
"""What a checkpoint's record says of the stage's own network, and not of its partners."""


def partners(stage: Stage, network: PolicyNetwork) -> Partners | None:
    """Fresh networks for those that learn beside ``network``; None where nobody does.

    Raises:
        GraftError: an encoder is to be shared that is no part by itself, or by a method that looks after one network.
    """
    squad = stage.squad
    if squad is None:
        return None
    if squad.shared and network.config.kind != "plain":
        raise GraftError(
            f"share_encoder of {stage.task}: a network of kind '{network.config.kind}' has no encoder that another "
            f"policy could use alone; leave share_encoder out, or use a method with a network of one column."
        )
    if squad.shared and stage.method is not None and "rewrites_weights" in stage.method.words():
        raise GraftError(
            f"share_encoder of {stage.task}: {label(stage.method)} rewrites units of the encoder together with what "
            f"reads them in one network, and the other policies read them, too; leave share_encoder out, or use "
            f"another method."
        )
    networks = {}
    for policy, task in squad.others(stage.task).items():
        networks[policy] = build_network(schemas(task), stage.network, stage.partner_seed(policy))
        if squad.shared:
            networks[policy].encoder = network.encoder
    return Partners(squad.plays, networks)


def save_partners(
    stage: Stage, found: Partners | None, folder: Path, own: Checkpoint, session: TransferSession
) -> None:
    """A checkpoint of each partner, which may be the source of an experiment.

    Args:
        own: that of the network that they learned beside, and whose source is also that of an encoder they share.
        session: of that network; it may have put parts of its own into the encoder.
    """
    if stage.squad is None or found is None:
        return
    for policy, task in stage.squad.others(stage.task).items():
        network = found.networks[policy]
        if stage.squad.shared:
            network = session.method.finish(network, session.state)
        lineage = own.lineage if stage.squad.shared else ()
        record = {name: value for name, value in own.record.items() if name not in ABOUT_ONE}
        record |= {"policy": policy, "random_seeds": [stage.partner_seed(policy), stage.random_seeds()[1]]}
        Checkpoint.of(network, task, lineage=lineage, record=record).save(folder / FOLDER / policy)
