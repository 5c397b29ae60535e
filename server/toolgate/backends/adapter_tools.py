"""Runs the operations of adapters and says, of whatever they do, what has happened to the world."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, TypeVar, cast

from pydantic import ValidationError

from toolgate.adapter import (
    CannotTell,
    Content,
    Context,
    Credential,
    Found,
    InputNeeded,
    Messages,
    NotFound,
    NothingDone,
    OutcomeUnknown,
    Sending,
)
from toolgate.adapter.http import RequestBroken, RequestRefused
from toolgate.backends.audit_access import AuditConnector
from toolgate.backends.breaker import Breaker
from toolgate.backends.manifest_catalog import AdmittedTool
from toolgate.core.arguments import MAX_TEXT, out_of_bounds
from toolgate.core.canonical import canonical
from toolgate.core.claims import Finding
from toolgate.core.errors import LedgerUnavailable, without_values
from toolgate.core.outcome import Done, Failed, InputRequired, Outcome, Unknown
from toolgate.core.ports import Act
from toolgate.core.reconcile import CANNOT_TELL
from toolgate.core.record import JsonObject
from toolgate.core.shield import HangUp
from toolgate.core.tool import Tool

T = TypeVar("T")
log = logging.getLogger(__name__)

MOST_VALUES: Final = 250_000
LARGEST_RESULT: Final = 4_194_304
"""Bytes of a result; a larger one is the adapter's fault: it should page."""
FIRST_PAUSE: Final = 0.05
"""Seconds before a read is asked again; doubled each time."""


class CancelledBeforeSend(Exception):  # noqa: N818 - named by what happened
    """The caller hung up, and nothing had been sent."""


class OnlyLooking(Exception):  # noqa: N818
    """A look-up wanted to send what could have an effect."""


@dataclass
class Sends:
    """Counts the requests that may have had an effect, and stops the first one when the caller has gone."""

    hang_up: HangUp
    is_late: Callable[[], bool]
    """Whether the time for this attempt is over: a process that was stopped may wake up in the middle of it,
    when others have taken it for lost."""
    count: int = 0

    def __call__(self) -> None:
        if self.is_late():
            raise TimeoutError
        if self.count == 0 and self.hang_up.seen:
            raise CancelledBeforeSend
        self.count += 1


