"""Work that would keep the server's loop from turning, in a thread of its own."""

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


async def aside(work: Callable[[], Result]) -> Result:
    """Return what ``work`` returns, or raise what it raises.

    asyncio's own threads are waited for when the program ends: one wrong password against a costly hash, from anybody,
    would hold the end up for as long as bcrypt takes.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def tell(set_outcome: Callable[[], None]) -> None:
        if not done.done():  # the request may have been given up meanwhile
            set_outcome()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            outcome = functools.partial(done.set_exception, error)
        else:
            outcome = functools.partial(done.set_result, result)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, outcome)

    threading.Thread(target=run, name="aside", daemon=True).start()
    return await done
