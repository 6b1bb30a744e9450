"""k-means in a few lines of numpy: exact, seeded, and without a pool of threads."""

import numpy as np


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared distances (n, m) between the rows of x (n, d) and of y (m, d)."""
    return _between(x, (x * x).sum(axis=1), y)


def k_means(x: np.ndarray, k: int, seed: int, *, rounds: int = 25) -> np.ndarray:
    """Centres (at most k, d) by Lloyd's algorithm from k-means++ seeds; fewer where x has fewer different rows."""
    rng = np.random.default_rng(seed)
    length = (x * x).sum(axis=1)
    centres = x[rng.integers(len(x))][None, :]
    gap = _between(x, length, centres)[:, 0].clip(min=0)
    while len(centres) < k and gap.sum() > 0:
        centres = np.vstack([centres, x[rng.choice(len(x), p=gap / gap.sum())]])
        gap = np.minimum(gap, _between(x, length, centres[-1:])[:, 0].clip(min=0))
    for _ in range(rounds):
        nearest = _between(x, length, centres).argmin(axis=1)
        own = [x[nearest == i] for i in range(len(centres))]
        moved = np.stack([mine.mean(axis=0) if len(mine) else was for mine, was in zip(own, centres, strict=True)])
        if np.allclose(moved, centres, atol=1e-4):
            break
        centres = moved
    return centres


def _between(x: np.ndarray, length: np.ndarray, y: np.ndarray) -> np.ndarray:
    """As `squared_distances`, where the squared lengths (n,) of x are known."""
    return length[:, None] - 2 * x @ y.T + (y * y).sum(axis=1)[None, :]
