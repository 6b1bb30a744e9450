"""Any OpenAI-compatible server as a backend: SGLang, llama.cpp, Ollama, TGI, LM Studio, a provider's API.

Only fields of the published protocol are sent, since some servers refuse a call for one that they don't know. What
vLLM adds to the protocol, and strategies use, is then missing, and each gap is filled or told:

    stop strings     the protocol doesn't say which one ended a sample, or whether one did, so they are looked for
                     here: such samples go in calls of their own, closed at the stop string (`stop_told` where the
                     server does say)
    token counts     come once, with the end of a call: of one that was cut off, completion tokens are counted by its
                     pieces and prompt tokens guessed at a token per four bytes
    going on         from a begun answer isn't in the protocol, so searches and budget forcing are refused unless
                     `continues` or `template` says how this server does it
    token ids        never come: prefixes go as text
"""

import hashlib
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import msgspec

from ..base import Message, Prefix, SamplingParams
from ..errors import BackendError, ConfigError, ModelNotServed
from .http import checked_url
from .vllm import StreamedCall, VLLMBackend

Continues = Literal["final_message", "prefix", "last_message"]

_WAYS: tuple[str, ...] = get_args(Continues)
_SLOT = "{content}"
_ANSWER = "answer"
_BYTES_PER_TOKEN = 4
_MORE_WAYS = (
    "set continues='final_message' (SGLang, vLLM), 'prefix' (DeepSeek's beta, Mistral) or 'last_message' (llama.cpp, "
    "Anthropic's) if the server goes on from a last assistant message in that way, or give the model's `template` to "
    "have /completions used"
)


