"""SAC's critics: what trains a shared encoder, starting from those of a source, and training only critics at first."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from support.off_policy import STEPS, UPDATES, moved
from support.off_policy import small_sac as small
from support.tiny_tasks import REACH, assert_same, weights
from torch.nn.functional import logsigmoid, mse_loss

from graft.agents.sb3 import train
from graft.agents.training.backend import Evaluation, Hooks, TrainJob
from graft.errors import GraftError
from graft.transfer.method import METHODS
from graft.transfer.methods.lora import LowRank

pytestmark = pytest.mark.usefixtures("tiny_tasks")
QUIET = Evaluation(every=10_000, episodes=8, num_envs=8)


def job(network, critics=None, budget=STEPS, hooks=None, **options):
    given = {} if critics is None else critics
    rest = {"evaluation": QUIET, "hooks": hooks or Hooks(), "device": "cpu", "critics": given}
    return TrainJob(network, REACH, small.algorithm(**options), budget, 0, lambda *_: None, **rest)


def learnt(network=None, critics=None, **rest):
    """Critics after a training."""
    asked = job(network or small.network(), critics, **rest)
    train(asked)
    return asked.critics


# A shared encoder


def policy_by_hand(network, obs, noise):
    outputs = network(obs)
    before = outputs.action + noise * outputs.log_std.exp()
    normal = -0.5 * noise**2 - outputs.log_std - 0.5 * math.log(2 * math.pi)
    slopes = math.log(4) + logsigmoid(2 * before) + logsigmoid(-2 * before)
    return before.tanh(), (normal - slopes).sum(1)


def values(critic, obs, actions, encoder):
    return [q(torch.cat([encoder(obs), actions], 1)).squeeze(1) for q in critic.q_networks]


def test_gradients_with_a_shared_encoder_by_hand():
    """The encoder's are of the critics' loss, the policy head's of the actor's loss on features as they are."""
    seen = []
    network = small.network()
    with torch.no_grad():
        network.policy.spread.weight.mul_(20)
        network.policy.out.weight.mul_(20)
    learner = small.learner(
        network, lambda g, *_: seen.append({n: t.clone() for n, t in g.items()}) or g, encoder="shared", entropy=0.3
    )
    learner.learn(20)  # random play only
    twin, critic = copy.deepcopy(network), copy.deepcopy(learner.critic)
    target = copy.deepcopy(learner.critic_target)
    for updates in (1, 2):  # nothing is left of an update's gradients in the next one's
        if updates == 2:
            twin, critic, target = (copy.deepcopy(m) for m in (network, learner.critic, learner.critic_target))
        np.random.seed(updates)
        sample = learner.replay_buffer.sample(16)
        np.random.seed(updates)
        torch.manual_seed(updates)
        learner.train(1, 16)
        torch.manual_seed(updates)
        now, later = (torch.normal(torch.zeros(16, 2), torch.ones(16, 2)) for _ in range(2))
        with torch.no_grad():
            after, logp = policy_by_hand(twin, sample.next_observations, later)
            both = values(target, sample.next_observations, after, target.features_extractor.encoder)
            best = torch.minimum(*both) - 0.3 * logp
            goal = sample.rewards.squeeze(1) + (1 - sample.dones.squeeze(1)) * 0.99 * best
        taken = values(critic, sample.observations, sample.actions, twin.encoder)
        loss = 0.5 * sum(mse_loss(q, goal) for q in taken)
        encoder = dict(twin.encoder.named_parameters(prefix="encoder"))
        wanted = dict(zip(encoder, torch.autograd.grad(loss, list(encoder.values())), strict=True))
        with torch.no_grad():
            features = twin.encoder(sample.observations)
        drawn, logp = policy_by_hand(Headed(twin, features), sample.observations, now)
        stepped = learner.critic  # the critics have made their step before the actor's loss
        read = [q(torch.cat([features, drawn], 1)).squeeze(1) for q in stepped.q_networks]
        actor = (0.3 * logp - torch.minimum(*read)).mean()
        policy = dict(twin.policy.named_parameters(prefix="policy"))
        wanted |= dict(zip(policy, torch.autograd.grad(actor, list(policy.values())), strict=True))
        assert seen[-1].keys() == wanted.keys()
        for name, gradient in wanted.items():
            torch.testing.assert_close(seen[-1][name], gradient, rtol=1e-3, atol=1e-5)


class Headed:
    """A network whose features are given."""

    def __init__(self, network, features):
        self.network, self.features = network, features

    def __call__(self, _):
        return self.network.heads(self.features)


def test_a_shared_encoder_keeps_what_a_method_zeroes():
    def only_heads(grads, *_):
        return {name: g for name, g in grads.items() if not name.startswith("encoder.")}

    network = small.network()
    before = weights(network)
    after = small.learned(network, only_heads, encoder="shared")
    assert moved(after, before) == {name for name in before if name.startswith("policy.")}


# Critics of a source


@pytest.mark.parametrize("encoder", ["separate", "shared"])
def test_training_starts_from_the_critics_given_and_leaves_its_own(encoder):
    network = small.network()
    first = learnt(network, encoder=encoder)
    assert ("online.encoder.blocks.0.1.weight" in first) == (encoder == "separate")
    assert "target.encoder.blocks.0.1.weight" in first
    kept = learnt(network, dict(first), encoder=encoder, budget=STEPS, learning_starts=1000)
    assert_same(kept, first)  # nothing was learned
    more = learnt(network, dict(first), encoder=encoder)
    assert moved(more, first) == set(first)
    again = learnt(network, dict(first), encoder=encoder, hooks=Hooks(lambda *_: {}))
    assert moved(again, first) == set(first)


def test_the_network_plays_from_the_start_where_it_came_with_its_critics():
    network = small.network()
    with torch.no_grad():
        network.policy.out.bias.fill_(20.0)  # always at the upper bound
        network.policy.spread.bias.fill_(-5.0)
    taken = []
    for critics in ({}, learnt(network)):
        learner = small.learner(network, learning_starts=1000)
        learner.critics_carried = bool(critics)
        step = learner.env.step_async
        learner.env.step_async = lambda actions, step=step: taken.append(np.array(actions)) or step(actions)
        learner.learn(STEPS)
    half = len(taken) // 2
    assert np.abs(np.stack(taken[:half])).mean() < 0.4
    assert np.stack(taken[half:]).min() > 0.49


def test_a_learned_temperature_is_carried_and_a_fixed_one_stays():
    first = learnt(entropy=0.25)
    assert first["log_alpha"].item() == pytest.approx(math.log(0.25))
    learner = small.learner(small.network())
    learner.critic_state().load(first)
    assert learner.log_ent_coef.item() == pytest.approx(math.log(0.25))
    fixed = small.learner(small.network(), entropy=0.5)
    fixed.critic_state().load(first)
    assert fixed.ent_coef_tensor.item() == 0.5
    assert "log_alpha" not in learnt(entropy=0.0)


def test_critics_of_another_layout_are_refused():
    first = learnt()
    for options in ({"critic": (8,)}, {"encoder": "shared"}):
        with pytest.raises(GraftError, match=r"critics of the source do not fit.*'encoder' and 'critic'"):
            learnt(critics=dict(first), **options)


def test_a_corrected_weight_is_saved_with_its_correction():
    """Of `lora`, whose low-rank correction the critics' copy of the encoder has as well."""
    network = small.network()
    layer = network.encoder.blocks[0][1]
    torch.nn.utils.parametrize.register_parametrization(
        layer, "weight", LowRank(layer.weight, 2, 4.0, torch.Generator().manual_seed(0))
    )
    learner = small.learner(network)
    state, copied = learner.critic_state(), learner.critic.features_extractor.encoder.blocks[0][1]
    given = {name: torch.randn_like(t) for name, t in state.save().items()}
    state.load(given)
    assert_same(state.save(), given)
    with torch.no_grad():
        copied.parametrizations.weight[0].B.fill_(1.0)
    name = "online.encoder.blocks.0.1.weight"
    assert torch.equal(state.save()[name], copied.weight)
    assert not torch.equal(state.save()[name], given[name])


