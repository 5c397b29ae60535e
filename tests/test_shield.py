"""Work that was begun ends, and a gate that was told to wait no longer does not."""

import asyncio
import contextlib

import pytest

from toolgate.core.shield import HangUp, Shield

pytestmark = pytest.mark.anyio


async def test_a_cut_ends_the_waiting_that_began_before_it() -> None:
    shield, over = Shield(last_seconds=0.05), asyncio.Event()

    async def deaf(hang_up: HangUp) -> bool:
        await over.wait()
        return hang_up.cut

    working = asyncio.create_task(shield.run(deaf))
    await asyncio.sleep(0)
    draining = asyncio.create_task(shield.drain())
    await asyncio.sleep(0.03)
    assert not draining.done(), "what was begun is waited for"
    shield.cut()
    async with asyncio.timeout(5):
        await draining
    assert shield.running == 1
    over.set()
    with contextlib.suppress(asyncio.CancelledError):
        assert await working