class AdapterTools:
    """The only code that calls an adapter's operation.

    Args:
        now: the clock (UTC).
        clock: seconds that only grow, for the breakers.
    """

    def __init__(self, *, now: Callable[[], datetime], clock: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._clock = clock
        self._breakers: dict[str, Breaker] = {}

    async def run(self, tool: Tool, act: Act) -> Outcome:
        """Run `tool` once (a read, as often as its terms allow) and say how it ended. Never raises."""
        if not isinstance(tool, AdmittedTool):
            raise TypeError(f"{tool.name} did not come from the registry")
        breaker = self._breakers.setdefault(tool.system, Breaker(self._clock))
        if wait := breaker.wait_ms():
            return Failed(
                code="system_unavailable",
                detail="the system has not answered for a while; nothing was sent",
                retryable=True,
                retry_after_ms=wait,
            )
        outcome = await self._within_timeout(tool, act)
        breaker.saw(outcome)
        return outcome

    async def look_up(self, tool: Tool, act: Act) -> Finding:
        """Ask the system what became of an earlier send. Never raises."""
        if not isinstance(tool, AdmittedTool) or tool.run_by.look_up is None:
            return CANNOT_TELL
        deadline = self._now() + timedelta(seconds=tool.terms.timeout)
        try:
            async with asyncio.timeout(tool.terms.timeout):
                found = await _value_or_error(_look_up(tool, act, deadline))
        except TimeoutError:
            return CANNOT_TELL
        if isinstance(found, Exception):
            log.warning("call %s: it could not be looked up (%s)", act.opened.call_id, type(found).__name__)
            return CANNOT_TELL
        return found

    async def _within_timeout(self, tool: AdmittedTool, act: Act) -> Outcome:
        if act.hang_up.seen:
            return _CANCELLED
        if act.hang_up.cut:
            return _CUT_BEFORE
        latest = self._clock() + tool.terms.timeout
        sends = Sends(act.hang_up, lambda: self._clock() > latest or not act.may_send())
        if not tool.connector.marks_sending and tool.terms.effect != "read":
            sends.count = 1
        deadline = self._now() + timedelta(seconds=tool.terms.timeout)
        try:
            async with asyncio.timeout(tool.terms.timeout) as limit:
                with act.hang_up.breaking_off(partial(_end, limit)):
                    return await self._attempts(tool, act, sends, deadline)
        except TimeoutError:
            if act.hang_up.cut:
                return _broken_off(tool, sends, "cut_short", "the gate ended before the system had answered")
            return _broken_off(tool, sends, "timeout", "the system did not answer in time")

    async def _attempts(self, tool: AdmittedTool, act: Act, sends: Sends, deadline: datetime) -> Outcome:
        outcome = await self._attempt(tool, act, sends, deadline)
        pause = FIRST_PAUSE
        for _ in range(tool.terms.retries if tool.terms.effect == "read" else 0):
            if not (isinstance(outcome, Failed) and outcome.retryable) or act.hang_up.seen:
                break
            await asyncio.sleep(pause)
            pause *= 2
            outcome = await self._attempt(tool, act, sends, deadline)
        return outcome

    async def _attempt(self, tool: AdmittedTool, act: Act, sends: Sends, deadline: datetime) -> Outcome:
        ended = await _value_or_error(_operate(tool, act, sends, deadline))
        return _meaning_of(ended, tool, act, sends) if isinstance(ended, Exception) else ended


def _end(limit: asyncio.Timeout) -> None:
    """Let the time be over now, unless it is."""
    if not limit.expired():
        limit.reschedule(0)


async def _value_or_error(operation: Coroutine[Any, Any, T]) -> T | Exception:
    """Run foreign code, and give what it raises as a value; only our own timeout and cancellation pass."""
    try:
        return await operation
    except TimeoutError:
        raise
    except asyncio.CancelledError as error:
        if _is_cancelled():
            raise
        return RuntimeError(f"it cancelled itself: {error}")
    except SystemExit as error:
        return RuntimeError(f"it wanted to exit: {error}")
    except Exception as error:  # noqa: BLE001 - an adapter is foreign code and may raise anything
        return _single(error)


def _single(error: Exception) -> Exception:
    """Look into a group of one, as a task group raises it."""
    inner: Any = error
    while isinstance(inner, ExceptionGroup) and len(cast("Any", inner).exceptions) == 1:
        inner = cast("Any", inner).exceptions[0]
    return cast("Exception", inner)


def _is_cancelled() -> bool:
    """Whether somebody cancels this task; an adapter may raise the same error by itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _operate(tool: AdmittedTool, act: Act, sends: Sends, deadline: datetime) -> Outcome:
    operation = tool.run_by
    try:
        arguments = operation.input_model.model_validate(act.call.arguments)
    except ValidationError:
        return _BAD_ARGUMENTS
    async with _session(tool, act, sends) as client:
        result = await operation.run(arguments, _context(client, act, sends, deadline))
    return _checked(tool, act, sends, result)


async def _look_up(tool: AdmittedTool, act: Act, deadline: datetime) -> Finding:
    """Look for what an earlier send did. What the operation could not have answered is not found."""
    look_up = tool.run_by.look_up
    if look_up is None:
        return CANNOT_TELL
    arguments = tool.run_by.input_model.model_validate(act.call.arguments)
    async with _session(tool, act, _send_nothing) as client:
        found = await look_up(arguments, _context(client, act, _send_nothing, deadline))
    match found:
        case Found(value=result):
            outcome = _checked(tool, act, Sends(act.hang_up, lambda: False), result)
            return Finding(verdict="found", outcome=outcome) if isinstance(outcome, Done) else CANNOT_TELL
        case NotFound():
            return Finding(verdict="not_found")
        case CannotTell():
            return CANNOT_TELL


def _session(tool: AdmittedTool, act: Act, sending: Sending) -> AbstractAsyncContextManager[Any]:
    """Lend what the operation works with. Only the gate's own audit tools are told who calls."""
    if isinstance(tool.connector, AuditConnector):
        return tool.connector.access(act.call.caller, tool.name, act.opened.call_id)
    return tool.connector.session(_credential(tool, act), sending)


def _send_nothing() -> None:
    raise OnlyLooking


def _context(client: Any, act: Act, sending: Sending, deadline: datetime) -> Context[Any]:  # noqa: ANN401
    return Context(
        client=client,
        deadline=deadline,
        progress=act.progress,
        idempotency_key=act.opened.call_id,
        remember=act.remember,
        remembered=act.opened.remembered,
        answers=act.call.answers,
        questions=act.call.questions,
        sending=sending,
    )


def _checked(tool: AdmittedTool, act: Act, sends: Sends, result: Any) -> Outcome:  # noqa: ANN401 - an adapter's
    operation = tool.run_by
    value = operation.output_model.model_dump(result, mode="json", by_alias=True)
    shown = issubclass(operation.output_model, Content | Messages)
    longest = LARGEST_RESULT if shown else MAX_TEXT
    if fault := _fault_in_spelling(value, longest) or tool.output.fault_in(value):
        log.error("call %s: %s broke its output schema: %s", act.call.id, tool.name, fault)
        return _broken_off(tool, sends, "bad_result", "the adapter's result breaks its own schema")
    return Done(value=value)


def _fault_in_spelling(value: JsonObject, longest_text: int) -> str | None:
    """Say why a result could not be recorded and read again, or None."""
    if fault := out_of_bounds(value, most_values=MOST_VALUES, longest_text=longest_text):
        return fault
    try:
        spelled = canonical(value)
    except ValueError as error:
        return f"it cannot be spelled as JSON ({error})"
    return f"it is larger than {LARGEST_RESULT} bytes" if len(spelled) > LARGEST_RESULT else None


def _credential(tool: AdmittedTool, act: Act) -> Credential | None:
    role, lease = tool.credential, act.lease
    if role is None or lease is None:
        return None
    if lease.lent.static:
        return Credential(secret=lease.secret, sign_in=role.sign_in, header=role.header)
    return Credential(
        secret=lease.secret,
        sign_in=role.sign_in,
        header=role.header,
        until=lease.until,
        shared=lease.shared,
    )


def _meaning_of(  # noqa: PLR0911 - one for each thing that can have happened
    error: Exception, tool: AdmittedTool, act: Act, sends: Sends
) -> Outcome:
    """Sort an adapter's error by what has happened to the world; an error in doubt is `Unknown`."""
    match error:
        case CancelledBeforeSend():
            return _CANCELLED
        case RequestRefused() if tool.terms.effect != "read" and sends.count > int(error.counted):
            detail = "a later step of it was refused after an earlier one had been sent"
            return _broken_off(tool, sends, "partly_done", detail)
        case InputNeeded() if sends.count == 0 or tool.terms.effect == "read":
            return InputRequired(detail=error.question, fields=error.schema, name=error.name, mark=error.mark)
        case NothingDone():
            return Failed(code=error.code, detail=error.message, retryable=error.retryable)
        case RequestBroken():
            return _broken_off(tool, sends, "upstream_error", str(error))
        case OutcomeUnknown():
            return _broken_off(tool, sends, "upstream_unknown", str(error))
        case LedgerUnavailable() if sends.count == 0:
            detail = "what must be remembered before the send could not be recorded; nothing was sent"
            return Failed(code="ledger_unavailable", detail=detail, retryable=True)
        case _:
            log.error("call %s: %s failed: %s", act.call.id, tool.name, without_values(error))
            return _broken_off(tool, sends, "adapter_error", "the adapter failed", retryable=False)


def _broken_off(
    tool: AdmittedTool, sends: Sends, code: str, detail: str, *, retryable: bool = True
) -> Outcome:
    """End a call that got no answer: nothing is done by a read, or before the send; else nobody can tell."""
    if tool.terms.effect == "read" or sends.count == 0:
        return Failed(code=code, detail=f"{detail}; nothing was changed", retryable=retryable)
    return Unknown(code=code, detail=f"{detail}; whether it took effect cannot be told")


_BAD_ARGUMENTS = Failed(
    code="bad_arguments",
    detail="the adapter did not accept the arguments; nothing was sent",
    retryable=False,
)
_CUT_BEFORE = Failed(
    code="cut_short",
    detail="the gate ended before anything was sent; nothing was done",
    retryable=True,
)
_CANCELLED = Failed(
    code="cancelled_before_send",
    detail="the caller hung up before anything was sent; nothing was done",
    retryable=True,
)
