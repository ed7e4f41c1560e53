"""Running statistics of observations: what they are, when they move, and where they go."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.tiny_tasks import MATCH, TASK, discrete, observations, small_network, small_ppo, vector

from graft import envs
from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.normaliser import CLIP, EPSILON, Normaliser, normalisers, statistics
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.sb3 import ALGORITHMS, architecture_for, train
from graft.agents.training.backend import Batch, Evaluation, TrainJob
from graft.envs.core.schema import ObservationSchema, Schemas, joined
from graft.envs.core.union import union
from graft.transfer.method import parse_method

CONFIG = NetworkConfig("mlp", {"widths": [16, 16], "normalise": True}, (8,))
STATISTICS = {f"encoder.blocks.0.0.running_{name}" for name in ("mean", "var", "count")}


def seen(features: int, *batches: np.ndarray) -> Normaliser:
    normaliser = Normaliser(features)
    for batch in batches:
        normaliser(torch.as_tensor(batch))
        normaliser.commit_statistics()
    return normaliser


def network_of(names: list[str], seed: int = 0) -> PolicyNetwork:
    return PolicyNetwork(Schemas(vector(names), discrete("x", "y")), CONFIG, seed)


def test_statistics_are_those_of_all_observations_together():
    rng = np.random.default_rng(0)
    batches = [rng.normal([5.0, -300.0], [2.0, 50.0], (n, 2)).astype(np.float32) for n in (3, 40, 7)]
    normaliser, together = seen(2, *batches), np.concatenate(batches).astype(np.float64)
    np.testing.assert_allclose(normaliser.running_mean, together.mean(0), rtol=1e-5)
    np.testing.assert_allclose(normaliser.running_var, together.var(0), rtol=1e-5)
    assert normaliser.running_count.tolist() == [50, 50]
    scaled = normaliser.eval()(torch.as_tensor(together, dtype=torch.float32))
    np.testing.assert_allclose(scaled.mean(0), [0, 0], atol=1e-5)
    np.testing.assert_allclose(scaled.std(0, correction=0), [1, 1], rtol=1e-5)


def test_what_a_task_does_not_show_is_not_counted():
    """Its zeros are no values of the feature; one that was never shown keeps no count."""
    network = PolicyNetwork(Schemas(vector(["a", "b", "c"]), discrete("x", "y")), CONFIG, 0).train()
    normaliser, rng = normalisers(network)[0], np.random.default_rng(0)
    shown = rng.normal([5.0, -2.0, 0.0], [2.0, 0.5, 0.0], (200, 3)).astype(np.float32)
    network.encoder.show_only(["a", "b"])
    network(torch.as_tensor(shown))
    normaliser.commit_statistics()
    assert normaliser.running_count.tolist() == [200, 200, 0]
    assert normaliser.running_var[2] == 1
    assert normaliser.eval()(torch.tensor([[5.0, -2.0, 500.0], [5.0, -2.0, 0.5]]))[:, 2].tolist() == [CLIP, 0.5]
    normaliser.train()
    before = normaliser.running_mean.clone(), normaliser.running_var.clone()
    other = rng.normal([0.0, 7.0, 1.0], [0.0, 1.0, 3.0], (300, 3)).astype(np.float32)
    network.encoder.show_only(["b", "c"])
    network(torch.as_tensor(other))
    normaliser.commit_statistics()
    assert normaliser.running_count.tolist() == [200, 500, 300]
    assert (normaliser.running_mean[0], normaliser.running_var[0]) == (before[0][0], before[1][0])
    np.testing.assert_allclose(normaliser.running_var[1], np.r_[shown, other][:, 1].var(), rtol=1e-5)
    np.testing.assert_allclose(normaliser.running_var[2], other[:, 2].var(), rtol=1e-5)


def test_what_is_far_outside_is_cut_off():
    normaliser = seen(1, np.array([[-1.0], [1.0]], np.float32)).eval()
    assert normaliser(torch.tensor([[1e6], [-1e6]])).tolist() == [[CLIP], [-CLIP]]


def test_what_never_varied_is_centred_and_not_scaled():
    rng = np.random.default_rng(0)
    batches = [np.tile([0.0, 9.8, -300.1, 0.0], (n, 1)).astype(np.float32) for n in (1, 40, 7)]
    for batch in batches:
        batch[:, 3] = rng.normal(2.0, 0.5, len(batch))
    normaliser = seen(4, *batches).eval()
    assert normaliser.varied.tolist() == [False, False, False, True]
    shown = torch.tensor(batches[0]) + torch.tensor([[0.001, -0.25, 3.0, 0.0]])
    np.testing.assert_allclose(normaliser(shown)[0, :3].detach(), [0.001, -0.25, 3.0], rtol=1e-4)
    assert normaliser(torch.tensor(batches[1]))[:, :3].abs().max() == 0
    assert normaliser(torch.full((1, 4), 1e6)).tolist() == [[CLIP] * 4]


def test_rounding_is_no_variation_and_a_small_scale_is_one():
    rng = np.random.default_rng(0)
    rounding = np.float32(1000.1) + np.spacing(np.float32(1000.1)) * rng.integers(-2, 3, 500)
    small = rng.normal(0.0, 1e-3, 500)
    normaliser = seen(2, np.stack([rounding, small], 1).astype(np.float32)).eval()
    assert normaliser.varied.tolist() == [False, True]
    shown = normaliser(torch.tensor([[1000.1 + 0.5, 0.002]]))
    np.testing.assert_allclose(shown, [[0.5, 0.002 / np.sqrt(small.var() + EPSILON)]], rtol=0.05)


def test_nothing_moves_between_two_settlings_nor_in_eval_mode():
    normaliser = seen(1, np.array([[0.0], [2.0]], np.float32))
    obs = torch.tensor([[10.0], [30.0]])
    before = normaliser(obs)
    assert torch.equal(normaliser(obs), before)  # counted twice by now, and still the same
    normaliser.commit_statistics()
    assert normaliser.running_count.tolist() == [6]
    assert not torch.equal(normaliser(obs), before)
    normaliser.commit_statistics()
    kept = normaliser.running_mean.clone()
    normaliser.eval()(obs)
    normaliser.commit_statistics()
    assert torch.equal(normaliser.running_mean, kept)


def test_before_the_first_settling_observations_pass_as_they_are():
    obs = torch.tensor([[10.0, -7.0]])
    assert torch.equal(Normaliser(2)(obs), obs)


def test_statistics_are_no_weights_and_travel_in_the_checkpoint(tmp_path):
    network = network_of(["a", "b"])
    assert statistics(network) == STATISTICS
    assert not STATISTICS & {name for name, _ in network.named_parameters()}
    network(observations(network.schemas.observation, 9))
    normalisers(network)[0].commit_statistics()
    Checkpoint.of(network, TASK).save(tmp_path / "c")
    again = Checkpoint.load(tmp_path / "c").build()
    assert again.state_dict()["encoder.blocks.0.0.running_count"].tolist() == [9, 9]
    obs = observations(network.schemas.observation, 4)
    assert torch.equal(again.eval()(obs).action, network.eval()(obs).action)


def learned(names: list[str]) -> Checkpoint:
    """A source that has seen feature i around 10 * i."""
    network = network_of(names)
    network.train()
    noise = torch.randn(100, len(names), generator=torch.Generator().manual_seed(0))
    network(noise + 10.0 * torch.arange(len(names)))
    normalisers(network)[0].commit_statistics()
    return Checkpoint.of(network, TASK)


def test_they_are_matched_by_feature_name():
    source = learned(["a", "b", "c"])
    target = Schemas(vector(["c", "new", "a"]), discrete("x", "y"))
    built = parse_method("finetune").build(source, target, source.network, 1)
    normaliser = normalisers(built.network)[0]
    assert normaliser.running_mean.round().tolist() == [20, 0, 0]
    assert normaliser.running_var[1] == 1
    assert normaliser.running_count.tolist() == [100, 0, 100]
    row = next(r for r in built.report.rows if r.tensor.endswith("running_mean"))
    assert (row.status, row.detail) == ("padded", "new: new (random); dropped: b")


def constant(names: list[str], schema=vector, counted: list[str] | None = None) -> Checkpoint:
    """A source whose last feature was always 5, and the others standard normal; ``counted`` ones were shown."""
    network = PolicyNetwork(Schemas(schema(names), discrete("x", "y")), CONFIG, 0).train()
    network.encoder.show_only(names if counted is None else counted)
    shown = torch.randn(100, len(names), generator=torch.Generator().manual_seed(0))
    shown[:, -1] = 5.0
    network(shown)
    normalisers(network)[0].commit_statistics()
    return Checkpoint.of(network, TASK)


@pytest.mark.parametrize("method", ["finetune", "frozen", "lora", "packnet", {"finetune": {"statistics": "freeze"}}])
def test_after_a_transfer_a_feature_that_never_varied_goes_on_alone_or_unscaled(method):
    source = constant(["a", "b"])
    network = parse_method(method).build(source, source.schemas, source.network, 1).network.train()
    normaliser = normalisers(network)[0]
    moves = normaliser.training
    assert normaliser.running_count.tolist() == [100, 0]
    obs = observations(source.schemas.observation, 5)
    assert torch.equal(normaliser(obs), normalisers(source.build())[0](obs))
    normaliser._pending.zero_()
    new = torch.tensor([[0.0, 3.0], [1.0, 7.0]])
    network(new)
    normaliser.commit_statistics()
    assert normaliser.running_count.tolist() == ([102, 2] if moves else [100, 0])
    assert normaliser.running_var[1] == (4.0 if moves else 0.0)
    torch.testing.assert_close(normaliser.eval()(new)[:, 1], torch.tensor([-1.0, 1.0] if moves else [-2.0, 2.0]))


@pytest.mark.parametrize("shown", [["a", "b"], ["a"]], ids=["never varied", "never shown"])
def test_a_new_feature_takes_the_statistics_of_those_like_it_that_varied(shown):
    def alike(names: list[str]) -> ObservationSchema:
        return vector(names, [["angle"]] * len(names))

    source = constant(["a", "b"], alike, shown)
    target = Schemas(alike(["a", "b", "new"]), discrete("x", "y"))
    normaliser = normalisers(parse_method("finetune").build(source, target, source.network, 1).network)[0]
    for name in ("running_mean", "running_var", "running_count"):
        values = getattr(normaliser, name)
        assert values[2] == values[0]


def test_parts_of_an_observation_have_the_same_rule():
    schemas = Schemas(joined({"arm": vector(["a", "b"]), "touch": vector(["c"])}), discrete("x", "y"))
    network = PolicyNetwork(schemas, NetworkConfig("branches", {"features": 4, "normalise": True}, (8,)), 0).train()
    network(torch.tensor([[-1.0, 2.0, 0.0], [1.0, 2.0, 0.0]]))
    for normaliser in normalisers(network):
        normaliser.commit_statistics()
    built = parse_method("frozen").build(Checkpoint.of(network, TASK), schemas, network.config, 1).network
    arm, touch = normalisers(built)
    assert arm.running_count.tolist() == [2, 0]
    assert touch.running_count.tolist() == [0]
    assert touch(torch.tensor([[0.001]])).tolist() == [[pytest.approx(0.001)]]
    assert arm(torch.tensor([[1.0, 2.5]])).tolist() == [[pytest.approx(1.0), pytest.approx(0.5)]]


@pytest.mark.parametrize(
    ("method", "moves", "algorithm"),
    [
        ("finetune", True, "ppo"),
        ({"finetune": {"statistics": "freeze"}}, False, "ppo"),
        pytest.param({"finetune": {"statistics": "freeze"}}, False, "sac", marks=pytest.mark.slow),
        ("frozen", False, "ppo"),
        ({"frozen": {"statistics": "go_on"}}, True, "ppo"),
        pytest.param({"frozen": {"statistics": "go_on"}}, True, "sac", marks=pytest.mark.slow),
        ("random_frozen", True, "ppo"),
        ("lora", False, "ppo"),
        ({"lora": {"statistics": "go_on"}}, True, "ppo"),
        ("scratch", True, "ppo"),
    ],
    ids=str,
)
def test_they_go_on_or_freeze_as_the_method_says(method, moves, algorithm):
    """In a real training, also where the first blocks' outputs are computed once per rollout."""
    options = {} if algorithm == "ppo" else {"learning_starts": 10, "batch": 8, "buffer": 500, "critic": (8,)}
    made = small_ppo() if algorithm == "ppo" else ALGORITHMS["sac"](num_envs=4, **options)
    task = envs.Task("Pendulum-v1")
    schemas, config = envs.schemas(task), architecture_for(made, CONFIG)
    source = PolicyNetwork(schemas, config, 0)
    normalisers(source)[0].running_mean.fill_(3.0)
    normalisers(source)[0].running_count.fill_(50.0)
    built = parse_method(method).build(Checkpoint.of(source, task), schemas, config, 1)
    start = normalisers(built.network)[0].running_count.clone()
    plan = Evaluation(every=10_000, episodes=1, num_envs=1)
    train(TrainJob(built.network, task, made, 128, 0, lambda *_: None, plan))
    count, mean = normalisers(built.network)[0].running_count, normalisers(built.network)[0].running_mean
    assert bool((count > start).all()) is moves
    if moves:
        assert count.max() >= 100
    elif start.any():
        assert mean.tolist() == [3.0, 3.0, 3.0]


