r"""When two answers count as one in a vote.

    get_equivalence("canonical")     the canonical forms are the same string (the default)
    get_equivalence("text")          the same words: without case, white space at will, no marks at the ends
    get_equivalence("numeric:0.01")  numbers that differ by at most 1 % (of the larger, or of 1)
    get_equivalence("json")          the same JSON value, whatever the order of keys
    get_equivalence("tool_calls")    the same calls of tools, in order
    get_equivalence("math")          the same mathematics, by math-verify
    get_equivalence(same)            same(a, b) -> bool, a function of your own

Answers get the number of their group, numbered 0, 1, ... by first appearance. Nothing here counts votes.
"""

import asyncio
import inspect
import json
import logging
import math
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from decimal import Decimal
from typing import Any, Protocol, runtime_checkable

from .answers import canonical, number
from .errors import ConfigError, HowhardError, VerifierError, nearest
from .workers import Worker, demand_math_verify

logger = logging.getLogger(__name__)

Groups = tuple[int | None, ...]
Tell = Callable[[str], None]

KINDS = ("canonical", "text", "numeric", "json", "tool_calls", "math")
"""The names that `get_equivalence` knows; "numeric:TOLERANCE" and "math:SECONDS" give their setting."""


@runtime_checkable
class Equivalence(Protocol):
    """Sorts answers into groups. Holds settings only.

    name       : what names of strategies and specs call it; `get_equivalence` reads it back.
    whole_text : whether it compares whole texts; what `answers.extract` finds in them is compared elsewhere.
    """

    name: str
    whole_text: bool

    async def groups(self, answers: Sequence[str | None], *, tell: Tell | None = None) -> Groups:
        """Return the group of each answer: equal numbers for equivalent ones, by first appearance from 0.

        None stands for no answer, and gets None.
        tell : called with a sentence where a comparison did not come to an end; None = it is logged.
        Raises ConfigError where something that it needs is not installed, also for no answers at all.
        """
        ...


def get_equivalence(what: "str | Equivalence | Callable[[str, str], object]") -> Equivalence:
    """Make the equivalence of a name, or of a function; an equivalence is returned as it is.

    Raises ConfigError for an unknown name, or a setting out of range.
    """
    if not isinstance(what, str):
        if isinstance(what, Equivalence):
            return what
        if callable(what):
            return SameBy(what)
        raise ConfigError(f"equivalence={what!r}: give a name ({', '.join(KINDS)}), or a function (a, b) -> bool")
    kind, colon, setting = what.partition(":")
    if kind == "numeric":
        return Numeric(_setting(what, setting)) if colon else Numeric()
    if kind == "math":
        return Mathematics(timeout=_setting(what, setting)) if colon else Mathematics()
    simple: dict[str, Callable[[], Equivalence]] = {
        "canonical": Canonical,
        "text": Text,
        "json": SameJson,
        "tool_calls": ToolCalls,
    }
    if colon or kind not in simple:
        raise ConfigError(f"equivalence={what!r} is not known{nearest(kind, KINDS)}")
    return simple[kind]()


def _setting(what: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"equivalence={what!r}: {text!r} is no number, as in 'numeric:1e-6'") from None


def numbered(keys: Iterable[Hashable | None]) -> Groups:
    """Number keys by first appearance; None stays None.

    >>> numbered(["b", "a", None, "b"])
    (0, 1, None, 0)
    """
    numbers: dict[Hashable, int] = {}
    return tuple(None if key is None else numbers.setdefault(key, len(numbers)) for key in keys)


class _ByKey:
    """Equivalent are answers of one key."""

    name: str
    whole_text = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    async def groups(self, answers: Sequence[str | None], *, tell: Tell | None = None) -> Groups:
        """See Equivalence."""
        return numbered(None if answer is None else self._key(answer) for answer in answers)

    def _key(self, answer: str) -> Hashable:
        raise NotImplementedError


class Canonical(_ByKey):
    """The canonical forms are the same: "1,000" and "1000.0", "Paris." and "paris"; see `answers.canonical`."""

    name = "canonical"

    def _key(self, answer: str) -> Hashable:
        return canonical(answer)


class Text(_ByKey):
    """The same words: Unicode forms (NFKC) and case do not count, white space is one space, and punctuation and
    quotes at either end are dropped; a sign before a number stays.
    """

    name = "text"

    def _key(self, answer: str) -> Hashable:
        words = " ".join(unicodedata.normalize("NFKC", answer).casefold().split())
        return words.strip(" .,;:!?\"'`*_“”‘’«»()[]") or words


