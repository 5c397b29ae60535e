"""A stranger's distribution of adapters, as it would be installed: good ones, odd ones and broken ones."""

from pathlib import Path

_PROBE = '''
from typing import Any, Callable
from pydantic import BaseModel, ConfigDict
from toolgate.adapter import Adapter, Context, NotFound

class Inner(BaseModel):
    a: int = 1

class Wanted(BaseModel):
    inner: Inner
    many: list[Inner] = []
    table: dict[str, Inner] = {}

class Odd(BaseModel):
    model_config = ConfigDict(json_schema_extra={"$ref": "https://example.com/schema"})

class Hidden(BaseModel):
    call: Callable[[], None]

class Connection:
    marks_sending = True
    closed = 0
    def session(self, credential, sending): raise NotImplementedError
    async def aclose(self): self.closed += 1

class Picky(Adapter[Any]):
    def operations(self, system):
        if fault := system.options.get("fault"):
            raise {"value": ValueError, "key": KeyError}[fault]("[system] is wrong")
        return super().operations(system)

probe = Picky("probe", connect=lambda system: Connection())
other = Picky("other", connect=lambda system: Connection())
plain = object()

for adapter in (probe, other):
    @adapter.operation
    async def look(wanted: Wanted, context: Context[Any]) -> Inner:
        """Look."""
        return Inner()

    @adapter.operation
    async def send(wanted: Wanted, context: Context[Any]) -> Inner:
        """Send."""
        return Inner()

    @adapter.operation
    async def odd(wanted: Odd, context: Context[Any]) -> Inner:
        """Refer to the outside."""
        return Inner()

    @adapter.operation
    async def hidden(wanted: Hidden, context: Context[Any]) -> Inner:
        """Have no schema."""
        return Inner()

    @adapter.look_up(send)
    async def sent(wanted: Wanted, context: Context[Any]) -> NotFound:
        return NotFound()
'''
_POINTS = """[toolgate.adapters]
probe = toolgate_probe:probe
other = toolgate_probe:other
plain = toolgate_probe:plain
gone = toolgate_probe:gone
fails = toolgate_probe_fails:adapter
twice = toolgate_probe:probe
twice = toolgate_probe:other
"""


def install(site: Path, module: str) -> None:
    """Put the distribution under `site`; `module` is what its module is called, once per test."""
    info = site / "stranger-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text(_POINTS.replace("toolgate_probe", module), "utf-8")
    (site / f"{module}.py").write_text(_PROBE, "utf-8")
    (site / f"{module}_fails.py").write_text("raise OSError('no library here')\n", "utf-8")
