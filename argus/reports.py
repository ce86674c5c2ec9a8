"""Findings as text for people and as what code hosts read: one function a format, from values to text."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

from reconciler.findings import RULES, Finding, Rule, Severity

SARIF_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


@dataclass(frozen=True, slots=True)
class Report:
    """What was found in how many specs. Paths of findings are relative to where the reader stands."""

    findings: Sequence[Finding]
    specs: int
    version: str = "0"


def as_text(report: Report) -> str:
    """Write `path:line:column: severity: message`, as compilers do, and a line that counts."""
    lines = [f"{_place(each)}: {each.severity}: {each.message}" for each in report.findings]
    counted = Counter(each.severity for each in report.findings)
    summary = ", ".join(f"{counted[each]} {each}{'s' * (counted[each] != 1)}" for each in Severity if counted[each])
    specs = f"{report.specs} spec{'s' * (report.specs != 1)} checked"
    return "\n".join([*lines, f"{specs}: {summary or 'no problems'}", ""])


def as_json(report: Report) -> str:
    """Write everything that is known."""
    return _json({"specs": report.specs, "findings": [asdict(each) for each in report.findings]})


def as_github(report: Report) -> str:
    """Write workflow commands, which GitHub and Gitea show beside the lines of a change."""
    lines = []
    for each in report.findings:
        properties: dict[str, Any] = {"file": each.path, "line": each.line, "col": each.column}
        properties["title"] = f"argus {each.rule}"
        given = ",".join(f"{name}={_property(str(value))}" for name, value in properties.items() if value is not None)
        lines.append(f"::{each.severity} {given}::{_message(each.message)}\n")
    return "".join(lines)


def as_gitlab(report: Report) -> str:
    """Write GitLab's code quality report."""
    return _json(
        [
            {
                "description": each.message,
                "check_name": f"argus-{each.rule}",
                "fingerprint": _fingerprint(each),
                "severity": "major" if each.severity is Severity.ERROR else "minor",
                "location": {"path": each.path, "lines": {"begin": each.line or 1}},
            }
            for each in report.findings
        ]
    )


def as_sarif(report: Report) -> str:
    """Write SARIF 2.1.0, which code scanning reads."""
    rules = list(Rule)
    driver = {
        "name": "argus",
        "version": report.version,
        "rules": [{"id": each, "shortDescription": {"text": RULES[each]}} for each in rules],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [
            {
                "ruleId": each.rule,
                "ruleIndex": rules.index(each.rule),
                "level": each.severity,
                "message": {"text": each.message},
                "locations": [{"physicalLocation": _location(each)}],
                "partialFingerprints": {"argus/v1": _fingerprint(each)},
            }
            for each in report.findings
        ],
    }
    return _json({"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]})


FORMATS: Mapping[str, Callable[[Report], str]] = {
    "text": as_text,
    "json": as_json,
    "github": as_github,
    "gitlab": as_gitlab,
    "sarif": as_sarif,
}


def printable(text: str) -> str:
    """Make a stranger's text (a path) fit for one line of a terminal."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def _place(finding: Finding) -> str:
    numbers = [str(number) for number in (finding.line, finding.column) if number is not None]
    return ":".join([printable(finding.path), *numbers])


def _location(finding: Finding) -> dict[str, Any]:
    where: dict[str, Any] = {
        "artifactLocation": {"uri": quote(finding.path.encode(errors="surrogateescape")), "uriBaseId": "%SRCROOT%"}
    }
    if finding.line is not None:
        where["region"] = {"startLine": finding.line}
        if finding.column is not None:
            where["region"]["startColumn"] = finding.column
    return where


def _fingerprint(finding: Finding) -> str:
    """Tell findings apart, and find one again when lines above it come and go: a file has one of a rule at most."""
    return hashlib.sha256(f"{finding.path}\n{finding.rule}\n{finding.field}".encode(errors="replace")).hexdigest()


def _message(text: str) -> str:
    return printable(text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A"))


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
