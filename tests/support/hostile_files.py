"""Files that would run code, write elsewhere or fill the memory where a reader is careless."""

from __future__ import annotations

import base64
import io
import itertools
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

GIB = 1 << 30
Content = bytes | Callable[[], bytes]  # or what makes it, where that takes time


class Runs:
    """Unpickling it calls ``function`` with ``arguments``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def payloads(canary: Path, protocol: int) -> dict[str, bytes]:
    """Pickles that make the canary file, by several ways."""
    import os

    code = f"open({str(canary)!r}, 'w').close()"
    ways = {
        "exec": Runs(exec, code),
        "eval": Runs(eval, f"open({str(canary)!r}, 'w').close()"),
        "system": Runs(os.system, f"touch {canary}"),
        "open": Runs(open, str(canary), "w"),
        "nested": {"policy": [{"x": Runs(exec, code)}]},
        "in a key": {"a": 1, "b": (Runs(exec, code),)},
        "bytearray": Runs(bytearray, 8 * GIB),
        "range": Runs(list, range(10**9)),
    }
    made = {name: pickle.dumps(value, protocol) for name, value in ways.items()}
    made["torch.load"] = (
        b"\x80\x02ctorch.serialization\nload\n(X" + struct.pack("<I", len(str(canary))) + str(canary).encode() + b"tR."
    )
    made["posix"] = f"cposix\nsystem\n(S'touch {canary}'\ntR.".encode()
    made["instance"] = f"(S'touch {canary}'\niposix\nsystem\n.".encode()
    return made


def torch_file(
    instructions: bytes, compression: int = zipfile.ZIP_STORED, extra: dict[str, bytes] | None = None
) -> bytes:
    """A file of torch.save with these instructions for its pickle."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("archive/data.pkl", instructions)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
        for name, data in (extra or {}).items():
            archive.writestr(name, data)
    return stream.getvalue()


