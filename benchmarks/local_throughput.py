"""How many tokens a second does LocalBackend draw, at which batch?

`--prompts` fresh prompts with `--samples` samples each, so that `prompts * samples` rows are drawn at once; one
warm-up, then `--rounds` timed rounds with other seeds. Loading the model and making the prompts is not timed.
Without --model it takes the shipped tiny-small; `--random` makes an untrained model of its size, whose samples
run to `--max-tokens` (a trained one ends its answers, so its batches thin out). On a machine that others use too,
tokens_per_cpu_s (of processor time, all threads together) is the steadier figure.

    python benchmarks/local_throughput.py | tail -1 | jq .tokens_per_s
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

from howhard.strategies import Prefix, Prices, SamplingParams, as_messages
from howhard.strategies.backends.local import LocalBackend
from howhard.training.problems.families import fresh_problems


def random_model(directory: Path) -> Path:
    """Write an untrained model of tiny-small's size."""
    from safetensors.torch import save_file

    from howhard.strategies.backends.llama import Llama, LlamaConfig
    from howhard.training.embedded.tokenizer import END, build

    tokenizer = build()
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=3,
        head_dim=32,
        eos_token_id=tokenizer.token_to_id(END) or 0,
    )
    torch.manual_seed(0)
    save_file(Llama(config).state_dict(), str(directory / "model.safetensors"))
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "config.json").write_text(json.dumps({n: getattr(config, n) for n in config.__dataclass_fields__}))
    return directory


async def measure(backend: LocalBackend, options: argparse.Namespace) -> dict[str, object]:
    """Time rounds of one call each."""
    problems = fresh_problems(options.prompts, seed=options.seed)
    prefixes = [Prefix(as_messages(problem.prompt)) for problem in problems]
    rates, steps, drawn, cpu_s = [], [], 0, 0.0
    for number in range(options.rounds + 1):
        params = SamplingParams(max_tokens=options.max_tokens, seed=1000 * number, logprobs=True)
        start, cpu = time.perf_counter(), time.process_time()
        batch = backend.generate(prefixes, n=options.samples, params=params)
        rows = await batch.all()
        seconds = time.perf_counter() - start
        if number:  # the first one warms up
            rates.append(batch.usage.completion_tokens / seconds)
            cpu_s += time.process_time() - cpu
            drawn += batch.usage.completion_tokens
            steps.append(max(s.completion_tokens for row in rows for s in row))
    await backend.close()
    return {
        "tokens_per_s": round(statistics.median(rates)),
        "slowest": round(min(rates)),
        "fastest": round(max(rates)),
        "tokens_per_cpu_s": round(drawn / cpu_s),
        "rounds": len(rates),
        "tokens": drawn,
        "steps_per_round": round(statistics.mean(steps), 1),
        "mean_tokens_per_sample": round(drawn / len(rates) / options.prompts / options.samples, 1),
    }


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-small")
    parser.add_argument("--random", action="store_true", help="an untrained model of tiny-small's size")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-batch", type=int, default=256)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = random_model(Path(folder)) if options.random else options.model
        prices = Prices(prompt=0.0, completion=1.0)
        backend = LocalBackend("local", model, prices=prices, device=options.device, max_batch=options.max_batch)
        found = asyncio.run(measure(backend, options))
    where = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_1m": round(os.getloadavg()[0], 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": options.device,
    }
    asked = {"model": "random" if options.random else options.model, "rows": options.prompts * options.samples}
    print(json.dumps({"benchmark": "local_throughput", **asked, "max_batch": options.max_batch, **found, **where}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
