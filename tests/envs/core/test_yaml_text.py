"""YAML of people: numbers as they write them, and nothing that grows, recurses or cannot be written again."""

from __future__ import annotations

import pytest

from graft.envs.core.yaml_text import parse_yaml

BOMB = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))


def test_numbers_and_aliases():
    assert parse_yaml("{a: 1e5, b: 7e-4, c: 0x10, d: &d [1], e: *d}") == {
        "a": 1e5,
        "b": 7e-4,
        "c": 16,
        "d": [1],
        "e": [1],
    }
    for largest in 2**64 - 1, -(2**63):
        assert parse_yaml(str(largest)) == parse_yaml(hex(largest)) == largest
    assert parse_yaml("1:30:00") == 5400


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "more than 100,000 values"),
        ("&a [*a]", "an alias inside of what it repeats"),
        ("[" * 51 + "]" * 51, "nested more than 50 deep"),
        (str(2**64), "more than 64 bits, in line 1"),
        (str(-(2**63) - 1), "more than 64 bits, in line 1"),
        ("seeds: 1" + ":1" * 100_000, "more than 64 bits, in line 1"),  # in time squared
        ("a: 1\nb: 0x" + "f" * 9000, "more than 64 bits, in line 2"),
        ('"\\ud800"', "surrogates not allowed"),
        ("x" * ((1 << 20) + 1), "larger than 1,048,576 bytes"),
        ("!!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("!!int ''", "index out of range"),
        ("!!bool x", "x"),
        ("a: [", "in line"),
    ],
)
def test_what_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        parse_yaml(text)
