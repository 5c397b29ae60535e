"""Which operations may be offered as resources and as prompts; what may not be is refused by `check`."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator, BaseModel

from toolgate.adapter import Messages
from toolgate.core.text_arguments import required_by, text_arguments
from toolgate.core.tool import Tool
from toolgate.core.uri_template import UriTemplate

_LONGEST_WIRE_NAME: Final = 64
Address: TypeAlias = Annotated[str, AfterValidator(lambda text: UriTemplate(text).text)]
"""A manifest's `resource`."""
Complaint: TypeAlias = tuple[str, str, str]
"""Which key of the tool's table, what is wrong with it, what to do."""
_ONLY_READS = "only a read may be offered so: nobody reviews what a client reads or fills in by itself"


def complaints(tool: Tool, gives: type[BaseModel]) -> Iterator[Complaint]:
    """Say why `tool`, whose operation gives a `gives`, cannot be offered as its manifest wants it."""
    if tool.resource is not None:
        yield from _of_a_resource(tool)
    if tool.prompt:
        yield from _of_a_prompt(tool, gives)


def clashes(tools: Sequence[Tool]) -> Iterator[Complaint]:
    """Say which tools could not be told apart, or not be named, with the tool in place of a key."""
    seen: dict[str, str] = {}
    for tool in tools:
        other = seen.setdefault(tool.wire_name, tool.name)
        if other != tool.name:
            problem = f"{other} and {tool.name} would both be called {tool.wire_name}"
            yield tool.name, problem, "rename one of the files"
        if len(tool.wire_name) > _LONGEST_WIRE_NAME:
            yield tool.name, f"its name is longer than {_LONGEST_WIRE_NAME} characters", "rename the file"
    placed = [(tool, tool.resource) for tool in tools if tool.resource is not None]
    for number, (tool, address) in enumerate(placed):
        for other_tool, taken in placed[:number]:
            if address.meets(taken):
                problem = f"{address.text} and {taken.text} of {other_tool.name} could mean one address"
                yield tool.name, problem, "give one of them another address"


def _of_a_resource(tool: Tool) -> Iterator[Complaint]:
    if tool.terms.effect != "read":
        yield "resource", _ONLY_READS, "remove it"
    document = tool.input.document
    variables = frozenset(tool.resource.variables if tool.resource else ())
    known = text_arguments(document)
    for name in sorted(variables - known.keys()):
        can_be = ", ".join(known) or "none"
        problem = f"{{{name}}} is no argument that is a text, an integer, a boolean or a choice"
        yield "resource", problem, f"its variables can be: {can_be}"
    for name in sorted(required_by(document) - variables):
        problem = f"the argument {name} may not be left out, and the address does not hold it"
        yield "resource", problem, f"write {{{name}}} into it"


def _of_a_prompt(tool: Tool, gives: type[BaseModel]) -> Iterator[Complaint]:
    if tool.terms.effect != "read":
        yield "prompt", _ONLY_READS, "remove it"
    if tool.resource is not None:
        yield "prompt", "it has an address as a resource, too", "decide for one"
    if not issubclass(gives, Messages):
        yield "prompt", "its operation gives no toolgate.adapter.Messages", "remove it"
    document = tool.input.document
    properties = document.get("properties")
    names = set(properties) if isinstance(properties, dict) else set[str]()
    for name in sorted(names - text_arguments(document).keys()):
        problem = f"its argument {name} is no text, integer, boolean or choice, and people fill in only these"
        yield "prompt", problem, "remove it"
