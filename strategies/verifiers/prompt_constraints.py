"""What a prompt itself asks of its answer's form, as a verifier: "in at most 20 words", "answer yes or no", "as JSON".

Only wording that leaves no doubt is read; all else is passed over, so that a prompt without such wording is not
judged. Meeting the form does not make an answer right: never sound.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..answers import canonical, extract
from ..base import Candidate, Prices, Request, Verdicts
from ..spec import Parts, VerifierFields
from .json_schema import read_json


@dataclass(frozen=True, slots=True)
class Constraint:
    """One thing that the prompt asks for. `words` says it, `holds(text)` checks it."""

    words: str
    holds: Callable[[str], bool]


def constraints_of(prompt: str) -> tuple[Constraint, ...]:
    """Find what a prompt asks of its answer's form, in order; () where nothing is said that leaves no doubt.

    Read are, in English, in the imperative or of "your answer" ("response", "reply", "summary", "text"):

        counts       at most / no more than / up to / fewer than / less than / at least / more than / exactly N words,
                     sentences, lines, paragraphs or characters; "answer in N words", "in N words or fewer"
        yes or no    "answer yes or no", "reply with only yes or no": the final answer is one of the two
        JSON         "answer in JSON", "return valid JSON": the text, or its one fenced block, parses
        start, end   "start your answer with "...""; "your answer must end with "...""
        contain      "must contain / include "..."", "include the word "...""; "do not use the word "..."", without case
        case         "answer in lower case / upper case": no letter of the other case
        commas       "do not use commas"

    What stands in quotation marks or in fenced code is data, not wording. A negation just before ("do not answer in
    JSON") is no constraint.
    """
    quoted = [match.span() for match in _DATA.finditer(prompt)]
    found: list[tuple[int, Constraint]] = []
    for pattern, make in _RULES:
        for match in pattern.finditer(prompt):
            inside = any(start <= match.start() < end for start, end in quoted)
            if inside or _NEGATED.search(prompt[: match.start()]):
                continue
            found += [(match.start(), constraint) for constraint in make(match)]
    in_order = sorted(found, key=lambda item: item[0])
    return tuple({constraint.words: constraint for _, constraint in in_order}.values())


class PromptConstraints:
    """Score a text by the share of the prompt's own constraints of form that it meets; 1 = all of them.

    See `constraints_of` for what is read, from the last user message alone. A prompt without such wording, and
    partial texts, are not judged. The feedback names the constraints that are broken.
    """

    sound = False
    prices: Prices | None = None  # reads no tokens

    def __init__(self, *, name: str = "prompt_constraints") -> None:
        self.name = name

    async def score(self, request: Request, candidates: Sequence[Candidate], *, partial: bool = False) -> Verdicts:
        """Check each text against each constraint."""
        asked = [m.content for m in request.messages if m.role == "user"]
        constraints = constraints_of(asked[-1]) if asked and not partial else ()
        if not constraints:
            return Verdicts((None,) * len(candidates))
        broken = [[c.words for c in constraints if not c.holds(candidate.text)] for candidate in candidates]
        return Verdicts(
            tuple(1 - len(own) / len(constraints) for own in broken),
            feedback=tuple(f"it breaks: {'; '.join(own)}" if own else None for own in broken),
            note="checked: " + "; ".join(c.words for c in constraints),
        )


# ── counting ────────────────────────────────────────────────────────────────────────────────────────────────

_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs|cf|Mr|Mrs|Ms|Dr|Prof|St|No|approx)\.$|\b[A-Z]\.$", re.IGNORECASE)


def _sentences(text: str) -> int:
    """Ends of sentences: . ! or ? before white space or the end, not after an abbreviation; an open end counts."""
    text, count, start = text.strip(), 0, 0
    for match in re.finditer(r"[.!?]+[\"')\]*”’]*(?=\s|$)", text):
        last = match.end() == len(text)
        if not last and _ABBREVIATION.search(text[start : match.start() + 1]):
            continue
        count, start = count + 1, match.end()
    return count + bool(text[start:].strip())


_COUNTS: dict[str, Callable[[str], int]] = {
    "word": lambda text: len(text.split()),
    "sentence": _sentences,
    "line": lambda text: sum(bool(line.strip()) for line in text.splitlines()),
    "paragraph": lambda text: sum(bool(part.strip()) for part in re.split(r"\n\s*\n", text)),
    "character": lambda text: len(text.strip()),
}
_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "at most": lambda n, limit: n <= limit,
    "fewer than": lambda n, limit: n < limit,
    "at least": lambda n, limit: n >= limit,
    "more than": lambda n, limit: n > limit,
    "exactly": lambda n, limit: n == limit,
}
_SAME_AS = {
    "no more than": "at most",
    "not more than": "at most",
    "up to": "at most",
    "a maximum of": "at most",
    "less than": "fewer than",
    "under": "fewer than",
    "no fewer than": "at least",
    "no less than": "at least",
    "not less than": "at least",
    "a minimum of": "at least",
}


def _number(word: str) -> int:
    return int(word) if word.isdigit() else _NUMBERS.index(word.casefold())


def _count(how: str, number: str, unit: str) -> Constraint:
    how = " ".join(how.casefold().split())
    how, limit, unit = _SAME_AS.get(how, how), _number(number), unit.casefold().removesuffix("s")
    count, compare = _COUNTS[unit], _COMPARE[how]
    plural = unit if limit == 1 else unit + "s"
    return Constraint(f"{how} {limit} {plural}", lambda text: compare(count(text), limit))


# ── wording ─────────────────────────────────────────────────────────────────────────────────────────────────

_QUOTED = r"(?:\"[^\"\n]{1,200}\"|“[^”\n]{1,200}”|‘[^’\n]{1,200}’|(?<!\w)'[^'\n]{1,200}'(?!\w)|`[^`\n]{1,200}`)"
_DATA = re.compile(rf"```.*?(?:```|\Z)|{_QUOTED}", re.DOTALL)
_NEGATED = re.compile(
    r"(?:\bnot|n't|n’t|\bnever|\bavoid|\bwithout|\brather than|\binstead of)\s+(?:\w+\s+)?\Z", re.IGNORECASE
)
_THE_ANSWER = r"(?:(?:your|the)\s+(?:whole\s+|entire\s+|final\s+)?(?:answer|response|reply|summary|output|text))"
_ANSWER = r"(?:answer|reply|respond|summari[sz]e|explain|describe)"
_MUST = r"(?:must|should|has\s+to|needs\s+to|is\s+to)"
_N = rf"(\d{{1,5}}|{'|'.join(_NUMBERS[1:])})"
_UNIT = r"(words?|sentences?|lines?|paragraphs?|characters?)\b"
_HOW = "(" + "|".join(re.escape(h).replace(r"\ ", r"\s+") for h in (*_COMPARE, *_SAME_AS)) + ")"
# The wording that makes a length one of the answer's: an imperative (with nobody else in between, whose words would
# be meant), "use at most ..." at the head of a clause, or the answer itself.
_LEAD = (
    rf"(?:\b(?:{_ANSWER}|write|state|tell|give)\b(?:(?!\b(?:he|she|they|who|which|was|were|had|has)\b)[^.?!\n]){{0,120}}?"
    r"\b(?:in|within|using|with|of)"
    r"|(?:\A|(?<=[.!?:;,\n])\s*|\band\s+|\bplease\s+)(?:use|write|using|in|within)"
    rf"|{_THE_ANSWER}\s+{_MUST}\s+(?:be|have|contain|use)|\b(?:limit|keep|restrict)\s+{_THE_ANSWER}\s+to)"
)
_NAMED = r"(?:the\s+)?(?:exact\s+)?(?:words?|phrases?|sentences?|strings?|text|letters?|characters?)?\s*"
_LIST = rf"({_QUOTED}(?:\s*(?:,|,?\s+and\b|,?\s+or\b)\s*{_QUOTED})*)"


def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def _strings(quoted: str) -> list[str]:
    return [match[0][1:-1] for match in re.finditer(_QUOTED, quoted)]


def _within(part: str, text: str) -> bool:
    """Whether a word or phrase occurs, without case, not as a piece of a longer word."""
    before, after = r"(?<!\w)" if part[:1].isalnum() else "", r"(?!\w)" if part[-1:].isalnum() else ""
    return re.search(before + re.escape(part) + after, text, re.IGNORECASE) is not None


def _yes_or_no(match: re.Match[str]) -> Iterator[Constraint]:
    yield Constraint("answer yes or no", lambda text: canonical(extract(text)) in ("yes", "no"))


def _json(match: re.Match[str]) -> Iterator[Constraint]:
    yield Constraint("JSON", _is_json)


def _is_json(text: str) -> bool:
    try:
        read_json(text)
    except ValueError:
        return False
    return True


def _contain(match: re.Match[str]) -> Iterator[Constraint]:
    parts = _strings(match[1])
    if len(parts) > 1 and re.search(r"\bor\b", re.sub(_QUOTED, "", match[1])):
        yield Constraint(
            "contain " + " or ".join(map(repr, parts)), lambda text: any(_within(part, text) for part in parts)
        )
        return
    for part in parts:
        yield Constraint(f"contain {part!r}", lambda text, part=part: _within(part, text))


def _lack(match: re.Match[str]) -> Iterator[Constraint]:
    for part in _strings(match[1]):
        yield Constraint(f"not contain {part!r}", lambda text, part=part: not _within(part, text))


def _start(match: re.Match[str]) -> Iterator[Constraint]:
    [part] = _strings(match[1])
    yield Constraint(f"start with {part!r}", lambda text: text.strip().startswith(part.strip()))


def _end(match: re.Match[str]) -> Iterator[Constraint]:
    [part] = _strings(match[1])
    yield Constraint(f"end with {part!r}", lambda text: text.strip().endswith(part.strip()))


def _case(match: re.Match[str]) -> Iterator[Constraint]:
    if match[1].casefold() == "lower":
        yield Constraint("lower case", lambda text: not any(c.isupper() for c in text))
    else:
        yield Constraint("upper case", lambda text: not any(c.islower() for c in text))


def _no_commas(match: re.Match[str]) -> Iterator[Constraint]:
    yield Constraint("no commas", lambda text: "," not in text)


_Make = Callable[[re.Match[str]], Iterator[Constraint]]
_RULES: tuple[tuple[re.Pattern[str], _Make], ...] = (
    (_pattern(rf"{_LEAD}\s+{_HOW}\s+{_N}\s+{_UNIT}"), lambda m: iter((_count(m[1], m[2], m[3]),))),
    (
        _pattern(rf"\bin\s+{_N}\s+{_UNIT}\s+or\s+(?:less|fewer)\b"),
        lambda m: iter((_count("at most", m[1], m[2]),)),
    ),
    (
        _pattern(
            rf"\b{_ANSWER}\s+(?:(?:it|this|that|(?:the|your)\s+\w+)\s+)?in\s+(?:just\s+|only\s+)?{_N}\s+{_UNIT}(?!\s+or\b)"
        ),
        lambda m: iter((_count("exactly", m[1], m[2]),)),
    ),
    (
        _pattern(
            r"\b(?:answer|reply|respond)\s+(?:only\s+|just\s+|simply\s+)*(?:with\s+)?(?:only\s+|just\s+|either\s+|a\s+)*"
            r"[\"'“‘]?yes[\"'”’]?\s+or\s+[\"'“‘]?no[\"'”’]?(?!\w)"
        ),
        _yes_or_no,
    ),
    (
        _pattern(
            r"\b(?:answer|reply|respond|output|return|write|give)\s+(?:\w+\s+){0,3}?(?:only\s+)?(?:in|as|with|using)\s+"
            r"(?:a\s+|an\s+)?(?:single\s+|valid\s+)*json\b|\b(?:output|return)\s+(?:only\s+)?(?:a\s+)?(?:single\s+|valid\s+)*"
            rf"json\b|{_THE_ANSWER}\s+{_MUST}\s+be\s+(?:in\s+|a\s+)?(?:single\s+|valid\s+)*json\b"
        ),
        _json,
    ),
    (
        _pattern(
            rf"(?:\b(?:start|begin)\s+{_THE_ANSWER}|{_THE_ANSWER}\s+{_MUST}\s+(?:start|begin))\s+with\s+{_NAMED}({_QUOTED})"
        ),
        _start,
    ),
    (
        _pattern(
            rf"(?:\b(?:end|finish)\s+{_THE_ANSWER}|{_THE_ANSWER}\s+{_MUST}\s+(?:end|finish))\s+with\s+{_NAMED}({_QUOTED})"
        ),
        _end,
    ),
    (
        _pattern(
            rf"(?:{_THE_ANSWER}\s+{_MUST}\s+(?:contain|include|mention|use)\s+{_NAMED}"
            rf"|\b(?:include|use|mention)\s+the\s+(?:exact\s+)?(?:words?|phrases?)\s+){_LIST}"
        ),
        _contain,
    ),
    (
        _pattern(
            rf"(?:{_THE_ANSWER}\s+(?:must|should)\s+not\s+(?:contain|include|mention|use)\s+{_NAMED}"
            r"|\b(?:do\s+not|don't|don’t|never)\s+(?:include|use|mention|write)\s+the\s+(?:words?|phrases?|letters?)\s+"
            r"|\bwithout\s+(?:using|including|mentioning|writing)\s+the\s+(?:words?|phrases?|letters?)\s+)"
            rf"{_LIST}"
        ),
        _lack,
    ),
    (
        _pattern(
            rf"\b(?:{_ANSWER}|write)\s+(?:{_THE_ANSWER}\s+|everything\s+|only\s+|all\s+)?in\s+(?:all\s+|only\s+)?"
            r"(lower|upper)[\s-]?case\b"
        ),
        _case,
    ),
    (
        _pattern(
            r"\b(?:do\s+not|don't|don’t|never)\s+use\s+(?:any\s+)?commas\b|\bwithout\s+(?:using\s+)?(?:any\s+)?commas\b"
        ),
        _no_commas,
    ),
)


class PromptConstraintsSpec(VerifierFields, frozen=True, kw_only=True, tag="prompt_constraints"):
    """The prompt's own constraints of form: lengths, yes or no, JSON, words to use or to avoid, case."""

    def open(self, name: str, parts: Parts) -> PromptConstraints:
        """See VerifierFields."""
        return PromptConstraints(name=name)