def saved(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


GOOD = {
    "mlp_extractor.policy_net.0.weight": torch.ones(8, 4),
    "mlp_extractor.policy_net.0.bias": torch.zeros(8),
    "action_net.weight": torch.ones(2, 8),
    "action_net.bias": torch.zeros(2),
    "value_net.weight": torch.ones(1, 4),
    "value_net.bias": torch.zeros(1),
}


SAID = {
    "policy_class": {"__module__": "stable_baselines3.common.policies"},
    "policy_kwargs": {},
    "observation_space": {
        ":type:": "<class 'gymnasium.spaces.box.Box'>",
        "_shape": [4],
        "dtype": "float32",
        "low_repr": "-1.0",
        "high_repr": "1.0",
    },
    "action_space": {":type:": "<class 'gymnasium.spaces.discrete.Discrete'>", "n": "2"},
}
"""What the JSON of `GOOD` says of it."""


def sb3(policy: bytes, data: bytes = json.dumps(SAID).encode(), more: dict[str, bytes] | None = None) -> bytes:
    return zipped({"data": data, "policy.pth": policy, **(more or {})})


def lying_size(data: bytes, member: bytes, size: int) -> bytes:
    """A zip archive whose directory says that a member has another size than it has."""
    found = bytearray(data)
    at = found.rfind(b"PK\x01\x02")
    while at >= 0:
        length = struct.unpack_from("<H", found, at + 28)[0]
        if bytes(found[at + 46 : at + 46 + length]) == member:
            struct.pack_into("<I", found, at + 24, size)
        at = found.rfind(b"PK\x01\x02", 0, at)
    return bytes(found)


def bomb(size: int) -> bytes:
    """A compressed member of zeros, which is made without holding them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)  # which can be repeated
    raw, name, crc = block * (size >> 20) + packer.flush(), b"data", 0
    head = struct.pack("<4s5HIIIHH", b"PK\x03\x04", 20, 0, 8, 0, 33, crc, len(raw), size, len(name), 0) + name
    entry = struct.pack(
        "<4s6HIIIHHHHHII", b"PK\x01\x02", 20, 20, 0, 8, 0, 33, crc, len(raw), size, len(name), 0, 0, 0, 0, 0, 0
    )
    entry += name
    end = struct.pack("<4s4HIIH", b"PK\x05\x06", 0, 0, 1, 1, len(entry), len(head) + len(raw), 0)
    return head + raw + entry + end


def wide(value: torch.Tensor) -> bytes:
    """A tensor that strides of 0 make large."""
    return saved({"w": value})


def safetensors(header: bytes, length: int | None = None, rest: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + rest


def npz(name: str, data: bytes) -> bytes:
    return zipped({name: data})


def npy(header: str, rest: bytes = b"") -> bytes:
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + rest


def pickled_files(canary: Path) -> Iterator[tuple[str, Content]]:
    """Pickles in every place that one can stand in: of zip archives, their entries, bare files, arrays and names."""
    for protocol in (0, 2, 4):
        for way, payload in payloads(canary, protocol).items():
            told = f"{way}, protocol {protocol}"
            entry = {":type:": "x", ":serialized:": base64.b64encode(payload).decode()}
            yield f"policy.pth is one ({told}).zip", sb3(payload)
            yield f"policy.pth holds one ({told}).zip", sb3(torch_file(payload))
            yield f"state dict ({told}).pt", torch_file(payload)
            yield f"bare ({told}).pt", payload
            yield (
                f"array of objects ({told}).npz",
                npz("mean.npy", npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", payload)),
            )
            yield f"named as statistics ({told}).pkl", payload
            yield f"in data, no policy ({told}).zip", zipped({"data": json.dumps({"policy_kwargs": entry}).encode()})
            yield f"is data ({told}).zip", sb3(saved(GOOD), payload)


def other_files(canary: Path) -> Iterator[tuple[str, Content]]:
    """Archives and headers that lie about sizes and places, and files that are cut or mixed up."""
    away = str(canary)
    for name in (away, f"../{canary.name}", "a/../../x", "..\\x", "/etc/x"):
        yield f"slip {name.replace('/', '|')}.zip", sb3(saved(GOOD), more={name: b"x"})
    for size in (600 << 20, 0xFFFFFFF0):
        yield f"data says {size}.zip", lying_size(sb3(saved(GOOD)), b"data", size)
    yield "policy says less.zip", lying_size(sb3(saved(GOOD)), b"policy.pth", 10)
    yield "many members.zip", lambda: zipped({f"{i}": b"" for i in range(10_050)}, zipfile.ZIP_STORED)
    yield "deep json.zip", sb3(saved(GOOD), b"[" * 100_000)
    yield "long number.zip", sb3(saved(GOOD), b"9" * 100_000)
    yield "list as data.zip", sb3(saved(GOOD), b"[1]")
    yield "odd kwargs.zip", sb3(saved({}), b'{"policy_kwargs": 3, "action_space": 4}')
    yield "compressed state dict.pt", torch_file(pickle.dumps({}, 2), zipfile.ZIP_DEFLATED)
    yield "two pickles.pt", torch_file(pickle.dumps({}, 2), extra={"b/data.pkl": b"."})
    yield (
        "program.pt",
        torch_file(pickle.dumps({}, 2), extra={"archive/code/x.py": b"import os", "archive/constants.pkl": b"."}),
    )
    yield "wide.pt", wide(torch.zeros(1).expand(1 << 40))
    yield "wide policy.zip", sb3(wide(torch.zeros(1).expand(1 << 36, 4)))
    yield "sparse.pt", saved({"w": torch.eye(3).to_sparse()})
    yield "meta.pt", saved({"w": torch.empty(1 << 40, device="meta")})
    yield "deep.pt", torch_file(b"\x80\x02" + b"](" * 5000 + b"e" * 5000 + b".")
    yield "not finite.zip", sb3(saved({**GOOD, "action_net.weight": torch.full((2, 8), float("nan"))}))
    yield "text.zip", sb3(saved({"action_net.weight": "x"}))
    yield "empty.zip", zipped({})
    yield "empty.pt", b""
    yield "empty.onnx", b""
    for length in (1 << 63, 1 << 40, 10**8):
        yield f"header of {length}.safetensors", safetensors(b"{}", length)
    for shape, offsets in (([1 << 40], [0, 4]), ([4], [0, 1 << 40]), ([-1], [0, 4]), ([2], [4, 0])):
        header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode()
        yield f"offsets {shape} {offsets}.safetensors", safetensors(header, rest=b"abcd")
    yield "deep header.safetensors", safetensors(b"[" * 100_000)
    for shape in ("(1 << 40,)", "(1099511627776,)", "(-1,)", "(4, 1099511627776)", "(__import__('os').getpid(),)"):
        yield (
            f"shape {shape.replace('/', '|')}.npz",
            npz("mean.npy", npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}")),
        )
    yield "long header.npz", npz("mean.npy", npy("{" + " " * 60_000))
    yield "no statistics.json", b"[]"
    yield "words.json", b'{"mean": ["x"], "var": [1]}'
    yield "huge.json", b'{"mean": [1e999], "var": [1]}'
    whole = sb3(saved(GOOD))
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        yield f"cut at {share}.zip", whole[: int(len(whole) * share)]
    yield "bomb.zip", lambda: bomb(700 << 20)
    yield "yaml.yaml", f"!!python/object/apply:os.system ['touch {canary}']".encode()
    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    yield "laughs.yaml", laughs.encode()


def onnx_files(canary: Path) -> Iterator[tuple[str, Content]]:
    """ONNX files with data elsewhere, sizes that are not there, or operations that are not a policy's."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def made(nodes: list[Any], numbers: list[Any], functions: list[Any] | None = None) -> bytes:
        given = [helper.make_tensor_value_info("obs", TensorProto.FLOAT, ["N", 4])]
        out = [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)]
        graph = helper.make_graph(nodes, "g", given, out, numbers)
        opset = [helper.make_opsetid("", 13), helper.make_opsetid("own", 1)]
        return bytes(helper.make_model(graph, opset_imports=opset, functions=functions or []).SerializeToString())

    weight = numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    gemm = helper.make_node("Gemm", ["obs", "w"], ["out"])
    for place in ("/etc/passwd", "../../x", str(canary), "weights.bin", ""):
        away = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 2], data_location=TensorProto.EXTERNAL)
        away.external_data.add(key="location", value=place)
        yield f"elsewhere {place.replace('/', '|')}.onnx", made([gemm], [away])
        constant = helper.make_node("Constant", [], ["w"], value=away)
        yield f"constant elsewhere {place.replace('/', '|')}.onnx", made([constant, gemm], [])
        hidden = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 2], raw_data=bytes(32))
        hidden.external_data.add(key="location", value=place)
        yield f"named elsewhere {place.replace('/', '|')}.onnx", made([gemm], [hidden])
    for dims in ([1 << 20, 1 << 20], [1 << 62], [-1, 4], [0, 2], [4, 2, 1, 1, 1]):
        yield (
            f"dims {dims}.onnx",
            made([gemm], [TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(32))]),
        )
    for kind, domain in (
        ("Loop", ""),
        ("If", ""),
        ("Scan", ""),
        ("PyOp", "own"),
        ("ConstantOfShape", ""),
        ("Expand", ""),
        ("Tile", ""),
    ):
        body = helper.make_graph([gemm], "body", [], [], [weight])
        extra = (
            {"body": body}
            if kind in ("Loop", "Scan")
            else {"then_branch": body, "else_branch": body}
            if kind == "If"
            else {}
        )
        node = helper.make_node(kind, ["obs"], ["x"], domain=domain, **extra)
        yield f"{kind}.onnx", made([node, helper.make_node("Gemm", ["x", "w"], ["out"])], [weight])
    own = helper.make_function(
        "own", "F", ["a"], ["b"], [helper.make_node("Identity", ["a"], ["b"])], [helper.make_opsetid("", 13)]
    )
    yield "function.onnx", made([helper.make_node("F", ["obs"], ["x"], domain="own"), gemm], [weight], [own])
    yield "circle.onnx", made([helper.make_node("Relu", ["out"], ["a"]), helper.make_node("Relu", ["a"], ["out"])], [])

    def long() -> bytes:
        chain = [helper.make_node("Identity", ["obs" if i == 0 else f"x{i}"], [f"x{i + 1}"]) for i in range(10_100)]
        return made([*chain, helper.make_node("Gemm", ["x10100", "w"], ["out"])], [weight])

    yield "long.onnx", long
    words = onnx.TensorProto(name="w", data_type=TensorProto.STRING, dims=[4, 2], string_data=[b"x"] * 8)
    yield "words.onnx", made([gemm], [words])
    sound = made([gemm], [weight])
    for share in (0.2, 0.5, 0.8, 0.95):
        yield f"cut at {share}.onnx", sound[: int(len(sound) * share)]


