"""A valid little ledger, written straight into SQLite by docs/reference/ledger.md.

It shares no code with the gate's writer but the tables and the tree, so that a verifier is not tested against
what it will meet alone.
"""

import base64
import json
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import create_engine

from toolgate.backends.sql_tables import Stored
from toolgate.core.commitment import commitment
from toolgate.core.merkle import Frontier, leaf_hash
from toolgate.core.note import Checkpoint, VerifierKey, signed

ORIGIN: Final = "ledger.example/desk"
WRITERS: Final = ("0123456789abcdef-1", "fedcba9876543210-3")
REPEATED: Final = ("kind", "call_id", "at", "tenant", "who", "tool", "status", "run")
ROUND: Final = 12
FIRST_ROUND: Final = 4
LENT: Final = 18


class Signer:
    """A log's key, made from one byte so that each run has the same."""

    def __init__(self, seed: int, name: str = ORIGIN) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        self.key = VerifierKey(name, self._private.public_key().public_bytes_raw())

    def sign(self, message: str) -> bytes:
        return self._private.sign(message.encode())

    def note(self, size: int, root: bytes) -> str:
        checkpoint = Checkpoint(self.key.name, size, root)
        return str(signed(checkpoint, (self.key, self.sign(checkpoint.text))))

    def endorse(self, new: "Signer") -> dict[str, Any]:
        """The fields of a `key_rotate` entry."""
        endorsed = base64.b64encode(self.sign(f"{new.key}\n")).decode()
        return {"old": str(self.key), "new": str(new.key), "endorsed": endorsed}


@dataclass
class Story:
    """Entries in the making."""

    bodies: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    payloads: list[tuple[int, str, bytes, bytes | None]] = field(
        default_factory=list[tuple[int, str, bytes, bytes | None]]
    )
    counts: dict[str, int] = field(default_factory=dict[str, int])

    def add(self, kind: str, status: str, *, by: int = 0, kept: str | None = None, **fields: Any) -> int:  # noqa: ANN401
        """Add an entry and give its index; `kept` names a field that is a commitment to its value."""
        writer, index = WRITERS[by], len(self.bodies)
        wseq = self.counts.get(writer, 0)
        self.counts[writer] = wseq + 1
        if kept:
            fields[kept] = self._commit(index, kept, fields[kept])
        stands = {"v": 2, "kind": kind, "at": 1_796_000_000_000_000 + index, "writer": writer, "wseq": wseq}
        self.bodies.append(stands | {"status": status} | fields)
        return index

    def _commit(self, index: int, name: str, value: object) -> dict[str, Any]:
        salt, spelled = sha256(f"salt {index}".encode()).digest(), canonical(value)
        self.payloads.append((index, name, salt, spelled if index % 5 else None))
        return {"hmac": commitment(salt, name, spelled), "length": len(spelled)}

    def begin(self) -> None:
        """What stands before the first call: four entries."""
        self.add("genesis", "begun", origin=ORIGIN)
        self.add("writer_start", "started", program="1.0")
        digests = {"policy": "0" * 64, "registry": "1" * 64}
        self.add("config", "in_force", digests=digests)
        self.add("writer_start", "started", by=1, program="1.0")

    def round(self, number: int) -> None:
        """Twelve entries: two calls of two tenants, a refusal, a repeat, and a call that is lost."""
        acme = self._about(number, "acme", "tracker.issue.create")
        globex = self._about(number, "globex", "crm.note.add")
        lost: dict[str, Any] = self._about(number, "acme", "crm.note.add") | {"call_id": f"c-lost-{number}"}
        allow: dict[str, Any] = {"verdict": "allow", "rules": ["members-may-write"], "attempt": 1}
        first = self.add("intent", "opened", kept="arguments", arguments={"title": number}, **acme, **allow)
        second = self.add(
            "intent", "opened", by=1, kept="arguments", arguments={"text": "é"}, **globex, **allow
        )
        static: dict[str, Any] = {"role": "agent", "source": "file", "made": "static", "static": True}
        self.add("lease", "given_back", intent=first, lease=f"l-{number}", **static, **acme)
        done = self.add("outcome", "done", kept="result", result=[number], intent=first, attempt=1, **acme)
        self.add("outcome", "upstream_failed", by=1, intent=second, attempt=1, **globex)
        deny: dict[str, Any] = {"verdict": "deny", "rules": ["nobody-may"]}
        self.add("refusal", "denied", kept="arguments", arguments={"id": number}, **acme, **deny)
        self.add("repeat", "replayed", answered_with=done, verdict="allow", rules=[], **acme)
        third = self.add("intent", "opened", by=1, **lost, **allow)
        self.add("unknown", "owner_lost", intent=third, attempt=1, **lost)
        self.add("late_outcome", "done", by=1, intent=third, attempt=1, outcome="done", **lost)
        asked = self.add("reconcile", "asked", intent=third, attempt=1, **lost)
        self.add("reconcile", "found", intent=third, attempt=1, asked=asked, **lost)

    def lent(self, number: int) -> None:
        """Eighteen entries: a call with credentials of each kind that a vault makes, and all their ends."""
        acme = self._about(number, "acme", "crm.note.add")
        allow: dict[str, Any] = {"verdict": "allow", "rules": ["members-may-write"], "attempt": 1}
        intent = self.add("intent", "opened", **acme, **allow)
        about: dict[str, Any] = acme | {"intent": intent, "source": "vault"}
        token: dict[str, Any] = about | {"accessor": f"a-{number}"}
        self.add("lease", "run_opened", request="r-0", ttl=900, **token)
        own, slow, shared, left, signed = (
            self._lend(lease, "token" if lease == "signed" else "dynamic", about)
            for lease in ("own", "slow", "shared", "left", "signed")
        )
        stored: dict[str, Any] = {"made": "static", "static": True, "request": "r-9", "version": 3}
        self.add("lease", "given_back", lease="kv", **(about | stored))
        for status, lease in (("given_back", own), ("queued", slow), ("kept", shared), ("lapses", signed)):
            self.add("lease", status, **lease)
        self.add("outcome", "done", intent=intent, attempt=1, **acme)
        self.add("lease", "given_back", because="queued", **slow)
        self.add("lease", "revoke_asked", **token)
        self.bodies[-1]["by"] = "p" + "0" * 20
        self.add("lease", "revoked", because="person", **shared)
        self.add("lease", "expired", because="expired", **left)
        self.add("lease", "revoked", by=1, because="person", **token)

    def _lend(self, lease: str, made: str, about: dict[str, Any]) -> dict[str, Any]:
        """Lend a credential, and give the fields of a later entry about it."""
        said: dict[str, Any] = about | {"lease": lease, "made": made, "static": False, "role": "agent"}
        issued = self.add(
            "lease", "lent", scope="database/creds/a as a", ttl=60, request=f"r-{lease}", **said
        )
        return said | {"issued": issued}

    def _about(self, number: int, tenant: str, tool: str) -> dict[str, Any]:
        who = f"p{sha256(tenant.encode()).hexdigest()[:20]}"
        about = {"call_id": f"c-{tenant}-{number}", "tenant": tenant, "who": who, "tool": tool, "config": 2}
        return about | ({"run": f"p{number:020x}"} if number % 2 else {})


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def a_story(rounds: int, *rotations: tuple[int, Signer, Signer]) -> Story:
    """Tell of so many rounds; `(round, old, new)` has a rotation of the key stand before that round."""
    story = Story()
    story.begin()
    for number in range(rounds):
        for at, old, new in rotations:
            if at == number:
                story.add("key_rotate", "rotated", **old.endorse(new))
        story.round(number)
    return story


