"""A fake server for faults and exact streams: it answers each generate call with the next answer of a script."""

import asyncio
import json
import threading

from aiohttp import web


def piece(index=0, text="a", *, tokens=1, finish=None, stop=None, usage=True, prompt=3, **more):
    """One chunk of a chat answer, as vLLM streams it with continuous usage."""
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish, "stop_reason": stop} | more
    counts = {"usage": {"prompt_tokens": prompt, "completion_tokens": tokens}} if usage else {}
    return {"choices": [choice]} | counts


def total(completion, *, prompt=3, cached=None):
    details = {} if cached is None else {"prompt_tokens_details": {"cached_tokens": cached}}
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion} | details}


async def begin(request):
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    return response


def events(*chunks, done=True):
    """An answer that streams these chunks; bytes go out as they are."""

    async def answer(request):
        response = await begin(request)
        for chunk in chunks:
            await response.write(chunk if isinstance(chunk, bytes) else sse(chunk))
        if done:
            await response.write(b"data: [DONE]\n\n")
        return response

    return answer


def sse(chunk):
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def status(code, body="", **headers):
    async def answer(request):
        if isinstance(body, str):
            return web.Response(status=code, text=body, headers=headers)
        return web.json_response(body, status=code, headers=headers)

    return answer


async def hang_up(request):
    request.transport.abort()
    return web.Response()


OK = events(piece(text="fine", tokens=1, finish="stop"), total(1))


class Scripted:
    """Answers each generate call with the next answer of the script, the last one for ever."""

    def __init__(self):
        self.script = [OK]
        self.models = [{"id": "m", "root": "/weights", "max_model_len": 64}]
        self.bodies, self.paths, self.keys = [], [], []
        self.looks = self.now = self.most = 0
        self.left = threading.Event()
        self.counters = ""
        self.tokens, self.asked = None, None
        self.url = ""

    async def generate(self, request):
        self.bodies.append(await request.json())
        self.paths.append(request.path)
        self.keys.append(request.headers.get("Authorization"))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await self.script[min(len(self.bodies), len(self.script)) - 1](request)
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise
        finally:
            self.now -= 1

    async def list_models(self, request):
        self.looks += 1
        return web.json_response({"data": self.models})

    async def tell(self, request):
        return web.Response(text=self.counters) if self.counters else web.Response(status=404)

    async def tokenize(self, request):
        self.asked = await request.json()
        return web.Response(status=404) if self.tokens is None else web.json_response({"tokens": self.tokens})


class Running:
    """One real HTTP server for many scripts, one after another: each `fresh` one answers from then on."""

    def __init__(self):
        self.current = Scripted()
        app = web.Application()
        for method, path, name in (
            ("GET", "/metrics", "tell"),
            ("POST", "/v1/chat/completions", "generate"),
            ("POST", "/v1/completions", "generate"),
            ("GET", "/v1/models", "list_models"),
            ("POST", "/tokenize", "tokenize"),
        ):
            app.router.add_route(method, path, self.handler(name))
        self.port, self.stop = in_thread(app)

    def handler(self, name):
        async def handle(request):
            return await getattr(self.current, name)(request)

        return handle

    def fresh(self):
        self.current = Scripted()
        self.current.url = f"http://127.0.0.1:{self.port}"
        return self.current


def in_thread(app, ssl_context=None):
    """Serve until the returned function is called; gives the port and that function."""
    ready, known = threading.Event(), {}

    async def serve():
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context).start()
        known.update(port=runner.addresses[0][1], loop=asyncio.get_running_loop(), over=asyncio.Event())
        ready.set()
        await known["over"].wait()
        await runner.cleanup()

    def stop():
        known["loop"].call_soon_threadsafe(known["over"].set)
        thread.join()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(30), "the scripted server did not start"
    return known["port"], stop
