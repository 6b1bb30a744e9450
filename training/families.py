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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..strategies.errors import TableError
from .duplicates import connected

SHARED = 0.1
"""Two families are one where they share this part of the smaller one's clusters."""

ALIKE = 0.6
"""Cosine from which families read alike; the tasks of BIG-Bench-Hard with three, five and seven objects have .77 to
.94, no two others more than .47."""

_COMPARED = 200  # families at most, the largest; and prompts of each
_LONGEST = 20_000  # characters of a prompt
_BUCKETS = 2**14

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


@dataclass(frozen=True, slots=True)
class Alike:
    """Two families whose prompts read alike: cosine of their mean words, in [0, 1]."""

    one: str
    other: str
    likeness: float


def alike_families(families: Sequence[str], texts: Sequence[str], *, likeness: float = ALIKE) -> tuple[Alike, ...]:
    """Pairs of families that read alike, the most alike first: candidates for a mapping, which a person checks.

    Each family is the mean of its prompts' words and pairs of words (200 prompts, evenly taken, of the 200 largest
    families); what every family has weighs little. Pairs whose cosine is `likeness` or more are given.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    rows: dict[str, list[int]] = {}
    for row, family in enumerate(families):
        rows.setdefault(family, []).append(row)
    if len(rows) < 2:
        return ()
    vectors = HashingVectorizer(
        ngram_range=(1, 2), alternate_sign=False, n_features=_BUCKETS, token_pattern=r"\w+|[^\w\s]"
    )
    names = sorted(sorted(rows, key=lambda name: -len(rows[name]))[:_COMPARED])
    means = np.zeros((len(names), _BUCKETS))
    for i, name in enumerate(names):
        held = rows[name]
        chosen = held[:: max(1, len(held) // _COMPARED)][:_COMPARED]
        counted: Any = vectors.transform([texts[row][:_LONGEST] for row in chosen])
        means[i] = np.asarray(counted.mean(axis=0)).ravel()
    means *= np.log1p(len(names) / np.maximum((means > 0).sum(axis=0), 1))
    norms = np.linalg.norm(means, axis=1)
    cosine = (means @ means.T) / np.maximum(norms[:, None] * norms, 1e-12)
    pairs = [
        Alike(names[i], names[j], min(float(cosine[i, j]), 1.0))
        for i in range(len(names))
        for j in range(i + 1, len(names))
        if cosine[i, j] >= likeness
    ]
    return tuple(sorted(pairs, key=lambda pair: -pair.likeness))


def merged_by_likeness(families: Sequence[str], texts: Sequence[str], *, likeness: float = ALIKE) -> tuple[str, ...]:
    """Return the families, length n, with those made one that read alike (`alike_families`), directly or by a chain."""
    pairs = alike_families(families, texts, likeness=likeness)
    names = sorted(set(families))
    keys: dict[str, list[object]] = {name: [] for name in names}
    for pair in pairs:
        keys[pair.one].append(pair)
        keys[pair.other].append(pair)
    merged = dict(zip(names, connected(names, [keys[name] for name in names]), strict=True))
    return tuple(merged[family] for family in families)


def families_to(path: Path, families: Mapping[str, str]) -> None:
    """Write a mapping group -> family as the CSV that `families_from` reads. Raises TableError where it can't."""
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("group", "family"))
            rows.writerows(sorted(families.items()))
    except OSError as exc:
        raise TableError(f"{path}: cannot be written: {exc.strerror or exc}") from exc
