"""ONNX files of other libraries: what is read back plays what the graph gives."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_tasks import box, discrete, pixels, vector

from graft.agents.importing.agent import import_agent
from graft.agents.importing.foreign import WHOLE, Statistics, played
from graft.agents.importing.parity import compare
from graft.agents.importing.source import Request
from graft.envs.core.schema import ActionSchema, ObservationSchema, Schemas, joined
from graft.errors import GraftError

onnx = pytest.importorskip("onnx")
helper, numpy_helper = onnx.helper, onnx.numpy_helper


BOX = ActionSchema("box", ("a", "b"), (-2.0, 0.0), (2.0, 5.0))
WIDE = box("ab", -np.inf, np.inf)
FOUR = discrete(*"nesw")
SEEN = vector("abcde")
RANDOM = np.random.default_rng(0)


def model(nodes: list[Any], inputs: dict[str, list[Any]], outputs: list[str], **numbers: Any) -> Any:
    """A model of these nodes and numbers."""
    stored = [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in numbers.items()]
    given = [helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, v) for k, v in inputs.items()]
    made = [helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, None) for k in outputs]
    graph = helper.make_graph(nodes, "policy", given, made, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def layer(outputs: int, inputs: int) -> tuple[Any, Any]:
    return RANDOM.normal(size=(outputs, inputs)) / inputs**0.5, RANDOM.normal(size=outputs) * 0.3


def read(made: Any, path: Any, schemas: Schemas, **names: Any) -> Any:
    onnx.save(made, path / "agent.onnx")
    return import_agent(Request(path / "agent.onnx", schemas, names=names))


def reference(made: Any, output: str, **inputs: Any) -> Any:
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(made).run([output], inputs)[0]


def ml_agents(discrete: bool) -> Any:
    """As ML-Agents writes a policy: a normaliser, layers with swish, and clipped or masked actions."""
    (w0, b0), (w1, b1), (w2, b2) = layer(8, 5), layer(8, 8), layer(4 if discrete else 2, 8)
    node = helper.make_node
    nodes = [
        node("Sub", ["obs_0", "mean"], ["c"]),
        node("Div", ["c", "deviation"], ["d"]),
        node("Clip", ["d", "minus5", "plus5"], ["h"]),
        node("Gemm", ["h", "w0", "b0"], ["g0"], transB=1),
        node("Sigmoid", ["g0"], ["s0"]),
        node("Mul", ["g0", "s0"], ["h0"]),
        node("Gemm", ["h0", "w1", "b1"], ["g1"], transB=1),
        node("Sigmoid", ["g1"], ["s1"]),
        node("Mul", ["g1", "s1"], ["h1"]),
        node("Gemm", ["h1", "w2", "b2"], ["out"], transB=1),
    ]
    numbers = {"mean": RANDOM.normal(size=5), "deviation": [0.5, 1, 2, 3, 1], "minus5": -5.0, "plus5": 5.0}
    numbers |= {"w0": w0, "b0": b0, "w1": w1, "b1": b1, "w2": w2, "b2": b2, "version_number": [3.0]}
    if discrete:
        nodes += [
            node("Mul", ["out", "action_masks"], ["kept"]),
            node("Mul", ["action_masks", "minus1"], ["negative"]),
            node("Add", ["negative", "one"], ["blocked"]),
            node("Mul", ["blocked", "huge"], ["low"]),
            node("Sub", ["kept", "low"], ["logits"]),
            node("ArgMax", ["logits"], ["deterministic_discrete_actions"], axis=1),
        ]
        numbers |= {"minus1": -1.0, "one": 1.0, "huge": 1e8}
        return model(
            nodes, {"obs_0": ["N", 5], "action_masks": ["N", 4]}, ["deterministic_discrete_actions"], **numbers
        )
    nodes += [
        node("Clip", ["out", "minus3", "plus3"], ["clipped"]),
        node("Div", ["clipped", "three"], ["deterministic_continuous_actions"]),
    ]
    numbers |= {"minus3": -3.0, "plus3": 3.0, "three": 3.0}
    return model(nodes, {"obs_0": ["N", 5]}, ["deterministic_continuous_actions"], **numbers)


OBS = RANDOM.normal(size=(1000, 5)).astype(np.float32) * 4


def test_ml_agents_continuous_actions_are_scaled_to_the_task_s_bounds(tmp_path):
    made = ml_agents(discrete=False)
    imported = read(made, tmp_path, Schemas(SEEN, BOX))
    theirs = reference(made, "deterministic_continuous_actions", obs_0=OBS)
    ours = imported.assembly.network.act(OBS, None, deterministic=True).numpy()
    np.testing.assert_allclose(ours, (theirs + 1) / 2 * [4.0, 5.0] + [-2.0, 0.0], atol=1e-5)
    assert compare(imported.policy, imported.assembly.network, OBS).holds
    assert ours.std(0).min() > 0.1
    assert {"mean", "deviation", "w0", "b0"} <= {row.tensor for row in imported.assembly.rows}
    assert not imported.assembly.unused


@pytest.mark.parametrize("last", ["mean", "tanh"])
def test_matmul_and_add_with_a_value_of_its_own(last, tmp_path):
    numbers, nodes = {}, []
    for head, outputs in (("p", 2), ("v", 1)):
        at = "obs"
        for i, (out, into) in enumerate(((8, 5), (outputs, 8))):
            weight, bias = layer(out, into)
            numbers |= {f"{head}w{i}": weight.T, f"{head}b{i}": bias}
            nodes += [helper.make_node("MatMul", [at, f"{head}w{i}"], [f"{head}m{i}"])]
            nodes += [helper.make_node("Add", [f"{head}b{i}", f"{head}m{i}"], [f"{head}a{i}"])]
            at = f"{head}h{i}"
            if i == 0:
                nodes += [helper.make_node("Elu", [f"{head}a{i}"], [at])]
    nodes += [helper.make_node("Tanh" if last == "tanh" else "Identity", ["pa1"], ["actions"])]
    nodes += [helper.make_node("Identity", ["va1"], ["value"])]
    made = model(nodes, {"obs": ["N", 5]}, ["actions", "value"], **numbers)
    imported = read(made, tmp_path, Schemas(SEEN, BOX if last == "tanh" else WIDE))
    theirs = reference(made, "actions", obs=OBS)
    theirs = (theirs + 1) / 2 * [4.0, 5.0] + [-2.0, 0.0] if last == "tanh" else theirs
    network = imported.assembly.network
    np.testing.assert_allclose(network.act(OBS, None, deterministic=True).numpy(), theirs, atol=1e-5)
    values = network(network.encoder.blocks[0][1].weight.new_tensor(OBS)).value.detach().numpy()
    np.testing.assert_allclose(values, reference(made, "value", obs=OBS).squeeze(), atol=1e-5)
    assert not imported.assembly.unused
    assert {row.tensor for row in imported.assembly.rows} == numbers.keys()


@pytest.mark.parametrize("scaled", [False, True])
def test_convolutions_over_pixels(scaled, tmp_path):
    node, kernel = helper.make_node, RANDOM.normal(size=(4, 3, 3, 3)) * 0.05
    (w0, b0), (w1, b1) = layer(8, 4 * 5 * 5), layer(4, 8)
    nodes = [
        *([node("Div", ["obs_0", "most"], ["x"])] if scaled else [node("Identity", ["obs_0"], ["x"])]),
        node("Conv", ["x", "k", "kb"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        node("Relu", ["c"], ["r"]),
        node("Flatten", ["r"], ["f"]),
        node("Gemm", ["f", "w0", "b0"], ["g"], transB=1),
        node("Relu", ["g"], ["h"]),
        node("Gemm", ["h", "w1", "b1"], ["logits"], transB=1),
    ]
    numbers = {"k": kernel, "kb": np.ones(4) * 0.1, "w0": w0, "b0": b0, "w1": w1, "b1": b1, "most": 255.0}
    made = model(nodes, {"obs_0": ["N", 3, 9, 9]}, ["logits"], **numbers)
    schema = pixels("rgb", 9, 9)
    imported = read(made, tmp_path, Schemas(schema, FOUR))
    obs = RANDOM.integers(0, 256, (100, 3, 9, 9)).astype(np.uint8)
    theirs = reference(made, "logits", obs_0=obs.astype(np.float32))
    network = imported.assembly.network
    ours = network(network.policy.out.weight.new_tensor(obs)).action.detach().numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert compare(imported.policy, network, obs).holds


def chain(
    *between: Any, inputs: int = 5, outputs: int = 4, more: dict[str, Any] | None = None, out: str = "out"
) -> Any:
    """Gemm, Relu, then Gemm; ``between`` are (operator, further inputs, attributes) after the last Gemm, or before the
    first where "before" stands in front.
    """
    (w0, b0), (w1, b1) = layer(8, inputs), layer(outputs, 8)
    before = [step[1:] for step in between if step[0] == "before"]
    after = [step for step in between if step[0] != "before"]
    nodes, at = [], "obs"

    def add(kind: str, further: tuple[str, ...], attributes: dict[str, Any]) -> None:
        nonlocal at
        nodes.append(helper.make_node(kind, [at, *further], [f"v{len(nodes)}"], **attributes))
        at = f"v{len(nodes) - 1}"

    for step in [
        *before,
        ("Gemm", ("w0", "b0"), {"transB": 1}),
        ("Relu", (), {}),
        ("Gemm", ("w1", "b1"), {"transB": 1}),
        *after,
    ]:
        add(*step)
    nodes[-1].output[0] = out
    numbers = {"w0": w0, "b0": b0, "w1": w1, "b1": b1, **(more or {})}
    return model(nodes, {"obs": ["N", inputs]}, [out], **numbers)


TWO = box("ab")


@pytest.mark.parametrize(("kind", "match"), [("LSTM", "LSTM"), ("Sin", "Sin"), ("Loop", "is not read|not an ONNX")])
def test_other_nodes_are_refused(kind, match, tmp_path):
    with pytest.raises(GraftError, match=match):
        read(chain(("before", kind, (), {})), tmp_path, Schemas(SEEN, FOUR))


def test_numbers_in_another_file_are_refused(tmp_path):
    made = chain()
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    (tmp_path / "agent.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(GraftError, match="another file"):
        import_agent(Request(tmp_path / "agent.onnx", Schemas(SEEN, FOUR)))


def test_a_softmax_at_the_end_changes_no_choice(tmp_path):
    made = chain(("Softmax", (), {"axis": 1}), ("ArgMax", (), {"axis": 1}))
    theirs = reference(made, "out", obs=OBS).squeeze()
    made.graph.node[0].domain = "ai.onnx"  # the long name of no domain
    imported = read(made, tmp_path, Schemas(SEEN, FOUR))
    network = imported.assembly.network
    assert compare(imported.policy, network, OBS).holds
    assert (network.act(OBS, None, deterministic=True).numpy() == theirs).all()


@pytest.mark.parametrize(
    ("steps", "more", "names", "match"),
    [
        ([("Clip", ("l", "h"), {}), ("Clip", ("l", "h"), {})], {"l": -1, "h": 1}, {}, "after another one"),
        ([("Clip", ("l", "h"), {})], {"l": -0.5, "h": 0.5}, {"units": "scaled"}, "clips actions"),
        ([("Clip", ("", "h"), {})], {"h": 1}, {}, "clips actions"),
        ([("Clip", ("l", "h"), {})], {"l": [], "h": 1}, {}, "several numbers"),
        ([("Tanh", (), {})], {}, {"kind": "gaussian"}, "is that of squashed"),
        ([("Clip", ("l", "h"), {})], {"l": -1, "h": 1}, {"kind": "squashed"}, "is that of gaussian"),
        ([("Cast", (), {"to": 6}), ("Cast", (), {"to": 1})], {}, {}, "another type"),
        ([("Mul", ("m",), {})], {"m": [2.0, 3.0]}, {}, "several numbers after"),
        ([("Add", ("m",), {})], {"m": [2.0, 3.0]}, {}, "several numbers after"),
        ([("Add", ("m",), {})], {"m": [[[2.0, 3.0, 4.0]]]}, {}, "several numbers after"),
        ([("Softmax", (), {"axis": 1})], {}, {}, "discrete actions only"),
        ([("Div", ("m",), {})], {"m": 0.0}, {}, "by 0"),
        ([("before", "Add", ("m",), {})], {"m": [1.0, 2.0, 3.0]}, {}, "before the first layer"),
        (
            [("before", "Sub", ("m",), {}), ("before", "Div", ("d",), {})],
            {"m": [1.0] * 3, "d": [1.0] * 4},
            {},
            "before",
        ),
        ([("before", "Relu", (), {})], {}, {}, "does not follow a layer"),
        ([("Reshape", ("s",), {})], {"s": [2, -1]}, {}, "mixes"),
        ([("Squeeze", (), {"axes": [0]})], {}, {}, "axes for operator Squeeze|of the first"),
        ([], {}, {"unused": "w"}, "Unknown key"),
        ([], {}, {"library": 3}, "it is a word"),
        ([("Gemm", (), {})], {}, {}, "Gemm is not read"),
        ([("Transpose", (), {"perm": [5]})], {}, {}, "Transpose is not read"),
        ([("Relu", (), {})], {}, {}, "relu ends the policy"),
        ([("Relu", ("obs",), {})], {}, {}, "of 2 values|with 2 inputs"),
    ],
)
def test_graphs_that_mean_something_else_are_refused(steps, more, names, match, tmp_path):
    with pytest.raises(GraftError, match=match) as caught:
        read(chain(*steps, outputs=2, more=more), tmp_path, Schemas(SEEN, TWO), **names)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("steps", "match"),
    [
        ([("ArgMax", (), {})], "another axis"),
        ([("ArgMax", (), {"axis": 1, "select_last_index": 1})], "another axis"),
        ([("Softmax", (), {"axis": 0})], "another axis"),
        ([("ArgMax", (), {"axis": 1}), ("Softmax", (), {"axis": 1})], "discrete actions only"),
        ([("Tanh", (), {})], "tanh ends"),
        ([("Softmax", (), {"axis": 1}), ("Mul", ("m",), {})], "after the choice"),
    ],
)
def test_choices_along_another_axis_are_refused(steps, match, tmp_path):
    with pytest.raises(GraftError, match=match):
        read(chain(*steps, more={"m": -1.0}), tmp_path, Schemas(SEEN, FOUR))


def test_activations_of_another_form_are_refused(tmp_path):
    made = chain(
        ("Gelu", (), {"approximate": "tanh"}), ("Gemm", ("w2", "b2"), {}), more={"w2": np.eye(4), "b2": [0] * 4}
    )
    made.opset_import[0].version = 20
    with pytest.raises(GraftError, match="approximated"):
        read(made, tmp_path, Schemas(SEEN, FOUR))


def test_an_activation_and_tanh_units_that_contradict_the_graph_are_refused(tmp_path):
    onnx.save(chain(("Tanh", (), {}), outputs=2), tmp_path / "agent.onnx")
    with pytest.raises(GraftError, match="activation is not for ONNX"):
        import_agent(Request(tmp_path / "agent.onnx", Schemas(SEEN, BOX), activation="relu"))
    with pytest.raises(GraftError, match="units is scaled"):
        import_agent(Request(tmp_path / "agent.onnx", Schemas(SEEN, BOX), names={"units": "environment"}))
    with pytest.raises(GraftError, match="have no bounds"):
        import_agent(Request(tmp_path / "agent.onnx", Schemas(SEEN, WIDE)))


def test_a_misreading_fails_against_the_file_s_own_graph(tmp_path):
    """The reference is the graph, not what was read of it."""
    imported = read(chain(), tmp_path, Schemas(SEEN, FOUR))
    network, policy = imported.assembly.network, imported.policy
    assert compare(policy, network, OBS).holds
    with torch.no_grad():
        network.policy.out.bias[0] += 0.5
    *rest, last = policy.policy
    misread = replace(policy, policy=(*rest, last._replace(bias=network.policy.out.bias.detach())))
    assert not compare(misread, network, OBS).holds
    assert compare(replace(misread, run=None), network, OBS).holds  # two equal mistakes agree


def parts(**sizes: int) -> ObservationSchema:
    return joined({name: vector("abcde"[:size]) for name, size in sizes.items()})


@pytest.mark.parametrize(("names", "turned"), [(("near", "far"), True), (("obs_0", "obs_1"), False)])
def test_several_inputs_by_name_in_the_order_of_concat(names, turned, tmp_path):
    schema = parts(far=3, near=5) if names[0] == "near" else parts(near=5, far=3)
    (w0, b0), (w1, b1), (w2, b2) = layer(6, 3), layer(8, 11), layer(4, 8)
    node, joined = helper.make_node, [names[0], "h"][:: -1 if turned else 1]
    nodes = [
        node("Gemm", [names[1], "w0", "b0"], ["g"], transB=1),
        node("Tanh", ["g"], ["h"]),
        node("Concat", joined, ["c"], axis=1),
        node("Gemm", ["c", "w1", "b1"], ["g1"], transB=1),
        node("Tanh", ["g1"], ["h1"]),
        node("Gemm", ["h1", "w2", "b2"], ["logits"], transB=1),
    ]
    numbers = {"w0": w0, "b0": b0, "w1": w1, "b1": b1, "w2": w2, "b2": b2}
    made = model(nodes, {names[1]: ["N", 3], names[0]: ["N", 5]}, ["logits"], **numbers)
    imported = read(made, tmp_path, Schemas(schema, FOUR))
    near, far = OBS, OBS[::-1, :3].copy()
    obs = np.concatenate([far, near] if schema.plain.parts[0][0] == "far" else [near, far], 1)
    theirs = reference(made, "logits", **{names[0]: near, names[1]: far})
    network = imported.assembly.network
    ours = network(torch.from_numpy(obs)).action.detach().numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert compare(imported.policy, network, obs).equal >= 990
    assert compare(imported.policy, network, obs).holds


@pytest.mark.parametrize("fault", ["names", "twice", "scaled", "nested", "axis"])
def test_several_inputs_that_are_not_read(fault, tmp_path):
    (w1, b1), node = layer(4, 8), helper.make_node
    first, second = ("a", "b") if fault == "names" else ("near", "far")
    joined = {"twice": [first, first], "nested": ["c", first]}.get(fault, [first, second])
    nodes = [
        *([node("Concat", [first, second], ["c"], axis=1)] if fault == "nested" else []),
        node("Concat", joined, ["d"], axis=0 if fault == "axis" else 1),
        node("Mul", ["d", "m"], ["e"]) if fault == "scaled" else node("Identity", ["d"], ["e"]),
        node("Gemm", ["e", "w1", "b1"], ["logits"], transB=1),
    ]
    made = model(nodes, {first: ["N", 5], second: ["N", 3]}, ["logits"], w1=w1, b1=b1, m=2.0)
    match = "are not the parts|more than once|between the joined|another axis"
    with pytest.raises(GraftError, match=match):
        read(made, tmp_path, Schemas(parts(near=5, far=3), FOUR))


@pytest.mark.parametrize("fault", ["normalised", "ended"])
def test_a_value_that_reads_otherwise_is_left_with_a_reason(fault, tmp_path):
    (w0, b0), (w1, b1), (v0, c0), (v1, c1) = layer(8, 5), layer(4, 8), layer(8, 5), layer(1, 8)
    node = helper.make_node
    nodes = [
        node("Gemm", ["obs", "w0", "b0"], ["g"], transB=1),
        node("Relu", ["g"], ["h"]),
        node("Gemm", ["h", "w1", "b1"], ["logits"], transB=1),
        node("Sub", ["obs", "mean"], ["x"]),
        node("Gemm", ["x" if fault == "normalised" else "obs", "v0", "c0"], ["k"], transB=1),
        node("Relu", ["k"], ["l"]),
        node("Gemm", ["l", "v1", "c1"], ["m"], transB=1),
        node("Tanh" if fault == "ended" else "Identity", ["m"], ["value"]),
    ]
    numbers = {"w0": w0, "b0": b0, "w1": w1, "b1": b1, "v0": v0, "c0": c0, "v1": v1, "c1": c1, "mean": [1.0] * 5}
    made = model(nodes, {"obs": ["N", 5]}, ["logits", "value"], **numbers)
    imported = read(made, tmp_path, Schemas(SEEN, FOUR))
    assert {"v0", "c0", "v1"} <= imported.assembly.unused.keys()
    assert not imported.policy.value
    assert not imported.assembly.unused.keys() & {row.tensor for row in imported.assembly.rows}
    with pytest.raises(GraftError, match="value"):
        read(made, tmp_path, Schemas(SEEN, FOUR), value="value")


@pytest.mark.parametrize("amount", [1e8, 1.0])
def test_masks_are_run_too(amount, tmp_path):
    schemas, made = Schemas(SEEN, FOUR), ml_agents(discrete=True)
    next(t for t in made.graph.initializer if t.name == "huge").CopyFrom(
        numpy_helper.from_array(np.asarray(amount, np.float32), "huge")
    )
    if amount == 1.0:
        with pytest.raises(GraftError, match="does not forbid"):
            read(made, tmp_path, schemas)
        return
    imported = read(made, tmp_path, schemas)
    forbidden = torch.from_numpy(RANDOM.random((1000, 4)) < 0.4)
    forbidden[:, 0] = False
    actions, found = imported.policy.run(imported.policy, torch.from_numpy(OBS), forbidden)
    masks = (~forbidden).numpy().astype(np.float32)
    theirs = reference(made, "deterministic_discrete_actions", obs_0=OBS, action_masks=masks).squeeze()
    assert (actions.numpy() == theirs).all()
    assert (played(imported.policy, found, FOUR, forbidden).numpy() == theirs).all()
    assert not forbidden[torch.arange(1000), actions].any()
    free = reference(made, "deterministic_discrete_actions", obs_0=OBS, action_masks=np.ones((1000, 4), np.float32))
    assert (imported.assembly.network.act(OBS, None, deterministic=True).numpy() == free.squeeze()).all()
    assert len(np.unique(free)) > 1


def test_a_long_graph_is_read_in_time(tmp_path):
    """Each node is looked at once for each value that is read."""
    made = chain(*[("Identity", (), {})] * 900)
    began = time.process_time()
    imported = read(made, tmp_path, Schemas(SEEN, FOUR))
    assert compare(imported.policy, imported.assembly.network, OBS).holds
    assert time.process_time() - began < 3


@pytest.mark.parametrize("batch", ["N", 1, 7])
def test_graphs_that_read_one_observation_at_once_run(batch, tmp_path):
    made = chain()
    size = made.graph.input[0].type.tensor_type.shape.dim[0]
    size.Clear()
    size.CopyFrom(helper.make_tensor_value_info("x", 1, [batch]).type.tensor_type.shape.dim[0])
    if batch == 7:
        with pytest.raises(GraftError, match="reads 7 observations at once"):
            read(made, tmp_path, Schemas(SEEN, FOUR))
        return
    imported = read(made, tmp_path, Schemas(SEEN, FOUR))
    found = imported.policy.run(imported.policy, torch.from_numpy(OBS[:50]), None)[1]
    size.dim_param = "N"
    np.testing.assert_allclose(found.numpy(), reference(made, "out", obs=OBS[:50]), atol=1e-5)


def test_an_input_of_another_size_is_refused(tmp_path):
    with pytest.raises(GraftError, match="the task's observations have"):
        read(chain(inputs=6), tmp_path, Schemas(SEEN, FOUR))


def test_one_of_several_outputs_must_be_named(tmp_path):
    made = chain()
    made.graph.output.append(onnx.ValueInfoProto(name="v0"))
    with pytest.raises(GraftError, match="say policy"):
        read(made, tmp_path, Schemas(SEEN, FOUR))
    assert read(made, tmp_path, Schemas(SEEN, FOUR), policy="out").policy.policy[-1].outputs == 4


def test_statistics_from_elsewhere_come_before_the_graph(tmp_path):
    onnx.save(chain(), tmp_path / "agent.onnx")
    known = Statistics(torch.full((5,), 0.5), torch.full((5,), 2.0), 1.5)
    imported = import_agent(Request(tmp_path / "agent.onnx", Schemas(SEEN, FOUR)), statistics={WHOLE: known})
    assert compare(imported.policy, imported.assembly.network, OBS).holds
    found = imported.policy.run(imported.policy, torch.from_numpy(OBS), None)[1]
    made = onnx.load(tmp_path / "agent.onnx")
    theirs = reference(made, "out", obs=((OBS - 0.5) / 2).clip(-1.5, 1.5).astype(np.float32))
    np.testing.assert_allclose(found.numpy(), theirs, atol=1e-5)


CHILD = """
import resource, sys, time
sys.path.insert(0, "tests")
from pathlib import Path
import onnx, onnxruntime
from support.hostile_files import onnx_graphs
from graft.agents.importing.agent import import_agent
from graft.agents.importing.source import Request
from graft.envs.core.schema import ActionSchema, ObservationSchema, Schemas
from graft.errors import GraftError
seen = ObservationSchema("vector", tuple("abcd"), ((),) * 4, (4,), "float32", (-1.0,) * 4, (1.0,) * 4)
schemas = Schemas(seen, ActionSchema("discrete", ("left", "right")))
path = Path(sys.argv[1]) / "x.onnx"
for name, data in onnx_graphs(path):
    path.write_bytes(data if isinstance(data, bytes) else data())
    del data
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (1 << 30), resource.RLIM_INFINITY))
    began = time.process_time()
    try:
        import_agent(Request(path, schemas))
    except GraftError:
        assert time.process_time() - began < 10, name
    else:
        raise AssertionError(name)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
print("refused")
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory as Linux has them")
def test_hostile_graphs_need_less_than_a_gigabyte_and_ten_seconds(tmp_path):
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, timeout=240)
    assert done.stdout == "refused\n", done.stderr[-500:]
