"""`make vault`: a vault, a database and the gate, set up as shipped, and what they do.

Exits 0 only if all of it happened. With `--keep` they stay up until they are interrupted.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from rich.text import Text

from examples.demo.deployment import CannotStartError
from examples.demo.waiting import free_port
from examples.vault import database, gate, server
from examples.vault.setup import set_up
from examples.vault.story import DidNotHappenError, Scene, console, story

NEXT = """
Try next:
  1. Put one of the configurations above into your MCP client (docs/how-to/connect.md), and ask it to count
     customers, or to grant customer 1 a credit of 30 euros.
  2. What lives now:          .venv/bin/toolgate leases list --root {root}
     End it:                  .venv/bin/toolgate leases revoke --all --root {root}
  3. What was recorded:       .venv/bin/toolgate calls list --root {root}
  4. The vault's own log:     .venv/bin/toolgate leases reconcile {audit} --root {root}
  5. Read what was set up:    examples/vault/setup.py and examples/vault/vault/; why: docs/how-to/vault.md

The gate's log is in {log}. Stop with Ctrl-C: everything is ended and removed.
"""


def main() -> int:
    """Run it; give what the process exits with."""
    options = argparse.ArgumentParser(description="OpenBao, PostgreSQL and the gate, and what they do.")
    options.add_argument("--keep", action="store_true", help="stay up until interrupted")
    keep = options.parse_args().keep
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    began = time.monotonic()
    try:
        with _scene() as scene:
            console.print(
                f"A vault, a database and the gate run; set up in {time.monotonic() - began:.1f} s."
            )
            asyncio.run(story(scene))
            took = time.monotonic() - began
            console.print(Text(f"\nAll of it happened, in {took:.1f} s.", style="bold green"))
            if keep:
                _stay(scene)
    except (CannotStartError, DidNotHappenError) as error:
        console.print(Text(f"\nThis did not happen as it should: {error}", style="bold red"))
        return 1
    except KeyboardInterrupt:
        console.print("\nStopped, and everything was ended and removed.")
        return 0 if keep else 130
    return 0


@contextmanager
def _scene() -> Generator[Scene]:
    """Start everything in a folder that is gone afterwards. The gate stops first: it returns what is out."""
    with (
        tempfile.TemporaryDirectory(prefix="toolgate-vault-") as name,
        database.running(Path(name) / "database") as customers,
        server.running(Path(name) / "vault") as vault,
    ):
        set_up(vault.root, customers)
        with gate.running(Path(name) / "gate", free_port(), vault, customers) as running:
            yield Scene(running, vault, customers)


def _stay(scene: Scene) -> None:
    console.print(f"\nToolgate serves {scene.gate.endpoint}\n")
    for caller in gate.CALLERS:
        console.print(scene.gate.configuration(caller), markup=False, end="\n\n")
    root = scene.gate.root
    told = NEXT.format(root=root, audit=scene.vault.audit, log=root.with_name("gate.log"))
    console.print(told, markup=False)
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
