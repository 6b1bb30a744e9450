"""Families: groups that are siblings of each other, which a split by group moves together.

A split that leaves out one of two siblings asks nothing new of a router: it has seen the other. On BIG-Bench-Hard a
router that left out single tasks looked good (+.008 / +.038) and lost (-.053 / -.017) once the tasks with three, five
and seven objects were merged. Names tell most siblings; prompts that two families share tell others; the rest is for
a mapping of whoever knows the groups.
"""

import re
from collections import Counter
from collections.abc import Sequence

from .duplicates import connected

SHARED = 0.1
"""Two families are one where they share this part of the smaller one's clusters."""

_DIALS = frozenset(
    w
    for words in ("one two three four five six seven eight nine ten eleven twelve", "easy medium hard")
    for w in words.split()
)


def family_of(group: str) -> str:
    """Return the family of a group: its name without the numbers and dials that tell siblings apart.

    A task with three and with five objects is one family: a router that saw one of them has seen the other, so a
    split that leaves whole families out must move both. Merging too much is the safe side of this guess; where it is
    wrong, give `OutcomeMatrix.of` a mapping.

    >>> family_of("tracking_shuffled_objects_three_objects") == family_of("tracking_shuffled_objects_seven_objects")
    True
    >>> [family_of(g) for g in ("countdown-4", "path/12", "chain10", "gsm8k", "24")]
    ['countdown', 'path', 'chain', 'gsm8k', '24']
    """
    words = [re.sub(r"(?<=[^\W\d])\d+$", "", w) for w in re.split(r"[\W_]+", group)]
    kept = [w for w in words if w and not w.isdigit() and w.lower() not in _DIALS]
    return "_".join(kept) or group


def merged_by_clusters(families: Sequence[str], clusters: Sequence[str], *, shared: float = SHARED) -> tuple[str, ...]:
    """Return the families, length n, with those made one that share clusters: the same problems in other words.

    Two families are merged, under the alphabetically first name, where the clusters in both are at least `shared` of
    those of the smaller one, and two or more: a single greeting that two tenants both got does not merge them
    (`fold_of` keeps its copies together without).
    """
    pairs = set(zip(families, clusters, strict=True))
    size = Counter(family for family, _ in pairs)
    held: dict[str, list[str]] = {}
    for family, cluster in sorted(pairs):
        held.setdefault(cluster, []).append(family)
    both = Counter((a, b) for found in held.values() for i, a in enumerate(found) for b in found[i + 1 :])
    links = [(a, b) for (a, b), count in both.items() if count >= max(2, shared * min(size[a], size[b]))]
    names = sorted(size)
    keys: dict[str, list[object]] = {name: [] for name in names}
    for link in links:
        for name in link:
            keys[name].append(link)
    merged = dict(zip(names, connected(names, [keys[name] for name in names]), strict=True))
    return tuple(merged[family] for family in families)
