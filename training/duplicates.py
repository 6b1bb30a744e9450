"""Clusters of prompts that ask the same thing: they lie on one side of every split, and none of them is ever deleted.

A router that has seen one of them has seen them all, so a held-out twin flatters it. Two prompts are one where their
texts are equal but for case and white space, or where whoever logged them says so (one problem in two languages).
Nothing else is folded: without punctuation, 301 different prompts of BIG-Bench-Hard become one of the others (a
closing bracket there is the answer), and digits and operators are what a problem is about. Nor does likeness join
them: of the 432 pairs there that share nine tenths of their runs of three words, and all digits and operators in
order, 391 have another answer (one story, two questions).
"""

import unicodedata
from collections.abc import Hashable, Iterable, Sequence

from ..strategies.errors import TableError


def same_text(text: str) -> str:
    r"""What two prompts that differ in case or white space alone share.

    >>> same_text("What is\n 2 + 2?") == same_text("what  is 2 + 2?")
    True
    >>> same_text("2 + 2?") == same_text("2 - 2?") or same_text("((") == same_text("(")
    False
    """
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def clusters_of(
    prompt_ids: Sequence[str], texts: Sequence[str], joined: Sequence[str | None] | None = None
) -> tuple[str, ...]:
    """Return the cluster of each prompt, length n: the alphabetically first prompt id among its members.

    So a prompt that has no twin is a cluster of its own name, and adding other prompts changes nothing about it.

    joined : what the log says belongs together, whatever the texts; None = nothing said of this prompt.

    Raises TableError when the lengths differ.
    """
    n = len(prompt_ids)
    if len(texts) != n or (joined is not None and len(joined) != n):
        raise TableError(f"{n} prompt ids, {len(texts)} texts, {n if joined is None else len(joined)} cluster names")
    keys: list[Iterable[Hashable]] = [[("text", same_text(text))] for text in texts]
    if joined is not None:
        keys = [[*own, *([] if name is None else [("joined", name)])] for own, name in zip(keys, joined, strict=True)]
    return connected(prompt_ids, keys)


def connected(names: Sequence[str], keys: Sequence[Iterable[Hashable]]) -> tuple[str, ...]:
    """For each item the alphabetically first name among all that it shares a key with, directly or through others."""
    parent = list(range(len(names)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[Hashable, int] = {}
    for i, mine in enumerate(keys):
        for key in mine:
            a, b = root(first.setdefault(key, i)), root(i)
            if a != b:
                parent[max(a, b)] = min(a, b)
    roots = [root(i) for i in range(len(names))]
    least: dict[int, str] = {}
    for name, top in zip(names, roots, strict=True):
        least[top] = min(name, least.get(top, name))
    return tuple(least[top] for top in roots)
