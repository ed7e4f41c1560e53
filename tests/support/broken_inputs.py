"""Broken inputs made from good ones: values in trees, text, and bytes, changed by a random generator."""

from __future__ import annotations

import copy
import json
import struct
from itertools import pairwise
from random import Random
from typing import Any

DEEP, BILLION = "@deep@", "@aliases@"
"""Stand for what no encoder writes: nesting of `DEPTH`, and YAML whose aliases grow; `as_text` puts them in."""

DEPTH = 2_000

NUMBERS = (
    0,
    -1,
    1,
    0.5,
    1e-320,
    1e308,
    -1e308,
    float("nan"),
    float("inf"),
    -float("inf"),
    2**31,
    2**63,
    10**30,
    -(2**64),
)
HUGE = 10**400
CANARY = "fuzz_canary"  # a module where commands are run, which says so when it is run
WORDS = (
    *("", " ", ".", "..", "../../escape", "/etc/passwd", "/dev/zero", "~", "C:\\x", "a/b", "-", "--out", "null", "nan"),
    *(
        "²",
        "٣",
        "\x00",
        "\x1b[2J\x1b]0;x\x07",
        "\u202eabc",
        "\ud800",
        "é" * 300,
        "x" * 5_000,
        "{0.__class__}",
        "%s%n",
        "$HOME",
    ),
    *(
        "[bold]x[/bold]",
        "[/x]",
        "<script>alert(1)</script>",
        "{{ 7 * 7 }}",
        "\\input{/etc/passwd}",
        "=cmd()",
        "a\nb",
        "ppo",
        "mlp",
    ),
    *(
        f"{CANARY}:Thing",
        f"{CANARY}:Game-v0",
        "os:system",
        "Graft/Dodge-v0",
        "Graft/Nothing-v0",
        "CartPole-v1",
        "builtins:eval",
    ),
)
TAGS = (
    "!!python/object/apply:os.system ['touch written']",
    "!!python/name:os.system",
    "!!binary x",
    "!!int x",
    "!x y",
    "&a [*a]",
)


def strange(rng: Random) -> Any:
    """A value that stands where another kind of value is wanted."""
    kind = rng.randrange(10)
    if kind < 3:
        return rng.choice(NUMBERS)
    if kind < 6:
        return rng.choice(WORDS)
    if kind == 6:
        return rng.choice([None, True, False, [], {}, [[]], {"": None}, [None] * 3])
    if kind == 7:
        return [rng.choice(NUMBERS) for _ in range(rng.randrange(1, 5))]
    if kind == 8:
        return {rng.choice(WORDS): rng.choice(NUMBERS)}
    return rng.choice([HUGE, -HUGE, DEEP, BILLION, ["x"] * 3_000, {f"k{i}": i for i in range(2_000)}])


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values in mappings and lists, the whole first."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


def get(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def changed(rng: Random, tree: Any, times: int = 3) -> Any:
    """``tree`` with one value changed, or a few."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.randrange(1, times + 1)):
        known = places(tree)
        path = rng.choice(known)
        if not path:
            if rng.randrange(20) == 0:
                return strange(rng)
            continue
        holder, key = get(tree, path[:-1]), path[-1]
        change = rng.randrange(8)
        if change < 3:
            holder[key] = strange(rng)
        elif change == 3:
            del holder[key]
        elif change == 4:
            holder[key] = copy.deepcopy(get(tree, rng.choice(known)))  # of another kind, mostly
        elif change == 5 and isinstance(holder, dict):
            holder[rng.choice(WORDS) if rng.randrange(2) else f"{key}x"] = (
                holder.pop(key) if rng.randrange(2) else holder[key]
            )
        elif change == 6:
            holder[key] = [holder[key]] * rng.choice([1, 2, 50])
        else:
            holder[key] = near(rng, holder[key])
    return tree


def near(rng: Random, value: Any) -> Any:
    """A value of the same kind that is another."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return rng.choice(
            [-value, value + 1, value * 1000, value * 10**9, value / 3 if abs(value) < 1e300 else 0, str(value)]
        )
    if isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        return rng.choice([value[:at], value[:at] + rng.choice(WORDS) + value[at:], value.upper(), [value], value * 2])
    if isinstance(value, list):
        return rng.choice([value[::-1], value * 2, value[:1], dict(enumerate(map(str, value)))])
    return list(value.items()) if isinstance(value, dict) else None


def as_text(tree: Any) -> str:
    """JSON, which is YAML as well."""
    text = json.dumps(tree)
    return text.replace(f'"{DEEP}"', "[" * DEPTH + "]" * DEPTH).replace(f'"{BILLION}"', "1")


def as_yaml(rng: Random, tree: Any) -> str:
    """The same with what only YAML has: tags, anchors, keys that merge, and text that is broken."""
    bomb = (
        "[&a [x,x,x,x,x,x,x,x], "
        + ", ".join(f"&{b} [{','.join([f'*{a}'] * 8)}]" for a, b in pairwise("abcdefghijkl"))
        + "]"
    )
    text = json.dumps(tree).replace(f'"{DEEP}"', "[" * DEPTH + "]" * DEPTH).replace(f'"{BILLION}"', bomb)
    kind = rng.randrange(12)
    if kind == 0 and ": " in text:
        head, _, tail = text.partition(": ")
        return f"{head}: {rng.choice(TAGS)}, {tail}"
    if kind == 1:
        return changed_text(rng, text)
    return text


def changed_text(rng: Random, text: str) -> str:
    """Letters cut, doubled, or put in."""
    at, end = sorted(rng.randrange(len(text) + 1) for _ in range(2))
    return rng.choice(
        [text[:at], text[:at] + text[end:], text[:end] + text[at:], text[:at] + rng.choice(WORDS) + text[at:]]
    )


def changed_bytes(rng: Random, data: bytes) -> bytes:
    """Bytes flipped, cut, doubled, put in, or a length that lies."""
    found = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at, end = sorted(rng.randrange(len(found) + 1) for _ in range(2))
        change = rng.randrange(6)
        if change == 0 and at < len(found):
            found[at] ^= 1 << rng.randrange(8)
        elif change == 1:
            del found[end:]
        elif change == 2:
            found[at:at] = found[at : min(end, at + 4096)]
        elif change == 3:
            found[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
        elif change == 4:
            found[at : at + 8] = struct.pack("<Q", rng.choice([0, 1, 2**31, 2**40, 2**63, 2**64 - 1]))
        elif len(found) >= 8:
            found[:8] = struct.pack("<Q", rng.choice([0, 7, len(found), 2**40, 2**63]))
    return bytes(found)


def changed_safetensors(rng: Random, data: bytes) -> bytes:
    """The same, or entries of its header changed, whose length is right."""
    if rng.randrange(3) == 0:
        return changed_bytes(rng, data)
    length = struct.unpack_from("<Q", data)[0]
    header = as_text(changed(rng, json.loads(data[8 : 8 + length]))).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(header)) + header + data[8 + length :]
