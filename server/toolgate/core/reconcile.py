"""Finding out what became of a call whose outcome is unknown: the system is asked, never told again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from toolgate.core.call import Call
from toolgate.core.claims import EarlierCall, Finding, Opened
from toolgate.core.errors import CredentialUnavailable
from toolgate.core.lease import Lease, Lent
from toolgate.core.outcome import Done
from toolgate.core.ports import Act, Doubts, Tools, Vault, silent
from toolgate.core.record import JsonObject
from toolgate.core.shield import HangUp
from toolgate.core.tool import Tool
from toolgate.core.withheld import without_secrets

CANNOT_TELL = Finding(verdict="cannot_tell")


@dataclass(frozen=True, kw_only=True)
class Reconciler:
    """Asks systems by their adapters' look-ups, and records both the question and the answer."""

    doubts: Doubts
    vault: Vault
    tools: Tools

    async def find_out(self, call: Call, tool: Tool, earlier: EarlierCall) -> Finding:
        """Ask what became of `earlier`, of which `call` is a repetition; what is found is durable on return.

        Raises:
            LedgerUnavailable: the question or its answer could not be recorded.
        """
        if tool.terms.duplicates != "query":
            return CANNOT_TELL
        asked = await self.doubts.asked(earlier, tool)
        if asked is None:
            return CANNOT_TELL
        finding, lent = await self._ask(call, tool, earlier)
        await self.doubts.found(earlier, asked, finding, lent)
        return finding

    async def go_round(self, find: Callable[[str], Tool | None]) -> int:
        """Take for lost what was left in the middle, and ask about what is in doubt; gives how many.

        Args:
            find: gives the admitted tool of a name.

        Raises:
            LedgerUnavailable: something could not be recorded.
        """
        asked = 0
        for doubtful in await self.doubts.sweep(find):
            tool = find(doubtful.tool)
            if tool is not None and doubtful.call is not None:
                await self.find_out(doubtful.call, tool, doubtful.earlier)
                asked += 1
        return asked

    async def _ask(self, call: Call, tool: Tool, earlier: EarlierCall) -> tuple[Finding, Sequence[Lent]]:
        opened = Opened(
            call_id=earlier.call_id,
            intent=earlier.intent,
            attempt=earlier.attempt,
            remembered=earlier.remembered,
        )
        try:
            lease = await self.vault.lend(tool, call, opened)
        except CredentialUnavailable:
            return CANNOT_TELL, ()
        act = Act(
            call=call,
            opened=opened,
            lease=lease,
            remember=_nothing_to_remember,
            progress=silent,
            hang_up=HangUp(),
        )
        lent: Sequence[Lent] = ()
        try:
            finding = _without_secrets(await self.tools.look_up(tool, act), lease)
        finally:
            if lease is not None:
                lent = await self.vault.take_back(lease)
        return finding, lent


def _without_secrets(finding: Finding, lease: Lease | None) -> Finding:
    outcome = None if finding.outcome is None else without_secrets(finding.outcome, lease)
    return replace(finding, outcome=outcome) if isinstance(outcome, Done) else finding


async def _nothing_to_remember(_value: JsonObject) -> None:
    """A look-up changes nothing, so it has nothing to keep."""
