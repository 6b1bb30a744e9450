"""A function of the user's as a verifier: `f(prompt, text)` says whether, or how far, a text is right."""

import asyncio
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..base import Candidate, Prices, Request, Verdicts
from ..errors import ConfigError, VerifierError
from ..spec import Parts, VerifierFields, demand

Function = Callable[[str, str], "bool | float | None"]
"""`f(prompt, text)`: whether or how far the text is right, in [0, 1]; None = it cannot say. May be `async`."""


class FunctionCheck:
    """Score texts by a function of the user's: `f(prompt, text)` gives True, False, a number in [0, 1], or None.

    function : plain (it runs in a thread, so that it may take its time) or `async`; it is given the prompt's text
               and the candidate's, and nothing else.
    sound    : say True where a 1 proves the answer right.
    partial  : whether it judges unfinished texts too.

    Raises VerifierError where the function raises or returns anything else.
    """

    prices: Prices | None = None  # reads no tokens

    def __init__(
        self, function: Function, *, sound: bool = False, partial: bool = False, name: str = "function"
    ) -> None:
        if not callable(function):
            raise ConfigError(f"function={function!r}: it must be callable, as f(prompt, text)")
        self.name, self.sound, self.partial, self.function = name, sound, partial, function

    async def score(self, request: Request, candidates: Sequence[Candidate], *, partial: bool = False) -> Verdicts:
        """Call the function for each text, one after the other."""
        if partial and not self.partial:
            return Verdicts((None,) * len(candidates))
        scores = [self._checked(await self._call(request.text, c.text), place) for place, c in enumerate(candidates)]
        return Verdicts(tuple(scores), sound=self.sound and not partial)

    async def _call(self, prompt: str, text: str) -> object:
        try:
            value = await asyncio.to_thread(self.function, prompt, text)
            return await value if inspect.isawaitable(value) else value
        except Exception as exc:
            raise VerifierError(f"{self.name!r}: the function raised {type(exc).__name__}: {exc}") from exc

    def _checked(self, value: object, place: int) -> float | None:
        if value is None:
            return None
        if isinstance(value, (bool, int, float)) and 0 <= value <= 1:  # False for NaN
            return float(value)
        raise VerifierError(
            f"{self.name!r}: the function returned {value!r} for candidate {place}: it must return a bool, a number in "
            "[0, 1], or None"
        )


def imported(path: str, *, what: str = "function") -> Callable[..., Any]:
    """Import "package.module:function", also from the current folder. Raises ConfigError where there is none.

    what : what messages call it.
    """
    module, _, attribute = path.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)  # a command's own folder is not on the path, and that is where users keep functions
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ConfigError(
            f"{what} {path!r} cannot be imported: {exc}. Name it 'package.module:function'; modules are looked for "
            "in the current folder and in the installed packages."
        ) from exc
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise ConfigError(f"{what} {path!r} is a {type(found).__name__}: it must be a function")
    return found


class FunctionCheckSpec(VerifierFields, frozen=True, kw_only=True, tag="function"):
    """A function of the user's, "package.module:function"; see FunctionCheck. It is imported when opened."""

    function: str
    sound: bool = False
    partial: bool = False

    def __post_init__(self) -> None:
        module, _, attribute = self.function.partition(":")
        demand(bool(module and attribute), f"function={self.function!r}: name it 'package.module:function'")

    def open(self, name: str, parts: Parts) -> FunctionCheck:
        """See VerifierFields."""
        return FunctionCheck(imported(self.function), sound=self.sound, partial=self.partial, name=name)
