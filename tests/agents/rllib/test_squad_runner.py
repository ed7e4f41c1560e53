"""Squads whose teams all learn: each policy from what its own agents saw, alone or with an encoder that they share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.policy.sample_batch import MultiAgentBatch
from support.squad_fixtures import TIDE, as_module
from support.tiny_tasks import EVALUATION, assert_same, small_config, weights

from graft import envs
from graft.agents.checkpoints.snapshot import Snapshots
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.rllib import ALGORITHMS, train
from graft.agents.rllib.algorithms.ppo import _batches
from graft.agents.rllib.backend import build_algorithm
from graft.agents.rllib.runner import RunnerEnvConfig
from graft.agents.rllib.squad_runner import SquadVectorEnv
from graft.agents.training.backend import Hooks, Partners, Resources, TrainJob
from graft.envs.core.task import Task
from graft.envs.core.team_rows import TeamRows
from graft.envs.factory import make_teams
from graft.errors import GraftError

pytestmark = pytest.mark.usefixtures("one_ray")

HUNTERS, PREY = (Task("Graft/Pursuit-v0", {"team": team}) for team in ("hunters", "prey"))
PLAYS = {"hunters": "hunter", "prey": "quarry"}
OPTIONS = {"num_envs": 12, "num_steps": 16, "minibatch": 64, "epochs": 2}


@pytest.fixture(autouse=True)
def tide(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module ``tide_v0``."""
    as_module(monkeypatch)


def fresh(task: Task, seed: int = 0) -> PolicyNetwork:
    schemas = envs.schemas(task)
    return PolicyNetwork(schemas, small_config(schemas.observation.kind), seed)


def pair(share: bool = False, mine: Task = HUNTERS, theirs: Task = PREY) -> tuple[PolicyNetwork, PolicyNetwork]:
    network, partner = fresh(mine), fresh(theirs, 1)
    if share:
        partner.encoder = network.encoder
    return network, partner


def together(
    network, partner, budget=400, task=HUNTERS, plays=PLAYS, hooks=None, resources=None, snapshots=None, **options
):
    """Train both; returns the result and what was recorded."""
    records = []
    result = train(TrainJob(
        network, task, ALGORITHMS["ppo"](**(OPTIONS | options)), budget, 3,
        lambda env_steps, values: records.append((env_steps, dict(values))), EVALUATION, hooks or Hooks(),
        snapshots=snapshots, resources=resources or Resources(),
        partners=Partners(plays, {list(plays.values())[1]: partner}),
    ))  # fmt: skip
    return result, records


@pytest.mark.parametrize(
    ("task", "team", "plays"),
    [
        (HUNTERS, "hunters", {"hunters": DEFAULT_MODULE_ID, "prey": "quarry"}),
        (Task(TIDE, {"team": "crab"}), "crab", {"crab": DEFAULT_MODULE_ID, "gull": "gull"}),
    ],
    ids=["arena", "PettingZoo"],
)
def test_games_show_each_policy_what_rows_of_its_team_see(task, team, plays):
    """`TeamRows` of one team, whose opponent plays what the other policy plays, is another way to the same games."""
    games = SquadVectorEnv(task, 3, 5, plays)
    other = next(name for name in plays if name != team)
    rows = envs.make(task, games.rows[DEFAULT_MODULE_ID], 5)
    assert isinstance(rows, TeamRows)
    rng = np.random.default_rng(0)
    their_actions = {}
    rows.opponents = lambda obs, alive: their_actions["now"]
    (obs, alive), (seen, infos) = games.reset_policies()[DEFAULT_MODULE_ID], rows.reset(seed=5)
    ends = 0
    for _ in range(120):
        np.testing.assert_array_equal(alive, infos["alive"])
        np.testing.assert_array_equal(obs[alive], seen[alive])
        drawn = {
            policy: rng.integers(len(games.schemas_of(policy).action.names), size=count)
            for policy, count in games.rows.items()
        }
        their_actions["now"] = drawn[plays[other]].reshape(3, -1)
        found = games.step_policies(drawn)
        mine = found[DEFAULT_MODULE_ID]
        seen, rewards, terminated, truncated, infos = rows.step(drawn[DEFAULT_MODULE_ID])
        acted = alive
        np.testing.assert_array_equal(mine.rewards[acted], rewards[acted])
        np.testing.assert_array_equal(mine.terminated[acted], terminated[acted])
        np.testing.assert_array_equal(mine.truncated[acted], truncated[acted])
        ended = (terminated | truncated) & acted
        if ended.any():
            assert mine.last is not None
            np.testing.assert_array_equal(mine.last[ended], infos["final_obs"][ended])
            ends += int(ended.sum())
        obs, alive = mine.obs, mine.alive
    assert ends
    games.close()
    rows.close()


