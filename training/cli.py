"""The `howhard` command: thin doors onto the functions of `training/` and `router/`.

Text for people goes to standard output, progress and errors to standard error; `--json` prints one JSON
document instead. Exit code 2 means that the input cannot be used, 1 that the world failed, 130 Ctrl-C.
Nothing heavy is imported before a command runs, so that `howhard --help` answers at once.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from .config import Config

app = typer.Typer(
    name="howhard",
    help="How hard is this prompt, and how hard should the model think? Learns from logged outcomes what "
    "extra inference compute buys on each prompt, and spends it only where it pays.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A howhard.toml (see `howhard config`).")]
Url = Annotated[
    str | None,
    typer.Option(help="Base URL of an OpenAI-compatible server, for instance http://127.0.0.1:8000/v1."),
]
ModelName = Annotated[str | None, typer.Option("--model", help="The model's name on that server.")]
KeyVariable = Annotated[
    str | None, typer.Option("--api-key-env", help="Environment variable that holds the server's API key.")
]
TrackingUri = Annotated[
    str | None,
    typer.Option(help="MLflow tracking URI; default MLFLOW_TRACKING_URI, else sqlite:///mlflow.db."),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        help="FIELD=COLUMN, repeatable, for a table whose columns have other names than prompt, prompt_id, group, "
        "time, cluster, arm, quality, prompt_tokens, completion_tokens, cost, latency_s, propensity, sample_index.",
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]


@app.command()
def quickstart(
    directory: Annotated[Path, typer.Option("--dir", help="Where the log, the router and the plot go.")] = Path(
        "howhard-quickstart"
    ),
    prompts: Annotated[int, typer.Option(help="How many fresh prompts to record; a third of them is held out.")] = 480,
    samples: Annotated[int, typer.Option(min=8, help="Samples per prompt and model.")] = 16,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Record two small models on fresh prompts, train a router on it, and show what it saves, on the CPU.

    A second run reuses what the first recorded; a run that was stopped goes on where it stood.
    """
    from .quickstart import quickstart as run

    _print(run(directory, n_prompts=prompts, n_samples=samples, seed=seed, quiet=as_json), as_json)


Backends = Annotated[
    list[str] | None,
    typer.Option(
        "--backend", help="tiny-small, tiny-large, or a name from --config (repeatable where several make sense)."
    ),
]
VerifierName = Annotated[
    str | None, typer.Option("--verifier", help="tiny-prm, vote, check, best, ... or a name from --config.")
]


