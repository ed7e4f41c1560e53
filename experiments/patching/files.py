"""The results of a patch check as files: JSON, JUnit XML for build pipelines, and one HTML page."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from graft import __version__
from graft.agents.checkpoints.files import replace_file
from graft.errors import GraftError
from graft.experiments.patching.sections import all_sections, gates
from graft.experiments.report.page.cells import Section
from graft.experiments.report.page.render import render

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped."""


def check_target(path: Path | None, option: str) -> None:
    """Raises GraftError where a file can't be written, before anything is played."""
    if path is None:
        return
    if path.is_dir():
        raise GraftError(f"{option} {path} is a folder; give the name of a file.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GraftError(f"{option} {path} can't be written ({error.strerror}); choose another file.") from error


def write(path: Path, text: bytes) -> None:
    """Replace a file in one step; raises GraftError."""
    try:
        replace_file(path, text)
    except OSError as error:
        raise GraftError(f"{path} can't be written ({error.strerror}); choose another file.") from error


def as_json(data: Mapping[str, Any]) -> bytes:
    """The results; keys are sorted, what is not a number is null."""
    return json.dumps(data, indent=1, sort_keys=True, allow_nan=False).encode()


def as_junit(data: Mapping[str, Any]) -> bytes:
    """A test suite with a case for each gate and scenario; a failure says what was measured."""
    cases = [(row[0].text, row[1].text == "PASS", row[2].text) for table in gates(data).tables for row in table.rows]
    failures = str(sum(not passed for _, passed, _ in cases))
    counts = {"tests": str(len(cases)), "failures": failures, "errors": "0"}
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": _clean(f"graft patch {data['name']}"), **counts})
    for name, passed, measured in cases:
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": f"graft.patch.{data['name']}", "name": _clean(name)}
        )
        if not passed:
            said = _clean(f"{name}: {measured}")
            ElementTree.SubElement(case, "failure", {"message": said, "type": "gate"}).text = said
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def _clean(text: str) -> str:
    return _NOT_XML.sub("?", text)


def as_html(data: Mapping[str, Any], curves: Sequence[Section | None] = ()) -> bytes:
    """One page, which opens without a network."""
    judged = [*data["gates"], *data["scenarios"]]
    failed = sum(not one["passed"] for one in judged)
    said = f"{failed} of {len(judged)} gates and scenarios failed." if failed else f"All {len(judged)} passed."
    return render(
        "patch.html",
        title=data["name"],
        verdict="PASSED" if data["passed"] else "FAILED",
        tone="positive" if data["passed"] else "negative",
        said=said if judged else "There are no gates.",
        facts=[("agent", data["agent"]), ("old build", data["old"]), ("new build", data["new"])],
        sections=all_sections(data, curves),
        version=__version__,
    ).encode()
