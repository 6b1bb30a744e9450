"""A reward model, classifier or reranker on a vLLM server as a verifier, over HTTP.

What vLLM 0.32.0 answers at /classify, /v1/score, /v1/rerank and /pooling was read in its source and tried; each
shape is checked strictly, and one that is not known is refused with what was found. aiohttp is imported when the
verifier is opened. How a call is made and retried is in backends/http.py.
"""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import msgspec

from ..base import Candidate, Prices, Request, Usage, Verdicts
from ..errors import BackendError, ConfigError, PromptTooLong, VerifierError, nearest
from ..spec import Parts, PricesSpec, VerifierFields, demand, prices_of, restated
from .reward_model import AGGREGATES, Aggregate

if TYPE_CHECKING:
    import aiohttp

Endpoint = Literal["classify", "score", "rerank", "pooling"]
Layout = Literal["chat", "text"]
Scale = Literal["probability", "sigmoid", "softmax"]
Rows = Literal["one", "last", "steps"]

_PATHS: dict[str, str] = {
    "classify": "/classify",
    "score": "/v1/score",
    "rerank": "/v1/rerank",
    "pooling": "/pooling",
}
_TEMPLATE_TOKENS = 64  # most tokens that a template is taken to add to one text


class RewardServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of the server, and how its numbers become scores.

    endpoint  : "classify" (a sequence classifier), "score" or "rerank" (a cross-encoder or classifier of one class:
                the prompt is the query), "pooling" (reward models, also per step).
    layout    : of classify and pooling: "chat" sends the dialogue with the text as the assistant's, through the
                server's chat template, one call per text; "text" fills `template` and sends `batch` texts a call.
    template  : of layout "text", with the slots {prompt} and {answer}.
    good      : which class is the good one; None where there is only one class.
    scale     : "probability": the server's own activation made probabilities of its numbers (vLLM's default).
                "sigmoid", "softmax": it is asked for raw numbers (`use_activation: false`), and this function is
                applied here: sigmoid to the good class's number, softmax over the classes.
    rows      : of pooling: "one" vector per text; the "last" of one per token; or one per step, "steps".
    step_tag  : rows="steps": put after each step; the server must be started to give a row for each such token
                (--pooler-config '{"tok_pooling_type": "STEP", "step_tag_id": ...}').
    separator : rows="steps": what stands between two steps of a text; blank steps are none.
    aggregate : rows="steps": "last", "min", "product" or "mean" of the step scores.
    batch     : most texts of one call. connections : most calls under way at once, for one request.
    """

    endpoint: Endpoint = "classify"
    layout: Layout = "chat"
    template: str = "{prompt}\n{answer}"
    good: int | None = None
    scale: Scale = "probability"
    rows: Rows = "one"
    step_tag: str = "<extra_0>"
    separator: str = "\n"
    aggregate: Aggregate = "last"
    batch: int = 32
    connections: int = 32

    def __post_init__(self) -> None:
        for name, kind in (("endpoint", Endpoint), ("layout", Layout), ("scale", Scale), ("rows", Rows)):
            if getattr(self, name) not in get_args(kind):
                raise ConfigError(f"{name}={getattr(self, name)!r}{nearest(str(getattr(self, name)), get_args(kind))}")
        if self.aggregate not in AGGREGATES:
            raise ConfigError(f"aggregate={self.aggregate!r}{nearest(str(self.aggregate), AGGREGATES)}")
        for slot in ("{prompt}", "{answer}"):
            if slot not in self.template:
                raise ConfigError(f"template has no slot {slot}")
        if self.good is not None and self.good < 0:
            raise ConfigError(f"good={self.good!r}: it must be the number of a class, 0 or more")
        if self.scalar and (self.scale == "softmax" or self.good is not None):
            raise ConfigError(f"endpoint={self.endpoint!r} gives one number per text: softmax and `good` need classes")
        if self.rows != "one" and self.endpoint != "pooling":
            raise ConfigError(f"rows={self.rows!r}: only endpoint='pooling' gives several rows per text")
        if self.rows == "steps" and not (self.step_tag and self.separator):
            raise ConfigError("rows='steps' needs a step_tag and a separator that are not empty")
        for name in ("batch", "connections"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)!r}: it must be at least 1")

    @property
    def scalar(self) -> bool:
        """Whether the endpoint gives one number per text."""
        return self.endpoint in ("score", "rerank")


class RewardServer:
    """Score texts by a model that a vLLM server serves for pooling.

    url, model    : of the server, and the name under which it serves the model.
    prices        : of the tokens that it reads; only `prompt` counts. They are the ones that the server reports;
                    where it reports none, one per byte is booked.
    api_key_env, timeout_s, connect_timeout_s, retries : see backends.http.JsonServer.

    Partial texts are scored as they stand. A text that alone does not fit the model's context is not judged; in a
    call of several it is an error that says so. Connections are opened for one call of `score` and closed with it,
    so that an instance serves any number of event loops and needs no `close`. Per-token and per-step pooling skip
    vLLM's prefix cache: the server reads, and reports, every prefix again (METHODS: vllm #28194).
    """

    sound = False

    def __init__(
        self,
        url: str,
        model: str,
        settings: RewardServerSettings | None = None,
        *,
        prices: Prices,
        api_key_env: str | None = None,
        timeout_s: float = 60.0,
        connect_timeout_s: float = 10.0,
        retries: int = 1,
        name: str = "reward_server",
    ) -> None:
        from ..backends.http import JsonServer

        if not model:
            raise ConfigError("model is empty: give the name under which the server serves it")
        self.name, self.model, self.prices, self.settings = name, model, prices, settings or RewardServerSettings()
        self._server = JsonServer(
            name,
            url=url,
            api_key_env=api_key_env,
            timeout_s=timeout_s,
            connect_timeout_s=connect_timeout_s,
            retries=retries,
        )

    def __repr__(self) -> str:
        return f"RewardServer({self._server.url!r}, {self.model!r}, endpoint={self.settings.endpoint!r})"

    async def score(self, request: Request, candidates: Sequence[Candidate], *, partial: bool = False) -> Verdicts:
        """Have the texts scored. Raises VerifierError where the server fails, or answers what is no score."""
        if not candidates:
            return Verdicts(())
        texts = list(dict.fromkeys(c.text for c in candidates))
        calls = self._calls(request, texts)
        try:
            async with (
                self._server.session(connections=self.settings.connections) as session,
                asyncio.TaskGroup() as group,
            ):
                tasks = [group.create_task(self._call(session, call)) for call in calls]
        except* (BackendError, PromptTooLong, VerifierError) as errors:
            failed = _first(errors)
            raise VerifierError(f"verifier {self.name!r}: {failed}") from failed
        results = [task.result() for task in tasks]
        usage = sum((own for _, own in results), Usage())
        rows = dict(zip(texts, (row for found, _ in results for row in found), strict=True))
        if all(row is None for row in rows.values()):
            return Verdicts((None,) * len(candidates), usage, note="no text fits the context of the reward model")
        merge = AGGREGATES[self.settings.aggregate]
        steps = tuple(None if (row := rows[c.text]) is None else tuple(row) for c in candidates)
        scores = tuple(None if own is None else merge(own) for own in steps)
        return Verdicts(scores, usage, steps if self.settings.rows == "steps" else None)

    def most_usage(self, request: Request, candidates: Sequence[Candidate]) -> Usage:
        """See running.BoundsUsage: a token per byte, and some for a template."""
        texts = list(dict.fromkeys(c.text for c in candidates))
        most = sum(call.most_tokens for call in self._calls(request, texts)) if texts else 0
        return Usage(verifier_tokens=most, calls=len(texts), cost=self.prices.cost(prompt=most, completion=0))

    # ── asking ──────────────────────────────────────────────────────────────────────────────────────────────

    def _calls(self, request: Request, texts: Sequence[str]) -> "list[_Call]":
        s, prompt = self.settings, request.text
        alone = not s.scalar and s.layout == "chat"
        size = 1 if alone else s.batch
        return [self._body(request, prompt, texts[i : i + size], alone) for i in range(0, len(texts), size)]

    def _body(self, request: Request, prompt: str, texts: Sequence[str], alone: bool) -> "_Call":
        s = self.settings
        body: dict[str, object] = {"model": self.model}
        if s.scale != "probability":
            body["use_activation"] = False
        steps = [self._steps(text) for text in texts] if s.rows == "steps" else None
        shown = list(texts) if steps is None else ["".join(step + s.step_tag for step in own) for own in steps]
        if s.endpoint == "score":
            body |= {"text_1": prompt, "text_2": shown}
        elif s.endpoint == "rerank":
            body |= {"query": prompt, "documents": shown}
        elif alone:
            messages = [{"role": m.role, "content": m.content} for m in request.messages]
            body["messages"] = [*messages, {"role": "assistant", "content": shown[0]}]
        else:
            # The answer goes in last, so that a slot's name in a prompt or in an answer is not filled.
            head, _, tail = s.template.partition("{answer}")
            body["input"] = [head.replace("{prompt}", prompt) + t + tail.replace("{prompt}", prompt) for t in shown]
        fixed = _TEMPLATE_TOKENS + 16 * len(request.messages) + len(s.template.encode())
        prompts = max(1, s.template.count("{prompt}")) * len(prompt.encode())
        most = sum(fixed + prompts + len(text.encode()) for text in shown)
        return _Call(body, len(texts), most, [*texts, prompt], None if steps is None else [len(own) for own in steps])

    def _steps(self, text: str) -> list[str]:
        """The steps of a text, without the tag that marks them: a text may not forge one."""
        parts = text.replace(self.settings.step_tag, "").split(self.settings.separator)
        return [part.strip() for part in parts if part.strip()] or [""]

    async def _call(self, session: "aiohttp.ClientSession", call: "_Call") -> tuple[list[list[float] | None], Usage]:
        """Make one call; gives the scores of each text's rows (None: too long), and what it took."""
        path = _PATHS[self.settings.endpoint]
        try:
            answer = await self._server.post(session, path, call.body, private=call.private)
        except PromptTooLong as exc:
            if call.texts == 1:
                return [None], Usage(calls=1)
            raise BackendError(f"{exc} It came in a call of {call.texts} texts: set batch=1 to leave it out") from exc
        rows = _read(self.settings.endpoint, answer.value, call.texts)
        scores: list[list[float] | None] = [
            self._scores(own, None if call.steps is None else call.steps[i], i) for i, own in enumerate(rows)
        ]
        read = _prompt_tokens(answer.value)
        tokens = call.most_tokens if read is None else read
        cost = self.prices.cost(prompt=tokens, completion=0)
        return scores, Usage(verifier_tokens=tokens, calls=answer.calls, cost=cost)

    def _scores(self, rows: list[list[float]], steps: int | None, place: int) -> list[float]:
        s = self.settings
        if s.rows == "one" and len(rows) != 1:
            raise VerifierError(f"gave {len(rows)} rows for text {place}, not one: set rows='last' or rows='steps'")
        if steps is not None and len(rows) != steps:
            raise VerifierError(
                f"gave {len(rows)} rows for the {steps} steps of text {place}: start it with --pooler-config "
                f'\'{{"task": "token_classify", "tok_pooling_type": "STEP", "step_tag_id": ID}}\', ID the one token '
                f"of step_tag={s.step_tag!r}"
            )
        if not rows:
            raise VerifierError(f"gave no row for text {place}")
        return [self._score(row, place) for row in (rows[-1:] if s.rows == "last" else rows)]

    def _score(self, row: list[float], place: int) -> float:
        s = self.settings
        if any(not math.isfinite(value) for value in row):
            raise VerifierError(f"gave {row!r} for text {place}, which is no score")
        if s.good is None and len(row) != 1:
            raise VerifierError(f"gave {len(row)} classes for text {place}: say with `good` which one is good")
        good = s.good or 0
        if good >= len(row):
            raise VerifierError(f"gave {len(row)} classes for text {place}, and good={s.good} is none of them")
        if s.scale == "softmax":
            top = max(row)
            parts = [math.exp(value - top) for value in row]
            return parts[good] / math.fsum(parts)
        value = row[good]
        if s.scale == "sigmoid":
            return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
        if not -1e-6 <= value <= 1 + 1e-6:
            raise VerifierError(
                f"gave {value!r} for text {place}, which is no probability: set scale='sigmoid' (or 'softmax')"
            )
        return min(max(value, 0.0), 1.0)


