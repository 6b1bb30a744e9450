"""What a step of a solution is: a line, a sentence, so many tokens, or what a function of the caller's says.

Where the server can, it stops at the end of a step by itself. Knows nothing of trees or of which step is good.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..base import Generation, SamplingParams
from ..errors import ConfigError

SENTENCE_ENDS = (". ", "! ", "? ", "\n")
"""As `step_end`: a sentence is a step. An abbreviation ("e.g. ") ends one too: a short step, no other harm."""

StepEnd = str | Sequence[str] | Callable[[str], int | None] | None
"""How a step ends. A string, or the first of several, which stay in the text: "\\n" makes every line a step.

None: every `step_tokens` tokens are a step. A function is shown the text drawn since the last step, and gives the
offset behind the first step in it, or None where that goes on. A function costs more than a string: the server can't
stop for it, so what it drew behind the step is paid for and dropped, and as no backend says which of its tokens make
up the text that is kept, log-probabilities of such a step are dropped too and its prefix goes as text: the server
tokenises it anew, maybe otherwise than it was drawn, and a chat template that strips white space (vLLM's
continue_final_message) takes a line break from the end of a step.
"""


@dataclass(frozen=True, slots=True)
class Steps:
    """How solutions are cut into steps.

    ends   : strings that end a step; none where `find` or the length does.
    find   : see StepEnd.
    tokens : most tokens of one step; a longer one goes on in the next step.
    """

    ends: tuple[str, ...]
    find: Callable[[str], int | None] | None
    tokens: int

    @classmethod
    def of(cls, step_end: StepEnd, tokens: int) -> "Steps":
        """Raises ConfigError for an empty string among the ends, or tokens < 1."""
        if tokens < 1:
            raise ConfigError(f"step_tokens={tokens!r}: it must be at least 1")
        if callable(step_end):
            return cls((), step_end, tokens)
        ends = () if step_end is None else (step_end,) if isinstance(step_end, str) else tuple(step_end)
        if not all(ends) or (step_end is not None and not ends):
            raise ConfigError(
                "step_end is empty: give the text that ends a step, such as a line break, or None to take every "
                "step_tokens tokens as a step"
            )
        return cls(ends, None, tokens)

    def params(self, params: SamplingParams, most: int, seed: int | None) -> SamplingParams:
        """How one step is drawn, of at most `most` tokens; what ended it is kept in the text."""
        stop = tuple(dict.fromkeys((*self.ends, *params.stop)))
        return params.but(stop=stop, keep_stop=True, max_tokens=most, seed=seed)

    def finishes(self, generation: Generation, stop: Sequence[str]) -> bool:
        """Whether a drawn step ends the whole solution: at the end token, or at one of the solution's own `stop`."""
        return generation.complete and (generation.stop_text in stop or generation.stop_text not in self.ends)

    def cut(self, generation: Generation, kept_tokens: Callable[[str], int]) -> tuple[Generation, bool]:
        """Drop what was drawn behind the first step, where a function ends steps; returns whether anything was.

        kept_tokens : how many tokens at most a text has that is a part of the drawn one.
        Raises ConfigError where the function gives no offset into the text.
        """
        if self.find is None or not generation.text or generation.finish_reason not in ("stop", "length"):
            return generation, False
        end = self.find(generation.text)
        if end is None or end == len(generation.text):
            return generation, False
        if not isinstance(end, int) or not 0 < end < len(generation.text):
            raise ConfigError(
                f"step_end gave {end!r} for a text of {len(generation.text)} characters: it must give the offset "
                "behind the first step, from 1 to the length of the text, or None"
            )
        text = generation.text[:end]
        tokens = max(1, min(generation.completion_tokens, kept_tokens(text)))
        kept = dataclasses.replace(
            generation,
            text=text,
            finish_reason="stop",
            stop_text=None,
            completion_tokens=tokens,
            token_ids=None,
            logprobs=None,
            confidences=None,
        )
        return kept, True
