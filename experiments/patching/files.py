"""The results of a patch check as files: JSON, JUnit XML for build pipelines, and one HTML page."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from xml.etree import ElementTree

from graft import __version__
from graft.errors import GraftError
from graft.experiments.patching.sections import all_sections, gates
from graft.experiments.report.common import write_file
from graft.experiments.report.page.cells import Section
from graft.experiments.report.page.render import render

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped."""


Targets = Mapping[str, Path | None]
"""Option -> the file that it names; None where it is not given."""


def check_names(targets: Targets, config: Path) -> None:
    """Raises GraftError where an option names a folder, the check's own file, or the file of another option."""
    taken = {config.resolve(): "the check itself"}
    for option, path in targets.items():
        if path is None:
            continue
        if path.is_dir():
            raise GraftError(f"{option} {path} is a folder; give the name of a file.")
        if other := taken.get(path.resolve()):
            raise GraftError(f"{option} {path} would overwrite {other}; give each file a name of its own.")
        taken[path.resolve()] = f"the file of {option}"


def make_folders(targets: Targets) -> None:
    """Make the files' folders; raises GraftError where one can't be made or written into, before anything is played."""
    for option, path in targets.items():
        if path is None:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise GraftError(f"{option} {path} can't be written ({error.strerror}); choose another file.") from error


def write_all(targets: Targets, data: Mapping[str, Any], curves: Sequence[Section | None]) -> None:
    """Write each file that is asked for in one step; raises GraftError after them for the first that can't be."""
    texts = {"--junit": as_junit, "--html": lambda found: as_html(found, curves), "--json": as_json}
    refused: list[GraftError] = []
    for option, path in targets.items():
        try:
            if path is not None:
                write_file(path, texts[option](data), f"choose another {option}")
        except GraftError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def as_json(data: Mapping[str, Any]) -> bytes:
    """The results; keys are sorted, what is not a number is null."""
    return json.dumps(data, indent=1, sort_keys=True, allow_nan=False).encode()


def as_junit(data: Mapping[str, Any]) -> bytes:
    """A test suite with a case for each gate, scenario and failed training; a failure says what was measured."""
    rows = [row for table in gates(data).tables for row in table.rows]
    judged = len(data["gates"]) + len(data["scenarios"])  # the rows of failed trainings come last
    cases = [
        (row[0].text, "" if row[1].text == "PASS" else "failure" if k < judged else "error", row[2].text)
        for k, row in enumerate(rows)
    ]
    found = [kind for _, kind, _ in cases]
    counts = {"tests": len(cases), "failures": found.count("failure"), "errors": found.count("error")}
    counted = {key: str(count) for key, count in counts.items()}
    root = ElementTree.Element("testsuites", counted)
    suite = ElementTree.SubElement(root, "testsuite", {"name": _clean(f"graft patch {data['name']}"), **counted})
    for name, kind, measured in cases:
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": f"graft.patch.{data['name']}", "name": _clean(name)}
        )
        if kind:
            said = _clean(f"{name}: {measured}")
            what = {"failure": "gate", "error": "training"}[kind]
            ElementTree.SubElement(case, kind, {"message": said, "type": what}).text = said
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def _clean(text: str) -> str:
    return _NOT_XML.sub("?", text)


def as_html(data: Mapping[str, Any], curves: Sequence[Section | None] = ()) -> bytes:
    """One page, which opens without a network."""
    judged = [*data["gates"], *data["scenarios"]]
    failed = sum(not one["passed"] for one in judged)
    said = f"{failed} of {len(judged)} gates and scenarios failed." if failed else f"All {len(judged)} passed."
    said = said if judged else "There are no gates."
    if data["failed"]:
        said += f" Trainings that failed: {len(data['failed'])}."
    return render(
        "patch.html",
        title=data["name"],
        verdict="PASSED" if data["passed"] else "FAILED",
        tone="positive" if data["passed"] else "negative",
        said=said,
        facts=[("agent", data["agent"]), ("old build", data["old"]), ("new build", data["new"])],
        sections=all_sections(data, curves),
        version=__version__,
    ).encode()
