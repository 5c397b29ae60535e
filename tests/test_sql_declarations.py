"""What a manifest may declare of a statement: the schema that callers see, and the faults that it is told."""

from pathlib import Path
from typing import Any, Final

import pytest
from pydantic import JsonValue

from toolgate.adapter import Admitted, Effect, System
from toolgate_adapters.sql import sql

FIND: Final[dict[str, Any]] = {
    "description": "Find tickets.",
    "statement": "SELECT id FROM ticket WHERE title = :title",
    "result": "rows",
    "parameters": {"title": {"type": "text", "description": "Its title."}},
    "columns": {"id": "integer"},
}


def system(effect: Effect = "read", options: dict[str, JsonValue] | None = None, **declared: Any) -> System:  # noqa: ANN401
    tools = {"find": Admitted(effect=effect, options=FIND | declared)}
    return System(name="desk", root=Path("/srv"), options=options or {"url": "sqlite:///x.db"}, tools=tools)


def parameter(**said: Any) -> dict[str, Any]:  # noqa: ANN401
    """Declare the statement's one parameter."""
    return {"parameters": {"title": {"description": "It.", **said}}}


def fault(**declared: Any) -> str:  # noqa: ANN401
    with pytest.raises(ValueError, match=r"\[tools.find.operation\] ") as told:
        sql.operations(system(**declared))
    return str(told.value).removeprefix("[tools.find.operation] ")


@pytest.mark.parametrize(
    ("said", "schema"),
    [
        ({"type": "text"}, {"type": "string"}),
        ({"type": "text", "max_length": 5, "pattern": "^[a-z]+$"},
         {"type": "string", "maxLength": 5, "pattern": "^[a-z]+$"}),
        ({"type": "text", "default": "x"}, {"type": "string", "default": "x"}),
        ({"type": "text", "choices": ["a", "b"], "default": "b"},
         {"type": "string", "enum": ["a", "b"], "default": "b"}),
        ({"type": "integer", "minimum": 1, "maximum": 9}, {"type": "integer", "minimum": 1, "maximum": 9}),
        ({"type": "number", "minimum": 0.5}, {"type": "number", "minimum": 0.5}),
        ({"type": "boolean", "default": False}, {"type": "boolean", "default": False}),
        ({"type": "date"}, {"type": "string", "format": "date"}),
        ({"type": "timestamp"}, {"type": "string", "format": "date-time"}),
        ({"type": "integer", "optional": True, "minimum": 1},
         {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}], "default": None}),
    ],
)  # fmt: skip
def test_a_parameter_is_shown_with_its_type_and_bounds(said: dict[str, Any], schema: dict[str, Any]) -> None:
    operation = sql.operations(system(**parameter(**said)))["find"]
    shown = operation.input_model.model_json_schema()

    assert shown["properties"]["title"] == schema | {"description": "It.", "title": "Title"}
    assert ("title" in shown.get("required", [])) == ("default" not in schema)
    assert shown["additionalProperties"] is False


def test_the_result_is_shown_with_its_columns() -> None:
    declared: dict[str, Any] = {"columns": {"id": "integer", "due": "date"}, "nullable": ["due"]}
    rows = sql.operations(system(**declared))["find"].output_model.model_json_schema()
    row = rows["$defs"]["find_row"]

    assert set(rows["properties"]) == {"rows", "truncated"}
    assert row["properties"]["id"]["type"] == "integer"
    assert {"type": "null"} in row["properties"]["due"]["anyOf"]
    assert row["required"] == ["id", "due"]


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ({"parameters": {}}, "parameters: the statement and the parameters do not agree on: title"),
        ({"statement": "SELECT :title, :id AS id"}, "do not agree on: id"),
        ({"statement": "SELECT 1; DROP TABLE x", "parameters": {}}, "one statement is expected, without"),
        ({"statement": "DELETE FROM ticket", "parameters": {}}, "a read begins with SELECT, WITH or VALUES"),
        ({"result": "changed", "columns": {}}, "result: a read changes nothing that could be counted"),
        ({"expect_changed": 1}, "result: a read changes nothing that could be counted"),
        ({"columns": {}}, 'columns: say them for "rows" and "row", and only there'),
        ({"result": "changed", "effect": "write"}, 'columns: say them for "rows" and "row", and only there'),
        ({"nullable": ["due", "id"]}, "nullable: there is no column due"),
        ({"columns": {"_id": "integer"}}, "columns._id"),
        ({"columns": {"id": "uuid"}}, "columns.id: Input should be 'text', 'integer'"),
        ({"result": "table"}, "result: Input should be 'rows', 'row' or 'changed'"),
        ({"describe": "x"}, "describe: Extra inputs are not permitted"),
        ({"max_rows": 0}, "max_rows: "),
        (parameter(type="integer", choices=["a"]), "parameters.title: Value error, choices cannot be said"),
        (parameter(type="text", minimum=1), "minimum cannot be said of the type 'text'"),
        (parameter(type="text", choices=[]), "parameters.title.choices: "),
        (parameter(type="text", pattern="("), "it is not a regular expression"),
        (parameter(type="integer", default="x"), "parameters: the default of title is not what it asks"),
        (parameter(type="text", max_length=1, default="xx"), "parameters: the default of title is not what"),
    ],
)  # fmt: skip
def test_a_wrong_declaration_is_told_with_its_place(declared: dict[str, Any], told: str) -> None:
    assert told in fault(**declared)


def test_a_semicolon_at_the_end_is_no_fault() -> None:
    assert sql.operations(system(statement=f"{FIND['statement']} ; "))


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://canary@db/desk", "it holds a user; name a credential role instead"),
        ("postgresql://:canary@db/desk", "it holds a user; name a credential role instead"),
        ("postgresql://db/desk?password=canary", "it holds a user; name a credential role instead"),
        ("mysql://db/canary", "sqlite:///FILE or postgresql://HOST/DATABASE is expected"),
        ("sqlite://", "sqlite:///FILE or postgresql://HOST/DATABASE is expected"),
        ("canary", "it is not a database address"),
    ],
)
def test_a_wrong_address_is_told_and_not_repeated(url: str, told: str) -> None:
    with pytest.raises(ValueError, match=r"\[system\] url: ") as refused:
        sql.connect(system(options={"url": url}))

    assert told in str(refused.value)
    assert "canary" not in str(refused.value)


def test_a_wrong_system_table_is_told_with_its_place() -> None:
    with pytest.raises(ValueError, match=r"\[system\] max_connections: "):
        sql.connect(system(options={"url": "sqlite:///x.db", "max_connections": 0}))
