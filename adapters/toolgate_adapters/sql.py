"""Databases: typed, named, parameterised statements that the manifest declares. SQLite and PostgreSQL.

A caller sends arguments, never the text of a statement. Reads run in read-only transactions.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from pydantic import BaseModel, JsonValue, ValidationError, create_model

from toolgate.adapter import (
    Adapter,
    Admitted,
    Context,
    Effect,
    Operation,
    System,
    faults_in,
)
from toolgate_adapters.sql_connection import KEY_PARAMETER, Database, SqlConnector, Statement
from toolgate_adapters.sql_statement import Declared, arguments_model, fault_in_defaults, row_model


class Changed(BaseModel):
    """How many rows a statement changed."""

    changed: int


class SqlAdapter(Adapter[Database]):
    """Makes its operations from the manifest."""

    def operations(self, system: System) -> Mapping[str, Operation[Database, Any, Any]]:
        """Give the declared statements as operations.

        Raises:
            ValueError: a declaration is wrong; the message says which and why.
        """
        return {name: _operation(name, admitted) for name, admitted in system.tools.items()}


sql = SqlAdapter("sql", connect=SqlConnector)


def _operation(name: str, admitted: Admitted) -> Operation[Database, Any, Any]:
    place = f"[tools.{name}.operation]"
    try:
        declared = Declared.model_validate(dict(admitted.options))
    except ValidationError as error:
        raise ValueError(faults_in(error, place)) from error
    if fault := declared.fault(admitted.effect):
        raise ValueError(f"{place} {fault}")
    arguments, result = arguments_model(name, declared), _result_model(name, declared)
    if fault := fault_in_defaults(arguments):
        raise ValueError(f"{place} {fault}")
    run = partial(_run, declared=declared, effect=admitted.effect, result=result)
    return Operation(
        name=name,
        description=declared.description,
        input_model=arguments,
        output_model=result,
        run=run,
    )


def _result_model(name: str, declared: Declared) -> type[BaseModel]:
    if declared.result == "changed":
        return Changed
    row = row_model(name, declared)
    if declared.result == "row":
        return row
    rows: Any = list[row]  # type: ignore[valid-type] # made from the manifest
    return create_model(f"{name}_rows", rows=(rows, ...), truncated=(bool, ...))


async def _run(
    arguments: BaseModel,
    context: Context[Database],
    *,
    declared: Declared,
    effect: Effect,
    result: type[BaseModel],
) -> BaseModel:
    parameters: dict[str, JsonValue] = arguments.model_dump()
    if KEY_PARAMETER in declared.names:
        parameters[KEY_PARAMETER] = context.idempotency_key
    statement = Statement(
        text=declared.statement,
        parameters=parameters,
        most_rows=declared.max_rows + 1,
        needs_row=declared.result == "row",
        expect_changed=declared.expect_changed,
    )
    if effect == "read":
        answer = await context.client.read(statement, context.deadline)
    else:
        answer = await context.client.write(statement, context.deadline, context.sending)
    if declared.result == "changed":
        return Changed(changed=answer.changed)
    if declared.result == "row":
        return result.model_validate(answer.rows[0])
    return result.model_validate(
        {
            "rows": answer.rows[: declared.max_rows],
            "truncated": len(answer.rows) > declared.max_rows,
        }
    )
