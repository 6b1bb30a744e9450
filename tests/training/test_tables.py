import hashlib

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from howhard.strategies.base import Generation, Prices, SamplingParams
from howhard.strategies.confidence import WINDOW
from howhard.strategies.errors import TableError
from howhard.training import tables


def outcomes(**columns):
    row = {
        "prompt_id": "p0",
        "group": "g",
        "arm": "small/single",
        "quality": 1.0,
        "prompt_tokens": 3.0,
        "completion_tokens": 5.0,
        "source": "import",
    }
    n = max((len(v) for v in columns.values() if isinstance(v, list)), default=1)
    df = pd.DataFrame({name: [value] * n for name, value in row.items()})
    df["prompt_id"] = [f"p{i}" for i in range(n)]
    for name, value in columns.items():
        df[name] = value
    return tables.fill("outcomes", df)


def samples(**columns):
    row = {
        "prompt_id": "p0",
        "backend": "small",
        "fingerprint": "f",
        "params": "{}",
        "sample_index": 0,
        "text": "4",
        "answer": "4",
        "extractor": "final/1",
        "quality": 1.0,
        "finish_reason": "stop",
        "prompt_tokens": 3,
        "completion_tokens": 1,
    }
    return tables.fill("samples", pd.DataFrame([row | columns]))


def test_a_whole_table_passes_and_survives_the_trip_through_parquet_types():
    df = tables.validate_samples(
        samples(verdicts=[{"verifier": "prm", "score": 0.5, "tokens": 7, "cost": 0.1}], wave=None, answer=None)
    )
    back = tables.validate_samples(tables.from_arrow("samples", tables.to_arrow("samples", df)))
    pd.testing.assert_frame_equal(df, back)
    assert back["verdicts"][0][0]["verifier"] == "prm"
    assert back["answer"].isna().all()
    assert tables.to_arrow("samples", df).schema.metadata[b"howhard.schema_version"] == b"1"


def test_columns_come_back_in_the_order_of_the_schema():
    df = outcomes()
    shuffled = df[sorted(df.columns)]
    assert list(tables.validate_outcomes(shuffled).columns) == tables.schema("outcomes").names


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda d: d.drop(columns="quality"), "column 'quality' is missing"),
        (lambda d: d.rename(columns={"latency_s": "latency"}), "'latency_s' is missing.*mean 'latency'"),
        (lambda d: d.assign(extra=1), "column 'extra' is unknown"),
        (lambda d: d.iloc[:0], "the table is empty"),
        (lambda d: d.assign(quality=[1.0, 1.2, 0.0]), r"'quality', row 1: 1\.2: outside \[0, 1\]"),
        (lambda d: d.assign(quality=[1.0, np.nan, 0.0]), "'quality', row 1: nan: a value is needed"),
        (lambda d: d.assign(quality=[1.0, 0.0, "yes"]), "'quality', row 2: 'yes': a number is needed.*str"),
        (lambda d: d.assign(quality=[1.0, 0.0, "0.5"]), "'quality', row 2: '0.5': a number is needed"),
        (lambda d: d.assign(completion_tokens=[5, 5, -31]), "'completion_tokens', row 2: -31: negative"),
        (lambda d: d.assign(cost=[0.1, -0.1, None]), r"'cost', row 1: -0\.1: negative"),
        (lambda d: d.assign(cost=[0.1, np.inf, None]), "'cost', row 1: inf: infinity"),
        (lambda d: d.assign(latency_s=[-1, 2, 3]), "'latency_s', row 0: -1: negative"),
        (lambda d: d.assign(propensity=[0.5, 1.5, None]), r"'propensity', row 1: 1\.5: outside"),
        (lambda d: d.assign(n=[1, 2.5, None]), r"'n', row 1: 2\.5: not a whole number"),
        (lambda d: d.assign(n=[1, 0, None]), "'n', row 1: 0.*below 1"),
        (lambda d: d.assign(arm=["a", 7, "b"]), "'arm', row 1: 7: a string is needed, this is a int"),
        (lambda d: d.assign(group=["a", "", "b"]), "'group', row 1: '': the string is empty"),
        (
            lambda d: d.assign(source=["run", "derived", "guess"]),
            "row 2: 'guess': not one of run, derived, import",
        ),
        (lambda d: d.assign(prompt_id="same"), "rows 0 and 1 have the same key .*prompt_id='same'"),
    ],
)
def test_a_bad_table_is_refused_with_the_column_the_row_and_the_value(change, words):
    good = outcomes(quality=[1.0, 0.5, 0.0])
    tables.validate_outcomes(good)
    with pytest.raises(TableError, match=words):
        tables.validate_outcomes(change(good))