def towers(policy: list[tuple[int, int]], value: list[tuple[int, int]], hidden: int) -> bytes:
    """A zip of Stable-Baselines3 whose towers have layers of these (outputs, inputs); ``hidden``: the policy's last."""
    made = {}
    for name, shapes in (("policy_net", policy), ("value_net", value)):
        for index, (outputs, inputs) in enumerate(shapes):
            made[f"mlp_extractor.{name}.{2 * index}.weight"] = torch.ones(outputs, inputs)
            made[f"mlp_extractor.{name}.{2 * index}.bias"] = torch.zeros(outputs)
    made |= {"action_net.weight": torch.ones(2, hidden), "action_net.bias": torch.zeros(2)}
    made |= {"value_net.weight": torch.ones(1, value[-1][0]), "value_net.bias": torch.zeros(1)}
    relu = {"activation_fn": "<class 'torch.nn.modules.activation.ReLU'>"}
    return sb3(saved(made), json.dumps({**SAID, "policy_kwargs": relu}).encode())


def two_directories(seen: bytes, hidden: bytes) -> bytes:
    """Two archives of torch.save of like members, of which Python's zipfile reads ``seen`` and others ``hidden``."""

    def parts(archive: bytes) -> tuple[bytes, bytes, bytes]:
        end = archive.rfind(b"PK\x05\x06")
        size, begin = struct.unpack_from("<II", archive, end + 12)
        return archive[:begin], archive[begin : begin + size], archive[end:]

    members, directory, end = parts(hidden)
    more, other, _ = parts(seen)
    assert len(directory) == len(other)
    moved, at = bytearray(other), 0
    while at < len(moved):  # offsets there count from where zipfile takes the archive to begin
        lengths = struct.unpack_from("<HHH", moved, at + 28)
        place = struct.unpack_from("<I", moved, at + 42)[0]
        struct.pack_into("<I", moved, at + 42, len(members) + place - len(more))
        at += 46 + sum(lengths)
    return members + directory + more + bytes(moved) + end