def test_held_statistics_of_what_was_never_seen_are_taken_once():
    network = network_of(["a"])
    network.encoder.hold_statistics()
    network.train()(torch.full((4, 1), 5.0))
    normalisers(network)[0].commit_statistics()
    network.eval().train()(torch.full((4, 1), 9.0))
    normalisers(network)[0].commit_statistics()
    assert normalisers(network)[0].running_mean.tolist() == [5.0]


def test_methods_that_rewrite_weights_leave_them_alone():
    source = learned(["a", "b", "c"])
    built = parse_method({"shrink_perturb": {"shrink": 0.5}}).build(source, source.schemas, source.network, 1)
    assert normalisers(built.network)[0].running_mean.round().tolist() == [0, 10, 20]
    redo = parse_method({"redo": {"every": 1, "tau": 1e9}})
    wide = learned([f"f{i}" for i in range(16)])  # as many features as the first block has units
    network = redo.build(wide, wide.schemas, wide.network, 1).network
    before = normalisers(network)[0].running_mean.clone()
    grads = {name: torch.ones_like(p) for name, p in network.named_parameters()}
    obs = observations(wide.schemas.observation, 4)
    weight = network.encoder.get_parameter("blocks.0.1.weight").clone()
    redo.gradients(grads, network, redo.init(network, wide), Batch(obs, torch.zeros(4)))  # every unit counts as dormant
    assert torch.equal(normalisers(network)[0].running_mean, before)
    assert not torch.equal(network.encoder.get_parameter("blocks.0.1.weight"), weight)


