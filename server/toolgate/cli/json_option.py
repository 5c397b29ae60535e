"""Reads an option whose value is a JSON object."""

import json

import typer

from toolgate.core.record import Json, JsonObject


def json_object(text: str, option: str) -> JsonObject:
    """Read what `option` was given.

    Raises:
        BadParameter: it is no JSON object.
    """
    try:
        value: Json = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint=option) from error
    if not isinstance(value, dict):
        raise typer.BadParameter('a JSON object is expected, such as {"id": 1}', param_hint=option)
    return value
