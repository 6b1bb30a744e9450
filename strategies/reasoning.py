r"""Tell what a model thinks from what it answers, in a text that comes in pieces.

    splitter = Splitter()
    for piece in ("<thi", "nk>3 + 4", " is 7</", "think>\n\n7"):
        print(splitter.feed(Delta(piece)))        # Delta(reasoning="3 + 4"), Delta(reasoning=" is 7"), Delta(text="7")
    splitter.end()

How the text is cut into pieces changes nothing: the pieces that come out, put together, and the reasoning and the text
at the end are the same. Servers that deliver reasoning apart from the text (vLLM's `reasoning`, DeepSeek's
`reasoning_content`) are understood by the same object. Nothing here draws or knows what an answer means.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto

from .base import Delta
from .errors import ConfigError

_STATEMENT = re.compile(r"\\boxed\{|####\s*[-+$]{0,2}\d[\d,./%]*\s*$|\banswer\b\W{0,4}(?::|\bis\b)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Markers:
    """What stands around a block of reasoning.

    opened : the model's template writes `start` at the end of the prompt, so that only `end` comes.

    A block is one only at the beginning of the text: an answer may speak of the markers. White space before `start`
    and after `end` belongs to neither side. A server that leaves special tokens out of its texts must be told to keep
    them, where markers are such tokens (vLLM: extra_body {"skip_special_tokens": false}). Raises ConfigError.
    """

    start: str = "<think>"
    end: str = "</think>"
    opened: bool = False

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            value = getattr(self, name)
            if not value.strip() or value != value.strip():
                raise ConfigError(f"{name}={value!r}: a marker of reasoning is text without white space around it")
        if self.start == self.end:
            raise ConfigError(f"start={self.start!r} is the end of reasoning too: the two markers must differ")


THINK = Markers()
"""The markers that most models write."""


class _In(Enum):
    """Where in the text the next character stands."""

    BEGINNING = auto()  # a start marker may still come
    BLOCK = auto()
    GAP = auto()  # white space after a block
    LINES = auto()  # reasoning without markers, up to the line that states the answer
    ANSWER = auto()


def states_answer(line: str) -> bool:
    r"""Whether a line states an answer, in one of the ways that `answers.extract` reads: \boxed, "Answer:", "#### 7".

    After #### it must be a number: models that think aloud write headings so.
    """
    return _STATEMENT.search(line) is not None


class Splitter:
    """Splits one text into reasoning and answer as it comes. One per text.

    stated : a text without a block of reasoning is all reasoning up to the first line that states an answer, for
             models that were asked to think aloud. Such reasoning comes a line at a time. Where no line states one,
             the whole text is the answer too, and `end` gives it out.

    reasoning, text : what came so far.
    """

    def __init__(self, markers: Markers | None = None, *, stated: bool = False) -> None:
        self._markers = markers or THINK
        self._stated = stated
        self._in = _In.BEGINNING
        self._held = ""  # not told apart yet
        self._told_apart = False  # the server does it
        self._reasoning: list[str] = []
        self._text: list[str] = []

    @property
    def reasoning(self) -> str:
        """The reasoning so far."""
        return "".join(self._reasoning)

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._text)

    @property
    def answering(self) -> bool:
        """Whether the answer has begun: the reasoning is closed, or there is none."""
        if self._in is _In.LINES:
            return states_answer(self._held)
        return self._in in (_In.GAP, _In.ANSWER)

    @property
    def marked(self) -> bool:
        """Whether the text so far is reasoning in a block, to be closed by the end marker."""
        return self._in is _In.BLOCK or (self._in is _In.BEGINNING and self._markers.opened)

    @property
    def to_close(self) -> str:
        """What closes the block: the end marker, or its rest where the text so far ends in the middle of it."""
        begun = len(self._held) if self._in is _In.BLOCK else 0
        return self._markers.end[begun:]

    def feed(self, delta: Delta) -> Delta:
        """Take a piece as a backend gave it; return what it adds to reasoning and text."""
        reasoning = delta.reasoning
        text = ""
        if reasoning:
            if self._in is not _In.ANSWER:
                text, self._held, self._in = self._held.strip(), "", _In.BLOCK
                self._text += [text] if text else []
            self._told_apart = True
            self._reasoning.append(reasoning)
        if delta.text:
            if self._told_apart and self._in is _In.BLOCK:
                self._in = _In.GAP
            more = self.write(delta.text, apart=self._told_apart)
            reasoning, text = reasoning + more.reasoning, text + more.text
        return Delta(text, reasoning, delta.confidences)

    def write(self, text: str, *, apart: bool = False) -> Delta:
        """Take text as the model writes it, markers included; return what it adds.

        apart : the server goes on telling reasoning apart in what comes next.
        """
        self._told_apart = apart
        self._held += text
        reasoning: list[str] = []
        answer: list[str] = []
        while self._step(reasoning, answer):
            pass
        self._reasoning += reasoning
        self._text += answer
        return Delta("".join(answer), "".join(reasoning))

    def _step(self, reasoning: list[str], answer: list[str]) -> bool:
        """Settle as much of the held text as one state can; False = more must come first."""
        held, start, end = self._held, self._markers.start, self._markers.end
        if self._in is _In.BEGINNING:
            begun = held.lstrip()
            if begun.startswith(start):
                self._held, self._in = begun[len(start) :], _In.BLOCK
            elif start.startswith(begun):
                return False
            elif self._markers.opened:
                self._in = _In.BLOCK
            else:
                self._in = _In.LINES if self._stated else _In.ANSWER
            return True
        if self._in is _In.BLOCK:
            inside, found, rest = held.partition(end)
            if found:
                self._held, self._in = rest, _In.GAP
            else:
                kept = max((k for k in range(1, len(end)) if held.endswith(end[:k])), default=0)
                inside, self._held = held[: len(held) - kept], held[len(held) - kept :]
            reasoning.append(inside)
            return bool(found)
        if self._in is _In.GAP:
            self._held = held.lstrip()
            if self._held:
                self._in = _In.ANSWER
            return bool(self._held)
        if self._in is _In.LINES:
            line, found, rest = held.partition("\n")
            if found and states_answer(line):
                self._in = _In.ANSWER
            elif found:
                reasoning.append(line + found)
                self._held = rest
            return bool(found)
        answer.append(held)
        self._held = ""
        return False

    def end(self, *, complete: bool = True) -> Delta:
        """The text is over; return what was held back.

        complete : the model came to its own end. A text cut short in its reasoning has no answer.
        """
        if self._in is _In.BEGINNING:
            opened = self._markers.opened
            self._in = _In.BLOCK if opened else _In.LINES if self._stated else _In.ANSWER
        held, self._held = self._held, ""
        delta = Delta()
        if self._in is _In.BLOCK:
            delta = Delta(reasoning=held)
        elif self._in is _In.ANSWER or (self._in is _In.LINES and states_answer(held)):
            delta = Delta(held)
        elif self._in is _In.LINES:
            delta = Delta(self.reasoning + held if complete else "", held)
        self._reasoning.append(delta.reasoning)
        self._text.append(delta.text)
        return delta


def split(text: str, markers: Markers | None = None, *, stated: bool = False, complete: bool = True) -> tuple[str, str]:
    r"""Split a whole text into reasoning and answer, as a Splitter does.

    >>> split("<think>3 + 4 is 7</think>\n\n7")
    ('3 + 4 is 7', '7')
    >>> split("3 + 4 is 7.\nAnswer: 7", stated=True)
    ('3 + 4 is 7.\n', 'Answer: 7')
    """
    splitter = Splitter(markers, stated=stated)
    splitter.write(text)
    splitter.end(complete=complete)
    return splitter.reasoning, splitter.text
