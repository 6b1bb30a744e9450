import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from howhard.router.features import HEAD, TAIL, FeatureSpec, featurize
from howhard.strategies.errors import ConfigError

SPEC = FeatureSpec()
any_text = st.text(st.characters(), max_size=300)  # surrogates and control characters too


def column(name: str, text: str) -> float:
    return float(featurize([text], SPEC).dense[0, SPEC.names.index(name)])


@given(st.lists(any_text, min_size=1, max_size=4))
def test_rows_are_finite_repeatable_and_depend_on_their_own_text_alone(texts):
    rows = featurize(texts, SPEC).dense
    assert rows.dtype == np.float32
    assert rows.shape == (len(texts), len(SPEC.names))
    assert np.isfinite(rows).all()
    assert np.array_equal(rows, np.concatenate([featurize([t], SPEC).dense for t in texts]))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\x00\x1b\ud800",
        "9" * 5000,
        "١٢٣ ½ ²",
        "数えて下さい。",
        "a" * 10**6,
        "1 " * 10**6,
        "\n" * 10**5,
        "🧮" * 999,
    ],
    ids=["empty", "blank", "control", "huge number", "digits", "japanese", "long", "numbers", "lines", "emoji"],
)
def test_no_text_breaks_it(text):
    assert np.isfinite(featurize([text], SPEC).dense).all()


def test_no_text_at_all_gives_no_row():
    assert featurize([], SPEC).dense.shape == (0, len(SPEC.names))


def test_the_same_in_another_process_whatever_the_hash_seed():
    code = (
        "from howhard.router.features import *; import hashlib;"
        "print(hashlib.sha256(featurize(['Use 3, 5 and 7 to make 36.'], FeatureSpec()).dense.tobytes()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_numbers_are_read_as_people_write_them():
    text = "Use 3, 1,250 and 7.5 to make 36, then 7.5 again."
    assert column("numbers", text) == 5
    assert column("distinct_numbers", text) == 4
    assert column("numbers_above_100", text) == 1
    assert column("log_max_number", text) == pytest.approx(np.log1p(1250))
    assert column("log_min_number", text) == pytest.approx(np.log1p(3))
    assert column("decimals", text) == 2


def test_marks_of_the_task_are_seen():
    text = "Which of these is true?\n```python\nf()\n```\nA) one\nB) two\nC) three. Prove it, answer as JSON."
    for mark in ("asks_which", "has_code_fence", "asks_prove", "asks_json"):
        assert column(mark, text) == 1
    assert column("options", text) == 3
    assert column("asks_which", "add 1 and 2") == 0


def test_hashed_columns_describe_the_phrasing_and_not_the_numbers():
    hashed = [i for i, n in enumerate(SPEC.names) if n.startswith(("word_", "pair_"))]
    one, other, third = featurize(["use 3 and 5 now", "use 77 and 81 now", "now use 3 and 5"], SPEC).dense[:, hashed]
    assert np.array_equal(one, other)
    assert not np.array_equal(one, third)
    assert one.sum() == 5 + 4


def test_only_both_ends_of_a_long_text_are_looked_at_but_its_length_is_known():
    head, tail = "start " * (HEAD // 6), " end." * (TAIL // 5)
    one, other = (featurize([head + middle + tail], SPEC).dense[0] for middle in ("7" * 9000, "x" * 9000))
    assert np.array_equal(one, other)
    assert one[0] == pytest.approx(np.log1p(len(head) + 9000 + len(tail)))
    assert not np.array_equal(one, featurize([head + "7" * 9000 + tail[:-5] + " 123."], SPEC)[0])


def test_a_spec_of_another_version_or_an_odd_width_is_refused():
    with pytest.raises(ConfigError, match="slow/9"):
        FeatureSpec(version="slow/9")
    with pytest.raises(ConfigError, match="even"):
        FeatureSpec(n_hashed=7)
    assert featurize(["a b"], FeatureSpec(n_hashed=0)).dense.shape == (1, len(FeatureSpec(n_hashed=0).names))
