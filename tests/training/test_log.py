import json
import os
import random
import signal
import subprocess
import sys
import time

import pandas as pd
import pyarrow.parquet as pq
import pytest

from howhard.strategies.errors import TableError, WorldError
from howhard.training import tables
from howhard.training.log import Log, SampleKey


def prompt(i):
    return {"prompt_id": f"p{i}", "text": f"prompt {i}", "group": "g"}


def sample(i, index=0, finish_reason="stop", **changes):
    return {
        "prompt_id": f"p{i}",
        "backend": "small",
        "fingerprint": "f",
        "params": "{}",
        "sample_index": index,
        "text": f"text {i}",
        "extractor": "final/1",
        "quality": None if finish_reason == "error" else 1.0,
        "finish_reason": finish_reason,
        "prompt_tokens": 3,
        "completion_tokens": 1,
    } | changes


def outcome(i, arm="small/beam_4x4"):
    return {
        "prompt_id": f"p{i}",
        "group": "g",
        "arm": arm,
        "quality": 0.5,
        "prompt_tokens": 3,
        "completion_tokens": 9,
        "source": "run",
    }


def test_what_was_appended_is_read_back_in_order_by_another_reader(tmp_path):
    with Log(tmp_path / "log") as log:
        assert log.append_prompts([prompt(0), prompt(1)]) == 2
        assert log.append_samples([sample(0), sample(1)]) == 2
        verdict = {"verifier": "v", "score": None, "tokens": 1, "cost": 0}
        assert log.append_samples([sample(0, 1, verdicts=[verdict])]) == 1
        assert log.append_outcomes([outcome(0)]) == 1
    read = Log.open(tmp_path / "log")
    assert read.prompts()["prompt_id"].tolist() == ["p0", "p1"]
    assert read.samples()["sample_index"].tolist() == [0, 0, 1]
    [verdict] = read.samples()["verdicts"][2]
    assert verdict == {"verifier": "v", "score": None, "tokens": 1, "cost": 0.0, "prompt_tokens": 0, "prompt_cost": 0.0}
    assert read.outcomes()["completion_tokens"].tolist() == [9.0]


def test_a_new_log_is_empty_but_has_its_columns(tmp_path):
    log = Log(tmp_path / "log")
    for table in tables.COLUMNS:
        frame = getattr(log, table)()
        assert frame.empty
        assert list(frame.columns) == tables.schema(table).names


def test_a_log_of_an_older_howhard_reads_as_null_where_it_lacks_an_optional_column_and_goes_on(tmp_path):
    with Log(tmp_path) as log:
        log.append_samples([sample(0)])
    part = tmp_path / "samples" / "part-000001.parquet"
    pq.write_table(pq.read_table(part).drop_columns(["confidence"]), part)
    assert Log.open(tmp_path).samples()["confidence"].isna().tolist() == [True]
    with Log(tmp_path) as log:
        assert log.append_samples([sample(0), sample(1, confidence=2.5)]) == 1
    read = Log.open(tmp_path).samples()
    assert read["confidence"].isna().tolist() == [True, False]
    assert read["confidence"][1] == 2.5


def test_rows_that_are_there_are_not_written_again(tmp_path):
    with Log(tmp_path) as log:
        log.append_samples([sample(0)])
        assert log.append_samples([sample(0), sample(1)]) == 1
        assert log.append_prompts([prompt(0)]) == 1
        assert log.append_prompts([prompt(0)]) == 0
        assert log.append_outcomes([outcome(0), outcome(0, "other")]) == 2
    with Log(tmp_path) as log:
        assert log.append_samples([sample(1)]) == 0
        assert log.append_outcomes([outcome(0)]) == 0
        assert len(log.samples()) == 2


def test_a_failed_sample_may_be_tried_again_and_the_success_replaces_it(tmp_path):
    with Log(tmp_path) as log:
        key = SampleKey("p0", "small", "{}", 0)
        assert log.done().wants(key)
        log.append_samples([sample(0, finish_reason="error"), sample(1, finish_reason="error")])
        assert log.done().wants(key)
        log.append_samples([sample(0), sample(1, finish_reason="error", text="second")])
        assert log.done().samples[key] == (2, True)
        assert not log.done().wants(key)
        assert not log.done().wants(SampleKey("p1", "small", "{}", 0))
        for _ in range(2):
            read = log.samples().set_index("prompt_id")
            assert read["finish_reason"].to_dict() == {"p0": "stop", "p1": "error"}
            assert read["text"]["p1"] == "second"
            log.compact()
            assert log.done().samples[SampleKey("p1", "small", "{}", 0)] == (2, False)


def test_compaction_leaves_one_part_and_the_same_rows(tmp_path):
    with Log(tmp_path) as log:
        for i in range(4):
            log.append_prompts([prompt(i)])
            log.append_samples([sample(i)])
        before = log.samples()
        log.compact()
        assert [p.name for p in (tmp_path / "samples").iterdir()] == ["part-000005.parquet"]
        pd.testing.assert_frame_equal(log.samples(), before)
        assert log.append_samples([sample(3), sample(4)]) == 1


def test_compaction_killed_before_the_old_parts_went_changes_nothing_that_is_read(tmp_path):
    with Log(tmp_path) as log:
        log.append_samples([sample(0)])
        log.append_samples([sample(1)])
        old = {p: p.read_bytes() for p in (tmp_path / "samples").iterdir()}
        before = log.samples()
        log.compact()
        for path, content in old.items():
            path.write_bytes(content)
        pd.testing.assert_frame_equal(Log.open(tmp_path).samples(), before)