def made(task, network, partners, hooks=None, plays=None, **options):
    """RLlib's algorithm for these."""
    algorithm = ALGORITHMS["ppo"](**(OPTIONS | {"epochs": 1, "minibatch": 4096} | options))
    world = RunnerEnvConfig(task, network.schemas.observation, 3, 1.0, 1, plays)
    return build_algorithm(algorithm, network, world, hooks or Hooks(), 0, Resources(), partners)


def updated(algorithm, batches):
    """The gradients of the method's network, and its weights, after one update with those batches."""
    algorithm.learner_group.update(
        batch=MultiAgentBatch(batches, max(map(len, batches.values()))), timesteps={}, num_epochs=1, minibatch_size=4096
    )
    learner = algorithm.learner_group._learner
    found = {policy: weights(network) for policy, network in learner.networks.items()}
    algorithm.stop()
    return found


def watching(seen):
    """Hooks that keep the first gradients that a method is given."""

    def gradients(grads, network, batch):
        seen.append({name: grad.clone() for name, grad in grads.items()})
        return grads

    return Hooks(gradients=gradients)


PLACED = {"hunters": DEFAULT_MODULE_ID, "prey": "quarry"}


def test_each_policy_learns_as_it_would_alone():
    network, partner = pair()
    both = made(HUNTERS, network, {"quarry": partner}, plays=PLACED)
    batches = _batches(tuple(both.env_runner_group.foreach_env_runner(lambda runner: runner.sample())), 1)
    assert set(batches) == {DEFAULT_MODULE_ID, "quarry"}
    found = updated(both, batches)
    for task, policy, own in ((HUNTERS, DEFAULT_MODULE_ID, network), (PREY, "quarry", partner)):
        alone = updated(made(task, own, {}), {DEFAULT_MODULE_ID: batches[policy]})
        for name, tensor in alone[DEFAULT_MODULE_ID].items():
            torch.testing.assert_close(found[policy][name], tensor, msg=f"{policy} {name}")
        assert any((found[policy][name] != before).any() for name, before in weights(own).items())


def test_a_shared_encoder_has_the_gradients_of_all():
    network, partner = pair(share=True)
    seen: list[dict[str, torch.Tensor]] = []
    both = made(HUNTERS, network, {"quarry": partner}, watching(seen), PLACED)
    batches = _batches(tuple(both.env_runner_group.foreach_env_runner(lambda runner: runner.sample())), 1)
    found = updated(both, batches)
    for task, policy, own in ((HUNTERS, DEFAULT_MODULE_ID, network), (PREY, "quarry", partner)):
        updated(made(task, own, {}, watching(seen)), {DEFAULT_MODULE_ID: batches[policy]})
    summed, mine, theirs = seen
    for name, grad in summed.items():
        shared = name.startswith("encoder.")
        torch.testing.assert_close(grad, mine[name] + theirs[name] if shared else mine[name], msg=name)
    same = {name: tensor for name, tensor in found["quarry"].items() if name.startswith("encoder.")}
    assert same
    for name, tensor in same.items():
        assert torch.equal(found[DEFAULT_MODULE_ID][name], tensor), name


def test_a_partner_alone_in_play_does_not_move_what_the_method_is_about():
    network, partner = pair(share=True)
    seen: list[dict[str, torch.Tensor]] = []
    both = made(HUNTERS, network, {"quarry": partner}, watching(seen), PLACED)
    batches = _batches(tuple(both.env_runner_group.foreach_env_runner(lambda runner: runner.sample())), 1)
    found = updated(both, {"quarry": batches["quarry"]})
    assert_same(found[DEFAULT_MODULE_ID], weights(network))
    assert (found["quarry"]["policy.out.weight"] != weights(partner)["policy.out.weight"]).any()
    assert not seen


def test_names_are_for_the_teams_that_see_the_same():
    plain = envs.schemas(HUNTERS)
    alike = Task(HUNTERS.id, {**HUNTERS.kwargs, "schema": {"observation": {plain.observation.names[0]: "friend"}}})
    games = SquadVectorEnv(alike, 1, 0, PLACED)
    assert games.schemas_of("quarry").observation == envs.schemas(alike).observation != plain.observation
    games.close()
    pytest.importorskip("mpe2")
    tag, names = "pettingzoo:mpe2.simple_tag_v3", [f"feature_{i}" for i in range(16)]
    chased = Task(tag, {"team": "adversary", "schema": {"observation": names}})
    games = SquadVectorEnv(chased, 1, 0, {"adversary": DEFAULT_MODULE_ID, "agent": "quarry"})
    assert games.schemas_of(DEFAULT_MODULE_ID) == envs.schemas(chased)
    assert games.schemas_of("quarry") == envs.schemas(Task(tag, {"team": "agent"}))  # it sees 14 numbers
    games.close()


