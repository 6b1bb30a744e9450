"""Work many prompts off, a bounded number at once, so that neither a fault nor Ctrl-C loses what had ended."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..strategies.errors import (
    BackendError,
    BackendUnreachable,
    HowhardError,
    ModelNotServed,
    PromptTooLong,
    VerifierError,
)

Unit = TypeVar("Unit")

HOPELESS = 5
"""So many failures in a row with no success between: the server is gone, not the prompt."""


@dataclass(frozen=True, slots=True)
class Failure(Generic[Unit]):
    """A unit that came to nothing, and why."""

    unit: Unit
    error: HowhardError


async def work_off(
    units: Iterable[Unit],
    work: Callable[[Unit], Awaitable[None]],
    *,
    width: int,
    moved: Callable[[int], None] = lambda ended: None,
    hopeless: int | None = HOPELESS,
) -> list[Failure[Unit]]:
    """Call `work` on every unit, `width` at once, begun in their order; returns those that failed.

    work  : keeps its own result before it returns.
    moved : called with how many units have ended.
    hopeless : so many failures in a row end the whole; None = however many there are.

    A unit fails by BackendError, VerifierError or PromptTooLong, which concern it alone. Any other error, a server
    that cannot be reached or lacks the model, and `hopeless` failures in a row end the whole: what runs is cancelled.
    """
    failures: list[Failure[Unit]] = []
    waiting = iter(units)
    running: dict[asyncio.Task[None], Unit] = {}
    ended = row = 0
    try:
        while True:
            while len(running) < width and (unit := next(waiting, None)) is not None:
                running[asyncio.ensure_future(work(unit))] = unit
            if not running:
                return failures
            finished, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                unit = running.pop(task)
                ended += 1
                try:
                    task.result()
                    row = 0
                except (BackendUnreachable, ModelNotServed):
                    raise
                except (BackendError, VerifierError, PromptTooLong) as exc:
                    failures.append(Failure(unit, exc))
                    row += 1
                    if hopeless is not None and row >= hopeless:
                        raise type(exc)(f"{row} failures in a row, so this stops here; the last: {exc}") from exc
            moved(ended)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
