"""What is stored or sent is a frozen `Record`; what only lives in memory is a frozen dataclass."""

from typing import TypeAlias

from pydantic import BaseModel, ConfigDict, JsonValue

Json: TypeAlias = JsonValue
JsonObject: TypeAlias = dict[str, JsonValue]


class Record(BaseModel):
    """A value that does not change and refuses fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