@pytest.mark.parametrize("share", [pytest.param(False, marks=pytest.mark.slow), True])
def test_both_learn_and_an_encoder_is_shared_to_the_end(share):
    network, partner = pair(share)
    before = weights(network), weights(partner)
    result, records = together(network, partner)
    assert result.env_steps == 576  # three rollouts of four games with three hunters
    for now, then in ((weights(network), before[0]), (weights(partner), before[1])):
        assert all((now[f"{part}.out.weight"] != then[f"{part}.out.weight"]).any() for part in ("policy", "value"))
    assert (partner.encoder is network.encoder) == share
    encoders = [network.encoder.state_dict(), partner.encoder.state_dict()]
    assert all(torch.equal(encoders[0][name], encoders[1][name]) for name in encoders[0]) == share
    assert any("rollout/return_mean/quarry" in values for _, values in records)


def test_what_is_frozen_stays_and_a_partner_that_shares_it_learns_on_it():
    network, partner = pair(share=True)
    network.encoder.freeze()
    before = weights(network), weights(partner)
    together(network, partner)
    for now, then in ((weights(network), before[0]), (weights(partner), before[1])):
        assert_same(
            {n: t for n, t in now.items() if n.startswith("encoder.")},
            {n: t for n, t in then.items() if n.startswith("encoder.")},
        )
        assert (now["policy.out.weight"] != then["policy.out.weight"]).any()


@pytest.mark.slow
@pytest.mark.parametrize("share", [False, True])
def test_it_goes_on_where_it_was_stopped(share, tmp_path):
    whole = pair(share)
    together(*whole, budget=800)
    first, kept = pair(share), Snapshots(tmp_path, env_steps=192)

    class Stopped(Exception):
        pass

    def stop(network, progress):
        if progress > 0.6:
            raise Stopped

    with pytest.raises(Stopped):
        together(*first, budget=800, hooks=Hooks(schedule=stop), snapshots=kept)
    second = pair(share)
    _, records = together(*second, budget=800, hooks=Hooks(schedule=lambda *_: None), snapshots=kept)
    assert min(env_steps for env_steps, _ in records) > 0
    for mine, theirs in zip(second, whole, strict=True):
        assert_same(weights(mine), weights(theirs))


@pytest.mark.slow
def test_games_that_cannot_be_saved_go_on_with_fresh_episodes(tmp_path):
    crabs, gulls = (Task(TIDE, {"team": team}) for team in ("crab", "gull"))
    given, kept = {"task": crabs, "plays": {"crab": "crab", "gull": "gull"}}, Snapshots(tmp_path, env_steps=100)

    class Stopped(Exception):
        pass

    def stop(network, progress):
        if progress > 0.6:
            raise Stopped

    with pytest.raises(Stopped):
        together(*pair(False, crabs, gulls), budget=800, hooks=Hooks(schedule=stop), snapshots=kept, **given)
    at = kept.latest().env_steps
    result, records = together(*pair(False, crabs, gulls), budget=800, snapshots=kept, **given)
    assert result.fresh_at == (at,)
    assert 0 < at <= min(env_steps for env_steps, _ in records)


def test_one_policy_may_play_all_teams():
    reds = Task("Graft/TeamGather-v0", {"team": "reds"})
    network = fresh(reds)
    before = weights(network)
    partners = Partners({"reds": "self", "blues": "self"}, {})
    result = train(
        TrainJob(network, reds, ALGORITHMS["ppo"](**OPTIONS), 100, 3, lambda *_: None, EVALUATION, partners=partners)
    )
    agents = sum(len(its) for its in make_teams(reds, 0).teams.values())
    assert result.env_steps == -(-OPTIONS["num_envs"] // agents) * agents * OPTIONS["num_steps"]
    assert any((tensor != before[name]).any() for name, tensor in weights(network).items())


def test_agents_that_come_and_go_are_learned_from():
    crabs, gulls = (Task(TIDE, {"team": team}) for team in ("crab", "gull"))
    network, partner = pair(False, crabs, gulls)
    before = weights(partner)
    together(network, partner, task=crabs, plays={"crab": "crab", "gull": "gull"}, budget=100)
    assert any((tensor != before[name]).any() for name, tensor in weights(partner).items())


@pytest.mark.slow
@pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context")
@pytest.mark.parametrize("share", [False, True])
def test_several_learners_and_runners_stay_alike(share):
    network, partner = pair(share)
    together(network, partner, resources=Resources(num_env_runners=2, num_learners=2))
    assert (partner.encoder is network.encoder) == share
    assert all(bool(tensor.isfinite().all()) for tensor in (*weights(network).values(), *weights(partner).values()))


def test_networks_must_fit_their_teams():
    network, _ = pair()
    other = PolicyNetwork(envs.schemas(Task("Graft/Gather-v0")), NetworkConfig(), 0)
    with pytest.raises(GraftError, match=r"The network that plays prey of Pursuit.*sees"):
        together(network, other)
