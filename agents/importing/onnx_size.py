"""How much memory an ONNX file would need, before anything parses it."""

from __future__ import annotations

from graft.errors import GraftError

MOST_FIELDS = 200_000
"""Fields of a file outside of lists of numbers: a parser needs up to a hundred bytes for each, whatever its size."""

_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "leaf", 14: "leaf"},
    "graph": {1: "node", 5: "tensor", 11: "value", 12: "value", 13: "value", 14: "annotation", 16: "leaf"},
    "node": {5: "attribute", 9: "leaf"},
    "attribute": {5: "tensor", 10: "tensor"},
    "tensor": {13: "leaf", 16: "leaf"},
    "value": {2: "type", 4: "leaf"},
    "type": {1: "kind"},
    "kind": {2: "shape"},
    "shape": {1: "leaf"},
    "annotation": {2: "leaf"},
    "leaf": {},
}
"""Message of ONNX -> its fields that are messages, as far as they are read; by the numbers in onnx.proto."""

_REFUSED = {
    "model": {20, 25, 26},
    "graph": {15},
    "node": {10},
    "attribute": {6, 11, 14, 15, 22, 23},
    "type": {4, 5, 7, 8, 9},
}
"""Training, functions, devices, sparse tensors, graphs within nodes, types of no tensor: refused before parsing."""

_LISTS = {
    ("attribute", 7): 4,
    ("attribute", 8): 1,
    ("tensor", 1): 1,
    ("tensor", 5): 1,
    ("tensor", 7): 1,
    ("tensor", 11): 1,
}
"""Lists whose numbers take more memory than the bytes of a number that are given here."""


def check_size(data: bytes, what: str) -> None:
    """Raise GraftError for a file that would need much more memory than its own size once it is parsed.

    Walks protobuf's fields without making anything of them: https://protobuf.dev/programming-guides/encoding
    """
    waiting, count = [("model", 0, len(data))], 0
    while waiting:
        kind, at, end = waiting.pop()
        while at < end:
            count += 1
            key, at = _number(data, at, end, what)
            field, wire = key >> 3, key & 7
            if field in _REFUSED.get(kind, ()):
                raise GraftError(
                    f"{what} has training steps, functions of its own, sparse tensors or a node with a graph of its "
                    f"own, which is not read."
                )
            if wire == 0:
                _, at = _number(data, at, end, what)
            elif wire == 2:
                size, at = _number(data, at, end, what)
                if (inner := _INSIDE[kind].get(field)) is not None:
                    waiting.append((inner, at, min(at + size, end)))
                count += size // _LISTS[kind, field] if (kind, field) in _LISTS else 0
                at += size
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
            else:
                raise GraftError(f"{what} is not an ONNX file (field {field} of kind {wire}).")
            if at > end:
                raise GraftError(f"{what} is not an ONNX file (it ends within a field).")
            if count > MOST_FIELDS:
                raise GraftError(f"{what} has more than {MOST_FIELDS:,} fields, which is more than a policy needs.")


def _number(data: bytes, at: int, end: int, what: str) -> tuple[int, int]:
    """A number of variable length at ``at``, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise GraftError(f"{what} is not an ONNX file (it ends within a number).")