def amplified_files(canary: Path) -> Iterator[tuple[str, Content]]:
    """Small files that stand for what no memory holds, or for work without an end."""
    laughs: list[Any] = []
    for _ in range(13):
        laughs = [laughs] * 10
    yield "lists in lists.pt", saved({"w": laughs})
    yield "many instructions.zip", lambda: sb3(torch_file(b"\x80\x02" + b"]0" * 3_000_000 + b"N."))
    yield "long key.pt", saved({"k" * 100_000: [torch.zeros(1)] * 1000})
    yield "key that writes.pt", saved({"\x1b[2J": torch.zeros(1)})
    wide = 100_000
    yield "side by side.zip", towers([(1, 4), (wide, 1)], [(wide, 4), (1, wide)], wide)
    yield "deepened.zip", towers([(1, 4), (1, 1), (1, 1), (1, 1)], [(wide, 4)], 1)
    yield "bytes as tensors.zip", lambda: sb3(saved({"w": torch.zeros(200 << 20, dtype=torch.uint8)}))
    yield (
        "bytes as statistics.npz",
        lambda: npz(
            "mean.npy", npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({200 << 20},)}}", bytes(200 << 20))
        ),
    )
    yield "empty lists.json", lambda: b"[" + b"[]," * 7_000_000 + b"[]]"
    merged = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 26))
    yield "merged.yaml", merged.encode()


