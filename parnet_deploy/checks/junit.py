"""Write a verification as JUnit XML, which Jenkins, GitLab and GitHub read: a case per tensor and set of images."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from parnet_deploy.artifacts.files import replacing_file
from parnet_deploy.artifacts.verification import Comparison, Difference, Verification
from parnet_deploy.checks.departure import short
from parnet_deploy.checks.verification import describe_failure, entries_of
from parnet_deploy.errors import CheckFailedError

# What XML 1.0 cannot hold, and what UTF-8 cannot: names of files may contain both.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TOOL = "parnet-deploy verify"


def write_junit(path: Path, outcome: Verification | CheckFailedError) -> None:
    """Write the test cases of a verification, whole or not at all; an older file is replaced.

    Where the artefacts could not be compared at all, there is one case, which failed.

    Raises:
        ArtifactError: the file cannot be written.
    """
    suites = _refusal(outcome) if isinstance(outcome, CheckFailedError) else _suites(outcome)
    ElementTree.indent(suites)
    data = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    with replacing_file(path, force=True) as temporary:
        temporary.write_bytes(data + b"\n")


def _element(parent: ElementTree.Element, tag: str, text: str | None = None, **attributes: str) -> ElementTree.Element:
    made = ElementTree.SubElement(parent, tag, {name: _clean(value) for name, value in attributes.items()})
    made.text = None if text is None else _clean(text)
    return made


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("?", text)


def _suites(verification: Verification) -> ElementTree.Element:
    root = ElementTree.Element("testsuites", {"name": _TOOL})
    for comparison in verification.comparisons:
        _add_suite(root, verification, comparison)
    _count(root, [suite for suite in root if suite.tag == "testsuite"])
    return root


def _add_suite(root: ElementTree.Element, verification: Verification, comparison: Comparison) -> None:
    name = f"{verification.b.name} against {verification.a.name}"
    suite = _element(root, "testsuite", name=f"{comparison.count} {comparison.images} images")
    # Without the offset: the schema takes none, and the time is UTC.
    suite.set("timestamp", verification.created.removesuffix("+00:00"))
    properties = _element(suite, "properties")
    for key, value in _properties(verification).items():
        _element(properties, "property", name=key, value=value)
    for entry in entries_of(comparison):
        case = _element(suite, "testcase", classname=name, name=entry.name)
        if not entry.passed:
            _element(case, "failure", _details(entry), message=describe_failure(entry), type="difference")
    required = comparison.agreement
    if required is not None:
        case = _element(suite, "testcase", classname=name, name="top-1 agreement")
        if comparison.top1_agreement < required:
            message = f"{comparison.top1_agreement:.2%} of the images get the same class, {required:.0%} are required"
            _element(case, "failure", message, message=message, type="agreement")
    if comparison.departure is not None:
        _element(suite, "system-out", comparison.departure.sentence)
    _count(suite, [suite])


def _count(element: ElementTree.Element, counted: list[ElementTree.Element]) -> None:
    cases = [case for suite in counted for case in suite.iter("testcase")]
    failed = [case for case in cases if case.find("failure") is not None]
    element.set("tests", str(len(cases)))
    element.set("failures", str(len(failed)))
    element.set("errors", "0")


def _properties(verification: Verification) -> dict[str, str]:
    environment = verification.environment
    found = {
        "parnet-deploy": environment.tool_version,
        "processor": f"{environment.processor} ({environment.capability})",
        "python": environment.python,
        "tolerance.precision": verification.tolerance.precision,
        **environment.packages,
    }
    for role, record in (("reference", verification.a), ("compared", verification.b)):
        found |= {f"{role}.name": record.name, f"{role}.kind": record.kind, f"{role}.sha256": record.sha256}
        found |= {f"{role}.{tool}": version for tool, version in record.tools.items()}
    found |= {f"changed.{change.what}": f"{change.before} -> {change.after}" for change in verification.changes}
    return found


def _details(entry: Difference) -> str:
    numbers = {"max abs": entry.max_abs, "relative": entry.relative, "norm": entry.norm}
    parts = [f"{name} {short(value)}" for name, value in numbers.items() if value is not None]
    return ", ".join([*parts, *([] if entry.cosine is None else [f"cosine {entry.cosine:.9f}"])])


def _refusal(error: CheckFailedError) -> ElementTree.Element:
    root = ElementTree.Element("testsuites", {"name": _TOOL})
    suite = _element(root, "testsuite", name=_TOOL)
    case = _element(suite, "testcase", classname=_TOOL, name="same network")
    _element(case, "failure", str(error), message=error.what, type="network")
    for element in (suite, root):
        _count(element, [suite])
    return root
