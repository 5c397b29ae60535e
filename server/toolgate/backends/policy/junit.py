"""What came of a policy's cases, as JUnit XML: the form that every CI shows."""

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from toolgate.backends.policy.cases import Failure, Tested
from toolgate.backends.replacing import replace_file
from toolgate.core.errors import Fault

_NOT_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 (section 2.2) has no way to hold, not even as a reference."""


def write_junit(tested: Tested, file: Path) -> None:
    """Write a suite for each file of cases, and one for the rules; the file is replaced as a whole.

    Raises:
        OSError: it cannot be written.
    """
    replace_file(file, junit(tested))


def junit(tested: Tested) -> str:
    """Give the document."""
    root = ET.Element("testsuites", name="toolgate policy")
    failed = {(failure.case.file, failure.case.name): failure for failure in tested.failures}
    for name, cases in groupby(tested.cases, key=lambda case: case.file):
        suite = ET.SubElement(root, "testsuite", name=_clean(name))
        for case in cases:
            told = ET.SubElement(suite, "testcase", classname=_clean(name), name=_clean(case.name))
            if (failure := failed.get((name, case.name))) is not None:
                _fail(told, f"expected {failure.expected}; got {failure.got}", _words(failure))
    _rules(root, tested)
    _faults(root, tested.faults)
    for suite in root:
        _count(suite)
    _count(root)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _rules(root: ET.Element, tested: Tested) -> None:
    if not tested.uncovered:
        return
    suite = ET.SubElement(root, "testsuite", name="rules")
    for gap in tested.uncovered:
        rule = gap.rule
        told = ET.SubElement(suite, "testcase", classname="rules", name=rule.id)
        missing = " and ".join(gap.missing)
        _fail(told, f"it needs {missing}", f"{rule.file} line {rule.line}: rule {rule.id} needs {missing}")


def _faults(root: ET.Element, faults: Sequence[Fault]) -> None:
    if not faults:
        return
    suite = ET.SubElement(root, "testsuite", name="files")
    for fault in faults:
        name = _clean(f"{fault.file}: {fault.place}")
        told = ET.SubElement(suite, "testcase", classname="files", name=name)
        ET.SubElement(told, "error", message=_clean(fault.problem)).text = _clean(fault.remedy)


def _fail(told: ET.Element, message: str, text: str) -> None:
    ET.SubElement(told, "failure", message=_clean(message)).text = _clean(text)


def _words(failure: Failure) -> str:
    place = f"{failure.case.file}, {failure.case.place}"
    return "\n".join((place, f"expected: {failure.expected}", f"got: {failure.got}", *failure.why))


def _count(suite: ET.Element) -> None:
    for name, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error")):
        suite.set(name, str(sum(1 for _ in suite.iter(tag))))


def _clean(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
