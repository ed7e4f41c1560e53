"""Transfer with action masks: what is carried plays allowed actions, and penalties are about what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.masked_envs import Masked, Seen, register
from support.tiny_experiment import write_config
from support.tiny_tasks import discrete, observations, vector
from torch.distributions import Categorical, kl_divergence

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig, Outputs, PolicyNetwork
from graft.agents.training.backend import Batch
from graft.envs import Task
from graft.envs.core.schema import Schemas, flag_names, masked
from graft.experiments.config.experiment import load_config
from graft.experiments.plan.pairs import expand
from graft.experiments.plan.sequence import expand_sequence
from graft.experiments.report.conclusions import check_pairs, check_sequence
from graft.experiments.stages.run_stage import run_stage
from graft.experiments.store.records import Store
from graft.transfer.divergence import kl
from graft.transfer.fisher import diagonal_fisher
from graft.transfer.memory import tasks
from graft.transfer.method import METHODS, PART, TaskPosition
from graft.transfer.methods.redo import ReDo
from graft.transfer.transplant import transplant

register()
SEEN, ACTIONS = vector("xyz"), discrete(*"abcd")
PLAIN = Schemas(SEEN, ACTIONS)
MASKED = Schemas(masked(SEEN, flag_names(ACTIONS)), ACTIONS)
CONFIG = NetworkConfig("mlp", {"widths": [6]}, (5,))
FLAGS = torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 1], [0, 1, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0]])


def network_of(schemas: Schemas, seed: int = 0) -> PolicyNetwork:
    network = PolicyNetwork(schemas, CONFIG, seed)
    with torch.no_grad():
        network.policy.out.weight.mul_(100)
    return network


def states() -> torch.Tensor:
    return torch.cat([observations(SEEN, len(FLAGS)), FLAGS], 1)


def allowed_only(logits: torch.Tensor, also: Any = None) -> list[Categorical | None]:
    """Of each state, the policy over its allowed actions, of those in ``also`` where it is given."""
    found = []
    for row, flags in zip(logits, FLAGS, strict=True):
        those = [a for a in range(4) if not flags[a] and (also is None or also[a])]
        found.append(Categorical(logits=row[those]) if those else None)
    return found


@pytest.mark.parametrize(("source", "target"), [(PLAIN, MASKED), (MASKED, MASKED), (MASKED, PLAIN)])
def test_what_is_carried_is_the_source_among_what_is_allowed(source: Schemas, target: Schemas) -> None:
    before = network_of(source)
    options = {"heads": "by_name", "new_channels": "zero", "rename": {}, "strict": True, "seed": 1}
    carried, report = transplant(Checkpoint.of(before, Task("x")), target, **options)  # type: ignore[arg-type]
    assert not report.partial
    obs = states()
    logits = before.heads(before.encoder(obs[:, :3])).action
    found = carried(obs if target is MASKED else obs[:, :3]).action
    assert torch.equal(found, logits.masked_fill(FLAGS > 0, -1e8) if target is MASKED else logits)


def test_the_divergence_of_masked_policies_is_that_over_what_is_allowed() -> None:
    p, q = (network_of(PLAIN, seed)(states()[:, :3]).action for seed in (1, 2))
    outputs = [Outputs(x, None, torch.zeros(6)).without(FLAGS > 0) for x in (p, q)]
    wanted = [kl_divergence(a, b) for a, b in zip(allowed_only(p), allowed_only(q), strict=True)]  # type: ignore[arg-type]
    torch.testing.assert_close(kl(*outputs), torch.stack(wanted))
    known = torch.tensor([True, True, True, False])  # in the last state none of these is allowed
    partly = [
        torch.zeros(())
        if a is None
        else (a.probs * (a.probs.log() - b.logits[[k for k in range(4) if not f[k] and known[k]]])).sum()
        for a, b, f in zip(
            allowed_only(p, known), [Categorical(logits=r) for r in outputs[1].action], FLAGS, strict=True
        )
    ]
    torch.testing.assert_close(kl(*outputs, shared=known), torch.stack(partly))
    leaf = outputs[1].action.detach().requires_grad_()
    slope = torch.autograd.grad(kl(outputs[0], Outputs(leaf, None, torch.zeros(6)), shared=known).sum(), leaf)[0]
    assert slope.isfinite().all()


def test_importances_are_those_of_the_allowed_actions() -> None:
    """E_a~pi[(d log pi(a) / d theta)^2] by autograd over what may be played."""
    network, obs = network_of(MASKED), states()
    names = [name for name, _ in network.named_parameters() if name.startswith(("encoder.", "policy."))]
    parameters = [dict(network.named_parameters())[name] for name in names]
    wanted = [torch.zeros_like(p) for p in parameters]
    for row, flags in zip(obs, FLAGS, strict=True):
        for a in range(4):
            if not flags[a]:
                logp = network(row.unsqueeze(0)).action.log_softmax(-1)[0, a]
                slopes = torch.autograd.grad(logp, parameters)
                wanted = [w + logp.exp().detach() * s.square() / 6 for w, s in zip(wanted, slopes, strict=True)]
    found = diagonal_fisher(network, obs, names)
    for name, expected in zip(names, wanted, strict=True):
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-6)


def test_a_memory_compares_policies_where_they_may_choose() -> None:
    """Observations are stored without flags, so that a task without masks, or with other actions, can show them."""
    network, rollouts = network_of(MASKED), Batch(states(), torch.zeros(6))
    method = METHODS["replay"](batch=64)
    state = method.consolidate(network, {}, rollouts, TaskPosition(0, 2)).state  # type: ignore[arg-type]
    assert state["memory.0.observations"].shape == (6, 3)
    assert tasks(state) == [0]
    for target in (MASKED, PLAIN):
        source = Checkpoint.of(network, Task("x"), parts={PART: dict(state)})
        built = method.build(source, target, CONFIG, 3).network
        with torch.no_grad():
            built.encoder.blocks[0][1].weight.mul_(1.5)  # type: ignore[index]
        drawn = method.replay(built, method.init(built, source))[0][0]
        heads = PolicyNetwork(PLAIN, CONFIG, 0)
        own = dict(built.state_dict()) | {n: t for n, t in network.state_dict().items() if n.startswith("policy.")}
        heads.load_exactly(own)
        rows = (drawn.drawn.observations.unsqueeze(1) == states()[:, :3]).all(-1).int().argmax(1)
        then = network(states()).action.masked_fill(FLAGS > 0, -torch.inf)[rows]
        now = heads(states()[:, :3]).action.masked_fill(FLAGS > 0, -torch.inf)[rows]
        p, q = then.log_softmax(-1), now.log_softmax(-1)
        wanted = torch.where(p.exp() > 0, p.exp() * (p - q), 0.0).sum(-1)
        torch.testing.assert_close(kl(drawn.then, drawn.now), wanted)


def test_a_teacher_may_not_recommend_what_is_forbidden() -> None:
    source = Checkpoint.of(network_of(PLAIN), Task("x"))
    method = METHODS["kickstart"]()
    student = method.build(source, MASKED, CONFIG, 1).network
    step = method.gradients({}, student, method.init(student, source), Batch(states(), torch.zeros(6)))
    teacher = allowed_only(network_of(PLAIN)(states()[:, :3]).action)
    learner = allowed_only(student.heads(student.encoder(states()[:, :3])).action)
    wanted = torch.stack([kl_divergence(a, b) for a, b in zip(teacher, learner, strict=True)]).mean()  # type: ignore[arg-type]
    assert step.penalty is not None
    torch.testing.assert_close(step.penalty, wanted.detach())


def test_dormant_units_are_looked_for_in_what_the_encoder_reads() -> None:
    network = network_of(MASKED)
    with torch.no_grad():
        network.encoder.blocks[0][1].weight[2] = 0  # type: ignore[index]
        network.encoder.blocks[0][1].bias[2] = 0  # type: ignore[index]
    method = ReDo(every=1)
    method.gradients({}, network, method.init(network, None), Batch(states(), torch.zeros(6)))
    assert network.encoder.blocks[0][1].weight[2].any()  # type: ignore[index]


def experiment(folder: Path, **changes: Any) -> Any:
    tiny = {"network": {"head": [8]}, "seeds": 1, "recall": 8, "transfer": {"steps": 128}, "pretrain": {"steps": 128}}
    return load_config(str(write_config(folder, **{**tiny, **changes})))


def test_unmasked_to_masked_from_the_config_on(tmp_path: Path) -> None:
    """Pretraining without masks, then a transfer whose probe, training, evaluation and `kept` have them."""
    Seen.reset()
    source = Task("Masked-v0", {"where": "none"}).to_json()
    target = Task("Masked-v0", {"where": "method", "count": 5}).to_json()
    config = experiment(tmp_path, sources=source, targets=target, methods=[{"finetune": {"heads": "by_name"}}])
    graph, store = expand(config), Store(tmp_path / "out")
    check_pairs(graph)
    store.open(config)
    stages = list(graph.stages.values())
    run_stage(stages[0], store, lambda *_: None)
    assert Seen.forbidden > 0  # nothing is forbidden there
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Masked, "step", _strict(Masked.step))
        for stage in stages[1:]:
            run_stage(stage, store, lambda *_: None)


def _strict(step: Any) -> Any:
    def checked(env: Masked, action: Any) -> Any:
        before = Seen.forbidden
        found = step(env, action)
        assert env.where == "none" or Seen.forbidden == before
        return found

    return checked


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["sb3", "rllib"])
@pytest.mark.usefixtures("one_ray")
def test_every_method_from_one_masked_task_to_another(tmp_path: Path, backend: str) -> None:
    """A sequence of tasks with other actions, masks in other places and none, and recall of all of them."""
    made = [{"where": "info"}, {"where": "observation", "count": 3}, {"where": "none"}, {"where": "method", "count": 5}]
    listed = [Task("Masked-v0", kwargs).to_json() for kwargs in made]
    needs_more = {"auto", "chain", "rma"}
    methods = [name for name in METHODS if name not in needs_more]
    config = experiment(
        tmp_path, sources=None, targets=None, sequence=listed, methods=methods, backend=backend, transfer={"steps": 256}
    )
    graph, store = expand_sequence(config), Store(tmp_path / "out")
    check_sequence(graph)
    store.open(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Masked, "step", _strict(Masked.step))
        for stage in graph.stages.values():
            run_stage(stage, store, lambda *_: None)
    assert [stage for stage in graph.stages if "faults" in store.checkpoint(stage).record] == []
