from __future__ import annotations

import asyncio
import gc
import inspect
import logging

import pytest

from raftlog.core.tasks import TaskScope


async def _forever() -> None:
    await asyncio.Event().wait()


async def _fail() -> None:
    raise ValueError("broken")


async def test_a_task_runs_and_its_result_can_be_awaited() -> None:
    """``start`` returns the task; once it has ended the scope lets it go."""

    async def answer() -> int:
        return 42

    errors: list[BaseException] = []
    scope = TaskScope(errors.append)
    task = scope.start(answer(), name="answer")
    assert len(scope) == 1
    assert task.get_name() == "answer"
    assert await task == 42
    await asyncio.sleep(0)
    assert len(scope) == 0
    assert errors == []


async def test_a_task_that_nobody_holds_is_kept_alive() -> None:
    """The loop's references are weak; the scope's are not."""
    done = asyncio.Event()

    async def wait_on_a_future_that_only_it_holds() -> None:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(gc.collect)
        asyncio.get_running_loop().call_later(0.001, future.set_result, None)
        await future
        done.set()

    scope = TaskScope(lambda error: None)
    scope.start(wait_on_a_future_that_only_it_holds(), name="kept")
    gc.collect()
    await done.wait()
    await scope.close()


async def test_an_exception_is_logged_and_handed_to_on_error(caplog: pytest.LogCaptureFixture) -> None:
    """A failing task is heard of once, by name, and the others go on."""
    errors: list[BaseException] = []
    scope = TaskScope(errors.append)
    other = scope.start(_forever(), name="other")
    with caplog.at_level(logging.ERROR):
        task = scope.start(_fail(), name="failing")
        await asyncio.wait({task})
        await asyncio.sleep(0)
    assert [str(error) for error in errors] == ["broken"]
    assert [record.getMessage() for record in caplog.records] == ["background task failing failed: ValueError('broken')"]
    assert not other.done()
    await scope.close()


async def test_closing_cancels_all_and_waits_for_their_clean_up() -> None:
    """After ``close`` no task is left, each was cancelled once, and cancellation is no error."""
    cleaned: list[int] = []
    errors: list[BaseException] = []

    async def with_clean_up(number: int) -> None:
        try:
            await _forever()
        finally:
            for _ in range(number):
                await asyncio.sleep(0)
            cleaned.append(number)

    scope = TaskScope(errors.append)
    for number in range(3):
        scope.start(with_clean_up(number), name=f"t{number}")
    await asyncio.sleep(0)
    await scope.close()
    assert cleaned == [0, 1, 2]
    assert len(scope) == 0
    assert errors == []
    await scope.close()


async def test_a_failure_in_the_clean_up_is_heard_of() -> None:
    """An exception raised while being cancelled reaches ``on_error`` too."""
    errors: list[BaseException] = []

    async def breaks_when_cancelled() -> None:
        try:
            await _forever()
        finally:
            raise ValueError("in clean-up")

    scope = TaskScope(errors.append)
    scope.start(breaks_when_cancelled(), name="t")
    await asyncio.sleep(0)
    await scope.close()
    assert [str(error) for error in errors] == ["in clean-up"]


async def test_a_task_may_close_its_own_scope() -> None:
    """The closing task neither cancels nor waits for itself."""
    scope = TaskScope(lambda error: None)
    other = scope.start(_forever(), name="other")

    async def close_it() -> str:
        await scope.close()
        return "closed"

    assert await scope.start(close_it(), name="closer") == "closed"
    assert other.cancelled()


async def test_nothing_starts_in_a_closed_scope() -> None:
    """A late ``start`` raises and leaves no coroutine unawaited."""
    scope = TaskScope(lambda error: None)
    await scope.close()
    coro = _forever()
    with pytest.raises(RuntimeError, match="late"):
        scope.start(coro, name="late")
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


async def test_a_cancelled_close_can_be_called_again() -> None:
    """Tasks that outlive a cancelled ``close`` stay owned; the second call waits for them."""
    may_end = asyncio.Event()

    async def slow_clean_up() -> None:
        try:
            await _forever()
        finally:
            await may_end.wait()

    scope = TaskScope(lambda error: None)
    scope.start(slow_clean_up(), name="slow")
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(scope.close(), 0.001)
    assert len(scope) == 1
    may_end.set()
    await scope.close()
    assert len(scope) == 0
