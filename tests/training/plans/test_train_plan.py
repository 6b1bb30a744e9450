"""`howhard train --plan`: from a log to a router directory with plans, by the command line."""

import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest
from typer.testing import CliRunner

from howhard.router.router import Router
from howhard.strategies.errors import ConfigError, InputError, TableError
from howhard.training import cli
from howhard.training.champions import Proposed
from howhard.training.commands import load_source, train
from howhard.training.config import EXAMPLE, load_train_config, plan_options
from howhard.training.fit import FitSettings
from howhard.training.log import Log
from howhard.training.plans import train_plans
from howhard.training.plans.learn import PlanSettings
from howhard.training.plans.menus import PlanOptions
from howhard.training.promote import Verdict

CONFIG = """
[fit]
components = ["text"]

[plan]
stages = { small = [1, 4], large = [1] }
settings = { rounds = 5, deals = 2 }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, migrated_database):
    path = tmp_path_factory.mktemp("train-plan")
    shutil.copy(migrated_database, path / "mlflow.db")
    (path / "howhard.toml").write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def printed(folder, written):
    """The report, and what the command printed of it as JSON."""
    reports = []

    def keep(report, as_json):
        reports.append(report)
        shown(report, as_json)

    shown = cli._print
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "_print", keep)
        found = CliRunner().invoke(
            cli.app,
            [
                "train", str(written), "--out", str(folder / "router"), "--config", str(folder / "howhard.toml"),
                "--tracking-uri", f"sqlite:///{folder}/mlflow.db", "--json",
            ],
        )  # fmt: skip
    assert found.exit_code == 0, found.output
    return reports[0], found.stdout


@pytest.fixture(scope="module")
def done(printed):
    """What the command printed, as JSON."""
    return json.loads(printed[1])


def test_a_table_plan_in_the_configuration_learns_plans_with_falling_needs(done):
    plans = done["plans"]["plans"]
    assert [plan["needs"] for plan in plans] == [["logprobs"], [], []]
    assert [plan["menu"] for plan in plans] == [
        "small 1-4, large 1, verifier check", "small 1-4, large 1, verifier check", "small 1-4, large 1",
    ]  # fmt: skip
    assert plans[0]["n_prompts"] == done["n_learned"]


def test_the_first_plan_is_shown_on_held_out_prompts_beside_the_best_fixed_plan_and_the_router(done):
    assert done["plans"]["n_held_out"] + done["n_learned"] == 160
    for row in done["plans"]["held_out"]:
        for who in ("plan", "fixed", "router"):
            assert 0 <= row[who][0] <= 1
            assert row[who][1] > 0
        for over in (row["over_fixed"], row["over_router"]):
            assert over["low"] <= over["mean"] <= over["high"]


def test_the_router_directory_holds_the_plans_that_were_learned(done, folder):
    router = Router.load(folder / "router")
    assert [list(facts.needs) for facts in router.manifest.plans] == [["logprobs"], [], []]
    assert router.manifest.plans[0].seconds[0] is not None
    assert router.manifest.plans[0].guard == done["plans"]["plans"][0]["strength"]


def test_its_picture_lies_beside_the_routers_other_plots(done, folder):
    assert (folder / "router-plan.png").read_bytes().startswith(b"\x89PNG")


def test_the_contest_says_that_plans_were_not_part_of_it(done):
    assert done["proposed"]["plans"] is True
    verdict = Verdict(promote=True, reason="there is no champion yet", n_prompts=40)
    proposed = Proposed(verdict=verdict, version="1", previous=None, forced=False)
    assert "its plans were not part of it" in replace(proposed, plans=True).text()
    assert "plans" not in proposed.text()


def small(written, out, **changes):
    given = {
        "settings": FitSettings(components=("text",)), "register": False, "quiet": True,
        "plan": PlanOptions(stages={"small": (1, 2)}, settings=PlanSettings(rounds=3, deals=1)), **changes,
    }  # fmt: skip
    return train(written, out, tracking_uri=f"sqlite:///{out.parent}/mlflow.db", **given)


def test_what_people_read_has_the_plans_table(printed):
    text = printed[0].text()
    assert "Plan over small 1-4, large 1, verifier check" in text
    assert "prompts held out (utility / value" in text
    assert "Where signals are missing" in text


def test_a_table_without_samples_is_refused_before_any_work(written, tmp_path):
    table = tmp_path / "outcomes.csv"
    logged = Log.open(written).prompts()
    prompts = pd.DataFrame({"prompt_id": logged["prompt_id"], "prompt": logged["text"]})
    load_source(written).outcomes.merge(prompts).to_csv(table, index=False)
    with pytest.raises(InputError, match="holds no samples to learn plans from: train it without --plan"):
        small(table, tmp_path / "router")


def test_a_stage_that_no_log_reaches_is_refused_before_any_work(written, tmp_path):
    with pytest.raises(TableError, match="stage 64 of 'small' is missing in the log"):
        small(written, tmp_path / "router", plan=PlanOptions(stages={"small": (1, 64)}))
    assert not (tmp_path / "router").exists()


def test_too_few_prompts_with_all_samples_are_told_before_any_work(written, tmp_path, monkeypatch):
    monkeypatch.setattr(train_plans, "FEWEST_PROMPTS", 1000)
    with pytest.raises(
        TableError, match=r"of \d+ training prompts have all that the plan's menu asks for .*fewer stage"
    ):
        small(written, tmp_path / "router")
    assert not (tmp_path / "router").exists()


def test_searches_are_chosen_by_what_they_were_worth_on_the_prompts_that_teach(written, monkeypatch):
    asked = {}

    def menu_of(samples, outcomes, *rest):
        asked["prompts"] = set(outcomes["prompt_id"])
        return train_plans_menu_of(samples, outcomes, *rest)

    train_plans_menu_of = train_plans.menu_of
    monkeypatch.setattr(train_plans, "menu_of", menu_of)
    source = load_source(written)
    teaching = source.matrix.prompt_ids[:60]
    options = PlanOptions(stages={"small": (1, 2)})
    specs = list(source.specs.values())
    train_plans.read_plan_log(source.log, source.outcomes, specs, source.verifiers, options, teaching)
    assert asked["prompts"] == set(teaching)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stagess = {}", "unknown setting 'plan.stagess'; did you mean 'stages'"),
        ("settings = { round = 3 }", "unknown setting 'plan.settings.round'; did you mean 'rounds'"),
        ("settings = { deals = 0 }", "plan.settings: deals=0: it must be at least 1"),
        ('ahead = "two"', "plan.ahead"),
    ],
)
def test_a_wrong_table_plan_is_refused_by_name(tmp_path, text, message):
    (tmp_path / "howhard.toml").write_text(f"[plan]\n{text}\n")
    with pytest.raises(ConfigError, match=message):
        load_train_config(tmp_path / "howhard.toml")


def test_the_example_of_a_configuration_shows_the_plans_defaults(tmp_path):
    section = EXAMPLE.partition("# [plan]")[2].partition("\n\n")[0]
    lines = [line.removeprefix("# ") for line in section.splitlines()[1:]]
    (tmp_path / "howhard.toml").write_text("\n".join(["[plan]", *lines]))
    options = plan_options(load_train_config(tmp_path / "howhard.toml").plan or {})
    assert options.settings == PlanSettings()
    assert (options.give_up, options.ahead) == (False, PlanOptions().ahead)
