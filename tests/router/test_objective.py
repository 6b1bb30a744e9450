import math

import msgspec
import pytest

from howhard.router import Objective
from howhard.strategies.errors import ConfigError


@pytest.mark.parametrize(
    "field, value",
    [
        ("value", math.nan),
        ("value", -1.0),
        ("value", math.inf),
        ("value", "much"),
        ("value", True),
        ("price_of_second", -0.1),
        ("price_of_second", math.nan),
        ("max_cost", -1.0),
        ("max_cost", math.inf),
        ("deadline", math.nan),
        ("deadline", -2),
        ("min_quality", 1.5),
        ("min_quality", -0.1),
        ("deadline_quantile", 0.0),
        ("deadline_quantile", 1.0),
        ("on_infeasible", "shrug"),
    ],
)
def test_an_impossible_setting_is_refused_by_name_and_value(field, value):
    settings = {"value": 1.0, field: value}
    with pytest.raises(ConfigError, match=f"{field}=.*it must"):
        Objective(**settings)


def test_a_copy_with_changes_is_checked_again():
    objective = Objective(value=1.0)
    assert objective.but(max_cost=3).max_cost == 3
    with pytest.raises(ConfigError, match="max_cost"):
        objective.but(max_cost=-3)


def test_an_objective_survives_json_and_refuses_a_typo():
    objective = Objective(value=2.0, deadline=1.5, on_infeasible="fallback")
    assert msgspec.json.decode(msgspec.json.encode(objective), type=Objective) == objective
    with pytest.raises(msgspec.ValidationError, match="valeu"):
        msgspec.convert({"valeu": 1.0}, Objective)


def test_limits_are_said_in_words():
    objective = Objective(value=1, max_cost=0.01, deadline=2, min_quality=0.5)
    assert objective.limits == "max_cost=0.01, deadline=2 s at the 0.95 quantile, min_quality=0.5"
    assert Objective(value=1).limits == ""
