"""Progress bars on the terminal (standard error), and nothing at all where nobody is looking."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

StageProgress = Callable[[str, int, int], None]
"""Called with a stage's name, how much of it is done and how much there is in all, as long work goes on."""


@contextmanager
def bars(*, quiet: bool = False) -> Iterator[StageProgress]:
    """Show a bar per stage, with the time elapsed and the time left; gives the callback that moves them."""
    if quiet:
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<32}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as shown:
        tasks: dict[str, int] = {}

        def move(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = shown.add_task(stage, total=total)
            shown.update(tasks[stage], completed=done, total=total)  # type: ignore[arg-type]

        yield move