# Only critics at first


@pytest.mark.parametrize("encoder", ["separate", "shared"])
@pytest.mark.parametrize("warmup", [0.5, 40])
def test_network_and_temperature_are_held_while_the_critics_warm_up(encoder, warmup):
    """Budget 80, first update after 20: held up to 60, at the rollouts that end at 24, 28 ... 60; then not."""
    network = small.network()
    before, seen = weights(network), []
    hooks = Hooks(lambda grads, *_: seen.append(0) or grads, critic_warmup=warmup)
    critics = learnt(network, budget=60, hooks=hooks if warmup == 40 else Hooks(hooks.gradients, critic_warmup=40))
    assert_same(weights(network), before)
    assert seen == []
    assert critics["log_alpha"].item() == 0
    fresh = small.learner(small.network(), encoder="separate").critic_state().save()
    assert moved(critics, fresh) == set(fresh) - {"log_alpha"}

    network = small.network()
    critics = learnt(network, budget=80, hooks=hooks, encoder=encoder)
    assert len(seen) == 2 * 5
    assert moved(weights(network), before) == {name for name in before if not name.startswith("value.")}
    assert critics["log_alpha"].item() != 0


def test_without_warmup_every_update_trains_the_network():
    seen = []
    learnt(hooks=Hooks(lambda grads, *_: seen.append(0) or grads))
    assert len(seen) == UPDATES


# ReDo


@pytest.mark.parametrize("encoder", ["separate", "shared"])
def test_redo_knows_the_critics(encoder):
    """A unit that is always 0 in the features: fresh weights in, zeros out, in every layer that reads it."""
    network = small.network()
    with torch.no_grad():
        network.encoder.blocks[1][1].weight[3] = 0
        network.encoder.blocks[1][1].bias[3] = 0
    learner = small.learner(network, encoder=encoder)
    learner.learn(20)
    method = METHODS["redo"](every=1, tau=0.0)
    learner.replay_buffer.sample(16)
    network, batch = learner.minibatch()
    own, first = batch.critics.encoder, batch.critics.first
    assert (own is network.encoder) == (encoder == "shared")
    before, old = [q.clone() for q in first], weights(network)
    method.gradients({}, network, method.init(network, None), batch)
    for encoder_now in {id(e): e for e in (network.encoder, own)}.values():
        assert encoder_now.blocks[1][1].weight[3].abs().sum() > 0
    for weight, was in zip(first, before, strict=True):
        assert not weight[:, 3].any()
        others = [i for i in range(weight.shape[1]) if i != 3]
        assert torch.equal(weight[:, others], was[:, others])
    changed = moved(weights(network), old)
    assert changed == {"encoder.blocks.1.1.weight", "policy.hidden.0.weight", "value.hidden.0.weight"}
