"""What a patch changed in observations and actions, by name."""

from __future__ import annotations

from dataclasses import replace

from support.tiny_tasks import box, discrete, planes, vector

from graft.envs.core.schema import Schemas
from graft.experiments.report.schema_changes import Change, schema_changes

OLD = Schemas(vector(["speed", "wall"], [["self"], ["solid"]]), discrete("left", "right"))


def test_equal_schemas_have_no_changes():
    assert schema_changes(OLD, OLD) == []


def test_names_bounds_and_meanings_are_named():
    seen = replace(vector(["wall", "lava", "speed"], [["solid"], ["deadly"], []]), high=(1.0, 1.0, 5.0))
    assert schema_changes(OLD, Schemas(seen, discrete("left", "jump"))) == [
        Change("observations", "added", ("lava",)),
        Change("observations", "order", (), "another order, which transfer by name ignores"),
        Change("observations", "bounds", ("speed",), "-1 to 1 became -1 to 5"),
        Change("observations", "meaning", ("speed",), "self became nothing"),
        Change("actions", "added", ("jump",)),
        Change("actions", "removed", ("right",)),
    ]


def test_another_form_and_other_units_are_said():
    old = Schemas(planes("ab"), box(["steer", "brake"]))
    found = schema_changes(old, Schemas(planes("ab", 7, 7), box(["steer", "brake"], -2.0, 2.0)))
    assert [change.text for change in found] == [
        "planes of uint8 x 5 x 5 became planes of uint8 x 7 x 7",
        "steer, brake: -1 to 1 became -2 to 2",
    ]
    assert schema_changes(old, OLD)[0].change == "form"
    assert [c.text for c in schema_changes(old, OLD) if c.change == "form" and c.what == "actions"] == [
        "box became discrete"
    ]