def write(story: Story, database: Path, checkpoints: Iterable[tuple[int, Signer]]) -> None:
    """Write a ledger with checkpoints of these sizes, each by its signer."""
    engine = create_engine(f"sqlite:///{database}")
    Stored.metadata.create_all(engine)
    engine.dispose()
    with closing(sqlite3.connect(database)) as connection, connection:
        bodies = [canonical(body) for body in story.bodies]
        marks = ", ".join("?" * (4 + len(REPEATED)))
        connection.executemany(
            f"INSERT INTO ledger_entry (idx, leaf, body, refers, {', '.join(REPEATED)}) VALUES ({marks})",  # noqa: S608
            [
                (index, b"", body, *_columns(told))
                for index, (body, told) in enumerate(zip(bodies, story.bodies, strict=True))
            ],
        )
        connection.executemany("INSERT INTO payload VALUES (?, ?, ?, ?)", story.payloads)
        people = sorted({body["who"] for body in story.bodies if "who" in body})
        connection.executemany(
            "INSERT INTO pseudonym VALUES (?, 'subject', ?)", [(name, name.encode()) for name in people]
        )
        make_tree(connection)
        publish(connection, checkpoints)


def _columns(body: dict[str, Any]) -> Sequence[Any]:
    refers = body.get("intent", body.get("answered_with"))
    return [refers, *(body.get(name, "") for name in REPEATED)]


def make_tree(connection: sqlite3.Connection) -> None:
    """Make leaves, nodes and tip what the bodies say; so does whoever forges a ledger with care."""
    tree = Frontier()
    connection.execute("DELETE FROM ledger_node")
    for index, body in connection.execute("SELECT idx, body FROM ledger_entry ORDER BY idx").fetchall():
        leaf = leaf_hash(body)
        connection.execute("UPDATE ledger_entry SET leaf = ? WHERE idx = ?", (leaf, index))
        connection.executemany("INSERT INTO ledger_node VALUES (?, ?, ?)", tree.append(leaf))
    connection.execute("DELETE FROM ledger_tip")
    connection.execute("INSERT INTO ledger_tip VALUES (1, ?, ?, 0)", (tree.size, tree.pack()))


def publish(connection: sqlite3.Connection, checkpoints: Iterable[tuple[int, Signer]]) -> None:
    """Put checkpoints of these sizes in the place of those that are there."""
    connection.execute("DELETE FROM ledger_checkpoint")
    for size, signer in checkpoints:
        row = (size, 1_796_000_000_000_000 + size, note_of(connection, size, signer))
        connection.execute("INSERT INTO ledger_checkpoint VALUES (?, ?, ?)", row)


def note_of(connection: sqlite3.Connection, size: int, signer: Signer) -> str:
    """Sign what the database holds up to `size`."""
    tree = Frontier()
    for (body,) in connection.execute("SELECT body FROM ledger_entry WHERE idx < ? ORDER BY idx", (size,)):
        tree.append(leaf_hash(body))
    return signer.note(size, tree.root())
