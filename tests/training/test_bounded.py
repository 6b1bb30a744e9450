"""Many units, a bounded number at once; what one unit's fault may cost the others."""

import asyncio

import pytest

from howhard.strategies.errors import BackendError, BackendUnreachable, ConfigError
from howhard.training.bounded import HOPELESS, work_off


def test_units_run_in_order_and_never_more_than_the_width_at_once():
    begun, moves, running, most = [], [], 0, 0

    async def work(unit):
        nonlocal running, most
        begun.append(unit)
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    assert asyncio.run(work_off(range(10), work, width=3, moved=moves.append)) == []
    assert (begun, most, moves[-1]) == (list(range(10)), 3, 10)


def test_a_failed_unit_costs_no_other_unit():
    done = []

    async def work(unit):
        if unit % 2:
            raise BackendError(f"unit {unit}")
        done.append(unit)

    failures = asyncio.run(work_off(range(6), work, width=1))
    assert done == [0, 2, 4]
    assert [(f.unit, str(f.error)) for f in failures] == [(1, "unit 1"), (3, "unit 3"), (5, "unit 5")]


def test_nothing_but_failures_ends_the_whole():
    tried = []

    async def work(unit):
        tried.append(unit)
        raise BackendError("500")

    with pytest.raises(BackendError, match=f"{HOPELESS} failures in a row"):
        asyncio.run(work_off(range(100), work, width=1))
    assert len(tried) == HOPELESS


@pytest.mark.parametrize("error", [BackendUnreachable("gone"), ConfigError("wrong")])
def test_what_concerns_every_unit_ends_the_whole_and_cancels_what_runs(error):
    cancelled = []

    async def work(unit):
        if unit == 2:
            raise error
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(unit)
            raise

    with pytest.raises(type(error), match=str(error)):
        asyncio.run(work_off(range(9), work, width=3))
    assert cancelled == [0, 1]
