"""Entity planes: what the rules themselves paint."""

from __future__ import annotations

from graft.envs.builtin.engine.view import VIEWS, View, planes_schema

VIEWS.add("planes", View("one plane of zeros and ones for each kind of thing", planes_schema))
