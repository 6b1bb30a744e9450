"""A regular expression as a verifier.

It proves that a text has a form, not that it is right: `sound` is False unless the user says that the form is the
whole task.
"""

import re
from collections.abc import Sequence
from typing import Literal, get_args

from ..base import Candidate, Prices, Request, Verdicts
from ..errors import ConfigError, nearest
from ..running import answer_of
from ..spec import Parts, VerifierFields, restated

Reads = Literal["text", "answer"]
"""What a check reads: the whole text, or the final answer that `answers.extract` finds in it."""


class RegexCheck:
    """Score 1 for a text in which a regular expression is found, 0 for another.

    pattern : of Python's `re`; anchor it with ^ and $ where the whole must match.
    reads   : "answer" (default), the extracted final answer, or "text".
    sound   : say True where matching is the whole task.

    The pattern is the user's own and is trusted: one that backtracks without end ("(a+)+$") blocks the process.
    """

    prices: Prices | None = None  # reads no tokens

    def __init__(self, pattern: str, *, reads: Reads = "answer", sound: bool = False, name: str = "regex") -> None:
        self._pattern = _compiled(pattern)
        _check_reads(reads)
        self.name, self.sound, self.pattern = name, sound, pattern
        self.reads: Reads = reads

    async def score(self, request: Request, candidates: Sequence[Candidate], *, partial: bool = False) -> Verdicts:
        """Search each text; partial ones are not judged."""
        if partial:
            return Verdicts((None,) * len(candidates))
        found = [self._pattern.search(_read(c, self.reads)) is not None for c in candidates]
        return Verdicts(
            tuple(map(float, found)),
            sound=self.sound,
            feedback=tuple(None if ok else f"it does not match {self.pattern!r}" for ok in found),
        )


def _compiled(pattern: str) -> re.Pattern[str]:
    if not pattern:
        raise ConfigError("pattern is empty: it would match every text")
    try:
        return re.compile(pattern)
    except re.error as exc:
        raise ConfigError(f"pattern={pattern!r} is not a regular expression: {exc}") from exc


def _check_reads(reads: str) -> None:
    if reads not in get_args(Reads):
        raise ConfigError(f"reads={reads!r}{nearest(str(reads), get_args(Reads))}")


def _read(candidate: Candidate, reads: Reads) -> str:
    return candidate.text if reads == "text" else answer_of(candidate)


class RegexCheckSpec(VerifierFields, frozen=True, kw_only=True, tag="regex"):
    """A regular expression that is found in the answer, or in the text; see RegexCheck."""

    pattern: str
    reads: Reads = "answer"
    sound: bool = False

    def __post_init__(self) -> None:
        with restated():
            _compiled(self.pattern)

    def open(self, name: str, parts: Parts) -> RegexCheck:
        """See VerifierFields."""
        return RegexCheck(self.pattern, reads=self.reads, sound=self.sound, name=name)
