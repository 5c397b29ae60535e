"""Reads the audit log of a vault: one JSON object a line."""

import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

from pydantic import AwareDatetime, BaseModel, Field, ValidationError

STDIN: Final = Path("-")
_LONGEST: Final = 16 * 2**20
"""Bytes of a line; a vault takes no request that would make a longer one."""
_EVERY: Final = 2_000
"""Lines between two words about how far it is."""
_FIRST_ERROR: Final = 400
"""Statuses of HTTP from here on gave nothing."""


@dataclass(frozen=True, kw_only=True)
class BadLine:
    """A line that is none of an audit log."""

    file: str
    line: int
    problem: str


@dataclass(frozen=True, kw_only=True)
class AuditLine:
    """What one line says. Secrets are hashed there, and are not read here."""

    at: datetime
    answer: bool
    """Whether it is the line of an answer that gave something."""
    request: str
    operation: str
    path: str
    namespace: str
    stores: bool
    """Whether the engine keeps what it is given (KV)."""
    toolgate: str
    """What a token of ours says of itself: `run` or `call`; empty for any other."""
    call: str
    """The call that the token was made for, or that the token in the answer is made for, as they say."""
    display_name: str
    accessor: str
    """The token's accessor, hashed by the vault; a batch token has none."""
    remote: str


def lines_of(
    files: Sequence[Path], progress: Callable[[int, int | None], None]
) -> Iterator[AuditLine | BadLine]:
    """Read files one after the other, never more than one line at a time; `-` is standard input.

    `progress` hears of the bytes read, and of all of them where that is known.

    Raises:
        OSError: a file cannot be read.
    """
    total = None if STDIN in files else sum(file.stat().st_size for file in files)
    read = 0
    for file in files:
        with _opened(file) as stream:
            number = 0
            while text := stream.readline(_LONGEST):
                number, read = number + 1, read + len(text)
                if number % _EVERY == 0:
                    progress(read, total)
                if len(text) == _LONGEST and not text.endswith(b"\n"):
                    read += _skip(stream)
                    yield BadLine(file=str(file), line=number, problem="it is too long")
                elif text.strip():
                    yield _line(text, str(file), number)


def _skip(stream: BinaryIO) -> int:
    """Read to the end of a line, and give how many bytes that were."""
    skipped = 0
    while text := stream.readline(_LONGEST):
        skipped += len(text)
        if text.endswith(b"\n"):
            break
    return skipped


@contextmanager
def _opened(file: Path) -> Generator[BinaryIO]:
    if file == STDIN:
        yield sys.stdin.buffer
        return
    with file.open("rb") as stream:
        yield stream


def _line(text: bytes, file: str, number: int) -> AuditLine | BadLine:
    try:
        said = _Said.model_validate_json(text)
    except ValidationError as error:
        cut = error.errors(include_input=False)[0]["type"] == "json_invalid"
        problem = (
            "it is no JSON: cut off, or with something before it" if cut else "it is of no vault's audit log"
        )
        return BadLine(file=file, line=number, problem=problem)
    request, response, token = said.request, said.response or _Response(), said.auth or _Token()
    return AuditLine(
        at=said.time.astimezone(UTC),
        answer=not said.error and response.gave,
        request=request.id,
        operation=request.operation,
        path=request.path,
        namespace=request.namespace.path.strip("/") if request.namespace else "",
        stores=request.mount_type == "kv",
        toolgate=token.says("toolgate"),
        call=token.says("call") or (response.auth.says("call") if response.auth else ""),
        display_name=token.display_name,
        accessor=token.accessor,
        remote=request.remote_address,
    )


class _Token(BaseModel):
    display_name: str = ""
    accessor: str = ""
    metadata: dict[str, str] | None = None

    def says(self, name: str) -> str:
        """Give what the token says of itself, or nothing."""
        return (self.metadata or {}).get(name, "")


class _Namespace(BaseModel):
    path: str = ""


class _Request(BaseModel):
    id: str = Field(min_length=1)
    operation: str = ""
    path: str = ""
    mount_type: str = ""
    namespace: _Namespace | None = None
    remote_address: str = ""


class _Response(BaseModel):
    auth: _Token | None = None
    data: dict[str, Any] | None = None
    secret: dict[str, Any] | None = None
    wrap_info: dict[str, Any] | None = None

    @property
    def gave(self) -> bool:
        """Whether it gave anything: one that did not has no data, or just a status or an error."""
        data = self.data or {}
        status = data.get("http_status_code", 0)
        failed = data.keys() == {"error"} or (isinstance(status, int) and status >= _FIRST_ERROR)
        return bool(data and not failed) or bool(self.secret or self.auth or self.wrap_info)


class _Said(BaseModel):
    """One line, as far as it is looked at."""

    time: AwareDatetime
    type: Literal["request", "response"]
    error: str = ""
    auth: _Token | None = None
    request: _Request
    response: _Response | None = None
