"""Keep numerical libraries to one thread while a piece of work goes on.

LightGBM (OpenMP) and numpy (OpenBLAS) let their threads wait in busy loops. On arrays as small as ours that gains
nothing, and on a machine that is not idle it is ruinous: a fit of 3 seconds took 57 beside one other program.
"""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the block LightGBM, OpenBLAS and their like use one thread; afterwards as many as before."""
    import lightgbm  # noqa: F401  a library must be loaded before it can be told
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        yield
