"""Which witnesses there are, and how many must cosign: a policy file (c2sp.org/tlog-policy); no I/O."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from toolgate.core.note import COSIGNATURE, BadNote, VerifierKey

NONE: Final = "none"
"""The quorum that demands no cosignature."""
MOST_LINES: Final = 1000
_BLANK: Final = re.compile(r"[ \t]+")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_COUNT: Final = re.compile(r"[1-9][0-9]{0,5}")


@dataclass(frozen=True)
class NamedWitness:
    """A witness of the policy."""

    name: str
    """What the policy calls it; its key has a name of its own."""
    key: VerifierKey
    url: str | None = None
    """The submission prefix: where `add-checkpoint` is."""


@dataclass(frozen=True)
class Group:
    """So many of these witnesses and groups stand for all of them."""

    least: int
    members: tuple[str, ...]


@dataclass(frozen=True)
class PolicyFault:
    """A line that cannot be meant."""

    line: int
    problem: str
    remedy: str


class BadPolicy(Exception):  # noqa: N818 - named by what it is
    """A text that is no policy. Holds every fault that was found."""

    def __init__(self, faults: list[PolicyFault]) -> None:
        super().__init__("; ".join(f"line {fault.line}: {fault.problem}" for fault in faults))
        self.faults = faults


@dataclass(frozen=True)
class WitnessPolicy:
    """What makes a checkpoint good enough."""

    logs: tuple[VerifierKey, ...]
    witnesses: tuple[NamedWitness, ...]
    groups: Mapping[str, Group]
    quorum: str

    def is_met(self, cosigned: Collection[str]) -> bool:
        """Whether the witnesses of these names are enough."""
        return self.quorum == NONE or self._has(self.quorum, cosigned)

    @property
    def fewest(self) -> int:
        """How many witnesses it takes at least."""
        return 0 if self.quorum == NONE else self._fewest(self.quorum)

    def _fewest(self, name: str) -> int:
        group = self.groups.get(name)
        if group is None:
            return 1
        return sum(sorted(self._fewest(member) for member in group.members)[: group.least])

    def _has(self, name: str, cosigned: Collection[str]) -> bool:
        group = self.groups.get(name)
        if group is None:
            return name in cosigned
        return sum(self._has(member, cosigned) for member in group.members) >= group.least

    @classmethod
    def parse(cls, text: str) -> "WitnessPolicy":
        """Read a policy file. Raises `BadPolicy` with every fault in it."""
        return _Reader().read(text)


@dataclass
class _Reader:
    """Reads the lines in their order: a name is only known below the line that defines it."""

    logs: dict[bytes, VerifierKey] = field(default_factory=dict[bytes, VerifierKey])
    witnesses: dict[str, NamedWitness] = field(default_factory=dict[str, NamedWitness])
    groups: dict[str, Group] = field(default_factory=dict[str, Group])
    member_of: dict[str, str] = field(default_factory=dict[str, str])
    quorum: str | None = None
    faults: list[PolicyFault] = field(default_factory=list[PolicyFault])
    line: int = 0

    def read(self, text: str) -> WitnessPolicy:
        known: dict[str, Callable[[list[str]], None]] = {
            "log": self._log,
            "witness": self._witness,
            "group": self._group,
            "quorum": self._quorum,
        }
        if text.count("\n") > MOST_LINES:
            self._tell(f"there are more than {MOST_LINES} lines", "remove what is not needed")
        for self.line, words in _lines(text):
            if not words:
                self._tell("it holds control characters", "remove them: only tabs and newlines may be there")
            elif words[0] not in known:
                self._tell(f"{words[0]!r} begins no line", "write log, witness, group or quorum")
            else:
                known[words[0]](words[1:])
        if self.quorum is None and not any("quorum" in fault.problem for fault in self.faults):
            self._tell("there is no quorum", "add a line: quorum NAME, or: quorum none")
        if self.faults or self.quorum is None:
            raise BadPolicy(self.faults)
        witnesses = tuple(self.witnesses.values())
        return WitnessPolicy(tuple(self.logs.values()), witnesses, self.groups, self.quorum)

    def _log(self, words: list[str]) -> None:
        if len(words) not in {1, 2}:
            self._tell("a log has a key and maybe a URL", "write: log VKEY [URL]")
        elif key := self._key(words[0], VerifierKey.parse):
            if key.public in self.logs:
                self._tell("this log's key is there twice", "remove one of the lines")
            self.logs[key.public] = key

    def _witness(self, words: list[str]) -> None:
        if len(words) not in {2, 3}:
            self._tell("a witness has a name, a key and maybe a URL", "write: witness NAME VKEY [URL]")
            return
        key = self._key(words[1], lambda text: VerifierKey.parse(text, COSIGNATURE))
        url = words[2] if len(words) == 3 else None  # noqa: PLR2004
        if url is not None and (fault := _fault_in_url(url)):
            self._tell(fault, "write it as the witness's operator says it: https://witness.example.com")
        if self._is_new(words[0]) and key is not None:
            if any(key.public == other.key.public for other in self.witnesses.values()):
                self._tell("this witness's key is there twice", "remove one of the lines")
            self.witnesses[words[0]] = NamedWitness(words[0], key, url)

    def _group(self, words: list[str]) -> None:
        if len(words) < 3:  # noqa: PLR2004
            self._tell("a group has a name, a count and members", "write: group NAME all|any|K MEMBER...")
            return
        name, count, *members = words
        least = {"all": len(members), "any": 1}.get(count, int(count) if _COUNT.fullmatch(count) else 0)
        if not 1 <= least <= len(members):
            self._tell(f"{count!r} of {len(members)} members", f"write all, any, or 1 to {len(members)}")
        for member in members:
            if member not in self.witnesses and member not in self.groups:
                self._tell(f"no witness or group {member!r} is defined above", "define it above this line")
            elif member in self.member_of:
                self._tell(f"{member!r} is in group {self.member_of[member]!r} already", "let it count once")
            self.member_of[member] = name
        if self._is_new(name):
            self.groups[name] = Group(least, tuple(members))

    def _quorum(self, words: list[str]) -> None:
        if len(words) != 1:
            self._tell("the quorum is one name", "write: quorum NAME, or: quorum none")
        elif self.quorum is not None:
            self._tell("there is a quorum above already", "remove one of the lines")
        elif words[0] != NONE and words[0] not in self.witnesses and words[0] not in self.groups:
            self._tell(f"the quorum {words[0]!r} is no witness or group defined above", "define it above")
        else:
            self.quorum = words[0]

    def _key(self, text: str, parse: Callable[[str], VerifierKey]) -> VerifierKey | None:
        try:
            return parse(text)
        except BadNote as error:
            self._tell(str(error), "copy the key as its owner gave it")
            return None

    def _is_new(self, name: str) -> bool:
        if name != NONE and name not in self.witnesses and name not in self.groups:
            return True
        self._tell(f"the name {name!r} is taken", "give it another name")
        return False

    def _tell(self, problem: str, remedy: str) -> None:
        self.faults.append(PolicyFault(self.line, problem, remedy))


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Give the words of each line that says something, with its number; none where it may not be read."""
    for number, line in enumerate(text.split("\n")[:MOST_LINES], 1):
        bare = line.strip(" \t")
        if _CONTROL.search(line):
            yield number, []
        elif bare and not bare.startswith("#"):
            yield number, _BLANK.split(bare)


def _fault_in_url(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "this is no URL"
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        return "this is no http or https URL"
    if parts.username is not None or parts.query or parts.fragment:
        return "the URL holds a user, a query or a fragment"
    return None
