"""A configuration is checked whole, and an error names the field, the value and the remedy."""

import pytest

from howhard.strategies.errors import ConfigError
from howhard.training.config import EXAMPLE, for_server, load_config, parse_config


def test_the_printed_example_is_a_valid_configuration():
    config = parse_config(EXAMPLE)
    assert [arm.name for arm in config.arms] == ["small/single", "small/vote_of_8", "large/single"]
    assert config.collect.samples == 16


def test_arms_take_the_sampling_settings_of_collect_unless_they_set_their_own():
    config = parse_config(EXAMPLE.replace('kind = "single" }', 'kind = "single", max_tokens = 7 }', 1))
    assert [arm.strategy.max_tokens for arm in config.arms] == [7, 1024, 1024]
    assert {arm.strategy.temperature for arm in config.arms} == {0.8}


def test_a_url_and_a_model_stand_for_one_backend_with_votes():
    config = for_server("http://127.0.0.1:8000/v1", "m", api_key_env="KEY")
    assert [arm.name for arm in config.arms] == [
        "server/single",
        "server/vote_of_4",
        "server/vote_of_8",
        "server/vote_of_16",
    ]
    assert {arm.strategy.max_tokens for arm in config.arms} == {config.collect.max_tokens}
    assert len(for_server("http://127.0.0.1:8000/v1", "m", samples=4).arms) == 2


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("samples =", "sampels =", "unknown setting 'collect.sampels'; did you mean 'samples'"),
        ('model = "Qwen/Qwen2.5-14B', 'modle = "Q', "'backends.large.modle'; did you mean 'model'"),
        (
            "completion = 8e-7",
            "completiom = 1",
            "'backends.large.prices.completiom'; did you mean 'completion'",
        ),
        ("n = 8,", "m = 8,", "unknown setting 'arms[1].strategy.m'"),
        ('backend = "large"', 'backend = "lrge"', "wants backend 'lrge'; did you mean 'large'"),
        ('verifier = "vote"', 'verifier = "voet"', "wants verifier 'voet'; did you mean 'vote'"),
        ('kind = "single"', 'kind = "singel"', "'singel'; did you mean 'single'"),
        ("samples = 16", 'samples = "x"', "collect.samples: Expected `int`, got `str`"),
        ("samples = 16", "samples = 0", "samples=0 must be at least 1"),
        ("prompt = 2e-8", "prompt = -1", "prices.prompt=-1"),
        ("prompt = 2e-8", "prompt = nan", "prices.prompt=nan"),
        ('url = "http://127.0.0.1:8000/v1"', 'url = "127.0.0.1"', "it must begin with http://"),
        ("[collect]", "[collect", "not valid TOML"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_it(old, new, said):
    assert old in EXAMPLE
    with pytest.raises(ConfigError, match=r"howhard\.toml") as caught:
        parse_config(EXAMPLE.replace(old, new, 1), source="howhard.toml")
    assert said in str(caught.value)


PARTS = """
[backends.small]
kind = "local"
model = "tiny-small"

[verifiers.grader]
{verifier}

[[arms]]
backend = "small"
strategy = {strategy}
"""


@pytest.mark.parametrize(
    "verifier, said",
    [
        ('kind = "judge"', "verifiers.grader: Object missing required field `backend`"),
        ('kind = "judge"\nbackend = "smal"', "verifier 'grader' asks backend 'smal'; did you mean 'small'"),
        ('kind = "judge"\nbackend = "small"\nmode = "pairs"', "verifiers.grader.mode: Invalid enum value 'pairs'; did"),
        ('kind = "judge"\nbackend = "small"\nscale = 10', "verifiers.grader: scale=10"),
        ('kind = "judge"\nbackend = "small"\nsampls = 1', "'verifiers.grader.sampls'; did you mean 'samples'"),
        ('kind = "first_of"\nverifiers = ["grade"]', "verifier 'grader' wants verifier 'grade'; did you mean 'grader'"),
        ('kind = "jury"', "verifiers.grader.kind: Invalid value 'jury'; known: classifier"),
    ],
)
def test_a_wrong_setting_of_a_verifier_names_it(verifier, said):
    with pytest.raises(ConfigError) as caught:
        parse_config(PARTS.format(verifier=verifier, strategy='{ kind = "single" }'))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "strategy, said",
    [
        ('{ kind = "mcts", choice = "uctt" }', "strategy.choice: Invalid enum value 'uctt'; did you mean 'uct'"),
        ('{ kind = "mcts", sample = 8 }', "'arms[0].strategy.sample'; did you mean 'samples'"),
        ('{ kind = "cascade", stages = [{ strategi = {} }] }', "stages[0].strategi'; did you mean 'strategy'"),
    ],
)
def test_what_stands_in_a_message_is_of_the_kind_that_was_given(strategy, said):
    with pytest.raises(ConfigError) as caught:
        parse_config(PARTS.format(verifier='kind = "vote"', strategy=strategy))
    assert said in str(caught.value)


def test_two_arms_of_one_name_are_refused():
    twice = EXAMPLE + '\n[[arms]]\nbackend = "small"\nstrategy = { kind = "single", max_tokens = 3 }\n'
    with pytest.raises(ConfigError, match="two arms are called 'small/single'"):
        parse_config(twice)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read"):
        load_config(tmp_path / "absent.toml")