def test_a_bad_row_writes_nothing_and_names_itself(tmp_path):
    with Log(tmp_path) as log:
        with pytest.raises(TableError, match=r"'completion_tokens', row 1: -1: negative"):
            log.append_samples([sample(0), sample(1, completion_tokens=-1)])
        assert log.samples().empty


def test_two_writers_at_once_are_refused_until_the_first_is_done(tmp_path):
    first, second = Log(tmp_path), Log(tmp_path)
    first.append_prompts([prompt(0)])
    with pytest.raises(WorldError, match=rf"being written by another process \(id {os.getpid()}\)"):
        second.append_prompts([prompt(1)])
    assert len(second.prompts()) == 1
    first.close()
    assert second.append_prompts([prompt(0), prompt(1)]) == 1
    second.close()


def test_what_is_no_directory_is_no_log():
    with pytest.raises(TableError, match="/dev/null is a file"):
        Log("/dev/null")


def test_half_written_files_are_ignored_and_removed_by_the_next_writer(tmp_path):
    with Log(tmp_path) as log:
        log.append_prompts([prompt(0)])
    torn = tmp_path / "prompts" / ".writing-1-part-000002.parquet"
    torn.write_bytes(b"PAR1 torn")
    assert len(Log.open(tmp_path).prompts()) == 1
    assert torn.exists()
    with Log(tmp_path) as log:
        log.append_prompts([prompt(1)])
    assert not torn.exists()


def test_an_exported_table_is_read_as_a_log_but_not_written(tmp_path):
    with Log(tmp_path / "log") as log:
        log.append_outcomes([outcome(0)])
        path = log.export("outcomes", tmp_path / "outcomes.parquet")
    read = Log.open(path)
    pd.testing.assert_frame_equal(read.outcomes(), log.outcomes())
    assert read.samples().empty
    assert read.done().outcomes == {("p0", "small/beam_4x4")}
    with pytest.raises(TableError, match="to be read only"):
        read.append_outcomes([outcome(1)])


def test_other_things_than_logs_are_refused_with_a_remedy(tmp_path):
    with pytest.raises(TableError, match="no log at"):
        Log.open(tmp_path / "nothing")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(TableError, match="not empty and holds no log"):
        Log(tmp_path / "full")
    plain = tmp_path / "plain.parquet"
    pd.DataFrame({"a": [1]}).to_parquet(plain)
    with pytest.raises(TableError, match="howhard import"):
        Log.open(plain)
    plain.write_bytes(b"not parquet")
    with pytest.raises(TableError, match="cannot be read as parquet"):
        Log.open(plain)


def test_a_log_of_another_schema_version_says_what_to_do(tmp_path):
    Log(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"schema_version": tables.SCHEMA_VERSION + 1}))
    with pytest.raises(TableError, match="Upgrade howhard"):
        Log.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(TableError, match="is damaged"):
        Log.open(tmp_path)


def test_notes_are_kept_beside_the_tables(tmp_path):
    with Log(tmp_path) as log:
        log.note(n=8, arms=["a"])
        log.note(n=16)
    assert Log.open(tmp_path).notes() == {"n": 16, "arms": ["a"]}


def test_parts_are_compressed_with_zstd(tmp_path):
    with Log(tmp_path) as log:
        log.append_prompts([prompt(0)])
    part = pq.ParquetFile(tmp_path / "prompts" / "part-000001.parquet")
    assert part.metadata.row_group(0).column(0).compression == "ZSTD"


WRITER = """
import sys
from howhard.training.log import Log, SampleKey
log = Log(sys.argv[1])
for i in range(int(sys.argv[2])):
    rows = [
        dict(prompt_id=f"p{i}", backend="small", fingerprint="f", params="{}", sample_index=j, text="x" * 200,
             extractor="final/1", quality=1.0, finish_reason="stop", prompt_tokens=3, completion_tokens=1)
        for j in range(4) if log.done().wants(SampleKey(f"p{i}", "small", "{}", j))
    ]
    log.append_samples(rows)
    print(i, flush=True)
"""


def test_a_writer_killed_at_random_moments_loses_no_acknowledged_row_and_repeats_none(tmp_path):
    rng = random.Random(7)
    total, acknowledged, kills = 100, -1, 0
    path = tmp_path / "log"
    while acknowledged < total - 1:
        command = [sys.executable, "-c", WRITER, str(path), str(total)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            # Kill after some acknowledgements, a random fraction of a write later; let the last run finish.
            left = rng.randrange(10, 30) if kills < 4 else total
            for line in writer.stdout:
                acknowledged = max(acknowledged, int(line))
                left -= 1
                if left == 0 and acknowledged < total - 1:
                    time.sleep(rng.random() * 0.01)
                    writer.send_signal(signal.SIGKILL)
                    kills += 1
                    for rest in writer.stdout:
                        acknowledged = max(acknowledged, int(rest))
                    break
        stored = Log.open(path).samples()
        assert not stored.duplicated(["prompt_id", "sample_index"]).any()
        assert set(stored["prompt_id"]) >= {f"p{i}" for i in range(acknowledged + 1)}
    assert kills >= 3
    assert len(stored) == 4 * total
    raw = sum(pq.ParquetFile(p).metadata.num_rows for p in (path / "samples").glob("part-*.parquet"))
    assert raw == 4 * total
