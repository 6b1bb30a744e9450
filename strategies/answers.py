"""Read the final answer out of a sample, and say when two answers are the same.

Nothing here knows the right answer or runs a model: graders live in howhard.training.problems, checks of
whole solutions in `verifiers/`. Rules change only together with `EXTRACTOR`, which travels into every sample.
"""

import contextlib
import math
import re
from collections.abc import Iterator

EXTRACTOR = "final/1"
"""Version of the rules of `extract`: answers logged under another version are read from the text again."""

_BOXED = "\\boxed{"
_BRACE = re.compile(r"\\boxed\{|[{}]")
_STATED = re.compile(r"\b(?:answer\s*(?::|\bis\s*:)|the\s+(?:final\s+)?answer\s+is\b\s*:?)", re.IGNORECASE)
_HASHES = re.compile(r"####")
_NUMBER = re.compile(r"([-+]?)((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?)(?:\.([0-9]*))?")
_FLOATS = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("`", "`"))


def extract(text: str) -> str:
    r"""Return the final answer that a text states, by the first of these rules that finds a non-empty one.

    1. the content of the last `\boxed{...}`, its braces balanced;
    2. what follows the last "Answer:" or "the answer is", up to the end of that line;
    3. what follows the last "####", up to the end of that line;
    4. the whole text without the white space around it.

    Markdown stars, dollar signs and one full stop around the answer are dropped in rules 2 and 3.
    >>> extract("3 + 4 = 7\nAnswer: 7.")
    '7'
    """
    for rule in (_last_boxed, lambda t: _after_last(_STATED, t), lambda t: _after_last(_HASHES, t)):
        found = rule(text)
        if found:
            return found
    return text.strip()


def _last_boxed(text: str) -> str:
    """One pass with a stack, so that a text full of braces that never close takes no longer than another."""
    found, open_at = (-1, 0), []
    for match in _BRACE.finditer(text):
        if match[0] != "}":
            open_at.append(match.end() if match[0] == _BOXED else -1)
        elif open_at and (start := open_at.pop()) > found[0]:
            found = (start, match.start())
    return text[found[0] : found[1]].strip() if found[0] >= 0 else ""


def _after_last(mark: re.Pattern[str], text: str) -> str:
    for match in reversed(list(mark.finditer(text))):
        rest = text[match.end() :].lstrip(" \t*:").lstrip()
        found = _unwrapped(rest.partition("\n")[0])
        if found:
            return found
    return ""


def _unwrapped(answer: str) -> str:
    """Drop white space, one trailing full stop, and marks that only set the answer off."""
    answer = answer.strip()
    while True:
        bare = answer.removesuffix(".").rstrip() if not answer.endswith("..") else answer
        for opening, closing in _WRAPPERS:
            if len(bare) > len(opening) + len(closing) and bare.startswith(opening) and bare.endswith(closing):
                bare = bare[len(opening) : -len(closing)].strip()
                break
        if bare.endswith("**") and "**" not in bare[:-2]:  # "**Answer:** 7" or "**Answer: 7**", cut after the colon
            bare = bare[:-2].rstrip()
        if bare == answer:
            return answer
        answer = bare


def canonical(answer: str) -> str:
    r"""Return the form in which equal answers are equal strings.

    Numbers lose thousands separators, leading and trailing zeros and a plus sign ("1,000" = "1000.0" =
    "+1000", "-0" = "0"), exactly and at any length. All else is compared without case, `$` signs, a trailing
    full stop, and differences in white space. Fractions and formulas are not computed.
    """
    text = _unwrapped(answer).replace("\u2212", "-").replace("\\$", "$").replace("$", "")
    text = " ".join(text.split()).casefold()
    match = _NUMBER.fullmatch(text.replace("- ", "-", 1) if text.startswith("- ") else text)
    if match is None or not (match[2] or match[3]):
        return text
    whole = match[2].replace(",", "").lstrip("0") or "0"
    fraction = (match[3] or "").rstrip("0")
    number = f"{whole}.{fraction}" if fraction else whole
    return f"-{number}" if match[1] == "-" and number != "0" else number


def same(a: str, b: str) -> bool:
    """Whether two answers count as one in a vote: their canonical forms are equal."""
    return canonical(a) == canonical(b)


def number(answer: str) -> float | None:
    """Return the number that an answer is, or the only one that it holds ("42 apples"); None elsewhere.

    >>> number("about 1,200 km")
    1200.0
    """
    for text in _numbers(answer):
        with contextlib.suppress(ValueError):
            value = float(text)
            return value if math.isfinite(value) else None
    return None


def _numbers(answer: str) -> Iterator[str]:
    yield canonical(answer)
    found = _FLOATS.findall(answer)
    if len(found) == 1:
        yield found[0].replace(",", "")
