"""`make run`: the demo's systems and the gate before them, until it is interrupted."""

import os
import signal
import sys
import threading
from pathlib import Path

from examples.demo.deployment import CALLERS, REPO, CannotStartError, Demo, client_configuration, running

FOLDER = REPO / ".demo"
ROLES = {"support-agent": "answers tickets", "support-lead": "may do more", "auditor": "only reads"}

NEXT = """
Try next:
  1. Put one of the configurations above into your MCP client (docs/how-to/connect.md), and ask it for
     "the five best customers in the EU", or to "open a ticket for customer 42: the router drops calls".
  2. Ask, as the support agent, for a credit of 80 euros: it is refused, and says what would be allowed.
  3. See what was recorded:     .venv/bin/toolgate calls list --root {root}
  4. Ask who can grant credit:  .venv/bin/toolgate policy who-can crm.grant_credit --root {root}
  5. Change policies/rules.csv: the gate takes it up within a second, and clients are told.
     See which cases notice:    .venv/bin/toolgate policy test --root {root}

The issue tracker is at {tracker} (user toolgate-agent); the gate's log is in {log}.
Stop with Ctrl-C.
"""


def main() -> int:
    port, tracker_port = (int(os.environ.get(name) or default) for name, default in _PORTS.items())
    try:
        with running(FOLDER, port=port, tracker_port=tracker_port) as demo:
            _greet(demo)
            stopped = threading.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda _number, _frame: stopped.set())
            stopped.wait()
    except CannotStartError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _greet(demo: Demo) -> None:
    print(f"\nToolgate serves {demo.endpoint}\n")
    for name, subject in CALLERS.items():
        print(f"--- {name} ({subject}, {ROLES[name]}) ---")
        print(client_configuration(demo, name), end="\n\n")
    root = Path(os.path.relpath(demo.root))
    tracker = demo.tracker.base_url.removesuffix("rest/data/")
    print(NEXT.format(root=root, tracker=tracker, log=root.parent / "gate.log"), flush=True)


_PORTS = {"PORT": 8080, "TRACKER_PORT": 8917}

if __name__ == "__main__":
    sys.exit(main())
