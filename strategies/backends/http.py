"""A server that answers JSON with JSON: one call, its retries, and every fault in our own words.

For what is asked of a server beside generating (scores, say). The streaming of answers, and the connections that it
keeps, are in vllm.py. Neither the API key nor what was sent goes into messages or logs.
"""

import asyncio
import logging
import math
import os
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import aiohttp
import msgspec

from ..errors import BackendError, BackendTimeout, BackendUnreachable, ConfigError, ModelNotServed, PromptTooLong

logger = logging.getLogger(__name__)

TRY_AGAIN = frozenset({429, 502, 503})
"""Answers after which a call may be sent again."""

TOO_LONG = re.compile(r"context (length|window)|maximum model length|max_model_len", re.IGNORECASE)
"""What a server says of a prompt that does not fit."""

_MOST_BYTES = 64 << 20  # of one answer


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered (decoded JSON), and how many calls were sent for it, retries included."""

    value: object
    calls: int


class JsonServer:
    """A server at an address, asked by POST.

    name              : what messages call it.
    url               : with or without a trailing /v1; https is verified.
    api_key_env       : name of the environment variable that holds the API key; None sends none.
    timeout_s         : most seconds that a call waits for its whole answer.
    connect_timeout_s : most seconds to make a connection.
    retries           : how often a call is sent again after 429, 502, 503 or a connection lost before any answer.

    Raises ConfigError for a setting out of range, or a key that isn't set.
    """

    def __init__(
        self,
        name: str,
        *,
        url: str,
        api_key_env: str | None = None,
        timeout_s: float = 60.0,
        connect_timeout_s: float = 10.0,
        retries: int = 1,
    ) -> None:
        check_waiting(timeout_s=timeout_s, connect_timeout_s=connect_timeout_s, retries=retries)
        self.name, self.url, self.retries = name, server_address(url), retries
        self._key_env, self._wait = api_key_env, timeout_s
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=connect_timeout_s)
        api_key(api_key_env)  # told now, not at the first call

    def session(self, *, connections: int) -> aiohttp.ClientSession:
        """Open connections, at most so many, for one `async with` block."""
        key = api_key(self._key_env)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections),
            headers={"Authorization": f"Bearer {key}"} if key else None,
            timeout=self._timeout,
            trust_env=False,
        )

    async def post(
        self, session: aiohttp.ClientSession, path: str, body: Mapping[str, object], *, private: Sequence[str] = ()
    ) -> Answer:
        """Send a body, and return what was answered.

        private : texts that no message may repeat.
        Raises PromptTooLong, ModelNotServed, BackendUnreachable, BackendTimeout, BackendError.
        """
        data = msgspec.json.encode(body)
        for attempt in range(self.retries + 1):
            try:
                return Answer(await self._once(session, path, data, private), attempt + 1)
            except TryAgain as failed:
                if attempt == self.retries:
                    raise failed.error from failed.__cause__
                wait = 0.2 * 2**attempt if failed.wait is None else failed.wait
                logger.warning(
                    "%s; sending it again in %.1f s (%d of %d)", failed.error, wait, attempt + 1, self.retries
                )
                await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    async def _once(self, session: aiohttp.ClientSession, path: str, data: bytes, private: Sequence[str]) -> object:
        where = f"{self.name} ({self.url}{path})"
        try:
            async with session.post(
                self.url + path, data=data, headers={"Content-Type": "application/json"}, allow_redirects=False
            ) as response:
                pieces: list[bytes] = []
                size = 0
                async for piece in response.content.iter_any():
                    pieces.append(piece)
                    size += len(piece)
                    if size > _MOST_BYTES:
                        raise BackendError(
                            f"{where}: answered with more than {_MOST_BYTES >> 20} MB, which is no score"
                        )
                raw = b"".join(pieces)
                if response.status != 200:
                    raise self._refused(where, response, raw, private)
        except aiohttp.ConnectionTimeoutError as exc:
            raise BackendUnreachable(f"{where}: no connection within {self._timeout.sock_connect} s") from exc
        except TimeoutError as exc:  # aiohttp's ServerTimeoutError is one
            raise BackendTimeout(
                f"{where}: no whole answer within {self._wait} s; raise timeout_s if it is busy"
            ) from exc
        except aiohttp.ClientConnectorError as exc:
            raise BackendUnreachable(f"{where}: cannot be reached ({exc}); is it up?") from exc
        except aiohttp.ClientPayloadError as exc:
            raise BackendError(f"{where}: the connection broke off in the middle of an answer") from exc
        except aiohttp.ClientConnectionError as exc:  # reset, or closed by the server
            raise TryAgain(BackendError(f"{where}: the connection was lost before an answer came")) from exc
        except aiohttp.ClientError as exc:  # not chained: it may carry headers, and so the key
            raise BackendError(f"{where}: sent no valid HTTP ({type(exc).__name__})") from None
        try:
            return msgspec.json.decode(raw)
        except msgspec.DecodeError:
            raise BackendError(f"{where}: answered with something that is not JSON") from None

    def _refused(self, where: str, response: aiohttp.ClientResponse, raw: bytes, private: Sequence[str]) -> Exception:
        status = response.status
        try:
            answer = msgspec.json.decode(raw)
        except msgspec.DecodeError:
            answer = raw[:1000].decode(errors="replace")
        message = error_message(answer)
        told = self._told(message, private)
        if status == 400 and TOO_LONG.search(message):
            return PromptTooLong(f"{where}: a text does not fit the context: {told}")
        if status == 404 and "does not exist" in message:
            return ModelNotServed(f"{where}: {told}")
        if status in (404, 405, 501):
            return BackendError(f"{where}: answered {status}: {told}; does its model offer this endpoint?")
        if status in (401, 403):
            key = "it wants an API key; set api_key_env" if self._key_env is None else f"the key in ${self._key_env}"
            return BackendError(f"{where}: refused ({status}): {key}")
        if 300 <= status < 400:
            return BackendError(f"{where}: redirects elsewhere ({status}), which is not followed; give the final url")
        error = BackendError(f"{where}: answered {status}: {told}")
        return TryAgain(error, retry_after_s(response.headers.get("Retry-After"))) if status in TRY_AGAIN else error

    def _told(self, message: str, private: Sequence[str]) -> str:
        """The server's message, cut to 300 characters; left out where it repeats the key or what was sent."""
        key = os.environ.get(self._key_env or "")
        if key and key in message:
            return "(the server's message repeats the API key and is left out)"
        if any(repeats(message, text) for text in private):
            return "(the server's message repeats the texts and is left out)"
        return message[:300] or "(no message)"


