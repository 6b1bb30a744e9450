"""Plans on real models: Qwen2.5-Coder 0.5B and 1.5B (Instruct) behind vLLM on this machine's CPU.

collect  log 16 samples of both models on problems of our own making (plans_qwen_problems.py), with howhard's own
         collection; starts the two servers where no addresses are given, and ends them. A call that was stopped goes on
         where it stopped.
show     what a log holds: accuracy by kind, how often a sample is right per problem, tokens, form, log-probabilities.
live     learn a router with a plan from a log, foretell by replay what it and its rivals come to, and have all of them
         answer fresh problems on the two servers (plans_qwen_live.py).
again    with another log of those fresh problems (collect --prompts qwen-live/problems-15-2.jsonl): the same plan
         replayed on the very problems that it answered live.
serve    start the two servers, print their addresses, and keep them until interrupted.

Weights: Qwen/Qwen2.5-Coder-0.5B-Instruct and -1.5B-Instruct as Hugging Face directories under --weights. (The log in
README.md is of the official Q4_K_M files of the GGUF releases, turned back to bf16 by transformers.) The servers'
environment is the one of the integration tests (tests/integration/vllm_env.py). A token of the large model costs ten
of the small one's, a token that is read a tenth of one that is written.

    python benchmarks/plans_qwen.py collect --log qwen-log
    python benchmarks/plans_qwen.py show --log qwen-log
    python benchmarks/plans_qwen.py live --log qwen-log --out qwen-live
"""

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Container, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "rivals")]

import plans_qwen_live as plans  # noqa: E402
import plans_qwen_problems as problems  # noqa: E402
import server  # noqa: E402  # pyright: ignore[reportMissingImports]

from howhard.router.objective import Objective  # noqa: E402
from howhard.router.router import Router  # noqa: E402
from howhard.strategies import open_backends  # noqa: E402
from howhard.training import commands  # noqa: E402
from howhard.training.config import Config, parse_config  # noqa: E402
from howhard.training.log import Log  # noqa: E402
from howhard.training.prompt_sets import read_prompts  # noqa: E402

MODELS = {"small": "Qwen2.5-Coder-0.5B-Instruct", "large": "Qwen2.5-Coder-1.5B-Instruct"}
MAX_TOKENS = 64
CONFIG = """
currency = "credits"

[backends.small]
kind = "vllm"
url = "{small}"
model = "Qwen2.5-Coder-0.5B-Instruct"
timeout_s = 600
prices = {{ prompt = 0.1, completion = 1.0 }}

[backends.large]
kind = "vllm"
url = "{large}"
model = "Qwen2.5-Coder-1.5B-Instruct"
timeout_s = 600
prices = {{ prompt = 1.0, completion = 10.0 }}

[verifiers.vote]
kind = "vote"

[[arms]]
backend = "small"
strategy = {{ kind = "single" }}

[[arms]]
backend = "small"
strategy = {{ kind = "best_of_n", n = 8, verifier = "vote" }}

[[arms]]
backend = "small"
strategy = {{ kind = "best_of_n", n = 16, verifier = "vote" }}

[[arms]]
backend = "large"
strategy = {{ kind = "single" }}

[[arms]]
backend = "large"
strategy = {{ kind = "best_of_n", n = 4, verifier = "vote" }}

[[arms]]
backend = "large"
strategy = {{ kind = "best_of_n", n = 8, verifier = "vote" }}

[collect]
samples = 16
temperature = 0.8
max_tokens = {max_tokens}
concurrency = 5                       # calls of 16 samples: a little more than the servers' 64 places
latency_prompts = {latency_prompts}

[tracking]
uri = "sqlite:///{tracking}"
"""


# ── servers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def served(weights: Path, logs: Path) -> Iterator[dict[str, str]]:
    """Both models, each on a server of its own: backend -> address. Their output goes into `logs`."""
    logs.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        yield {
            backend: stack.enter_context(
                server.serve(
                    weights / model, model, logs / f"{backend}.server.log", flags=server.LARGE, threads=2, kv_gb=2,
                    seqs=64,
                )
            )
            for backend, model in MODELS.items()
        }  # fmt: skip