@dataclass(frozen=True, slots=True)
class _Call:
    """One HTTP call. `steps`: of each text, where rows are steps. `private`: what no message may repeat."""

    body: Mapping[str, object]
    texts: int
    most_tokens: int
    private: Sequence[str]
    steps: Sequence[int] | None


# ── what the server answers ─────────────────────────────────────────────────────────────────────────────────


def _read(endpoint: str, answer: object, n: int) -> list[list[list[float]]]:
    """The rows of numbers of each text, in the order in which the texts were sent. Raises VerifierError."""
    field, number = ("results", "relevance_score") if endpoint == "rerank" else ("data", _NUMBERS[endpoint])
    items = answer.get(field) if isinstance(answer, Mapping) else None
    if not isinstance(items, list):
        raise VerifierError(f"answered {_kind(answer)} at {_PATHS[endpoint]}, not an object with a list {field!r}")
    if len(items) != n:
        raise VerifierError(f"gave {len(items)} results for {n} texts")
    found: dict[int, list[list[float]]] = {}
    for item in items:
        index = item.get("index") if isinstance(item, Mapping) else None
        if type(index) is not int or not 0 <= index < n or index in found:
            raise VerifierError(f"gave a result with index {index!r}, where each of 0 to {n - 1} is wanted once")
        rows = _ROWS[endpoint](item.get(number))
        if rows is None:
            raise VerifierError(f"gave a result of {_kind(item)} whose {number!r} is {_kind(item.get(number))}")
        found[index] = rows
    return [found[i] for i in range(n)]


