"""An embedded process reward model as a verifier: a score after every line of a solution.

The model itself is in `backends/llama.py`. Needs the extra `local`, which is imported when the model is
opened.
"""

import asyncio
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal, get_args

from ..base import Prices, Request, Usage, Verdicts
from ..errors import ConfigError, VerifierError

Aggregate = Literal["last", "min", "product", "mean"]

AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {
    "last": lambda steps: steps[-1],
    "min": min,
    "product": math.prod,
    "mean": lambda steps: math.fsum(steps) / len(steps),
}
"""How the step scores of a solution become one number."""

assert set(AGGREGATES) == set(get_args(Aggregate))


class RewardModel:
    """Score solutions and partial solutions by a step reward model.

    model     : a directory, or the name of a model that ships.
    prices    : of the tokens that it reads; only `prompt` counts.
    aggregate : "last" (default), "min", "product" or "mean" of the step scores.
    device    : a torch device.

    A step is a line. A finished text is closed with the model's end token, a partial one is read as it
    stands. Every token read is booked, in `Usage.verifier_tokens` and `Usage.cost`. A text that does not fit
    the model's context is not judged. One thread runs the model; calls that wait for it are read together.
    """

    sound = False

    def __init__(
        self,
        model: str | Path = "tiny-prm",
        *,
        prices: Prices,
        aggregate: Aggregate = "last",
        device: str = "cpu",
        name: str = "prm",
    ) -> None:
        if aggregate not in AGGREGATES:
            raise ConfigError(f"aggregate={aggregate!r}: choose one of {', '.join(AGGREGATES)}")
        from ..backends.llama import load_reward
        from ..backends.local import fingerprint_of, model_directory

        directory = model_directory(model)
        self.name = name
        self.prices = prices
        self.aggregate = aggregate
        self.fingerprint = fingerprint_of(directory)
        self._model, self._tokenizer = load_reward(directory, device)
        self._end = self._model.trunk.config.eos_token_id
        self._context = self._model.trunk.config.max_position_embeddings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="howhard-reward-model")
        self._lock = threading.Lock()
        self._waiting: list[tuple[list[_Text], Future[list[list[float]]]]] = []

    async def score(self, request: Request, texts: Sequence[str], *, partial: bool = False) -> Verdicts:
        """Read each text and score it. Raises VerifierError where the model fails."""
        prompt = self._prompt(request)
        encoded = [self._encode(prompt, text, partial) for text in texts]
        fitting = [text for text in encoded if len(text[0]) <= self._context]
        read = sum(len(ids) for ids, _ in fitting)
        try:
            found = iter(await self._read(fitting) if fitting else ())
        except (RuntimeError, ValueError) as exc:
            raise VerifierError(f"reward model {self.name!r} failed: {exc}") from exc
        steps = tuple(tuple(next(found)) if len(ids) <= self._context else None for ids, _ in encoded)
        merge = AGGREGATES[self.aggregate]
        scores = tuple(None if own is None else merge(own) for own in steps)
        cost = self.prices.cost(prompt=read, completion=0)
        return Verdicts(scores, Usage(verifier_tokens=read, calls=int(read > 0), cost=cost), steps)

    def _prompt(self, request: Request) -> list[int]:
        from ..backends.local import templated

        return self._tokenizer.encode(templated(request.messages), add_special_tokens=False).ids

    def _encode(self, prompt: list[int], text: str, partial: bool) -> "_Text":
        """Return the ids of prompt and text, and where each step's last token stands among them."""
        if not partial:
            text = text.rstrip()
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids = [*prompt, *encoding.ids]
        ends: list[int] = []
        at = 0
        for token, (_, end) in enumerate(encoding.offsets):
            # A step ends at the token that holds its line break; a blank line is no step.
            if "\n" in text[at:end] and text[:end].rpartition("\n")[0][_line_start(text, at) :].strip():
                ends.append(len(prompt) + token)
            at = max(at, end)
        if not partial:
            ends.append(len(ids))
            ids.append(self._end)
        elif not ends or text.rpartition("\n")[2].strip():
            ends.append(len(ids) - 1)  # a step under way; with nothing drawn yet, the prompt alone
        return ids, ends

    async def _read(self, texts: "list[_Text]") -> list[list[float]]:
        done: Future[list[list[float]]] = Future()
        with self._lock:
            self._waiting.append((texts, done))
        self._thread.submit(self._read_all_waiting)
        return await asyncio.wrap_future(done)

    def _read_all_waiting(self) -> None:
        with self._lock:
            jobs, self._waiting = self._waiting, []
        jobs = [job for job in jobs if job[1].set_running_or_notify_cancel()]
        if not jobs:
            return
        together = [text for texts, _ in jobs for text in texts]
        try:
            sequences, ends = [ids for ids, _ in together], [ends for _, ends in together]
            scores = iter(self._model.score_steps(sequences, ends))
            for texts, done in jobs:
                done.set_result([next(scores) for _ in texts])
        except Exception as exc:
            for _, done in jobs:
                if not done.done():
                    done.set_exception(exc)


_Text = tuple[list[int], list[int]]
"""Token ids of prompt and text, and the index of each step's last token."""


def _line_start(text: str, at: int) -> int:
    return text.rfind("\n", 0, at) + 1
