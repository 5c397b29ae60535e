"""A deployment whose tools sign in with what a real vault makes, before a real PostgreSQL."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.registries import unlocked
from tests.shell import done
from tests.vault_setup import Governed
from toolgate.core.call import Call, Caller
from toolgate.core.outcome import Answer
from toolgate.core.record import JsonObject
from toolgate.main import House, new_call_id, now, open_house

SETTINGS = """
mode = "dev"
credentials = ["vault"]
disk_floor_mb = 1

[vault]
address = "{address}"
ca = "{ca}"
sign_in = "approle"
role = "{role_id}"
secret_id_file = "keys/secret-id"
wrapped = {wrapped}
entity_alias = "{{tenant}}:{{subject}}"
{more}

[callers.ann]
subject = "ann"
tenant = "acme"
roles = ["clerk"]
scopes = ["notes:read"]

[callers.gus]
subject = "gus"
tenant = "globex"
roles = ["clerk"]
scopes = ["notes:read"]
"""

MANIFEST = """
adapter = "sql"
owner = "test team"

[system]
url = "{postgres}"

[credentials.reader]
from = "vault"
kind = "dynamic"
path = "database/creds/{{tenant}}-crm-read"
role = "{{tenant}}-crm-read"
ttl = {ttl}
lease = "per_call"
sign_in = "basic"

[credentials.writer]
from = "vault"
kind = "dynamic"
path = "database/creds/{{tenant}}-crm-write"
role = "{{tenant}}-crm-write"
ttl = {ttl}
sign_in = "basic"

[credentials.run-reader]
from = "vault"
kind = "dynamic"
path = "database/creds/{{tenant}}-crm-read"
role = "{{tenant}}-crm-read"
ttl = {ttl}
lease = "per_run"
sign_in = "basic"

[credentials.greedy]
from = "vault"
kind = "dynamic"
path = "database/creds/globex-crm-read"
role = "globex-crm-read"
sign_in = "basic"
"""

TOOL = """
[tools.{name}]
effect = "{effect}"
timeout = {timeout}
duplicates = "none"
without_key = "allow"
capture = "full"
scopes = []
credential = "{role}"
[tools.{name}.operation]
description = "Work."
statement = "{statement}"
result = "{result}"
{rest}
"""

WHO = "SELECT current_user::text AS name"
NAME = 'columns = { name = "text" }'


@dataclass(frozen=True)
class Deployment:
    """A folder with everything that a gate needs, and what stands behind it."""

    root: Path
    governed: Governed

    def sign_in_again(self, *, wrapped: bool = False) -> None:
        """Give the gate a new secret id."""
        made = self.governed.wrapped_secret_id() if wrapped else self.governed.secret_id()
        (self.root / "keys" / "secret-id").write_text(made)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator["Opened"]:
        """Open the gate, signed in anew."""
        async with open_house(self.root) as house:
            yield Opened(house)


@dataclass(frozen=True)
class Opened:
    """The gate, open."""

    house: House

    async def call(
        self,
        tool: str,
        arguments: JsonObject | None = None,
        *,
        who: str = "ann",
        run: str | None = None,
        key: str | None = None,
    ) -> Answer:
        """Call as one of the deployment's callers."""
        return await self.house.gateway.carry_out(self.asked(tool, arguments, who=who, run=run, key=key))

    def asked(
        self,
        tool: str,
        arguments: JsonObject | None = None,
        *,
        who: str = "ann",
        run: str | None = None,
        key: str | None = None,
    ) -> Call:
        """Make the call that one of the deployment's callers would make."""
        named = self.house.settings.callers[who]
        return Call(
            id=new_call_id(),
            caller=Caller(issuer="local", **named.model_dump()),
            tool=tool,
            arguments=arguments or {},
            received_at=now(),
            run=run,
            key=key,
            key_from="meta" if key else "none",
        )


def deployed(
    folder: Path,
    governed: Governed,
    *,
    ttl: int = 60,
    timeout: float = 5,
    wrapped: bool = False,
    more: str = "",
) -> Deployment:
    """Write a deployment into `folder`."""
    done("init", str(folder))
    for file in (folder / "policies" / "cases").iterdir():
        file.unlink()
    (folder / "policies" / "rules.csv").write_text("p, open, allow, *, *, *, *, -, -, -\n")
    (folder / "policies" / "roles.csv").write_text("")
    (folder / "toolgate.toml").write_text(
        SETTINGS.format(
            address=governed.server.address,
            ca=governed.server.ca,
            role_id=governed.role_id,
            wrapped=str(wrapped).lower(),
            more=more,
        )
    )
    tools = [
        TOOL.format(
            name="who", effect="read", timeout=timeout, role="reader", statement=WHO, result="row", rest=NAME
        ),
        TOOL.format(
            name="whoami",
            effect="read",
            timeout=timeout,
            role="run-reader",
            statement=WHO,
            result="row",
            rest=NAME,
        ),
        TOOL.format(
            name="other",
            effect="read",
            timeout=timeout,
            role="greedy",
            statement=WHO,
            result="row",
            rest=NAME,
        ),
        TOOL.format(
            name="credit",
            effect="write",
            timeout=timeout,
            role="writer",
            statement="UPDATE customer SET balance = balance + :amount WHERE id = 1",
            result="changed",
            rest='parameters = { amount = { type = "integer", description = "How much." } }',
        ),
        TOOL.format(
            name="slow",
            effect="read",
            timeout=timeout,
            role="reader",
            statement="SELECT current_user::text AS name FROM pg_sleep(:seconds)",
            result="row",
            rest=NAME + '\nparameters = { seconds = { type = "number", description = "How long." } }',
        ),
    ]
    manifest = MANIFEST.format(postgres=governed.postgres, ttl=ttl) + "".join(tools)
    (unlocked(folder) / "registry" / "crm.toml").write_text(manifest)
    made = Deployment(folder, governed)
    made.sign_in_again(wrapped=wrapped)
    return made
