"""How many tokens a second does VLLMBackend carry, how soon does a cancelled call stop, and do its books agree?

    HOWHARD_VLLM_URL=http://127.0.0.1:8000 python benchmarks/gpu/vllm_backend.py | tail -1 | jq .

Any vLLM server will do, on a GPU or not, as long as nobody else uses it: the counters are the whole server's. Samples
go on past their end token, so that every one draws --tokens tokens. After a warm-up, each load is measured --rounds
times (median, lowest, highest); making prompts and printing are not timed. Cancelling is timed from the moment the
handles are cancelled to the first look at /metrics that shows no running request. Residue: what the server
drew for cancelled calls beyond what was booked, per cancelled sample. (HOWHARD_VLLM_SERVED names the model, the first
one served otherwise; HOWHARD_VLLM_KEY_ENV names the variable of its API key.)
"""

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import time

from howhard.strategies import Prefix, Prices, SamplingParams, as_messages
from howhard.strategies.backends.vllm import VLLMBackend
from howhard.strategies.errors import ModelNotServed

LOADS = ((1, 1), (1, 8), (8, 8), (64, 1), (16, 16))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(measure(arguments.rounds, arguments.tokens))))


async def measure(rounds: int, tokens: int) -> dict[str, object]:
    backend = await opened()
    rng = random.Random(0)
    prompts = [
        Prefix(as_messages("Add " + " and ".join(str(rng.randrange(200)) for _ in range(12)) + ".")) for _ in range(64)
    ]
    load = {}
    for n_prompts, n in LOADS:
        rates = []
        for round_ in range(rounds + 1):
            params = SamplingParams(max_tokens=tokens, seed=round_)
            started = time.perf_counter()
            batch = backend.generate(prompts[:n_prompts], n=n, params=params)
            rows = await batch.all()
            seconds = time.perf_counter() - started
            assert all(g.error is None for row in rows for g in row), rows[0][0].error
            rates.append(batch.usage.completion_tokens / seconds)
        load[f"{n_prompts}x{n}"] = spread(rates[1:])
        print(f"{n_prompts:3} prompts x {n:2} samples  {statistics.median(rates[1:]):8.0f} tokens/s")
    milliseconds, residues = [], []
    for round_ in range(rounds + 1):
        before = await idle(backend)
        params = SamplingParams(max_tokens=100 * tokens, seed=round_)
        batch = backend.generate(prompts[:1], n=8, params=params)
        async for _ in batch.samples[0][0]:
            break
        started = time.perf_counter()
        batch.cancel()
        after = await idle(backend)
        milliseconds.append(1000 * (time.perf_counter() - started))
        residues.append((after["completion_tokens"] - before["completion_tokens"] - batch.usage.completion_tokens) / 8)
    print(f"a cancelled call of 8 stops after {statistics.median(milliseconds[1:]):.0f} ms")
    result = {
        "url": backend.url,
        "model": backend.model,
        "vllm": backend.version,
        "client": platform.machine(),
        "tokens_per_second": load,
        "cancel_ms": spread(milliseconds[1:]),
        "unbooked_tokens_per_cancelled_sample": spread(residues[1:]),
    }
    await backend.close()
    return result


async def opened() -> VLLMBackend:
    url = os.environ.get("HOWHARD_VLLM_URL")
    if not url:
        raise SystemExit("set HOWHARD_VLLM_URL to the address of a vLLM server, for instance http://127.0.0.1:8000")
    settings = {
        "url": url,
        "prices": Prices(prompt=0.0, completion=1.0),
        "api_key_env": os.environ.get("HOWHARD_VLLM_KEY_ENV"),
        "extra_body": {"ignore_eos": True},
    }
    named = os.environ.get("HOWHARD_VLLM_SERVED")
    if named is None:
        asking = VLLMBackend("bench", model="?", **settings)
        found = await asking.probe()
        await asking.close()
        if not found.served:
            raise SystemExit(f"{url} serves no model: {found.error}")
        named = found.served[0]
    backend = VLLMBackend("bench", model=named, **settings)
    try:
        await backend.check()
    except ModelNotServed:
        await backend.close()
        raise
    return backend


async def idle(backend: VLLMBackend) -> dict[str, float]:
    while (counters := await backend.metrics())["running"] + counters["waiting"]:
        pass
    return counters


def spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 1),
        "lowest": round(min(values), 1),
        "highest": round(max(values), 1),
    }


if __name__ == "__main__":
    main()