def field(number: int, content: bytes) -> bytes:
    """A field of protobuf that holds bytes or a message."""
    size, length = len(content), b""
    while size > 0x7F:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def onnx_graphs(canary: Path) -> Iterator[tuple[str, Content]]:
    """Graphs of ONNX that need much time or memory, are no graphs, or have nodes with what these cannot have."""
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node
    gemm = node("Gemm", ["obs", "w"], ["out"])
    small = {"w": np.ones((4, 2), np.float32), "v": np.ones(4, np.float32), "one": np.ones(1, np.float32)}

    def made(
        nodes: list[Any], more: dict[str, Any] | None = None, inputs: tuple[str, ...] = (), raw: tuple[Any, ...] = ()
    ) -> bytes:
        given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in ("obs", *inputs)]
        out = [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)]
        numbers = [numpy_helper.from_array(np.asarray(v), k) for k, v in {**small, **(more or {})}.items()]
        graph = helper.make_graph(nodes, "g", given, out, [*numbers, *raw])
        return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString())

    def many_inputs() -> bytes:
        names = tuple(f"i{i}" for i in range(20_000))
        joins = [node("Concat", ["obs", *names], [f"c{i}"], axis=1) for i in range(20)]
        return made([*joins, gemm], inputs=names)

    def large_numbers() -> bytes:
        negated = [node("Neg", ["large"], [f"n{i}"]) for i in range(600)]
        added = [node("Add", [f"x{i}" if i else "obs", f"n{i}"], [f"x{i + 1}"]) for i in range(600)]
        last = node("Gemm", ["x600", "w"], ["out"])
        return made([*negated, *added, last], {"large": np.ones((1 << 20,), np.float32)})

    def halves() -> bytes:
        """Each value is the sum of the one before with itself: 2 to the 40 ways back."""
        sums = [node("Add", [f"x{i}" if i else "obs"] * 2, [f"x{i + 1}"]) for i in range(40)]
        return made([*sums, node("Gemm", ["x40", "w"], ["out"])])

    sound = made([gemm])
    yield "many inputs.onnx", many_inputs
    yield "large numbers.onnx", large_numbers
    yield "halves.onnx", halves
    yield "empty nodes.onnx", lambda: sound + field(7, field(1, b"") * (8 << 20))
    yield "empty tensors.onnx", lambda: sound + field(7, field(5, b"") * (8 << 20))
    yield "empty attributes.onnx", lambda: sound + field(7, field(1, field(5, b"") * (8 << 20)))
    yield (
        "empty dims.onnx",
        lambda: sound + field(7, field(11, field(2, field(1, field(2, field(1, b"") * (8 << 20)))))),
    )
    yield "long ints.onnx", lambda: sound + field(7, field(1, field(5, field(8, bytes(64 << 20)))))
    yield "long dims.onnx", lambda: sound + field(7, field(5, field(1, bytes(64 << 20))))
    yield "lists of types.onnx", sound + field(7, field(11, field(2, field(4, field(1, b"")))))
    less = TensorProto(name="less", data_type=TensorProto.FLOAT, dims=[-(1 << 60), 1 << 3], raw_data=bytes(32))
    large = TensorProto(name="large", data_type=TensorProto.FLOAT, dims=[1 << 60, 1 << 3], raw_data=bytes(32))
    yield "negative dims.onnx", made([gemm], raw=(less, large))
    yield "escapes.onnx", made([node("Gemm", ["obs", "w\x1b[2J"], ["out"])], {"w\x1b[2J": small["w"]})
    circle = [node("Unsqueeze", ["w", "obs"], ["c"]), node("Concat", ["y", "c"], ["z"], axis=1)]
    yield "circle of joints.onnx", made([*circle, node("Concat", ["z", "c"], ["y"], axis=1), gemm])
    cases: dict[str, list[Any]] = {
        "one input": [node("Gemm", ["obs"], ["out"])],
        "no weight": [node("Gemm", ["obs", ""], ["out"])],
        "no nodes before": [node("Identity", ["one"], ["out"])],
        "numbers joined": [node("Concat", ["v", "v"], ["c"], axis=0), node("Gemm", ["c", "w"], ["out"])],
        "joints of joints": [
            node("Concat", ["obs", "b"], ["c"], axis=1),
            node("Concat", ["c", "b"], ["d"], axis=1),
            node("Gemm", ["d", "w"], ["out"]),
        ],
        "empty bound": [
            gemm.__class__.FromString(gemm.SerializeToString()),
            node("Clip", ["x", "none", "one"], ["out"]),
        ],
        "order": [node("Transpose", ["w"], ["t"], perm=[0, 7]), node("Gemm", ["obs", "t"], ["out"])],
        "order twice": [node("Transpose", ["w"], ["t"], perm=[0, 0]), node("Gemm", ["obs", "t"], ["out"])],
        "sizes": [
            node("Sub", ["obs", "v"], ["a"]),
            node("Div", ["a", "three"], ["q"]),
            node("Gemm", ["q", "w"], ["out"]),
        ],
        "stride": [node("Conv", ["obs", "k"], ["out"], strides=2)],
        "strides": [node("Conv", ["obs", "k"], ["out"], strides=[1 << 40, 1 << 40])],
        "pads": [node("Conv", ["obs", "k"], ["out"], pads=[1 << 20] * 4)],
        "text as an axis": [node("Flatten", ["obs"], ["f"], axis="x"), node("Gemm", ["f", "w"], ["out"])],
        "alpha": [node("Gemm", ["obs", "w"], ["out"], alpha=float("nan"))],
        "zero": [node("Div", ["obs", "zero"], ["x"]), node("Gemm", ["x", "w"], ["out"])],
        "large shape": [
            node("ConstantOfShape", ["sizes"], ["r"]),
            node("Dropout", ["obs", "r"], ["x"]),
            node("Gemm", ["x", "w"], ["out"]),
        ],
        "outer product": [node("Mul", ["obs", "column"], ["x"]), node("Gemm", ["x", "w"], ["out"])],
    }
    cases["empty bound"][0].output[0] = "x"
    numbers = {
        "none": np.ones(0, np.float32),
        "three": np.ones(3, np.float32),
        "k": np.ones((1, 1, 1, 1), np.float32),
        "zero": np.zeros((), np.float32),
        "sizes": np.array([1 << 40]),
        "column": np.ones((1 << 20, 1), np.float32),
    }
    for name, nodes in cases.items():
        yield f"{name}.onnx", made(nodes, numbers, ("b",))


KINDS: tuple[Callable[[Path], Iterator[tuple[str, Content]]], ...] = (
    pickled_files,
    other_files,
    onnx_files,
    onnx_graphs,
)


def hostile_files(canary: Path, every: int = 1) -> Iterator[tuple[str, bytes]]:
    """Name and content of one in ``every``; ``canary`` is a file that must never appear."""
    files = itertools.islice(itertools.chain.from_iterable(kind(canary) for kind in KINDS), 0, None, every)
    for name, data in files:
        yield name, data if isinstance(data, bytes) else data()
