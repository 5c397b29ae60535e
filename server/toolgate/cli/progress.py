"""How far long work is, for a person at a terminal."""

import time
from typing import Final

from rich.progress import Progress

from toolgate.cli.output import err

_PATIENCE: Final = 2.0
"""Seconds of work after which it is shown."""


class Bar(Progress):
    """A bar on a terminal, shown when the work takes long; elsewhere nothing."""

    def __init__(self, what: str) -> None:
        console = err()
        super().__init__(console=console, transient=True, disable=not console.is_terminal, auto_refresh=False)
        self._begun, self._what = time.monotonic(), self.add_task(what, total=None, visible=False)

    def show(self, done: int, total: int | None) -> None:
        """Say how far the work is; of a total that nobody knows, only that it goes on."""
        visible = time.monotonic() - self._begun > _PATIENCE
        self.update(self._what, completed=done, total=total, visible=visible, refresh=visible)
