"""What the one who runs the vault sets up for the gate: each step, with no right that is not needed.

`docs/how-to/vault.md` explains it line by line, with the same steps as commands.
"""

import time
from collections.abc import Sequence

import hvac.exceptions

from examples.vault.database import SHIPPED, Database
from examples.vault.server import Operator

TENANTS = ("acme", "globex")
GATE = "toolgate"
POLICIES = ("crm-read", "crm-write", "api-key", "api-token")
"""What a tenant's runs may have, one policy each."""
_SECONDS, _PAUSE = 10.0, 0.05


def set_up(root: Operator, database: Database, tenants: Sequence[str] = TENANTS) -> None:
    """Set everything up. The names of tenants are of lower-case letters and digits."""
    name_calls_in_the_log(root)
    write_policies(root, tenants)
    write_token_roles(root, tenants)
    write_sign_in(root)
    write_database_users(root, database, tenants)
    write_stored_keys(root, tenants)
    write_signed_tokens(root, tenants)


def name_calls_in_the_log(root: Operator) -> None:
    """Let the audit log say for which call a request was: the gate sends its id, which is no secret."""
    root.write("sys/config/auditing/request-headers/X-Toolgate-Call", {"hmac": False})


def write_policies(root: Operator, tenants: Sequence[str]) -> None:
    """Say what each kind of token may do. What no policy names, nobody may."""
    for name in (GATE, f"{GATE}-run"):
        root.write(f"sys/policies/acl/{name}", {"policy": _shipped(f"{name}.hcl")})
    for tenant in tenants:
        for name in POLICIES:
            text = _shipped(f"tenant-{name}.hcl").replace("TENANT", tenant)
            root.write(f"sys/policies/acl/{tenant}-{name}", {"policy": text})


def write_token_roles(root: Operator, tenants: Sequence[str]) -> None:
    """Give each tenant its ceiling: no run of it gets a token that may do more."""
    for tenant in tenants:
        role = {
            "allowed_policies": [f"{GATE}-run", *(f"{tenant}-{name}" for name in POLICIES)],
            "allowed_entity_aliases": [f"{tenant}:*"],
            "token_type": "service",
            "token_no_default_policy": True,
            "token_explicit_max_ttl": "15m",
            "renewable": False,
            "orphan": False,  # it ends with the gate's token
        }
        root.write(f"auth/token/roles/{GATE}-{tenant}", role)


def write_sign_in(root: Operator) -> None:
    """Let the gate sign in by AppRole, with a secret id that is good for one time."""
    root.write("sys/auth/approle", {"type": "approle"})
    role = {
        "secret_id_num_uses": 1,
        "secret_id_ttl": "10m",
        "token_policies": [GATE],
        "token_no_default_policy": True,
        "token_period": "15m",  # it ends when nobody has renewed it for so long: a dead gate's does
    }
    root.write(f"auth/approle/role/{GATE}", role)
    root.write(f"auth/approle/role/{GATE}/role-id", {"role_id": GATE})


def wrapped_secret_id(root: Operator) -> str:
    """Make the token that its first reader, and nobody else, can exchange for a secret id."""
    made = root.write(f"auth/approle/role/{GATE}/secret-id", wrap_ttl="5m")
    return str(made["wrap_info"]["token"])


def write_database_users(root: Operator, database: Database, tenants: Sequence[str]) -> None:
    """Let the vault make users in PostgreSQL, in groups of a tenant, and remove them with their sessions."""
    root.write("sys/mounts/database", {"type": "database"})
    first = "known for a moment"
    database.ask(f"ALTER ROLE vault PASSWORD '{first}'")
    connection = {
        "plugin_name": "postgresql-database-plugin",
        "connection_url": f"postgresql://{{{{username}}}}:{{{{password}}}}@{database.host}/crm",
        "username": "vault",
        "password": first,
        "allowed_roles": [f"{tenant}-crm-*" for tenant in tenants],
    }
    root.write("database/config/crm", connection)
    root.write("database/rotate-root/crm")  # from here on nobody but the vault knows the password
    for tenant in tenants:
        for rights in ("read", "write"):
            created = _shipped("user-created.sql").replace("TENANT", tenant).replace("RIGHTS", rights)
            role = {
                "db_name": "crm",
                "creation_statements": created,
                "revocation_statements": _shipped("user-revoked.sql"),
                "default_ttl": "5m",  # the call's token ends before, and its leases with it
                "max_ttl": "5m",
            }
            root.write(f"database/roles/{tenant}-crm-{rights}", role)


def write_stored_keys(root: Operator, tenants: Sequence[str]) -> None:
    """Keep a key for each tenant, in versions."""
    root.write("sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})
    for tenant in tenants:
        _once_ready(root, f"secret/data/{tenant}/api", {"data": {"key": f"example-key-of-{tenant}"}})


def write_signed_tokens(root: Operator, tenants: Sequence[str]) -> None:
    """Sign tokens that say for whom a call is, as the entity of the run is called."""
    names = {tenant: f"{tenant}-api" for tenant in tenants}
    key = {"algorithm": "ES256", "allowed_client_ids": list(names.values())}
    root.write(f"identity/oidc/key/{GATE}", key)
    accessor = root.read("sys/auth")["data"]["token/"]["accessor"]
    for tenant, name in names.items():
        entity = f"{{{{identity.entity.aliases.{accessor}.name}}}}"  # it is put in with its quotes
        role = {
            "key": GATE,
            "client_id": name,  # whom it is for: its aud
            "ttl": "60s",
            "template": f'{{"tenant": "{tenant}", "for": {entity}}}',
        }
        root.write(f"identity/oidc/role/{name}", role)


def _once_ready(root: Operator, path: str, data: dict[str, object]) -> None:
    """Write to a store of keys, which for a moment after it was made says that it is being upgraded."""
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            root.write(path, data)
        except hvac.exceptions.InvalidRequest as error:
            if "pgrad" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)
        else:
            return


def _shipped(name: str) -> str:
    return (SHIPPED / name).read_text("utf-8")
