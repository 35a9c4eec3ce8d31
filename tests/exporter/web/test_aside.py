import asyncio
import threading

import pytest

from exporter.web.aside import aside


def test_the_end_of_the_program_does_not_wait_for_what_runs_aside():
    assert asyncio.run(aside(threading.current_thread)).daemon


def test_what_it_raises_is_raised_where_it_is_waited_for():
    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(aside(fail))


def test_work_that_nobody_waits_for_any_more_ends_in_peace():
    asked, given_up = threading.Event(), threading.Event()

    def work():
        asked.set()
        assert given_up.wait(10)

    async def impatient():
        request = asyncio.create_task(aside(work))
        await asyncio.to_thread(asked.wait, 10)
        request.cancel()
        given_up.set()
        await asyncio.gather(request, return_exceptions=True)

    asyncio.run(impatient())