def test_a_plain_mlp_has_none():
    assert statistics(small_network(MATCH)) == set()


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_frozen_encoder_can_use_features_that_its_source_never_showed():
    """CartPole, then Acrobot, in the union of their observations; divided by a variance of 0 they came to -260."""
    tasks = [envs.Task("CartPole-v1"), envs.Task("Acrobot-v1")]
    options = {"num_envs": 16, "num_steps": 64, "minibatch": 256, "epochs": 6, "learning_rate": 1e-3, "gamma": 0.98}
    algorithm = ALGORITHMS["ppo"](**options, reward_scale=0.1)
    together = union([envs.schemas(task).observation for task in tasks])
    before, after = (Schemas(together, envs.schemas(task).action) for task in tasks)
    config = architecture_for(algorithm, NetworkConfig(None, {"normalise": True}))
    evaluation, means = Evaluation(every=50_000, episodes=32, num_envs=32), []
    for seed in range(3):
        source = PolicyNetwork(before, config, seed)
        train(TrainJob(source, tasks[0], algorithm, 50_000, seed, lambda *_: None, evaluation))
        built = parse_method("frozen").build(Checkpoint.of(source, tasks[0]), after, config, 1000 + seed)
        job = TrainJob(built.network, tasks[1], algorithm, 20_000, 1000 + seed, lambda *_: None, evaluation)
        means.append(np.mean(train(job).final_returns))
    assert np.mean(means) > -120