class TryAgain(Exception):
    """A call failed before any answer came; `wait` is what the server asked for, in s."""

    def __init__(self, error: BackendError, wait: float | None = None) -> None:
        self.error, self.wait = error, wait


def check_waiting(*, timeout_s: float, connect_timeout_s: float, retries: int) -> None:
    """Raise ConfigError for seconds that are not finite and above 0, or retries below 0."""
    for setting, value in (("timeout_s", timeout_s), ("connect_timeout_s", connect_timeout_s)):
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{setting}={value!r}: it must be a finite number of seconds greater than 0")
    if retries < 0:
        raise ConfigError(f"retries={retries!r}: it must be 0 or more")


def api_key(variable: str | None) -> str | None:
    """Read the API key out of an environment variable; None = none is sent. Raises ConfigError where it isn't set."""
    if variable is None:
        return None
    key = os.environ.get(variable, "")
    if not key:
        raise ConfigError(f"api_key_env={variable!r}: this environment variable is not set")
    return key


def checked_url(url: str) -> str:
    """Check a server's url, and drop its trailing slashes. Raises ConfigError."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"url={url!r}: it must look like http://127.0.0.1:8000 or https://host/path")
    if parts.username or parts.password:
        raise ConfigError("url holds a user name or password: put the key into an environment variable, api_key_env")
    if parts.query or parts.fragment:
        raise ConfigError(f"url={url!r}: it must not have a query or a fragment")
    return url.rstrip("/")


def server_address(url: str) -> str:
    """As `checked_url`, without a trailing /v1."""
    return checked_url(url).removesuffix("/v1").rstrip("/")


def error_message(answer: object) -> str:
    """The message of an error answer: under "error", "message" or "detail", nested or not, or plain."""
    if isinstance(answer, Mapping):
        return next((error_message(answer[key]) for key in ("error", "message", "detail") if key in answer), "")
    return " ".join(str(answer).split()) if answer is not None else ""


def repeats(message: str, text: str, width: int = 24) -> bool:
    """Whether a message repeats `width` characters of a text, or all of a shorter text as words."""
    text = " ".join(text.split())
    if len(text) < width:
        return bool(text) and re.search(rf"(?<!\w){re.escape(text)}(?!\w)", message) is not None
    return any(message[i : i + width] in text for i in range(len(message) - width + 1))


def retry_after_s(header: str | None) -> float | None:
    """A Retry-After header in seconds, at most a minute; dates and nonsense are passed over."""
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return min(max(seconds, 0.0), 60.0) if math.isfinite(seconds) else None