def test_the_same_sample_twice_is_refused_but_live_samples_of_two_requests_are_not():
    twice = pd.concat([samples(), samples()])
    with pytest.raises(TableError, match=r"same key.*Number the samples"):
        tables.validate_samples(twice)
    live = pd.concat([samples(origin="live", parent="r1"), samples(origin="live", parent="r2")])
    assert len(tables.validate_samples(live)) == 2


@pytest.mark.parametrize(
    "verdict, words",
    [
        ({"verifier": "prm", "score": 1.5, "tokens": 0, "cost": 0.0}, "score must be null or lie"),
        ({"verifier": "", "score": 1.0, "tokens": 0, "cost": 0.0}, "verifier must be a name"),
        ({"verifier": "prm", "score": 1.0, "tokens": -1, "cost": 0.0}, "tokens must be"),
        ({"verifier": "prm", "score": 1.0, "tokens": 1, "cost": float("nan")}, "cost must be"),
        ({"verifier": "prm", "score": 1.0}, "a verdict has the fields"),
    ],
)
def test_a_bad_verdict_is_refused(verdict, words):
    with pytest.raises(TableError, match=f"'verdicts', row 0.*{words}"):
        tables.validate_samples(samples(verdicts=[verdict]))


def test_times_are_kept_in_utc_and_numbers_are_not_times():
    row = {"prompt_id": "a", "text": "t", "group": "g"}
    df = tables.fill("prompts", [row | {"time": "2026-11-24T10:00:00+02:00"}])
    assert tables.validate_prompts(df)["time"][0] == pd.Timestamp("2026-11-24T08:00", tz="UTC")
    for value, words in [("yesterday", "not a time"), (12.5, "this is a number")]:
        with pytest.raises(TableError, match=words):
            tables.validate_prompts(tables.fill("prompts", [row | {"time": value}]))


def test_ids_are_sixteen_hex_digits_of_the_normalised_text():
    assert tables.prompt_id("2 + 2?") == hashlib.sha256(b"2 + 2?").hexdigest()[:16]
    assert tables.prompt_id("e\u0301") == tables.prompt_id("\u00e9")
    assert tables.prompt_id("A") != tables.prompt_id("a")
    assert tables.prompt_id([{"role": "user", "content": " 2 +  2?\n"}]) == tables.prompt_id("2 + 2?")
    system = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    swapped = [{"role": "system", "content": "b"}, {"role": "user", "content": "a"}]
    assert len({tables.prompt_id(p) for p in (system, swapped, "a\nb", "a b")}) == 3


@given(st.text(min_size=1).filter(str.strip), st.sampled_from([" ", "\n", "\t ", "\u00a0"]))
def test_white_space_around_and_within_does_not_change_the_id(text, space):
    assert tables.prompt_id(space + text.replace(" ", space) + space) == tables.prompt_id(text)


def test_params_that_do_not_change_the_draw_are_not_part_of_the_key():
    base = SamplingParams(temperature=1, max_tokens=8)
    assert tables.params_json(base) == tables.params_json(base.but(seed=3, logprobs=False, temperature=1.0))
    assert tables.params_json(base) != tables.params_json(base.but(stop=("\n",)))
    assert tables.params_json(base) != tables.params_json(base.but(thinking_tokens=64))
    assert tables.params_json(base) != tables.params_json(base.but(reasoning_effort="low"))


@pytest.mark.parametrize(
    "confidences, logged",
    [
        ((1.0, 2.0, 6.0), 3.0),  # a text shorter than a group is one group
        ((2.0,) * WINDOW + (0.0,), 2.0 - 2.0 / WINDOW),
        ((float("inf"), 1.0), None),  # of a token that the model had ruled out
        ((), None),
        (None, None),
    ],
)
def test_the_confidence_of_a_sample_is_that_of_its_least_confident_group(confidences, logged):
    drawn = Generation(
        text="4", finish_reason="stop", completion_tokens=3, prompt_tokens=3, logprobs=(-1.0,), confidences=confidences
    )
    cells = tables.drawn_cells(drawn, Prices(prompt=1.0, completion=2.0))
    assert cells["confidence"] == (None if logged is None else pytest.approx(logged))
    assert cells["mean_logprob"] == -1.0
    row = tables.validate_samples(samples(**cells)).iloc[0]
    assert pd.isna(row["confidence"]) == (logged is None)


def test_another_schema_version_says_what_to_do():
    tables.check_version(tables.SCHEMA_VERSION, "here")
    for found, words in [(None, "howhard import"), (0, "Collect anew"), (99, "Upgrade howhard")]:
        with pytest.raises(TableError, match=words):
            tables.check_version(found, "here")


def test_the_schema_is_what_the_columns_say():
    s = tables.schema("samples")
    assert s.field("verdicts").type == pa.list_(tables.VERDICT)
    assert s.field("sample_index").type == pa.int32()
    assert not s.field("prompt_id").nullable