_NUMBERS = {"classify": "probs", "score": "score", "pooling": "data"}


def _vector(value: object) -> list[float] | None:
    ok = isinstance(value, list) and value and all(type(v) in (int, float) for v in value)
    return [float(v) for v in value] if ok else None  # type: ignore[union-attr]


def _one_vector(value: object) -> list[list[float]] | None:
    vector = _vector(value)
    return None if vector is None else [vector]


def _one_number(value: object) -> list[list[float]] | None:
    return [[float(value)]] if type(value) in (int, float) else None  # type: ignore[arg-type]


def _vectors(value: object) -> list[list[float]] | None:
    """A vector, or a list of them; [] where a server that pools by steps found none."""
    if not isinstance(value, list):
        return None
    if not value or not isinstance(value[0], list):
        return _one_vector(value) if value else []
    rows = [_vector(row) for row in value]
    return None if any(row is None for row in rows) else [row for row in rows if row is not None]


_ROWS: dict[str, Callable[[object], list[list[float]] | None]] = {
    "classify": _one_vector,
    "score": _one_number,
    "rerank": _one_number,
    "pooling": _vectors,
}


def _prompt_tokens(answer: object) -> int | None:
    usage = answer.get("usage") if isinstance(answer, Mapping) else None
    tokens = usage.get("prompt_tokens") if isinstance(usage, Mapping) else None
    return tokens if type(tokens) is int and tokens >= 0 else None


