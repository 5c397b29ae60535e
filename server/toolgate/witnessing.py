"""Reads which witnesses a deployment has, and builds what asks them."""

from collections.abc import Iterable
from pathlib import Path

from toolgate.backends.ledger_parts import LedgerParts
from toolgate.backends.witnesses import Witnesses
from toolgate.core.errors import Fault
from toolgate.core.tool import Tool
from toolgate.core.witness_policy import NONE, BadPolicy, WitnessPolicy
from toolgate.parts import ledger_database
from toolgate.settings import Settings

_HOW = "see docs/how-to/witness.md"


def policy_of(root: Path, settings: Settings) -> tuple[WitnessPolicy | None, list[Fault]]:
    """Read the file that `witnesses` names, or tell all that is wrong with it; None where there is none."""
    if settings.witnesses is None:
        return None, []
    name = settings.witnesses
    try:
        policy = WitnessPolicy.parse((root / name).read_text("utf-8", "surrogateescape"))
    except OSError as error:
        return None, [Fault(name, "file", f"it cannot be read ({error.strerror})", f"write it: {_HOW}")]
    except BadPolicy as bad:
        return None, [Fault(name, f"line {each.line}", each.problem, each.remedy) for each in bad.faults]
    faults = [
        Fault(name, f"witness {each.name}", "it has no URL, so it cannot be asked", "add its URL to the line")
        for each in policy.witnesses
        if each.url is None
    ]
    return (None if faults else policy), faults


def other_logs(root: Path, settings: Settings, policy: WitnessPolicy | None) -> list[Fault]:
    """Say that the policy names logs, and not the one of this deployment: then it is somebody else's."""
    public = (root / settings.ledger_key).with_suffix(".vkey")
    if policy is None or not policy.logs or not public.is_file():
        return []
    if public.read_text("utf-8").strip() in map(str, policy.logs):
        return []
    problem = f"it names logs, and none of them has the key of {public.name}"
    return [Fault(settings.witnesses or "", "log", problem, "copy the line of that file: log VKEY")]


def unwitnessed(tools: Iterable[Tool], policy: WitnessPolicy | None) -> list[Fault]:
    """Say of each tool that waits for witnesses that there are none to wait for."""
    if policy is not None and policy.quorum != NONE:
        return []
    problem = "it waits for witnesses, and no quorum of any is demanded: each call would be refused"
    if policy is not None:
        problem = "it waits for witnesses, and the quorum is none: it would wait for nobody"
    return [
        Fault(
            f"registry/{tool.system}.toml",
            f"tools.{tool.operation}.witnessed",
            problem,
            f"name a file with a quorum in toolgate.toml, as witnesses; {_HOW}",
        )
        for tool in tools
        if tool.terms.witnessed
    ]


def witnesses_of(root: Path, settings: Settings, policy: WitnessPolicy, ledger: LedgerParts) -> Witnesses:
    """Build what asks the witnesses of `policy` about `ledger`."""
    engine = ledger_database(root, settings).engine()
    return Witnesses(policy=policy, writer=ledger.writer, entries=ledger.entries, engine=engine)
