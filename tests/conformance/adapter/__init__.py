"""An adapter that somebody else could have written: its operations carry the names that the suite calls.

The suite's `test_simple_text` is the operation `simple_text` of the system `test`, as any tool is called.
"""

from tests.conformance.adapter import asking as asking
from tests.conformance.adapter import changing as changing
from tests.conformance.adapter import content as content
from tests.conformance.adapter import headers as headers
from tests.conformance.adapter import offered as offered
from tests.conformance.adapter.suite import suite

__all__ = ["suite"]