class Numeric:
    """Numbers close to each other; an answer that is no number (`answers.number`) is compared by its canonical form.

    tolerance : two numbers a, b are linked where |a - b| <= tolerance * max(1, |a|, |b|). Linked numbers are in one
                group, and so are those linked through others: who is with whom does not depend on the order.
    """

    whole_text = False

    def __init__(self, tolerance: float = 1e-6) -> None:
        if not 0 <= tolerance < 1:
            raise ConfigError(f"tolerance={tolerance!r}: it must lie in [0, 1), as in 'numeric:1e-6'")
        self.tolerance = tolerance
        self.name = "numeric" if tolerance == 1e-6 else f"numeric:{tolerance!r}"

    def __repr__(self) -> str:
        return f"Numeric({self.tolerance!r})"

    async def groups(self, answers: Sequence[str | None], *, tell: Tell | None = None) -> Groups:
        """See Equivalence."""
        values = [None if answer is None else number(answer) for answer in answers]
        link = {v: v for v in values if v is not None}

        def root(value: float) -> float:
            while link[value] != value:
                value = link[value]
            return value

        distinct = list(link)
        for i, a in enumerate(distinct):
            for b in distinct[:i]:
                if abs(a - b) <= self.tolerance * max(1.0, abs(a), abs(b)):
                    link[root(a)] = root(b)
        return numbered(
            None if answer is None else canonical(answer) if value is None else root(value)
            for answer, value in zip(answers, values, strict=True)
        )


class SameJson(_ByKey):
    """The same JSON value: the order of keys, white space, a code fence around it and 1 against 1.0 do not count.

    Whole texts are compared; one that is not JSON is compared by its canonical form.
    """

    name = "json"
    whole_text = True

    def _key(self, answer: str) -> Hashable:
        value = _json(answer)
        return ("text", canonical(answer)) if value is _NOT_JSON else _frozen(value)


class ToolCalls(_ByKey):
    """The same calls: the same names and, as JSON, the same arguments, in the same order.

    Read from an OpenAI message or its list of `tool_calls` as JSON (ids do not count), or from Hermes
    `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` tags anywhere in the text, whose other words do not
    count. A whole text without a call is compared by its canonical form.
    """

    name = "tool_calls"
    whole_text = True

    def _key(self, answer: str) -> Hashable:
        calls = tool_calls(answer)
        return ("text", canonical(answer)) if calls is None else ("calls", *((n, _frozen(a)) for n, a in calls))


_TAGS = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_FENCE = re.compile(r"\s*```[\w-]*\s*\n(.*?)\n?\s*```\s*", re.DOTALL)
_NOT_JSON: Any = object()


def tool_calls(text: str) -> list[tuple[str, Any]] | None:
    """Return the calls that a text makes, as (name, arguments), in order; None where it makes none that can be read."""
    tagged = _TAGS.findall(text)
    if tagged:
        found = [_json(piece) for piece in tagged]
    else:
        value = _json(text)
        if isinstance(value, dict) and isinstance(value.get("tool_calls"), list):
            value = value["tool_calls"]
        found = value if isinstance(value, list) else [value]
    calls = []
    for call in found:
        if isinstance(call, dict) and isinstance(call.get("function"), dict):
            call = call["function"]
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            return None
        arguments = call.get("arguments", call.get("parameters", {}))
        if isinstance(arguments, str):  # OpenAI's are JSON inside a string
            inner = _json(arguments)
            arguments = arguments if inner is _NOT_JSON else inner
        calls.append((call["name"], arguments))
    return calls or None


def _json(text: str) -> Any:
    fenced = _FENCE.fullmatch(text)
    try:
        return json.loads(fenced[1] if fenced else text, parse_float=Decimal, parse_int=Decimal, parse_constant=_refuse)
    except (ValueError, ArithmeticError, RecursionError):
        return _NOT_JSON


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _frozen(value: Any) -> Hashable:
    """Make a hashable of a JSON value; values of different types differ (1 from true from "1")."""
    if isinstance(value, dict):
        return ("object", frozenset((key, _frozen(v)) for key, v in value.items()))
    if isinstance(value, list):
        return ("array", *map(_frozen, value))
    return (type(value).__name__, value)  # a Decimal: 1 and 1.0 are equal and hash alike, exactly


# ── comparing one by one ────────────────────────────────────────────────────────────────────────────────────


