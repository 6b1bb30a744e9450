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
Experiment = Annotated[str, typer.Option(help="MLflow experiment.")]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        help="FIELD=COLUMN, repeatable, for a table whose columns have other names than prompt, prompt_id, group, arm, "
        "quality, prompt_tokens, completion_tokens, cost, latency_s, sample_index.",
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]


@app.command()
def quickstart(
    directory: Annotated[Path, typer.Option("--dir", help="Where the log, the router and the plot go.")] = Path(
        "howhard-quickstart"
    ),
    prompts: Annotated[int, typer.Option(help="How many fresh prompts to record; a third of them is held out.")] = 480,
    samples: Annotated[int, typer.Option(help="Samples per prompt and model.")] = 16,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Record two small models on fresh prompts, train a router on it, and show what it saves, on the CPU.

    A second run reuses what the first recorded; a run that was stopped goes on where it stood.
    """
    from .quickstart import quickstart as run

    _print(run(directory, n_prompts=prompts, n_samples=samples, seed=seed, quiet=as_json), as_json)


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
    tracking_uri: TrackingUri = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Train a router on logged outcomes, evaluate it on held-out prompts, and register it in MLflow."""
    from .commands import train as go

    _print(
        go(
            source, out, mapping=column or [], runs=run or [], experiment=experiment, value=value, holdout=holdout,
            register=register, tracking_uri=tracking_uri, seed=seed, quiet=as_json,
        ),
        as_json,
    )  # fmt: skip


@app.command()
def evaluate(
    source: Annotated[Path, typer.Argument(help="A log directory or an outcomes table.")],
    router: Annotated[
        Path | None, typer.Option(help="Evaluate this router; default: cross-fit one, five folds.")
    ] = None,
    column: Columns = None,
    split: Annotated[str, typer.Option(help="prompt, group (whole families left out), or both.")] = "both",
    seed: Seed = 0,
    plot: Annotated[Path | None, typer.Option(help="Write the cost-quality plane as a PNG here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say with intervals what routing would have saved on a table of outcomes, beside every baseline."""
    from .commands import evaluate as run

    report = run(source, router=router, mapping=column or [], split=split, seed=seed, plot=plot, quiet=as_json)
    _print(report, as_json)


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
    decide_only: Annotated[bool, typer.Option("--decide-only", help="Print the decision, run nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Choose an arm for one prompt, say why, and run it."""
    from .commands import route as run

    text = sys.stdin.read() if prompt == "-" else prompt
    limits = {
        "value": value, "price_of_second": price_of_second, "max_cost": max_cost, "deadline": deadline,
        "min_quality": min_quality,
    }  # fmt: skip
    served = _config(config, url=url, model=model, api_key_env=api_key_env)
    _print(run(text, router, served, limits, policy=policy, decide_only=decide_only), as_json)


@app.command("import")
def import_(
    table: Annotated[Path, typer.Argument(help="A long table, CSV or parquet: one row per prompt and arm.")],
    log: Annotated[Path, typer.Option(help="The log directory to write.")] = Path("howhard-log"),
    column: Columns = None,
    average_samples: Annotated[
        bool, typer.Option(help="Average several rows of one prompt and arm; else they are an error.")
    ] = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Turn any long table of outcomes into a log that `train` and `evaluate` read."""
    from .commands import import_table as run

    _print(run(table, log, column or [], average_samples=average_samples), as_json)


@app.command()
def promote(
    candidate: Annotated[str, typer.Argument(help="A router directory.")],
    source: Annotated[Path, typer.Argument(help="Held-out outcomes: a log directory or a table.")],
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Make a router the champion if it is better than the present one on the same held-out prompts."""
    from .commands import promote as run

    _print(run(candidate, source, tracking_uri=tracking_uri), as_json)


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


def _ask(question: str) -> bool:
    return typer.confirm(question, err=True)


def _print(report, as_json: bool) -> None:
    """A report is an object with `text() -> str` and `to_dict() -> dict`."""
    print(json.dumps(report.to_dict(), indent=2, allow_nan=False) if as_json else report.text())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    from ..strategies.errors import HowhardError, InputError

    try:
        return app(list(sys.argv[1:] if argv is None else argv), prog_name="howhard", standalone_mode=False) or 0
    except InputError as exc:
        code, message = 2, str(exc)
    except HowhardError as exc:
        code, message = 1, str(exc)
    except ModuleNotFoundError as exc:
        code, message = 2, f"{exc}: install what the command needs with pip install 'howhard[all]'"
    except KeyboardInterrupt:
        code, message = 130, "stopped; what was recorded is kept, and the same command goes on from there"
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
