"""`toolgate policy rollback`: puts a version in force again that was activated before."""

from typing import Annotated

import typer

from toolgate.backends.policy_stored import StoredPolicies
from toolgate.cli.output import HERE, AsJson, Root
from toolgate.cli.policy_activation import Override, candidate, demand_reason, put_in_place
from toolgate.core.errors import NothingRecorded
from toolgate.parts import ledger_database
from toolgate.settings import read_settings


def rollback(
    digest: Annotated[
        str | None, typer.Argument(help="How its digest begins.", show_default="the version before")
    ] = None,
    override: Override = None,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Put a stored version in force again. The files under policies/ stay as they are.

    It is checked and tested against today's registry. Exits 1 when it does not pass, or there is none.
    """
    demand_reason(override)
    settings = read_settings(root)
    stored = StoredPolicies(ledger_database(root, settings))
    enforced = stored.standing().enforced
    if enforced is None:
        raise NothingRecorded("no policy has been activated yet; see: toolgate policy activate")
    wanted = stored.named(digest) if digest is not None else stored.before(enforced)
    found = candidate(root, settings, stored.files(wanted))
    put_in_place(root, settings, found, "rolled_back", override, instead_of=enforced.digest, as_json=as_json)