class OpenAIBackend(VLLMBackend):
    r"""A model on a server that speaks OpenAI's protocol.

    Settings that are not named here mean what they mean for VLLMBackend.

    url              : the API's root, as clients of OpenAI take it: https://host/v1, or whatever stands before
                       /chat/completions; /v1 is taken where it has no path.
    max_tokens_field : "max_tokens", or "max_completion_tokens" where the server has given up the other one.
    n_per_call       : most samples of one call (1 where the server ignores or refuses n > 1); None = any number.
    logprobs         : the server gives log-probabilities; False = they are never asked for.
    max_logprobs     : most alternatives that it lists per token (`top_logprobs`): bounds confidence_of.
    usage_told       : it knows `stream_options.include_usage`. False = tokens are always counted here.
    stop_told        : it says in `stop_reason` or `matched_stop` which stop string ended a sample (vLLM, SGLang).
    continues        : how it goes on from a begun answer, see below; None = it can't.
    template         : how the model's prompts are written; all calls then go to /completions. Keys: roles, each with
                       the slot {content}, and "answer", what opens an answer. For ChatML:
                       {"user": "<|im_start|>user\n{content}<|im_end|>\n", "answer": "<|im_start|>assistant\n"}
    thinking_field   : the name of its field for a cap on reasoning tokens ("thinking_budget"); None = it has none.

    continues="final_message" sends continue_final_message (SGLang, vLLM; white space at the end of the answer so far
    is lost there), "prefix" marks the last message with prefix (DeepSeek's beta, Mistral), "last_message" marks
    nothing (llama.cpp, Anthropic's). A server that doesn't know the way it is told begins a new answer instead, and
    can't be noticed: try it first.

    The fingerprint hashes the model's name, root and context length where /models tells them, and the settings that
    change texts. A server without /models is taken at its word. Raises ConfigError.
    """

    stops_there = False
    keeps_stop = False
    counts_each = False
    tokens_per_event = 1
    base_path = ""
    server_kind = "an OpenAI-compatible server"
    longer_context = "serve the model with a longer context"
    start = "check url (as far as what stands before /chat/completions), the model name {} and api_key_env"

    def __init__(
        self,
        name: str,
        *,
        max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens",
        n_per_call: int | None = None,
        logprobs: bool = True,
        max_logprobs: int = 20,
        usage_told: bool = True,
        stop_told: bool = False,
        continues: Continues | None = None,
        template: Mapping[str, str] | None = None,
        thinking_field: str | None = None,
        **settings: Any,
    ) -> None:
        check_settings(
            max_tokens_field=max_tokens_field,
            n_per_call=n_per_call,
            max_logprobs=max_logprobs,
            continues=continues,
            template=template,
        )
        super().__init__(name, thinking_budget=thinking_field is not None, **settings)
        self.n_per_call, self.continues = n_per_call, continues
        self.template = None if template is None else dict(template)
        self.stops_there = stop_told
        self.advice = _advice(usage_told=usage_told, going_on=self.can_continue)
        self._max_tokens_field, self._thinking_field = max_tokens_field, thinking_field
        self.gives_logprobs, self.gives_confidence = logprobs, logprobs and max_logprobs > 0
        self._max_logprobs = max_logprobs
        self._usage_told = usage_told

    def _address(self, url: str) -> str:
        checked = checked_url(url)
        return checked if urllib.parse.urlsplit(checked).path.strip("/") else f"{checked}/v1"

    @property
    def can_continue(self) -> bool:
        """Whether it goes on from a begun answer."""
        return self.continues is not None or self.template is not None

    # what is sent

    def request(self, call: StreamedCall) -> tuple[str, dict[str, object]]:
        """The path and the JSON of a call."""
        p, prefix = call.params, call.prefix
        body: dict[str, object] = self.extra_body | {
            "model": self.model,
            "temperature": p.temperature,
            "top_p": p.top_p,
            self._max_tokens_field: p.max_tokens,
            "stream": True,
        }
        if call.n > 1:
            body["n"] = call.n
        if self._usage_told:
            body["stream_options"] = {"include_usage": True}
        if p.seed is not None:
            body["seed"] = p.seed
        if p.stop and self.stops_there:
            body["stop"] = p.stop
        if p.thinking_tokens is not None and self._thinking_field is not None:
            body[self._thinking_field] = p.thinking_tokens
        wanted = self.gives_logprobs and (p.logprobs or p.confidence_of > 0)
        if self.template is not None:
            body["prompt"] = self._written(prefix)
            return "/completions", body | ({"logprobs": max(1, p.confidence_of)} if wanted else {})
        if wanted:
            body["logprobs"] = True
            if p.confidence_of:
                body["top_logprobs"] = p.confidence_of
        if p.reasoning_effort is not None:
            body["reasoning_effort"] = p.reasoning_effort
        messages: list[dict[str, object]] = [{"role": m.role, "content": m.content} for m in prefix.messages]
        if prefix.answer and self.continues is not None:
            last: dict[str, object] = {"role": "assistant", "content": prefix.answer}
            if self.continues == "prefix":
                last["prefix"] = True
            elif self.continues == "final_message":
                body |= {"continue_final_message": True, "add_generation_prompt": False}
            messages.append(last)
        return "/chat/completions", body | {"messages": messages}

    def _written(self, prefix: Prefix) -> str:
        """The prompt that the template makes of messages and answer so far."""
        template = self.template or {}
        turns = [template[m.role].replace(_SLOT, m.content) for m in prefix.messages]
        return "".join([*turns, template[_ANSWER], prefix.answer])

    def _check_call(self, prefixes: Sequence[Prefix], params: SamplingParams) -> None:
        for prefix in prefixes:
            if prefix.token_ids is not None:
                raise ConfigError(f"{self.name!r} takes no token ids: the protocol has no place for them; send text")
            if prefix.answer and not self.can_continue:
                raise ConfigError(
                    f"{self.name!r} can't go on from a begun answer, which its protocol has no field for: {_MORE_WAYS}"
                )
            missing = {m.role for m in prefix.messages} - self.template.keys() if self.template is not None else set()
            if missing:
                raise ConfigError(f"the template of {self.name!r} has no entry for the role {min(missing)!r}")
        if params.confidence_of:
            if not self.gives_logprobs:
                raise ConfigError(
                    f"confidence_of={params.confidence_of!r}: {self.name!r} gives no log-probabilities (its setting "
                    "logprobs = false)"
                )
            if params.confidence_of > self._max_logprobs:
                raise ConfigError(
                    f"confidence_of={params.confidence_of!r}: {self.name!r} lists {self._max_logprobs} alternatives "
                    "per token at most; lower it, or raise max_logprobs if the server does list more"
                )
        if params.thinking_tokens is not None and self._thinking_field is None:
            raise ConfigError(
                f"thinking_tokens={params.thinking_tokens!r}: the protocol has no cap on reasoning; name this server's "
                "own field in thinking_field, or have ChainOfThought cap the reasoning itself (cap_by='here')"
            )
        if params.reasoning_effort is not None and self.template is not None:
            raise ConfigError(
                f"reasoning_effort={params.reasoning_effort!r}: {self.name!r} writes its prompts by a template, where "
                "that has no place"
            )

    def _sizes(self, n: int, params: SamplingParams, apart: bool) -> Sequence[int]:
        if apart or (params.stop and not self.stops_there):
            return [1] * n
        most = n if self.n_per_call is None else self.n_per_call
        return [min(most, n - first) for first in range(0, n, most)]

    def guessed_prompt(self, prefix: Prefix) -> int:
        """A token per four bytes of UTF-8: for calls that were cut off before the server had counted."""
        texts = [*(m.content for m in prefix.messages), prefix.answer]
        return -(-sum(len(text.encode()) for text in texts) // _BYTES_PER_TOKEN)

    def remedy(self, message: str, params: SamplingParams) -> str:
        """What helps against a refusal that names a field, as far as we know."""
        if _UNKNOWN_FIELD.search(message):
            for field, remedy in _REMEDIES:
                if re.search(rf"\b{field}\b", message):
                    return f"; {remedy}"
        return ""

    # what it says of itself

    async def check(self) -> None:
        """Ask whether the server is there and serves the model; learn `context` and `fingerprint`.

        Raises BackendUnreachable, BackendTimeout, ModelNotServed (with the names that are served), and BackendError
        where the key is refused. A server that lists no models is taken at its word.
        """
        models = await self._models()
        model = next((m for m in models if m.id in (self.model, f"models/{self.model}")), None)
        if models and model is None:
            raise ModelNotServed(
                f"{self.name} ({self.url}): model {self.model!r} is not served there; it serves "
                f"{', '.join(repr(m.id) for m in models[:20])}"
            )
        self.context = model.max_model_len if model is not None else None
        if not self._given_fingerprint:
            told = [self.model, model and model.root, self.context, self.template, self.extra_body]
            self.fingerprint = hashlib.sha256(msgspec.json.encode(told)).hexdigest()
        self._checked = True

    async def _models(self) -> list:
        try:
            return await super()._models()
        except BackendError as error:
            if type(error) is BackendError and re.search(r"answered (404|405|501)\b|no list of models", str(error)):
                return []
            raise

    async def _try_call(self) -> StreamedCall:
        state = self._state()
        call = StreamedCall(self, Prefix((Message("user", "Say yes."),)), 1, SamplingParams(max_tokens=16))
        await self._run(call, state)
        return call

    async def _has_metrics(self) -> bool:
        return False

    async def encode(self, text: str) -> None:
        """Token ids are not in the protocol: None."""


def check_settings(
    *,
    max_tokens_field: str,
    n_per_call: int | None,
    max_logprobs: int,
    continues: str | None,
    template: Mapping[str, str] | None,
) -> None:
    """Raise ConfigError for a setting of OpenAIBackend that is out of range."""
    if max_tokens_field not in ("max_tokens", "max_completion_tokens"):
        raise ConfigError(f"max_tokens_field={max_tokens_field!r}: it must be 'max_tokens' or 'max_completion_tokens'")
    if n_per_call is not None and n_per_call < 1:
        raise ConfigError(f"n_per_call={n_per_call!r}: it must be at least 1, or None for any number")
    if max_logprobs < 0:
        raise ConfigError(f"max_logprobs={max_logprobs!r}: it must be 0 or more")
    if continues is not None and continues not in _WAYS:
        raise ConfigError(f"continues={continues!r}: it must be one of {', '.join(map(repr, _WAYS))}, or None")
    if template is not None:
        if continues is not None:
            raise ConfigError("continues and template are two ways to go on from a begun answer: give one of them")
        if _ANSWER not in template or "user" not in template:
            raise ConfigError("template needs the entries 'user' and 'answer' (what opens an answer)")
        without = sorted(role for role, text in template.items() if role != _ANSWER and _SLOT not in text)
        if without:
            raise ConfigError(f"template[{without[0]!r}]={template[without[0]]!r}: it has no slot {_SLOT}")


_UNKNOWN_FIELD = re.compile(
    r"(un|not )(supported|recogni[sz]ed|known|permitted|allowed)|unexpected|extra (input|field)|must be 1\b",
    re.IGNORECASE,
)
_REMEDIES = (
    ("max_tokens", "set max_tokens_field = 'max_completion_tokens'"),
    ("max_completion_tokens", "set max_tokens_field = 'max_tokens'"),
    ("top_logprobs", "lower confidence_of, and max_logprobs to what the server allows"),
    ("logprobs", "set logprobs = false"),
    ("stream_options", "set usage_told = false"),
    ("n", "set n_per_call = 1"),
)
"""A field that a refusal names, and the setting that does without it."""


def _advice(*, usage_told: bool, going_on: bool) -> dict[str, str]:
    """What to say of each thing that a probe did not find; things that no setting mends are passed over."""
    usage = "no token counts came (stream_options), so all spending is counted by pieces"
    advice = {"logprobs": "no log-probabilities came: confidence rules and mean_logprob features stay empty"}
    if usage_told:
        advice["usage"] = f"{usage}: set usage_told = false if the server refuses the field"
    else:
        advice["usage"] = f"{usage}: set usage_told = true if the server knows the field"
    if not going_on:
        advice["token_ids"] = f"searches and budget forcing go on from begun answers: {_MORE_WAYS}"
    return advice
