"""Witnesses as processes of their own, and a log that a test can let say anything."""

import base64
import http.client
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from examples.demo.waiting import answers, free_port
from tests.ledgers import Signer
from toolgate.backends.cosigning import WitnessKey, cosignatures_in
from toolgate.backends.log_key import LogKey
from toolgate.backends.witness_state import new_state
from toolgate.core.merkle import Frontier, consistency_proof, leaf_hash, root_at
from toolgate.core.note import COSIGNATURE, Checkpoint, Note, Signature, VerifierKey
from toolgate.core.witness import Submission
from toolgate.core.witness_policy import NamedWitness

_DIES = """
import os, signal
from toolgate.backends import witness_state
from toolgate.cli import main

add = witness_state.Witness.add

def die(self, asked):
    add(self, asked)
    os.kill(os.getpid(), signal.SIGKILL)

witness_state.Witness.add = die
main()
"""
"""A witness that is killed when what it was asked is persisted, and before it answers."""


@dataclass
class Log:
    """A log of small entries, which can be told twice."""

    signer: Signer = field(default_factory=lambda: Signer(7))
    leaves: list[bytes] = field(default_factory=list[bytes])

    @property
    def key(self) -> VerifierKey:
        return VerifierKey.parse(str(self.signer.key))

    def grow(self, size: int, story: str = "") -> "Log":
        """Add entries up to `size`; another story tells other entries."""
        for number in range(len(self.leaves), size):
            self.leaves.append(leaf_hash(f"{story}{number}".encode()))
        return self

    def copy(self) -> "Log":
        return Log(self.signer, list(self.leaves))

    def note(self, size: int | None = None) -> Note:
        size = len(self.leaves) if size is None else size
        return Note.parse(self.signer.note(size, root_at(size, self._hashes)))

    def asks(self, old: int, size: int | None = None) -> Submission:
        size = len(self.leaves) if size is None else size
        proof = consistency_proof(old, size, self._hashes) if 0 < old <= size else []
        return Submission.of(self.note(size), old, proof)

    def _hashes(self, level: int, first: int, count: int) -> Sequence[bytes]:
        width = 1 << level
        return [self._complete(number * width, width) for number in range(first, first + count)]

    def _complete(self, first: int, width: int) -> bytes:
        tree = Frontier()
        for leaf in self.leaves[first : first + width]:
            tree.append(leaf)
        return tree.root()


@dataclass(frozen=True)
class Said:
    """What a witness answered."""

    status: int
    kind: str
    body: str


@dataclass
class RunningWitness:
    """A witness that can be killed, and started again on the same port."""

    name: str
    folder: Path
    logs: tuple[VerifierKey, ...]
    port: int
    vkey: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def line(self) -> str:
        """Its line in a policy file."""
        return f"witness {self.name} {self.vkey} {self.url}\n"

    @property
    def named(self) -> NamedWitness:
        from_policy = VerifierKey.parse(self.vkey, COSIGNATURE)
        return NamedWitness(self.name, from_policy, self.url)

    def start(self, program: Sequence[str] = ("-m", "toolgate")) -> "RunningWitness":
        words = ["ledger", "witness", "--key", f"{self.folder / 'witness.key'}", "--state", f"{self.state}"]
        words += ["--listen", f"127.0.0.1:{self.port}"]
        words += [word for key in self.logs for word in ("--log", f"{key}")]
        with (self.folder / "witness.log").open("ab") as log:
            self.process = subprocess.Popen([sys.executable, *program, *words], stderr=log)
        assert answers(self.process, f"{self.url}/healthz"), self.log()
        return self

    def start_mortal(self) -> "RunningWitness":
        """Start it so that it dies between keeping what it was asked and answering."""
        return self.start(("-c", _DIES))

    def kill(self) -> None:
        """Kill it as a power cut would, and wait until it is gone."""
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=30)
            self.process = None

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=30)
            self.process = None

    def forget(self) -> None:
        """Put a new state in the place of the one that it has, as nobody should."""
        self.state.unlink()
        new_state(self.state, VerifierKey.parse(self.vkey, COSIGNATURE))

    def log(self) -> str:
        return " ".join((self.folder / "witness.log").read_text("utf-8", "replace").split())

    def add(self, asked: Submission | bytes) -> Said:
        """Submit a checkpoint. Raises `OSError` or `http.client.HTTPException` where nobody answers."""
        body = asked if isinstance(asked, bytes) else f"{asked}".encode()
        return self.ask("POST", "/add-checkpoint", body)

    def ask(self, method: str, path: str, body: bytes = b"") -> Said:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, path, body)
            response = connection.getresponse()
            kind = response.getheader("content-type", "")
            return Said(response.status, kind, response.read().decode())

    def cosigned(self, asked: Submission) -> bool:
        """Submit a checkpoint; whether the answer is a good cosignature of it."""
        said = self.add(asked)
        lines = [Signature.parse(line) for line in said.body.splitlines()] if said.status == 200 else []
        return bool(cosignatures_in(asked.note, lines, [self.named]))

    def newest(self, origin_hash: str) -> Checkpoint | None:
        said = self.ask("GET", f"/{origin_hash}/checkpoint")
        return Checkpoint.parse(Note.parse(said.body).text) if said.status == 200 else None


@contextmanager
def witnessing(folder: Path, name: str, *logs: VerifierKey, starts: bool = True) -> Generator[RunningWitness]:
    """Run a witness of these logs until the test is over."""
    folder.mkdir()
    key = WitnessKey.new(f"witness.example/{name}")
    key.write(folder / "witness.key")
    new_state(folder / "state", key.verifier)
    running = RunningWitness(name, folder, logs, free_port(), f"{key.verifier}")
    try:
        yield running.start() if starts else running
    finally:
        running.stop()


def ledger_key_of(root: Path) -> VerifierKey:
    """Give the verifier key of a deployment's ledger; where there is none yet, it is made."""
    file = root / "keys" / "ledger.key"
    if not file.exists():
        LogKey.new(f"toolgate/{root.parent.name}").write(file)
    return VerifierKey.parse(file.with_suffix(".vkey").read_text("utf-8"))


def let_witness(root: Path, quorum: str, *witnesses: RunningWitness) -> Path:
    """Name the witnesses in the deployment's settings; so many of them (or `all`, `any`) are the quorum."""
    policy = root / "witnesses.policy"
    names = " ".join(witness.name for witness in witnesses)
    log = f"log {ledger_key_of(root)}\n"
    lines = "".join(witness.line for witness in witnesses)
    policy.write_text(f"{log}{lines}group enough {quorum} {names}\nquorum enough\n", "utf-8")
    settings = root / "toolgate.toml"
    text = settings.read_text("utf-8")
    if "witnesses = " not in text:
        settings.write_text(f'witnesses = "witnesses.policy"\n{text}', "utf-8")
    return policy


def mark_witnessed(root: Path, tool: str, timeout: float = 5) -> None:
    """Let the calls of one tool of the notebook wait for witnesses."""
    manifest = root / "registry" / "notes.toml"
    head, begin, rest = manifest.read_text("utf-8").partition(f"[tools.{tool}]\n")
    assert begin
    rest = rest.replace("timeout = 5\n", f"timeout = {timeout}\n", 1)
    manifest.write_text(f"{head}{begin}witnessed = true\n{rest}", "utf-8")


def signature_lines(text: str) -> list[bytes]:
    """Give the bytes of each signature of a note, with the key's id."""
    return [base64.b64decode(line.rpartition(" ")[2]) for line in text.rpartition("\n\n")[2].splitlines()]