@app.command()
def run(
    prompt: Annotated[str | None, typer.Argument(help="The prompt; - reads it from standard input.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="Answer every prompt of this JSONL, CSV or parquet instead.")
    ] = None,
    out: Annotated[Path, typer.Option(help="With --file: where results are appended; those there are kept.")] = Path(
        "results.jsonl"
    ),
    strategy: Annotated[str, typer.Option(help="single, best-of-n, ...; a wrong one shows the list.")] = "single",
    verifier: VerifierName = None,
    n: Annotated[int | None, typer.Option("--n", help="Samples.")] = None,
    width: Annotated[int | None, typer.Option(help="Of a beam.")] = None,
    branches: Annotated[int | None, typer.Option(help="Next steps of each partial solution.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the draws.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Of the draws.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Most tokens of one answer.")] = None,
    stop: Annotated[str | None, typer.Option(help="When to stop drawing, for strategies with a stopping rule.")] = None,
    equivalence: Annotated[str | None, typer.Option(help="When two answers are the same, for votes.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="SETTING=VALUE, repeatable: any setting of the strategy.")
    ] = None,
    backend: Backends = None,
    config: ConfigFile = None,
    url: Url = None,
    model: ModelName = None,
    api_key_env: KeyVariable = None,
    budget_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of a prompt's run, verifiers included.")
    ] = None,
    budget_seconds: Annotated[float | None, typer.Option(help="Most seconds of a prompt's run.")] = None,
    budget_cost: Annotated[float | None, typer.Option(help="Most cost of a prompt's run.")] = None,
    concurrency: Annotated[int, typer.Option(help="With --file: prompts under way at once.")] = 16,
    log: Annotated[Path | None, typer.Option(help="Record samples and search nodes into this log directory.")] = None,
    tree: Annotated[Path | None, typer.Option(help="Write the search tree here: .svg or .json.")] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Show the answer as it is written, where it can be.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every candidate.")] = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Answer a prompt, or a file of prompts, with one strategy.

    Over a file Ctrl-C loses nothing that had ended, and the same command goes on where it stood.
    """
    from ..strategies.base import Budget
    from ..strategies.errors import ConfigError
    from .arm_words import assignments, strategy_spec
    from .run_command import Asked, run_file, run_prompt
    from .workbench import at_hand

    if (prompt is None) == (file is None):
        raise ConfigError("give a prompt (- reads it from standard input), or --file with a file of prompts")
    at = at_hand(_config(config, url=url, model=model, api_key_env=api_key_env), backend or (), one=True)
    flags = {
        "verifier": verifier, "n": n, "width": width, "branches": branches, "temperature": temperature,
        "top_p": top_p, "max_tokens": max_tokens, "stop": stop, "equivalence": equivalence,
    }  # fmt: skip
    given = {name: value for name, value in flags.items() if value is not None}
    asked = Asked(
        at=at,
        strategy=strategy_spec(strategy, given | assignments(setting or []), at.usual),
        budget=Budget(tokens=budget_tokens, seconds=budget_seconds, cost=budget_cost),
        seed=seed,
        log=log,
    )
    if file is not None:
        for name, chosen in (("--tree", tree), ("--stream", stream), ("--verbose", verbose)):
            if chosen:
                raise ConfigError(f"{name} is for one prompt, not for --file")
        _print(run_file(file, out, asked, concurrency=concurrency, quiet=as_json), as_json)
        return
    text = sys.stdin.read() if prompt == "-" else prompt or ""
    show = None if not stream or as_json else _show
    _print(run_prompt(text, asked, tree=tree, verbose=verbose, show=show), as_json)


@app.command()
def compare(
    arm: Annotated[
        list[str] | None,
        typer.Option(help='An arm, repeatable: "best-of-n n=16 verifier=vote", "large/single"; default: a good set.'),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="JSONL, CSV or parquet with references; default: fresh problems.")
    ] = None,
    grader: Annotated[
        str | None, typer.Option(help="For prompts of a file that name none, such as numeric or exact.")
    ] = None,
    family: Annotated[
        list[str] | None, typer.Option(help="Of fresh problems: countdown, chain, path, remainder, all (repeatable).")
    ] = None,
    problems: Annotated[int, typer.Option(help="How many fresh problems.")] = 100,
    backend: Backends = None,
    verifier: VerifierName = None,
    config: ConfigFile = None,
    url: Url = None,
    model: ModelName = None,
    api_key_env: KeyVariable = None,
    temperature: Annotated[float | None, typer.Option(help="Of arms that set none.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Most tokens of one answer, of arms that set none.")] = None,
    seeds: Annotated[int, typer.Option(help="How often each arm answers each prompt.")] = 3,
    latency_prompts: Annotated[int, typer.Option(help="Each arm is timed alone on so many prompts.")] = 16,
    concurrency: Annotated[int, typer.Option(help="Runs under way at once.")] = 16,
    log: Annotated[Path, typer.Option(help="Directory of the results; one that exists is gone on with.")] = Path(
        "howhard-compare"
    ),
    plot: Annotated[Path | None, typer.Option(help="Write accuracy against tokens as a PNG here.")] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Run several strategies on one prompt set, and show accuracy, tokens, cost and latency of each, with intervals.

    Ctrl-C loses nothing that had ended, and the same command goes on where it stood.
    """
    from ..strategies.errors import ConfigError
    from .compare import compare as go
    from .compare_arms import entries, fresh_prompts
    from .compare_report import CompareReport
    from .compare_report import plot as draw
    from .prompt_sets import read_prompts
    from .workbench import at_hand

    if prompts is not None and family:
        raise ConfigError("--family is for fresh problems: give it or --prompts")
    if prompts is None and grader is not None:
        raise ConfigError("--grader is for --prompts: fresh problems bring their own")
    served = _config(config, url=url, model=model, api_key_env=api_key_env)
    at = at_hand(served, backend or ())
    configured = served.arms if config is not None and served is not None and not backend else ()
    sampling = {"temperature": temperature, "max_tokens": max_tokens}
    at = at.but({name: value for name, value in sampling.items() if value is not None})
    arms = entries(at, arm or (), configured, verifier=verifier)
    if prompts is not None:
        table, of = read_prompts(prompts, grader=grader), prompts.name
    else:
        table, of = fresh_prompts(problems, seed, family or ()), "fresh problems"
    compared = go(
        table, at, arms, log, title=f"{', '.join(dict.fromkeys(e.spec.backend for e in arms))} on {of}", seeds=seeds,
        seed=seed, concurrency=concurrency, latency_prompts=latency_prompts, quiet=as_json,
    )  # fmt: skip
    _print(CompareReport(compared, None if plot is None else draw(compared, plot)), as_json)


@app.command()
def collect(
    prompts: Annotated[Path, typer.Argument(help="JSONL, CSV or parquet: prompt, and where it is graded, reference.")],
    log: Annotated[Path, typer.Option(help="The log directory; one that exists is continued.")] = Path("howhard-log"),
    config: ConfigFile = None,
    url: Url = None,
    model: ModelName = None,
    api_key_env: KeyVariable = None,
    grader: Annotated[
        str | None,
        typer.Option(
            help="For prompts that name none: exact, numeric, math-verify, regex, checker or module:function."
        ),
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Samples per prompt and backend [default: 16].")] = None,
    max_cost: Annotated[float | None, typer.Option(help="Stop cleanly before this cost is passed.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before drawing.")] = False,
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Draw samples of your own server once; every best-of-N and vote up to N is then derived from the log.

    Shows what it will take and asks first. Ctrl-C loses nothing: the same command goes on where it stood.
    """
    from ..strategies.errors import ConfigError
    from .commands import collect as run

    config_ = _config(config, url=url, model=model, api_key_env=api_key_env, samples=samples)
    if config_ is None:
        raise ConfigError("no backend: give --url and --model, or --config with a file (see `howhard config`)")
    outcome = run(
        config_, prompts, log, grader=grader, samples=samples, max_cost=max_cost, tracking_uri=tracking_uri,
        confirm=None if yes else _ask, quiet=as_json,
    )  # fmt: skip
    _print(outcome, as_json)


@app.command()
def train(
    source: Annotated[Path | None, typer.Argument(help="A log directory or an outcomes table.")] = None,
    out: Annotated[Path, typer.Option(help="Where the router directory goes.")] = Path("howhard-router"),
    column: Columns = None,
    run: Annotated[list[str] | None, typer.Option(help="Take the outcomes from this MLflow run (repeatable).")] = None,
    experiment: Annotated[
        str | None, typer.Option(help="Take the outcomes from all collections of this MLflow experiment.")
    ] = None,
    value: Annotated[
        float | None,
        typer.Option(help="Value of a correct answer, in the unit of cost; default: chosen on validation prompts."),
    ] = None,
    holdout: Annotated[
        float, typer.Option(help="Share of the prompts kept out of training, for evaluation and promotion.")
    ] = 0.25,
    register: Annotated[bool, typer.Option(help="Register in MLflow and promote if better than the champion.")] = True,
    dial: Annotated[
        bool, typer.Option("--dial", help="Learn of best-of-N and votes at every N that the log's samples can tell of.")
    ] = False,
    tune: Annotated[
        int,
        typer.Option(min=0, help="Trials of a search for better settings; Ctrl-C ends it, and the best is taken."),
    ] = 0,
    plan: Annotated[
        bool | None,
        typer.Option(
            help="Also learn from the log's samples what to do next while a request is in flight "
            "[default: if --config has a table plan]."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="A howhard.toml: its [fit], [plan], [objective] and [tracking] count."),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Embed prompts by this model: all-MiniLM-L6-v2, another name, or a directory.")
    ] = None,
    components: Annotated[
        str | None, typer.Option(help='What the quality is put together from: "text,neighbours,joint_trees".')
    ] = None,
    tracking_uri: TrackingUri = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of everything random [default: that of [fit], else 0].")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a router on logged outcomes, evaluate it on held-out prompts, and register it in MLflow."""
    from .commands import train as go
    from .config import TrainConfig, fit_settings, load_train_config, plan_options

    configured = TrainConfig() if config is None else load_train_config(config)
    named = None if components is None else components.split(",")
    settings = fit_settings(configured.fit, encoder=encoder, components=named, seed=seed)
    wanted = configured.plan is not None if plan is None else plan
    _print(
        go(
            source, out, mapping=column or [], runs=run or [], experiment=experiment, value=value,
            objective=configured.objective, holdout=holdout, register=register, dial=dial, tune=tune,
            plan=plan_options(configured.plan or {}) if wanted else None, settings=settings,
            tracking_uri=tracking_uri or configured.tracking.uri, seed=settings.seed, quiet=as_json,
        ),
        as_json,
    )  # fmt: skip


@app.command()
def evaluate(
    sources: Annotated[list[Path], typer.Argument(help="Log directories or outcomes tables, one or many.")],
    router: Annotated[
        Path | None, typer.Option(help="Evaluate this router; default: cross-fit one, five folds.")
    ] = None,
    column: Columns = None,
    split: Annotated[
        str, typer.Option(help="prompt, group (whole families left out), time, or both (prompt and group).")
    ] = "both",
    without: Annotated[list[str] | None, typer.Option(help="Leave this arm out (repeatable).")] = None,
    families: Annotated[
        Path | None, typer.Option(help="Which groups are siblings: a CSV with the columns group and family.")
    ] = None,
    lambdas: Annotated[
        str, typer.Option(help="Prices of compute: utility = quality - lambda * cost / dearest arm's mean cost.")
    ] = "0.1,0.3",
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Also shuffled outcomes, refits, and 5 fold seeds: ten times the time.")
    ] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="Fold seeds: mean and spread of the gain.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="Another router's picks: a CSV with prompt_id, arm and, where known, cost.")
    ] = None,
    seed: Seed = 0,
    plot: Annotated[
        Path | None, typer.Option(help="Write the cost-quality plane as a PNG here, and the other plots beside it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say whether routing is worth having on tables of outcomes, with intervals, beside everything it must beat."""
    from .commands import evaluate as run

    report = run(
        sources, router=router, mapping=column or [], without=without or [], families=families, split=split,
        lambdas=_numbers(lambdas), seeds=seeds, thorough=thorough, against=against, seed=seed, plot=plot, quiet=as_json,
    )  # fmt: skip
    _print(report, as_json)


@app.command()
def plans(
    log: Annotated[Path, typer.Argument(help="A log directory with several samples per prompt.")],
    verifier: Annotated[
        str | None, typer.Option(help="Of the log, or votes; default: that of the log's best-of-N arms.")
    ] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help="Draw from this one (repeatable, the cheapest first); default: all.")
    ] = None,
    stages: Annotated[
        str | None, typer.Option(help="Samples after which a plan decides, as in 1,2,3,4,6,8; default: 1,2,4,8,...")
    ] = None,
    give_up: Annotated[bool, typer.Option("--give-up", help="A prompt may be answered with nothing.")] = False,
    group: Annotated[
        str | None, typer.Option(help="Only prompts of groups whose names begin so, as in countdown,path.")
    ] = None,
    split: Annotated[str, typer.Option(help="prompt, or group (whole families left out).")] = "prompt",
    price_ratio: Annotated[
        float | None, typer.Option(help="Let a token of the later backends cost so many times one of the first.")
    ] = None,
    folds: Annotated[int, typer.Option(help="Each is judged by what the others taught.")] = 3,
    values: Annotated[
        str | None, typer.Option(help="Values of a correct answer, in samples of the first backend, as in 10,100.")
    ] = None,
    seed: Seed = 0,
    plot: Annotated[Path | None, typer.Option(help="Write the curves of quality over cost as a PNG here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what deciding in flight is worth on a log: plans beside every rule and cascade that they must beat."""
    from .plans.analysis import VALUES
    from .plans.plans_command import plans as go

    _print(
        go(
            log, verifier=verifier, backends=backend or (), give_up=give_up, split=split, price_ratio=price_ratio,
            stages=_counts(stages, "--stages") if stages else (), folds=folds, seed=seed, plot=plot,
            groups=[g.strip() for g in group.split(",")] if group else (),
            values=_numbers(values, "--values") if values else VALUES, quiet=as_json,
        ),
        as_json,
    )  # fmt: skip


@app.command("learning-curve")
def learning_curve(
    source: Annotated[Path, typer.Argument(help="A log directory or an outcomes table.")],
    column: Columns = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the curve into this .png, .svg or .pdf.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Splits and parts to average over.")] = 5,
    seconds: Annotated[
        float, typer.Option(min=0, help="No fit is begun after so many, but those of the first round.")
    ] = 100.0,
    lambdas: Annotated[
        str, typer.Option(help="Prices of compute: utility = quality - lambda * cost / dearest arm's mean cost.")
    ] = "0.1,0.3",
    new_arm: Annotated[
        str | None, typer.Option(help="The arm added with few outcomes; default: the dearest of three or more.")
    ] = None,
    components: Annotated[
        str | None, typer.Option(help='What the quality is put together from: "text,neighbours,joint_trees".')
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Show what a router gains by how many outcomes were logged, in full and sparse logs, and of a new arm."""
    from .commands import learning_curve as go
    from .config import TrainConfig, fit_settings

    named = None if components is None else components.split(",")
    settings = fit_settings(TrainConfig().fit, encoder=None, components=named, seed=seed)
    _print(
        go(
            source, mapping=column or [], rounds=rounds, seconds=seconds, lambdas=_numbers(lambdas), new_arm=new_arm,
            settings=settings, plot=plot, seed=seed, quiet=as_json,
        ),
        as_json,
    )  # fmt: skip


def _numbers(text: str, option: str = "--lambdas") -> list[float]:
    """The numbers of "0.1,0.3"."""
    from ..strategies.errors import InputError

    try:
        return [float(x) for x in text.split(",")]
    except ValueError:
        raise InputError(f"{option} {text!r}: write numbers with commas between, for instance 0.1,0.3") from None


def _counts(text: str, option: str) -> list[int]:
    """The whole numbers of "1,2,4"."""
    from ..strategies.errors import InputError

    try:
        return [int(x) for x in text.split(",")]
    except ValueError:
        raise InputError(f"{option} {text!r}: write whole numbers with commas between, for instance 1,2,4") from None


@app.command()
def route(
    prompt: Annotated[str, typer.Argument(help="The prompt; - reads it from standard input.")],
    router: Annotated[
        str, typer.Option(help='A router directory, a shipped one, or "models:/howhard-router@champion".')
    ] = "models/router-quickstart",
    config: ConfigFile = None,
    url: Url = None,
    model: ModelName = None,
    api_key_env: KeyVariable = None,
    value: Annotated[float | None, typer.Option(help="Value of a correct answer, in the unit of cost.")] = None,
    price_of_second: Annotated[float, typer.Option(help="What a second of waiting costs.")] = 0.0,
    max_cost: Annotated[float | None, typer.Option(help="No arm that is expected to cost more.")] = None,
    deadline: Annotated[float | None, typer.Option(help="Seconds that 95 of 100 answers must keep.")] = None,
    min_quality: Annotated[float | None, typer.Option(help="No arm that is expected to be worse.")] = None,
    policy: Annotated[
        str | None, typer.Option(help="utility, or threshold: single pass, best-of-4 or tree search by difficulty.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan/--no-plan", help="Decide in flight, where the router has a plan; else one arm.")
    ] = True,
    decide_only: Annotated[bool, typer.Option("--decide-only", help="Print the decision, run nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Choose an arm for one prompt, or what its plan does first, say why, and run it."""
    from .commands import route as run

    text = sys.stdin.read() if prompt == "-" else prompt
    limits = {
        "value": value, "price_of_second": price_of_second, "max_cost": max_cost, "deadline": deadline,
        "min_quality": min_quality,
    }  # fmt: skip
    served = _config(config, url=url, model=model, api_key_env=api_key_env)
    _print(run(text, router, served, limits, policy=policy, plan=plan, decide_only=decide_only), as_json)


@app.command()
def data(
    source: Annotated[Path, typer.Argument(help="A log directory or an outcomes table.")],
    column: Columns = None,
    families: Annotated[
        Path | None, typer.Option(help='Which groups are siblings: a CSV "group,family", or JSON {GROUP: FAMILY}.')
    ] = None,
    write_families: Annotated[
        Path | None,
        typer.Option(help="Write such a CSV, with families made one that read alike; check it before you use it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a log or a table holds, and what is amiss, before a router is trained on it."""
    from .commands import data as run

    _print(run(source, column or [], families=families, write_families=write_families), as_json)


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="What to read, in one of the forms below.")],
    log: Annotated[Path, typer.Option(help="The log directory to write, or to add to.")] = Path("howhard-log"),
    column: Columns = None,
    table: Annotated[str | None, typer.Option(help="Of a database: the table, or SCHEMA.TABLE.")] = None,
    average_samples: Annotated[
        bool,
        typer.Option(
            "--average-samples",
            help="Make an outcome of the mean of several draws of one prompt and arm (rows that a sample_index tells "
            "apart, traces of one prompt); else they are kept as raw samples.",
        ),
    ] = False,
    without: Annotated[list[str] | None, typer.Option(help="Leave this arm out (repeatable).")] = None,
    families: Annotated[
        Path | None, typer.Option(help='Which groups are siblings: a CSV "group,family", or JSON {GROUP: FAMILY}.')
    ] = None,
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Turn what others logged into a log that `data`, `train` and `evaluate` read.

    \b
    FILE.csv, .parquet, .jsonl     a row per prompt and arm (--map FIELD=COLUMN), or RouterBench's wide table
    FOLDER                         prompts.parquet with outcomes.parquet or samples.parquet, as howhard exports them
    sqlite:///FILE --table NAME    a table of a database, postgresql+psycopg://HOST/NAME too; it is only read
    traces:/EXPERIMENT             MLflow traces; --map quality=ASSESSMENT (true, false, yes, no, or in [0, 1]),
                                   arm=TAG (else the model), prompt=KEY of the inputs, group=TAG, reference=EXPECTATION
    datasets:/RUN_ID[/NAME]        a data set that an MLflow run logged as input; --map as for files
    runs:/RUN_ID                   the tables that `howhard collect` logged in MLflow
    """  # noqa: D301 - the backspace keeps the lines apart
    from .commands import import_source as run

    imported = run(
        source, log, column or [], table=table, average_samples=average_samples, without=without or [],
        families=families, tracking_uri=tracking_uri,
    )  # fmt: skip
    _print(imported, as_json)


@app.command()
def promote(
    candidate: Annotated[
        str, typer.Argument(help="A router directory, a shipped one, or models:/howhard-router@challenger.")
    ],
    source: Annotated[Path, typer.Argument(help="Outcomes on the holdout's prompts: a log directory or a table.")],
    column: Columns = None,
    force: Annotated[bool, typer.Option("--force", help="Promote whatever the verdict; leaves a mark.")] = False,
    why: Annotated[str, typer.Option(help="With --force: the reason, written on the version.")] = "",
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Make a router the champion if it is surely better than the present one on the champion's holdout prompts.

    The exit code is 0 where the router is the champion now, 1 where it was refused.
    """
    from ..strategies.errors import ConfigError
    from .commands import promote as run

    if why and not force:
        raise ConfigError("--why is the reason of --force: give both, or neither")
    proposed = run(candidate, source, mapping=column or [], force=force, why=why, tracking_uri=tracking_uri)
    _print(proposed, as_json)
    raise typer.Exit(0 if proposed.promoted else 1)


@app.command()
def rollback(
    why: Annotated[str, typer.Option(help="The reason, written on the version that has to go.")] = "",
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Make the champion before the present one champion again."""
    from .champions import rollback as run

    _print(run(why, tracking_uri=tracking_uri), as_json)


@app.command()
def diff(
    router_a: Annotated[
        str, typer.Argument(help="A router: a directory, a shipped one, models:/howhard-router@champion.")
    ],
    router_b: Annotated[str, typer.Argument(help="The one that would take its place.")],
    source: Annotated[Path, typer.Argument(help="Outcomes: a log directory or a table.")],
    column: Columns = None,
    value: Annotated[float | None, typer.Option(help="Value of a correct answer; default: A's objective.")] = None,
    tracking_uri: TrackingUri = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Show which prompts change arm between two routers, and what that costs or gains on logged outcomes."""
    from .commands import diff as run

    found = run(router_a, router_b, source, mapping=column or [], value=value, tracking_uri=tracking_uri, seed=seed)
    _print(found, as_json)


@app.command()
def doctor(
    config: ConfigFile = None,
    url: Url = None,
    model: ModelName = None,
    api_key_env: KeyVariable = None,
    as_json: AsJson = False,
) -> None:
    """Check this installation and its backends, and say what to switch on."""
    from .doctor import examine

    health = examine(_config(config, url=url, model=model, api_key_env=api_key_env))
    _print(health, as_json)
    raise typer.Exit(0 if health.well else 1)


@app.command("config")
def config_() -> None:
    """Print a commented howhard.toml to start from."""
    from .config import EXAMPLE

    print(EXAMPLE, end="")


def _config(
    path: Path | None, *, url: str | None, model: str | None, api_key_env: str | None, samples: int | None = None
) -> "Config | None":
    """The configuration from a file, or the one that a URL and a model name stand for; None without either."""
    from ..strategies.errors import ConfigError
    from .config import for_server, load_config

    if path is not None:
        if url or model:
            raise ConfigError("give --config or --url and --model, not both: the file names its servers itself")
        return load_config(path)
    if url and model:
        return for_server(url, model, api_key_env=api_key_env, samples=samples or 16)
    if url or model:
        raise ConfigError("--url and --model belong together: give both, or --config with a file")
    return None


def _show(piece: str) -> None:
    print(piece, end="", flush=True)


def _ask(question: str) -> bool:
    return typer.confirm(question, err=True)


def _print(report, as_json: bool) -> None:
    """A report is an object with `text() -> str` and `to_dict() -> dict`."""
    print(json.dumps(report.to_dict(), indent=2, allow_nan=False) if as_json else report.text())


_CTRL_C = 130
_STOPPED = "stopped; what was recorded is kept, and the same command goes on from there"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    from ..strategies.errors import HowhardError, InputError

    try:
        code = app(list(sys.argv[1:] if argv is None else argv), prog_name="howhard", standalone_mode=False) or 0
        if code != _CTRL_C:  # typer turns the key into its code
            return code
        message = _STOPPED
    except InputError as exc:
        code, message = 2, str(exc)
    except HowhardError as exc:
        code, message = 1, str(exc)
    except ModuleNotFoundError as exc:
        code, message = 2, f"{exc}: install what the command needs with pip install 'howhard[all]'"
    except KeyboardInterrupt:
        code, message = _CTRL_C, _STOPPED
    except Exception as exc:
        code, show = getattr(exc, "exit_code", None), getattr(exc, "show", None)
        if code is None:
            raise
        if show is not None:  # a usage error of the command line itself
            show()
        return code
    print(f"howhard: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
