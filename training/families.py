"""Families: groups that are siblings of each other, which a split by group moves together.

A split that leaves out one of two siblings asks nothing new of a router: it has seen the other. On BIG-Bench-Hard a
router that left out single tasks looked good (+.008 / +.038) and lost (-.053 / -.017) once the tasks with three, five
and seven objects were merged. Names tell most siblings; prompts that two families share tell others; the rest is for
a mapping of whoever knows the groups.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..strategies.errors import TableError
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


def families_from(path: str | Path) -> dict[str, str]:
    """Read a mapping group -> family: JSON {"GROUP": "FAMILY"}, or a CSV with the columns group and family.

    Groups that it does not name keep the family that their name tells (`family_of`).

    Raises TableError for a file that cannot be read, is neither, has an empty cell, or names a group twice.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        pairs = _json_pairs(text) if path.suffix.lower() == ".json" else _csv_pairs(text)
    except OSError as exc:
        raise TableError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except (ValueError, csv.Error) as exc:
        raise TableError(f"{path}: no mapping of groups to families: {exc}") from exc
    families: dict[str, str] = {}
    for row, (group, family) in enumerate(pairs):
        if not (isinstance(group, str) and isinstance(family, str) and group and family):
            raise TableError(f"{path}: row {row}: group {group!r}, family {family!r}: both need a name")
        if families.setdefault(group, family) != family:
            raise TableError(
                f"{path}: row {row}: group {group!r} is in {families[group]!r} and in {family!r}: keep one"
            )
    if not families:
        raise TableError(f"{path}: it names no group")
    return families


def _json_pairs(text: str) -> list[tuple[object, object]]:
    held = json.loads(text)
    if not isinstance(held, dict):
        raise ValueError('an object {"GROUP": "FAMILY"} is needed')
    return list(held.items())


def _csv_pairs(text: str) -> list[tuple[object, object]]:
    rows = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))
    if not {"group", "family"} <= set(rows.fieldnames or ()):
        raise ValueError(f"the columns group and family are needed, there are: {', '.join(rows.fieldnames or ())}")
    return [(row["group"], row["family"]) for row in rows]
