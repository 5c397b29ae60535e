"""What SQLite, PostgreSQL and DuckDB spell each in its own way, for the auditors' views and questions.

Whatever they say comes out alike: a whole number as one, a flag as 1 or 0, a list or an object as its JSON, a
text without its quotes. PostgreSQL has no text with a NUL in it, so there U+FFFD stands for each.
"""
# ruff: noqa: S608 - made of constants of the views

from collections.abc import Mapping
from typing import Final, Protocol

from toolgate.backends.audit_duckdb import DuckDb
from toolgate.backends.audit_fields import FLAGS, WHOLE, milliseconds


class Dialect(Protocol):
    """How one kind of database says what views and questions need."""

    name: str
    """As SQLAlchemy calls it."""
    now: str
    """The present second, in microseconds since 1970."""
    binary: str
    """What orders a text by its code points."""
    apart: str
    """What keeps a grouping from going by an index."""
    unlike: str
    """What compares two values of which either may be NULL."""
    ten: str
    """The number ten, by which a whole number is divided into one that is not."""

    def value(self, said: str | int) -> str | int:
        """Give the value of a filter as the database can have it."""
        ...

    def said(self, name: str, entry: str) -> str:
        """Give a field of an entry's body; `a.b` is the field b of its field a."""
        ...

    def last(self, name: str, entry: str) -> str:
        """Give the last text of a field that is a list."""
        ...

    def acting(self, entry: str, clear: str) -> str:
        """Give the list of those who act for the caller; `clear` names `a.value`."""
        ...

    def part(self, value: str, number: int) -> str:
        """Give a text out of a value that is a list, from 0 on."""
        ...

    def kept(self, field: str, entry: str) -> str:
        """Give a value that an entry commits to; NULL where it is not kept."""
        ...

    def end_of(self, column: str) -> str:
        """Give a column of the entry that ended the intent `e`."""
        ...

    def ended(self) -> str:
        """Whether an entry ended the intent `e`."""
        ...

    def text(self, value: str) -> str:
        """Give bytes that are UTF-8 as text."""
        ...

    def flag(self, condition: str) -> str:
        """Give 1 or 0."""
        ...

    def time(self, column: str) -> str:
        """Give a moment as people read it."""
        ...

    def hour(self, column: str) -> str:
        """Give the hour of a moment, UTC, in two digits."""
        ...

    def holds(self, value: str, entry: str) -> str:
        """Whether arguments, as JSON, have the filter `:value` anywhere in them; of the entry `entry`."""
        ...

    def root(self, note: str) -> str:
        """Give a checkpoint's third line."""
        ...


class Sqlite:
    """SQLite from 3.38 on."""

    name: str = "sqlite"
    now: str = "strftime('%s', 'now') * 1000000"
    binary: str = ""
    apart: str = "+"
    unlike: str = "IS NOT"  # IS DISTINCT FROM is younger than some that are still in use
    ten: str = "10.0"

    def value(self, said: str | int) -> str | int:
        """It can have any."""
        return said

    def said(self, name: str, entry: str) -> str:
        """Give it as its JSON's type."""
        return f"json_extract(CAST({entry}.body AS TEXT), '$.{name}')"

    def last(self, name: str, entry: str) -> str:
        """Count from the list's end."""
        return f"json_extract(CAST({entry}.body AS TEXT), '$.{name}[#-1]')"

    def acting(self, entry: str, clear: str) -> str:
        """Walk the list."""
        return f"(SELECT json_group_array({clear}) FROM json_each(CAST({entry}.body AS TEXT), '$.act') a)"

    def part(self, value: str, number: int) -> str:
        """Extract it."""
        return f"json_extract(CAST({value} AS TEXT), '$[{number}]')"

    def kept(self, field: str, entry: str) -> str:
        """Extract the whole."""
        value = "json_extract(CAST(p.value AS TEXT), '$')"
        return f"(SELECT {value} FROM payload p WHERE p.idx = {entry}.idx AND p.field = '{field}')"

    def end_of(self, column: str) -> str:
        """Look for it."""
        return _end_of(column)

    def ended(self) -> str:
        """Look for it."""
        return "EXISTS (SELECT 1 FROM audit_ends_v1 x WHERE x.intent = e.idx)"

    def text(self, value: str) -> str:
        """Take its bytes for what they are."""
        return f"CAST({value} AS TEXT)"

    def flag(self, condition: str) -> str:
        """A condition is a number here."""
        return condition

    def time(self, column: str) -> str:
        """Round to milliseconds."""
        return f"strftime('%Y-%m-%dT%H:%M:%fZ', {column} / 1e6, 'unixepoch')"

    def hour(self, column: str) -> str:
        """Take it from the moment."""
        return f"strftime('%H', {column} / 1e6, 'unixepoch')"

    def holds(self, value: str, entry: str) -> str:
        """Look for the text first, which is cheap, and then at each value; `entry` is of no use here."""
        del entry
        return f"""instr({value}, trim(json_quote(:value), '"'))
                    AND EXISTS (SELECT 1 FROM json_tree({value}) t WHERE CAST(t.atom AS TEXT) = :value
                        OR (t.type = 'integer' AND {value} -> t.fullkey = :value))"""

    def root(self, note: str) -> str:
        """Find it behind the size, which every table of checkpoints has."""
        return f"substr({note}, instr({note}, char(10) || size || char(10)) + length(size) + 2, 44)"