def _kind(value: object) -> str:
    """What a value is, for people, without its contents."""
    if isinstance(value, Mapping):
        return f"an object with {', '.join(sorted(map(str, value))[:8]) or 'nothing'}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "nothing" if value is None else f"a {type(value).__name__}"


def _first(errors: BaseExceptionGroup) -> BaseException:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


class RewardServerSpec(RewardServerSettings, VerifierFields, frozen=True, kw_only=True, tag="reward_server"):
    """A model on a vLLM server: `url`, `model`, and what RewardServerSettings and RewardServer say.

    api_key_env : the NAME of the environment variable that holds the key, never the key.
    prices      : of the tokens it reads (`prompt`); None = they count as much as tokens drawn.
    """

    url: str
    model: str
    prices: PricesSpec | None = None
    api_key_env: str | None = None
    timeout_s: float = 60.0
    connect_timeout_s: float = 10.0
    retries: int = 1

    def __post_init__(self) -> None:
        demand(
            self.url.startswith(("http://", "https://")),
            f"url={self.url!r}: it must begin with http:// or https://, such as http://127.0.0.1:8000/v1",
        )
        demand(bool(self.model), "model is empty: give the name under which the server serves it")
        with restated():
            RewardServerSettings.__post_init__(self)

    def open(self, name: str, parts: Parts) -> RewardServer:
        """See VerifierFields."""
        return RewardServer(
            self.url,
            self.model,
            self,
            prices=prices_of(self.prices, Prices(prompt=1.0, completion=0.0)),
            api_key_env=self.api_key_env,
            timeout_s=self.timeout_s,
            connect_timeout_s=self.connect_timeout_s,
            retries=self.retries,
            name=name,
        )
