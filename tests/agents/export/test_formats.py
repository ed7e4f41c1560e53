"""Every format does what evaluation does, for every kind of observation and action, and says so where it does not."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import gymnasium as gym
import numpy as np
import onnx
import pytest
import torch
from support.export_cases import ACTS, NETWORKS, TORQUES, V, recorded, varied, with_masks
from support.masked_envs import Masked
from support.tiny_tasks import parts, planes, small_network
from support.unity_rules import failed_checks

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.export.contract import vectors
from graft.agents.export.exporter import EXPORTERS, Agent
from graft.agents.export.formats.godot import read_by_plugin
from graft.agents.export.formats.torchscript import traced
from graft.agents.export.onnx_file import described, runner, to_onnx
from graft.agents.export.parity import check, tied
from graft.agents.export.policy import Policy
from graft.agents.export.ports import allowed_actions, split_leaves
from graft.agents.export.quantise import int8_weights
from graft.agents.export.recording import drawn, record_states
from graft.agents.export.verify import verify
from graft.agents.networks.normaliser import commit_statistics
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.envs.core.schema import Schemas
from graft.envs.core.task import Task
from graft.envs.factory import schemas
from graft.errors import GraftError


def exported(name, network):
    interface = EXPORTERS[name].interface(network)
    return interface, to_onnx(interface)


def played(name, network, count=200):
    """The parity of a format, its model, and how many different actions were compared."""
    interface, data = exported(name, network)
    recording = recorded(network, count)
    parity = check(interface, runner(data), recording, network.schemas.action, name)
    return parity, data, len(np.unique(recording.actions, axis=0))


def cases(*fast, but=()):
    """All cases, of which those that are not ``fast`` are slow tests."""
    found = [case for case in NETWORKS if case not in but]
    marks = {case: () if case in fast else (pytest.mark.slow,) for case in found}
    return pytest.mark.parametrize("case", [pytest.param(case, marks=marks[case]) for case in found])


@cases("masked parts", "squashed")
def test_onnx_plays_what_evaluation_plays(case):
    parity, data, different = played("onnx", NETWORKS[case]())
    assert parity.states == 200
    assert different > 1
    assert described(data)["opset"] <= 15


@cases("masked choices", "torques")
def test_unity_plays_what_evaluation_plays_and_passes_its_own_checks(case):
    network = NETWORKS[case]()
    _, data, _ = played("unity", network, 50)
    seen, actions = network.schemas.observation.plain, network.schemas.action
    sensors = [part.shape for _, part in seen.parts] or [seen.shape]
    branches = list(actions.sizes) or ([len(actions.names)] if actions.kind == "discrete" else [])
    continuous = len(actions.names) if actions.kind == "box" else 0
    for deterministic in (False, True):
        assert failed_checks(data, sensors, branches, continuous, deterministic) == []
        wrong = failed_checks(data, [(9,), *sensors], [*branches, 3], continuous, deterministic)
        assert len(wrong) >= 2  # another agent in the engine is noticed


@cases("masked", "bounded", but=("box",))
def test_godot_plays_what_evaluation_plays(case):
    network = NETWORKS[case]()
    _, data, _ = played("godot", network, 50)
    seen = described(data)
    size = math.prod(network.schemas.observation.shape)
    assert seen["inputs"] == {"obs": ["float32", "batch", size], "state_ins": ["float32", "batch"]}
    assert seen["outputs"] == {
        "output": ["float32", "batch", len(network.schemas.action.names)],
        "state_outs": ["float32", "batch"],
    }


@pytest.mark.parametrize(
    "case", ["box", *(pytest.param(case, marks=pytest.mark.slow) for case in ("squashed", "torques"))]
)
def test_rsl_rl_plays_what_evaluation_plays(case):
    _, data, _ = played("rsl_rl", NETWORKS[case](), 50)
    seen = described(data)
    assert list(seen["inputs"]) == ["obs"]
    assert list(seen["outputs"]) == ["actions"]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["masked", "squashed", "parts"])
def test_torchscript_plays_what_evaluation_plays(case):
    network = NETWORKS[case]()
    exporter = EXPORTERS["torchscript"]
    interface = exporter.interface(network)
    ports = {side: [{"name": port.name} for port in getattr(interface, side)] for side in ("inputs", "outputs")}
    run = exporter.runner(traced(interface), ports, "it")
    assert check(interface, run, recorded(network, 50), network.schemas.action, "it").states == 50


def test_agents_that_a_consumer_cannot_play_are_refused():
    with pytest.raises(GraftError, match=r"numbers from -1 to 1.*--to onnx"):
        exported("godot", NETWORKS["box"]())
    with pytest.raises(GraftError, match=r"box actions.*discrete.*--to onnx"):
        exported("rsl_rl", NETWORKS["discrete"]())


def test_a_model_that_plays_other_actions_is_refused():
    network = NETWORKS["torques"]()
    interface, data = exported("rsl_rl", network)
    other = recorded(network)
    other.actions[7, 1] += 1e-3
    with pytest.raises(GraftError, match=r"in state 7 action\[1\] is"):
        check(interface, runner(data), other, TORQUES, "It")


@pytest.mark.parametrize(
    ("case", "port", "wrong"),
    [
        ("bounded", "std", lambda d: d._replace(spread=d.spread * 1.01)),
        ("bounded", "mean", lambda d: d._replace(scores=d.scores + 0.01)),
        ("discrete", "logits", lambda d: d._replace(scores=d.scores + 7)),
        ("greedy", "q_values", lambda d: d._replace(scores=d.scores * 2)),
    ],
)
def test_wrong_scores_are_refused_though_the_actions_are_right(case, port, wrong, monkeypatch):
    forward = Policy.forward
    monkeypatch.setattr(Policy, "forward", lambda self, obs, masks=None: wrong(forward(self, obs, masks)))
    network = NETWORKS[case]()
    interface = EXPORTERS["onnx"].interface(network)
    inputs = interface.feed(recorded(network, 20).observations)
    outputs = interface.module(*(torch.from_numpy(inputs[p.name]) for p in interface.inputs))
    model = {p.name: o.detach().numpy() for p, o in zip(interface.outputs, outputs, strict=True)}
    with pytest.raises(GraftError, match=rf"in state 0 {port}\[0\] is"):
        check(
            interface,
            lambda given: {k: v[: len(given["obs"])] for k, v in model.items()},
            recorded(network, 20),
            network.schemas.action,
            "It",
        )


def test_the_flat_input_says_what_lies_where():
    network = NETWORKS["masked parts"]()
    port = EXPORTERS["godot"].interface(network).inputs[0].to_json()
    obs = recorded(network, 3).observations
    where = {part["name"]: part for part in port["parts"]}
    assert list(where) == ["obs_view", "obs_state", "forbidden"]
    for name, leaf in split_leaves(network.schemas.observation, obs).items():
        part = where[name]
        size = math.prod(part["shape"])
        found = obs[:, part["offset"] : part["offset"] + size].reshape(-1, *part["shape"])
        np.testing.assert_array_equal(found, leaf)
        assert len(part["names"]) == len(part["low"]) == len(part["high"]) == part["shape"][0]
    assert where["forbidden"]["offset"] == port["shape"][1] - 3
    vector = EXPORTERS["godot"].interface(NETWORKS["discrete"]()).inputs[0]
    assert (vector.names, vector.low, vector.high) == (V.names, V.low, V.high)


def test_q_values_are_not_said_to_be_drawn_from():
    network = NETWORKS["greedy"]()
    for name in ("onnx", "unity", "godot"):
        assert "largest Q value" in EXPORTERS[name].interface(network).sampling
    assert "Q values" in EXPORTERS["godot"].interface(network).outputs[0].meaning
    unity = EXPORTERS["unity"].interface(network)
    assert not any(port.sampled for port in unity.outputs)
    with pytest.raises(GraftError, match="not the action with the largest Q value"):
        unity.decode({"discrete_actions": np.array([[1]]), "deterministic_discrete_actions": np.array([[0]])})


def test_an_operator_that_onnx_lacks_is_a_sentence():
    interface = EXPORTERS["onnx"].interface(NETWORKS["discrete"]())
    inner = interface.module

    class Odd(torch.nn.Module):
        def forward(self, obs):
            return torch.linalg.svdvals(obs), *inner(obs)[1:]

    with pytest.raises(GraftError, match="cannot be written as ONNX, opset 15"):
        to_onnx(replace(interface, module=Odd()))


def test_tied_states_are_left_out_of_the_vectors():
    network = NETWORKS["discrete"]()
    interface = EXPORTERS["onnx"].interface(network)
    recording = recorded(network, 40)
    recording.scores[:, 2] = -100
    recording.scores[::2, 1] = recording.scores[::2, 0]
    assert tied(recording.scores, ACTS).tolist() == [True, False] * 20
    run = runner(to_onnx(interface))
    written = json.loads(vectors(interface, run, recording, ACTS))["inputs"]["obs"]
    np.testing.assert_allclose(written, recording.observations[1::2])


def test_equal_actions_are_ties_and_unequal_ones_are_not():
    network = NETWORKS["discrete"]()
    with torch.no_grad():
        network.policy.out.weight[1] = network.policy.out.weight[0]
        network.policy.out.bias[1] = network.policy.out.bias[0]
        network.policy.out.bias[2] = -100
    interface, data = exported("onnx", network)
    other = recorded(network)
    other.actions[:] = 1  # argmax says 0, which is as good
    parity = check(interface, runner(data), other, ACTS, "It")
    assert parity.near_ties == 200
    other.actions[:] = 2
    with pytest.raises(GraftError, match="in state 0 action"):
        check(interface, runner(data), other, ACTS, "It")


def test_masks_forbid_in_unity_also_where_the_task_shows_none():
    network = NETWORKS["multi-discrete"]()
    interface, data = exported("unity", network)
    inputs = interface.feed(recorded(network).observations)
    rng = np.random.default_rng(0)
    allowed = rng.random((200, 5)) < 0.6
    allowed[:, [0, 3]] = True
    inputs["action_masks"] = allowed.astype(np.float32)
    outputs = runner(data)(inputs)
    with torch.no_grad():
        logits = network(torch.from_numpy(inputs["obs_0"])).action.numpy()
    logits = np.where(allowed, logits, -np.inf)
    expected = np.stack([logits[:, :3].argmax(1), logits[:, 3:].argmax(1)], 1)
    np.testing.assert_array_equal(outputs["deterministic_discrete_actions"], expected)
    drawn_actions = outputs["discrete_actions"]
    assert allowed[np.arange(200), drawn_actions[:, 0]].all()
    assert allowed[np.arange(200), 3 + drawn_actions[:, 1]].all()


def test_unity_draws_from_the_policy():
    network = NETWORKS["bounded"]()
    with torch.no_grad():
        network.policy.log_std.copy_(torch.tensor([-3.0, -4.0]))
        network.policy.out.weight.mul_(0.1)
    interface, data = exported("unity", network)
    inputs = {name: value.repeat(4000, 0) for name, value in interface.feed(recorded(network, 1).observations).items()}
    found = runner(data)(inputs)
    mean, spread = found["deterministic_continuous_actions"][0], np.exp([-3.0, -4.0]) * [2.0, 2.5]
    free = (mean > np.array([-2, 0]) + 3 * spread) & (mean < np.array([2, 5]) - 3 * spread)
    assert free.all()
    assert found["continuous_actions"].mean(0) == pytest.approx(mean, abs=0.05)
    assert found["continuous_actions"].std(0) == pytest.approx(spread, rel=0.1)

    network = NETWORKS["discrete"]()
    interface, data = exported("unity", network)
    one = recorded(network, 1)
    inputs = {name: value.repeat(4000, 0) for name, value in interface.feed(one.observations).items()}
    shares = np.bincount(runner(data)(inputs)["discrete_actions"][:, 0], minlength=3) / 4000
    assert shares == pytest.approx(torch.from_numpy(one.scores[0]).softmax(-1).numpy(), abs=0.03)


def test_godot_reads_the_largest_logit_above_zero():
    """As the plugin does, which would play index 0 where all logits are negative."""
    assert read_by_plugin(np.array([[-3.0, -1.0, -2.0]], np.float32), ACTS).tolist() == [0]
    network = NETWORKS["discrete"]()
    with torch.no_grad():
        network.policy.out.bias.sub_(100)
    interface, data = exported("godot", network)
    recording = recorded(network)
    assert recording.scores.max() < -90
    found = runner(data)(interface.feed(recording.observations))["output"]
    np.testing.assert_allclose(found.max(1), 1)
    np.testing.assert_array_equal(read_by_plugin(found, ACTS), recording.actions)
    assert len(set(recording.actions.tolist())) > 1


def test_leaves_and_masks_are_what_the_task_shows():
    schema = with_masks(parts(["a", "b"]), ACTS)
    obs = drawn(schema, 3, np.random.default_rng(0))
    found = split_leaves(schema, obs)
    assert {name: (leaf.shape, str(leaf.dtype)) for name, leaf in found.items()} == {
        "obs_view": ((3, 2, 5, 5), "uint8"),
        "obs_state": ((3, 2), "float32"),
    }
    np.testing.assert_array_equal(found["obs_view"].reshape(3, -1), obs[:, :50])
    np.testing.assert_array_equal(found["obs_state"], obs[:, 50:52])
    np.testing.assert_array_equal(allowed_actions(Schemas(schema, ACTS), obs), 1 - obs[:, 52:])


def test_drawn_states_lie_within_the_bounds_and_allow_something():
    schema = with_masks(planes("ab"), ACTS)
    obs = drawn(schema, 500, np.random.default_rng(0))
    assert schema.space().contains(obs[0])
    assert set(np.unique(obs)) == {0, 1}
    assert (obs[:, -3:].sum(1) < 3).all()
    free = replace(V, low=(-math.inf, 0.0, -1.0, 5.0), high=(math.inf, math.inf, 1.0, 6.0))
    obs = drawn(free, 500, np.random.default_rng(0))
    assert all(free.space().contains(row) for row in obs[:20])
    assert obs[:, 0].std() == pytest.approx(3, rel=0.2)
    assert small_network(Schemas(free, ACTS)).eval()(torch.from_numpy(obs)).action.isfinite().all()


def test_int8_weights_are_the_nearest_bytes_whatever_the_batch():
    network = NETWORKS["masked parts"]()
    interface, data = exported("onnx", network)
    small = int8_weights(data)
    own, found = (
        {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load_model_from_string(d).graph.initializer}
        for d in (data, small)
    )
    rounded = [name for name in own if f"{name}.int8" in found]
    layers = [
        n.op_type for n in onnx.load_model_from_string(data).graph.node if n.op_type in ("Conv", "Gemm", "MatMul")
    ]
    assert len(rounded) == len(layers)
    assert set(layers) == {"Conv", "Gemm", "MatMul"}
    for name in rounded:
        values, scale = found[f"{name}.int8"], found[f"{name}.scale"]
        axis = own[name].shape.index(len(scale)) if own[name].shape[0] != len(scale) else 0
        shape = [-1 if i == axis else 1 for i in range(values.ndim)]
        off = np.abs(values * scale.reshape(shape) - own[name])
        assert (off <= 0.5001 * scale.reshape(shape)).all()
        assert np.abs(values).max() == 127
    inputs, run = interface.feed(recorded(network).observations), runner(small)
    together = run(inputs)["logits"]
    alone = [run({name: value[i : i + 1] for name, value in inputs.items()})["logits"][0] for i in range(10)]
    np.testing.assert_allclose(together[:10], alone, rtol=1e-5, atol=1e-5)
    exact = runner(data)(inputs)["logits"]
    seen = exact > -1e7
    assert 0 < np.abs(together - exact)[seen].mean() < 0.05 * np.abs(exact)[seen].mean()


REAL = {
    "ego": (Task("Graft/Hunt-v0", {"view": "ego"}), {}),
    "planes": (Task("Graft/Shoot-v0", {"view": "planes"}), {}),
    "vector": (Task("CartPole-v1"), {"options": {"normalise": True}}),
    "box": (Task("Pendulum-v1"), {"options": {"normalise": True}}),
    "squashed": (Task("Pendulum-v1"), {"distribution": "squashed", "activation": "relu"}),
    "parts": (Task("minigrid:MiniGrid-DoorKey-6x6-v0"), {}),
    "pixels": (Task("CarRacing-v3"), {}),
    "masked": (Task("masked/Info-v0"), {}),
    "masked choices": (Task("masked/Info-v0", {"sizes": [3, 2]}), {}),
    "squad": (Task("Graft/Pursuit-v0", {"team": "prey"}), {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REAL)
def test_every_format_plays_a_real_task_as_evaluation_does(case, tmp_path):
    """In 1,000 states of an agent of random weights that has seen a few observations."""
    if "masked/Info-v0" not in gym.registry:
        gym.register("masked/Info-v0", Masked)
    task, config = REAL[case]
    network = varied(PolicyNetwork(schemas(task), NetworkConfig(**config), 0))
    network.train()
    seen = record_states(network.eval(), task, 64, seed=1).observations
    network.train()(torch.from_numpy(seen))
    commit_statistics(network)
    Checkpoint.of(network.eval(), task).save(tmp_path / "agent")
    checkpoint = Checkpoint.load(tmp_path / "agent")
    agent = Agent(checkpoint, checkpoint.build().eval(), record_states(network, task, 1000, seed=0), "0")
    assert agent.recording.source == f"recorded by playing {task}"
    for name in ("onnx", "unity", "godot", "torchscript"):
        out = tmp_path / f"{name}{EXPORTERS[name].suffix}"
        said = EXPORTERS[name].write(agent, out)
        assert "the same as the network in 1,000 states" in said[1]
        assert verify(out, checkpoint)
        print(case, name, *said[:2], sep="; ")
