"""Arms in words become specs, and wrong words are named with the right ones."""

import msgspec
import pytest

from howhard.strategies import BestOfNSpec, SelfConsistencySpec, TreeSearchSpec
from howhard.strategies.catalogue import STRATEGIES
from howhard.strategies.errors import ConfigError
from howhard.training.arm_words import KINDS, assignments, parse_arm, strategy_spec, words_of


def test_every_strategy_of_the_catalogue_can_be_named():
    assert {type(strategy_spec(kind, {})) for kind in KINDS} == set(STRATEGIES)


def test_settings_are_typed_by_the_fields_of_the_spec():
    backend, spec = parse_arm("large/best-of-n n=16 verifier=tiny-prm temperature=0.7")
    assert (backend, spec) == ("large", BestOfNSpec(n=16, verifier="tiny-prm", temperature=0.7))


def test_a_beam_is_a_tree_search():
    assert parse_arm("beam width=2") == parse_arm("tree-search width=2")


def test_usual_settings_reach_only_strategies_that_have_them_and_give_way_to_the_words():
    usual = {"verifier": "vote", "max_tokens": 40}
    assert parse_arm("single", usual)[1].max_tokens == 40
    assert parse_arm("best-of-n verifier=best", usual)[1] == BestOfNSpec(verifier="best", max_tokens=40)


def test_dashes_and_underscores_are_one_and_null_means_none():
    assert parse_arm("tree_search token-budget=null")[1] == TreeSearchSpec(token_budget=None)
    assert parse_arm("tree-search token_budget=90")[1] == TreeSearchSpec(token_budget=90)


def test_a_line_break_is_written_as_json():
    assert parse_arm(r"""tree-search 'step_end="\n\n"'""")[1] == TreeSearchSpec(step_end="\n\n")


@pytest.mark.parametrize("spec", [kind() for kind in STRATEGIES], ids=lambda s: s.__struct_config__.tag)
def test_words_of_a_spec_read_as_the_same_spec(spec):
    assert parse_arm(words_of(spec))[1] == spec
    other = msgspec.structs.replace(spec, max_tokens=99)
    assert parse_arm(words_of(other))[1] == other


def test_stages_of_a_cascade_are_arms_with_rules_between_them():
    words = "cascade 'stages=self-consistency n=5 if agreement >= 0.8 else large/best-of-n n=4'"
    spec = parse_arm(words, {"verifier": "vote", "max_tokens": 50})[1]
    first, second = spec.stages
    assert (first.strategy, first.backend, first.accept) == (
        SelfConsistencySpec(n=5, max_tokens=50),
        None,
        "agreement >= 0.8",
    )
    assert (second.strategy, second.backend, second.accept) == (
        BestOfNSpec(n=4, verifier="vote", max_tokens=50),
        "large",
        None,
    )
    assert parse_arm(words_of(spec))[1] == spec


def test_what_is_said_of_a_cascade_holds_for_its_stages_unless_they_say_otherwise():
    words = "cascade max_tokens=96 verifier=prm 'stages=best-of-n if score >= 0.8 else large/single max_tokens=7'"
    _, spec = parse_arm(words, {"max_tokens": 512, "temperature": 0.5})
    first, second = (stage.strategy for stage in spec.stages)
    assert (first.max_tokens, first.temperature, first.verifier) == (96, 0.5, "prm")
    assert (second.max_tokens, second.temperature) == (7, 0.5)


def test_words_quote_what_a_shell_would_split():
    spec = TreeSearchSpec(step_end=" ;\n")
    assert parse_arm(words_of(spec))[1] == spec


@pytest.mark.parametrize(
    "words, said",
    [
        ("bestof-n", "no strategy is called 'bestof-n'; did you mean 'best-of-n'? The strategies: "),
        ("fly", "no strategy is called 'fly'. The strategies: "),
        ("best-of-n verfier=vote", "no setting 'verfier'; did you mean 'verifier'?"),
        ("single n=3", "single has no setting 'n'; strategies with one: "),
        ("best-of-n n=many", "n='many': Expected `int`"),
        ("mcts choice=uctt", "choice='uctt' is not known; did you mean 'uct'?"),
        ("best-of-n n=0", "n=0: best-of-N draws at least 1 sample"),
        ("best-of-n n=3 n=4", "'n' is given twice: '3' and '4'"),
        ("best-of-n n", "'n': write SETTING=VALUE"),
        ("/single", "write BACKEND/STRATEGY"),
        ("", "an arm is empty"),
        ("cascade 'stages=single if luck else single'", "accept='luck': write 'agreement >= 0.8'"),
        ("cascade 'stages=singel else single'", "no strategy is called 'singel'; did you mean 'single'?"),
        ("single 'x", "No closing quotation"),
    ],
)
def test_words_that_say_nothing_are_named(words, said):
    with pytest.raises(ConfigError) as refused:
        parse_arm(words)
    assert said in str(refused.value)


def test_assignments_keep_everything_after_the_first_equals_sign():
    assert assignments(["a-b=c=d"]) == {"a_b": "c=d"}