class PostgreSql:
    """PostgreSQL from 15 on."""

    name: str = "postgresql"
    now: str = "CAST(floor(extract(epoch FROM now())) AS BIGINT) * 1000000"
    binary: str = ' COLLATE "C"'
    apart: str = ""
    unlike: str = "IS DISTINCT FROM"
    ten: str = "CAST(10 AS DOUBLE PRECISION)"

    def value(self, said: str | int) -> str | int:
        """Give a text as it would be shown."""
        return said.replace("\0", "\ufffd") if isinstance(said, str) else said

    def said(self, name: str, entry: str) -> str:
        """Give it as the type that the field has."""
        *outer, field = name.split(".")
        found = "".join((_json(f"{entry}.body"), *(f" -> '{one}'" for one in outer), f" ->> '{field}'"))
        if name in WHOLE:
            return f"CAST({found} AS BIGINT)"
        if name in FLAGS:
            return f"CAST(CAST({found} AS BOOLEAN) AS INTEGER)"
        return f"({found})"

    def last(self, name: str, entry: str) -> str:
        """Count from the list's end."""
        path = "".join(f" -> '{one}'" for one in name.split("."))
        return f"({_json(f'{entry}.body')}{path} ->> -1)"

    def acting(self, entry: str, clear: str) -> str:
        """Spell the list without the spaces that json_agg() has."""
        each = f"json_array_elements_text({_json(f'{entry}.body')} -> 'act') WITH ORDINALITY"
        spelled = f"string_agg(CAST(to_json({clear}) AS TEXT), ',' ORDER BY a.place)"
        return f"(SELECT '[' || COALESCE({spelled}, '') || ']' FROM {each} AS a(value, place))"

    def part(self, value: str, number: int) -> str:
        """Extract it."""
        return f"({_json(value)} ->> {number})"

    def kept(self, field: str, entry: str) -> str:
        """Extract the whole."""
        value = f"{_json('p.value')} #>> '{{}}'"
        return f"(SELECT {value} FROM payload p WHERE p.idx = {entry}.idx AND p.field = '{field}')"

    def end_of(self, column: str) -> str:
        """Look for it."""
        return _end_of(column)

    def ended(self) -> str:
        """Look for it."""
        return "EXISTS (SELECT 1 FROM audit_ends_v1 x WHERE x.intent = e.idx)"

    def text(self, value: str) -> str:
        """Decode it: a NUL in JSON is an escape, which a text may have."""
        return f"convert_from({value}, 'UTF8')"

    def flag(self, condition: str) -> str:
        """Make it a number."""
        return f"CAST(({condition}) AS INTEGER)"

    def time(self, column: str) -> str:
        """Round to milliseconds."""
        return f"""to_char({_moment(column)}, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')"""

    def hour(self, column: str) -> str:
        """Take it from the moment."""
        return f"to_char({_moment(column)}, 'HH24')"

    def holds(self, value: str, entry: str) -> str:
        """Look for the text first, which is cheap, and then at each value; `entry` is of no use here."""
        del entry
        sought = "CAST(:value AS TEXT)"
        atom = """CASE jsonb_typeof(t.atom) WHEN 'string' THEN t.atom #>> '{}'
                            WHEN 'number' THEN CAST(t.atom AS TEXT)
                            WHEN 'boolean' THEN CAST(CAST(CAST(t.atom AS BOOLEAN) AS INTEGER) AS TEXT) END"""
        return f"""strpos({_without_nul(value)}, trim(BOTH '"' FROM CAST(to_json({sought}) AS TEXT))) > 0
                    AND EXISTS (
                        SELECT 1 FROM jsonb_path_query(CAST({_without_nul(value)} AS JSONB), 'strict $.**')
                            AS t(atom)
                        WHERE {atom} = {sought})"""

    def root(self, note: str) -> str:
        """Count lines."""
        return f"split_part({note}, chr(10), 3)"


SQLITE: Final = Sqlite()
DIALECTS: Final[Mapping[str, Dialect]] = {one.name: one for one in (SQLITE, PostgreSql(), DuckDb())}


def _end_of(column: str) -> str:
    return f'(SELECT x."{column}" FROM audit_ends_v1 x WHERE x.intent = e.idx)'


def _json(value: str) -> str:
    """Read bytes as JSON; one with a NUL in it would be refused."""
    text = f"convert_from({value}, 'UTF8')"
    return f"CAST({_without_nul(text)} AS JSON)"


def _without_nul(text: str) -> str:
    """Give JSON with U+FFFD for U+0000; a backslash that is escaped itself begins no escape."""
    replaced = rf"regexp_replace({text}, '(?<!\\)((?:\\\\)*)\\u0000', '\1' || chr(65533), 'g')"
    return rf"CASE WHEN strpos({text}, '\u0000') = 0 THEN {text} ELSE {replaced} END"


def _moment(column: str) -> str:
    return f"(TIMESTAMP '1970-01-01' + {milliseconds(column)} * INTERVAL '1 millisecond')"