class _ByComparison:
    """Answers of one key are equivalent; of each group so far its first member is compared, in launch order, and
    the first group that takes an answer has it.

    A comparison without an end makes two answers suspect; one that is twice is compared no more, so that a hostile
    answer costs two comparisons and not one with every other.
    """

    name: str
    whole_text = False

    async def groups(self, answers: Sequence[str | None], *, tell: Tell | None = None) -> Groups:
        """See Equivalence."""
        tell = tell or logger.warning
        firsts: list[tuple[str, str]] = []  # of each group: its key and its answer
        place: dict[str, int] = {}
        endless: Counter[str] = Counter()
        for answer in answers:
            if answer is None or (key := self._key(answer)) in place:
                continue
            for group, first in enumerate(firsts):
                if max(endless[first[0]], endless[key]) >= 2:
                    continue
                same = await self._same(first, (key, answer), tell)
                if same:
                    place[key] = group
                    break
                if same is None:
                    endless.update((first[0], key))
            else:
                place[key] = len(firsts)
                firsts.append((key, answer))
        return tuple(None if answer is None else place[self._key(answer)] for answer in answers)

    def _key(self, answer: str) -> str:
        raise NotImplementedError

    async def _same(self, a: tuple[str, str], b: tuple[str, str], tell: Tell) -> bool | None:
        """Compare two (key, answer); None = it did not come to an end, which was told."""
        raise NotImplementedError


class SameBy(_ByComparison):
    """A function says which answers are the same; identical strings are, unasked.

    same : same(a, b) -> bool, or a coroutine of one; taken to be symmetric and transitive: an answer is compared with
           the first member of each group.
    """

    def __init__(self, same: Callable[[str, str], Any], *, name: str = "", whole_text: bool = False) -> None:
        self.same = same
        self.name = name or getattr(same, "__name__", type(same).__name__).strip("<>")
        self.whole_text = whole_text

    def __repr__(self) -> str:
        return f"SameBy({self.name})"

    def _key(self, answer: str) -> str:
        return answer

    async def _same(self, a: tuple[str, str], b: tuple[str, str], tell: Tell) -> bool:
        try:
            verdict: object | Awaitable[object] = self.same(a[1], b[1])
            return bool(await verdict if inspect.isawaitable(verdict) else verdict)
        except HowhardError:
            raise
        except Exception as exc:
            raise VerifierError(f"equivalence {self.name!r} raised {type(exc).__name__}: {exc}") from exc


class Mathematics(_ByComparison):
    """The same mathematics in the eyes of math-verify: fractions, formulas, sets, intervals.

    Answers of one canonical form are equal at once; only one of each form is compared with one of each group, in
    worker processes (two, shared by all requests).
    timeout : seconds for one comparison. One that takes longer is killed, counts as "not the same", and is told.

    Needs the extra `math`: pip install 'howhard[math]'.
    """

    _REMEMBERED = 4096  # comparisons: waves ask again what they asked before

    def __init__(self, *, timeout: float = 5.0) -> None:
        if not (math.isfinite(timeout) and timeout > 0):
            raise ConfigError(f"timeout={timeout!r}: it must be a finite number of seconds above 0, as in 'math:5'")
        self.timeout = timeout
        self.name = "math" if timeout == 5.0 else f"math:{timeout:g}"
        self._pool = _pool(timeout)
        self._known: dict[tuple[str, str], bool | None] = {}

    def __repr__(self) -> str:
        return f"Mathematics(timeout={self.timeout:g})"

    async def groups(self, answers: Sequence[str | None], *, tell: Tell | None = None) -> Groups:
        """See Equivalence."""
        demand_math_verify(f"equivalence {self.name!r}")
        return await super().groups(answers, tell=tell)

    def _key(self, answer: str) -> str:
        return canonical(answer)

    async def _same(self, a: tuple[str, str], b: tuple[str, str], tell: Tell) -> bool | None:
        pair, unknown = (a[0], b[0]), object()
        verdict: Any = self._known.get(pair, unknown)
        if verdict is unknown:
            verdict = await asyncio.to_thread(self._pool.same, a[1], b[1])
            while len(self._known) >= self._REMEMBERED:
                self._known.pop(next(iter(self._known)), None)
            self._known[pair] = verdict
        if verdict is None:
            tell(f"comparing {_cut(a[1])} with {_cut(b[1])} took more than {self.timeout:g} s: taken as not the same")
        return verdict


class _Pool:
    """Two workers; whoever asks takes the idle one, or waits for a turn."""

    def __init__(self, timeout: float) -> None:
        self._idle = [Worker(timeout, mathematics=True) for _ in range(2)]
        self._free = threading.Semaphore(len(self._idle))
        self._lock = threading.Lock()

    def same(self, a: str, b: str) -> bool | None:
        """Whether two answers are the same mathematics; None = it took too long."""
        with self._free:
            with self._lock:
                worker = self._idle.pop()  # the one that was used last, so that a second starts only where it is needed
            try:
                reply = worker.ask({"task": "same-mathematics", "answer": a, "reference": b})
            finally:
                with self._lock:
                    self._idle.append(worker)
        return None if reply is None else bool(reply.get("right"))


_POOLS: dict[float, _Pool] = {}


def _pool(timeout: float) -> _Pool:
    return _POOLS.setdefault(timeout, _Pool(timeout))


def _cut(answer: str) -> str:
    return repr(answer if len(answer) <= 40 else answer[:37] + "...")