@contextlib.contextmanager
def addresses(options: argparse.Namespace) -> Iterator[dict[str, str]]:
    """Those that were given, else of servers of our own."""
    if options.small_url and options.large_url:
        yield {"small": options.small_url, "large": options.large_url}
        return
    started = time.monotonic()
    with served(options.weights, options.log.parent) as urls:
        print(f"both servers answered after {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        yield urls


def config(urls: dict[str, str], log: Path, latency_prompts: int = 8) -> Config:
    """Backends, arms and settings of the collection; MLflow's store lies beside the log."""
    store = log.absolute().parent / "mlflow.db"
    text = CONFIG.format(**urls, max_tokens=MAX_TOKENS, latency_prompts=latency_prompts, tracking=store)
    return parse_config(text, source="plans_qwen")


# ── collect ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def prompts(per_kind: int, seed: int, folder: Path, avoid: Container[str] = ()) -> pd.DataFrame:
    """The prompts table of a seed, without the questions `avoid`; the set that it is read from stays in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"problems-{per_kind}-{seed}.jsonl"
    lines = [json.dumps(row) for row in problems.rows(problems.make(per_kind, seed, avoid))]
    path.write_text("\n".join(lines) + "\n")
    return read_prompts(path)


def collect(options: argparse.Namespace) -> dict[str, object]:
    """Log both models, say what came of it."""
    folder = options.log.absolute().parent
    table = read_prompts(options.prompts) if options.prompts else prompts(options.per_kind, options.seed, folder)
    with addresses(options) as urls:
        report = commands.collect(config(urls, options.log, options.latency_prompts), table, options.log)
    print(report.text())
    return {"collected": report.to_dict(), "log": show(options.log)}


# ── what a log holds ─────────────────────────────────────────────────────────────────────────────────────────────────


def show(path: Path) -> dict[str, object]:
    """Print tables of a log, and return their figures."""
    log = Log.open(path)
    asked, drawn = log.prompts(), log.samples()
    drawn = drawn.merge(asked[["prompt_id", "group", "text", "reference"]], on="prompt_id", suffixes=("", "_of_prompt"))
    found: dict[str, object] = {"prompts": len(asked), "samples": len(drawn)}
    rates = drawn.groupby(["group", "prompt_id", "backend"])["quality"].mean().unstack("backend")
    print(f"\n{len(asked)} problems, {len(drawn):,} samples\n\nshare of right samples, by kind")
    print(rates.groupby("group").mean().assign(problems=rates.groupby("group").size()).round(3).to_string())
    edges = [0.0, 0.001, 0.2, 0.4, 0.6, 0.8, 0.999, 1.001]
    names = ["0", "<0.2", "<0.4", "<0.6", "<0.8", "<1", "1"]
    for backend, own in drawn.groupby("backend"):
        spread, _ = np.histogram(rates[backend].dropna(), edges)
        unstated = float((~own["text"].str.contains(r"Answer:", regex=True)).mean())
        about = {
            "accuracy": round(float(own["quality"].mean()), 4),
            "spread": {name: int(count) for name, count in zip(names, spread, strict=True)},
            "mean_tokens": round(float(own["completion_tokens"].mean()), 2),
            "cut": round(float((own["finish_reason"] == "length").mean()), 4),
            "unstated": round(unstated, 4),
            "without_logprob": int(own["mean_logprob"].isna().sum()),
        }
        found[str(backend)] = about
        print(f"\n{backend}: {json.dumps(about)}")
    if {"small", "large"} <= set(rates.columns):
        gain = (rates["large"] - rates["small"]).dropna()
        found["large_minus_small"] = {
            "mean": round(float(gain.mean()), 4),
            "by_0.25_better": round(float((gain >= 0.25).mean()), 4),
            "by_0.25_worse": round(float((gain <= -0.25).mean()), 4),
            "correlation": round(float(np.corrcoef(rates.dropna()["small"], rates.dropna()["large"])[0, 1]), 3),
        }
        print(f"\nlarge minus small: {json.dumps(found['large_minus_small'])}")
    return found


# ── learn and run live ───────────────────────────────────────────────────────────────────────────────────────────────


ARMS = ("large/single", "large/vote_of_4")
"""Arms that answer the fresh problems too."""


def live(options: argparse.Namespace) -> dict[str, object]:
    """Learn, foretell, run, and write live.json after every way, so that a run that is stopped has what it got to."""
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    source, made = plans.learn(options.log, out / "router")
    asked = {p.question for p in problems.make(options.per_kind, options.seed)}
    fresh = prompts(options.fresh, options.fresh_seed, out, avoid=asked)
    chosen = plans.ways(options.values, ARMS)
    foretold = {way.name: plans.foretell(way, made, source) for way in chosen}
    whole = {w.name: w.value for w in chosen if w.value is not None and not w.fixed}
    facts = made.plan.facts
    found: dict[str, object] = {
        "log": {"problems": facts.n_prompts, "samples": len(source.log.samples()) if source.log else 0},
        "menu": facts.menu.words,
        "needs": facts.needs,
        "guard": facts.guard,
        "trusted": facts.trusted,
        "fixed": {
            f"{v:g}": made.plan.best_fixed(Objective(value=v * facts.unit)).words(facts.menu) for v in options.values
        },
    }
    with addresses(options) as urls:
        found |= asyncio.run(_live(options, urls, chosen, foretold, whole, fresh, found))
    return found


async def _live(
    options: argparse.Namespace,
    urls: dict[str, str],
    chosen: tuple[plans.Way, ...],
    foretold: dict[str, plans.Foretold],
    whole: dict[str, float],
    fresh: pd.DataFrame,
    about: dict[str, object],
) -> dict[str, object]:
    found: dict[str, object] = {}
    lived: dict[str, plans.Lived] = {}
    backends = open_backends(config(urls, options.log).backends)
    try:
        ours = Router.load(options.out / "router", backends=backends)
        assert ours.plan is not None
        fixed = plans.without_gain(ours, backends)
        for way in chosen:
            by = fixed if way.fixed else ours
            lived[way.name] = await plans.live(
                way, by, backends["small"], urls, fresh, options.out / "log", options.concurrency
            )
            found = plans.judged(lived, foretold, whole, ours.plan.facts.unit)
            rows = {name: [asdict(a) for a in one.answered] for name, one in lived.items()}
            (options.out / "live.json").write_text(json.dumps({**about, **found, "answered": rows}, indent=1))
            print(f"{way.name}: {lived[way.name].seconds:.0f} s", file=sys.stderr, flush=True)
    finally:
        for backend in backends.values():
            await backend.close()
    print(plans.text(found))
    return found


def again(options: argparse.Namespace) -> dict[str, object]:
    """Hold what was answered live against replays on other samples of the same problems."""
    told = json.loads((options.out / "live.json").read_text())
    router = Router.load(options.out / "router")
    assert router.plan is not None
    source = commands.load_source(options.log)
    found: dict[str, object] = {}
    for way in plans.ways(sorted(map(float, told["fixed"])), ARMS):
        rows = told["answered"].get(way.name, [])
        lived = plans.Lived(answered=tuple(plans.Answered(**row) for row in rows), served={}, seconds=0.0)
        ids, replayed = plans.retell(way, router, source)
        found[way.name] = one = plans.once_more(lived, ids, replayed, router.plan.facts.unit)
        cells = [
            f"{name} {one[name]['live']:.3f} live, {one[name]['replayed']:.3f} replayed "
            f"({one[name]['apart']['mean']:+.3f} [{one[name]['apart']['low']:+.3f}, {one[name]['apart']['high']:+.3f}])"
            for name in ("quality", "cost", "tokens")
        ]
        print(f"{way.name} on {len(ids)} problems: {'; '.join(cells)}")
    return found


# ── command line ─────────────────────────────────────────────────────────────────────────────────────────────────────


def serve(options: argparse.Namespace) -> None:
    """Keep both servers until interrupted."""
    started = time.monotonic()
    with served(options.weights, options.logs) as urls, contextlib.suppress(KeyboardInterrupt):
        seconds = round(time.monotonic() - started)
        print(json.dumps(urls | {"seconds": seconds}), flush=True)
        while True:
            time.sleep(3600)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    models = argparse.ArgumentParser(add_help=False)
    models.add_argument("--weights", type=Path, default=Path.home() / ".cache/howhard/qwen", help="folder of both")
    asked = argparse.ArgumentParser(add_help=False)
    asked.add_argument("--log", type=Path, default=Path("qwen-log"), help="the log's directory")
    asked.add_argument("--small-url", help="of a server that runs already, with /v1; give both addresses or none")
    asked.add_argument("--large-url")
    asked.add_argument(
        "--per-kind", type=int, default=40, help=f"logged problems of each of {len(problems.KINDS)} kinds"
    )
    asked.add_argument("--seed", type=int, default=1, help="of the logged problems")
    one = parts.add_parser("collect", parents=[models, asked])
    one.add_argument("--latency-prompts", type=int, default=8)
    one.add_argument("--prompts", type=Path, help="a prompt set, in place of problems made from the seed")
    one = parts.add_parser("live", parents=[models, asked])
    one.add_argument("--out", type=Path, default=Path("qwen-live"), help="for router, log of the live runs, figures")
    one.add_argument("--fresh", type=int, default=15, help="fresh problems of each kind")
    one.add_argument("--fresh-seed", type=int, default=2)
    one.add_argument("--values", type=float, nargs="+", default=[30.0, 100.0], help="of a right answer, in samples")
    one.add_argument("--concurrency", type=int, default=16, help="requests at once")
    one = parts.add_parser("again")
    one.add_argument("--log", type=Path, required=True, help="of the fresh problems")
    one.add_argument("--out", type=Path, default=Path("qwen-live"), help="of the live run")
    one = parts.add_parser("show")
    one.add_argument("--log", type=Path, default=Path("qwen-log"))
    one = parts.add_parser("serve", parents=[models])
    one.add_argument("--logs", type=Path, default=Path("qwen-servers"), help="folder for the servers' output")
    options = parser.parse_args()
    if options.part == "serve":
        serve(options)
        return
    found = {"collect": collect, "live": live, "again": again, "show": lambda o: show(o.log)}[options.part](options)
    print(json.dumps({"benchmark": "plans_qwen", "part": options.part, **found}))


if __name__ == "__main__":
    main()
