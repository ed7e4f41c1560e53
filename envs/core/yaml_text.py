"""YAML that people write or send: plain values, numbers such as ``1e5``, and nothing that grows when it is read."""

from __future__ import annotations

import re
from typing import Any

import yaml

LARGEST, MOST_VALUES, DEEPEST = 1 << 20, 100_000, 50
"""Bytes of a text; values in it, each as often as aliases repeat it; and levels of values in each other."""

LEAST, MOST = -(2**63), 2**64 - 1  # of whole numbers: all of 64 bits, with a sign or without
DIGITS = 100  # of a whole number


class _Loader(yaml.SafeLoader):
    """Also takes ``1e5`` and ``7e-4`` for numbers, which are text in YAML 1.1."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._values = self._depth = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Counts values; an alias counts as what it repeats, and one inside of that would repeat without end."""
        alias, before = self.check_event(yaml.AliasEvent), self._values
        self._depth += 1
        if self._depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        self._values += self._sizes.get(id(node), MOST_VALUES) if alias else 1
        if self._values > MOST_VALUES:
            raise ValueError(f"it has more than {MOST_VALUES:,} values, or an alias inside of what it repeats")
        self._sizes.setdefault(id(node), self._values - before)
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        # Counted first: a number of base 60 (1:30:00), or of many digits, takes time squared.
        if len(node.value) > DIGITS or not LEAST <= (value := int(super().construct_yaml_int(node))) <= MOST:
            raise ValueError(f"a whole number has more than 64 bits, in line {node.start_mark.line + 1}")
        return value

    def construct_yaml_str(self, node: yaml.ScalarNode) -> str:
        value = str(super().construct_yaml_str(node))
        value.encode()  # raises ValueError for half of a pair of surrogates, which nothing can be written with
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_yaml_str)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse_yaml(data: str | bytes) -> Any:
    """The value of a YAML text; raises ValueError that says what is wrong, as the end of a sentence without a stop."""
    if len(data) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST:,} bytes")
    try:
        return yaml.load(data, _Loader)
    except yaml.MarkedYAMLError as error:
        where = f", in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{error.problem}{where}") from error
    except MemoryError:
        raise
    except Exception as error:  # constructors of PyYAML raise many kinds where a tag does not fit its value
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
