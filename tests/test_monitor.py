"""Chapter 10, the weekly check: weeks in any zone, rows of every damage, alerts against real servers of Slack's and of mail, and the memory of what was told, by state machines and by two processes at once."""
import http.server
import json
import os
import shutil
import socketserver
import ssl
import subprocess
import sys
import threading
import time
import zoneinfo
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from email import message_from_bytes, policy

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings as options, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from typer.testing import CliRunner

from mlops_course import monitor as m
from mlops_course.cli import monitor_app
from mlops_course.predlog import PredictionLog

UTC, BERLIN, INDIA = timezone.utc, zoneinfo.ZoneInfo("Europe/Berlin"), zoneinfo.ZoneInfo("Asia/Kolkata")
some = options(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
CLI = [sys.executable, "-c", "from mlops_course.cli import main; main()", "monitor"]


# --- windows --------------------------------------------------------------------------------------------------------------------

zones = st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "America/Havana", "America/Santiago", "Asia/Beirut", "Pacific/Apia", "Asia/Kathmandu"]).map(zoneinfo.ZoneInfo)
moments = st.datetimes(datetime(2005, 1, 1), datetime(2037, 1, 1)).map(lambda t: t.replace(tzinfo=UTC))


@some
@given(moments, zones, st.integers(1, 5), st.sampled_from([m.last_days, m.last_weeks]))
def test_windows_cover_time_without_gap_or_overlap(now, zone, n, last):
    w = last(n, now, zone)
    assert w.end <= now < last(n, now + timedelta(days=8), zone).end and w.start < w.end
    assert abs(w.hours - 24 * w.days) <= 24.5  # an hour of daylight saving, or the day that Samoa left out
    assert last(n, w.end - timedelta(microseconds=1), zone).end < w.end == last(n, w.end, zone).end
    one, days = last(1, now, zone), 7 if last is m.last_weeks else 1
    assert m.wider(one, n) == w and last(1, one.end - timedelta(microseconds=1), zone).end == one.start and one.days == days


def test_weeks_in_which_clocks_change():
    at = lambda *t: datetime(*t, tzinfo=BERLIN)
    spring, autumn = m.last_weeks(1, at(2026, 3, 30, 6), BERLIN), m.last_weeks(1, at(2026, 10, 26, 6), BERLIN)
    assert (spring.hours, autumn.hours) == (167, 169) and spring.start == datetime(2026, 3, 22, 23, tzinfo=UTC) and spring.end == datetime(2026, 3, 29, 22, tzinfo=UTC)
    assert "Mon 2026-10-26 00:00, Europe/Berlin" in str(autumn)


@pytest.mark.parametrize("stamp,there", [("2026-10-25T00:30:00+00:00", True), ("2026-10-25 23:59:59+01:00", True), ("2026-10-26T00:00:00+01:00", False), ("2026-10-18T23:59:59+02:00", False), ("2026-10-19T00:00:00+02:00", True)])
def test_a_row_is_in_the_week_of_its_zone(tmp_path, stamp, there):
    (tmp_path / "a.csv").write_text(f"timestamp,predicted_class\n{stamp},a\n2026-10-20T00:00Z,a\n")
    w = m.last_weeks(1, datetime(2026, 10, 26, 6, tzinfo=BERLIN), BERLIN)
    assert len(m.read(tmp_path / "a.csv", BERLIN, start=w.start, end=w.end, now=datetime(2026, 11, 1, tzinfo=UTC)).frame) == 1 + there


def test_local_times_that_do_not_exist_and_that_come_twice(tmp_path):
    (tmp_path / "a.csv").write_text("timestamp,predicted_class\n2026-03-29 01:59,a\n2026-03-29 02:30,b\n2026-10-25 02:30,c\n")
    batch = m.read(tmp_path / "a.csv", BERLIN, now=datetime(2026, 11, 1, tzinfo=UTC))
    assert batch.frame.predicted_class.tolist() == ["a", "c"] and batch.twice.tolist() == [False, True] and batch.bad[0][0] == "line 3"
    assert batch.times.iloc[1] == pd.Timestamp("2026-10-25T00:30Z")


# --- reading --------------------------------------------------------------------------------------------------------------------

NOW = datetime(2026, 4, 6, 6, tzinfo=INDIA)
cells = st.one_of(st.sampled_from(["", "0.5", "1.5", "nan", "a", "2026-03-30", "2026-03-31T06:00:00", "9999-01-01", "soon", "-1", "é\n,\"", "\0"]), st.text(max_size=8).filter(lambda t: t.isprintable()))


@options(some, max_examples=40)
@given(st.lists(st.lists(cells, min_size=1, max_size=6), max_size=20))
def test_each_row_is_used_or_named(tmp_path, rows):
    import csv
    with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8") as f: csv.writer(f).writerows([["timestamp", "x", "predicted_class", "confidence"], ["2026-03-30", "1", "a", "0.5"], *rows])
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as f: n = sum(1 for row in csv.reader(f) if row) - 1
    batch = m.read(tmp_path / "a.csv", INDIA, now=NOW)
    assert len(batch.frame) + len(batch.bad) == n == len(batch) and all(place.startswith("line ") and why for place, why, _ in batch.bad)
    good = batch.frame.confidence.dropna()
    assert batch.times.is_monotonic_increasing and ((0 <= good) & (good <= 1)).all() and (batch.times <= pd.Timestamp(NOW) + timedelta(minutes=5)).all()


BAD = [("", "is empty"), ("a,a,timestamp,predicted_class\n", "two columns called 'a'"), ("when,predicted_class\n2026-01-01,a\n", "no column 'timestamp'"), ("timestamp,predicted_class\nx,a\ny,a\n", "none of the 2 rows"),
       ("timestamp,predicted_class\n2026-01-01T00:00+05:30,a\n2026-01-01 07:00,a\n", "mixes times with and without a zone"), ("timestamp,predicted_class\n2099-01-01,a\n", "lies in the future"), ('timestamp,predicted_class\n2026-01-01,"' + "a" * 140_000, "quotation mark"),
       ("timestamp,predicted_class,confidence\n2026-01-01,a,87\n", "no number from 0 to 1"), (b"timestamp,predicted_class\n2026-01-01,\xff\n", "not UTF-8")]


@pytest.mark.parametrize("text,word", BAD, ids=[w for _, w in BAD])
def test_files_that_cannot_be_read_say_why(tmp_path, text, word):
    (tmp_path / "a.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=word): m.read(tmp_path / "a.csv", INDIA, now=NOW)


def test_offsets_may_differ_but_not_be_there_and_not(tmp_path):
    (tmp_path / "a.csv").write_text("timestamp,predicted_class\n2026-01-01T00:00+05:30,a\n2025-12-31T18:45Z,b\n")
    assert m.read(tmp_path / "a.csv", BERLIN, now=NOW).times.diff().iloc[1] == timedelta(minutes=15)


def test_a_log_without_a_header_gets_names(tmp_path):
    (tmp_path / "a.csv").write_text("2026-04-01T00:00,leaf.jpg,Healthy,0.9,0.04\n" * 3)
    c = settings_of(tmp_path, file="a.csv", more='header = ["timestamp", "photo", "predicted_class", "confidence", "seconds"]\nignore = ["photo"]\n')
    assert m.fit(c, now=NOW)[0].columns.keys() == {"predicted_class", "confidence", "seconds"}


def test_parquet_and_csv_give_the_same_rows(tmp_path):
    frame = rows_of("2026-03-30", 200, labels=2)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.assign(timestamp=pd.to_datetime(frame.timestamp)).to_parquet(tmp_path / "a.parquet")
    frame.assign(timestamp=pd.to_datetime(frame.timestamp).dt.tz_localize(INDIA)).to_parquet(tmp_path / "b.pq")
    first, *others = (m.read(tmp_path / name, INDIA, now=NOW) for name in ("a.csv", "a.parquet", "b.pq"))
    for other in others:
        pd.testing.assert_frame_equal(first.frame, other.frame, check_dtype=False)
        assert (first.times == other.times).all()
    (tmp_path / "c.parquet").write_text("no")
    with pytest.raises(ValueError, match="no Parquet file"): m.read(tmp_path / "c.parquet", INDIA)


def test_text_that_looks_like_numbers(tmp_path):
    (tmp_path / "a.csv").write_text("timestamp,predicted_class,code,x\n2026-01-01,1,007,1\n2026-01-02,2,8,oops\n")
    frame = m.read(tmp_path / "a.csv", INDIA, now=NOW, kinds={"x": "number"}).frame
    assert frame.code.tolist() == ["007", "8"] and frame.x.tolist() == [1.0, "oops"]


# --- a service ------------------------------------------------------------------------------------------------------------------

def rows_of(start, n, days=7, healthy=0.6, shift=0.0, unsure=0.0, labels=0.0, seed=0):
    rng = np.random.default_rng([seed, n, int(date.fromisoformat(start).toordinal())])
    when = pd.Timestamp(start) + pd.to_timedelta(np.sort(rng.uniform(0, 24 * days, n)), unit="h").round("s")
    said = np.where(rng.random(n) < healthy, "Healthy", rng.choice(["Early blight", "Late blight"], n))
    label = np.where(rng.random(n) < labels, np.where(rng.random(n) < 0.9, said, "Rust"), None)
    return pd.DataFrame({"timestamp": when.strftime("%Y-%m-%dT%H:%M:%S"), "brightness": rng.normal(100 + 20 * shift, 20, n).round(1), "district": rng.choice(["Pune", "Agra", "Nashik"], n), "predicted_class": said, "confidence": np.clip(rng.beta(9, 1.5, n) - unsure, 0, 1).round(3), "label": label})


def settings_of(folder, file="log.csv", more="", rest="", window="weeks = 1", zone="Asia/Kolkata", name="leaves"):
    source = f'log = "{file}"' if (folder / file).is_dir() else f'file = "{file}"'
    (folder / "monitor.toml").write_text(f'name = "{name}"\n[source]\n{source}\nzone = "{zone}"\n{more}[window]\n{window}\n{rest}')
    return m.settings(folder / "monitor.toml")


WEEKS = ["2026-03-02", "2026-03-09", "2026-03-16", "2026-03-23", "2026-03-30"]


@pytest.fixture
def service(tmp_path):
    "A folder with four quiet weeks, settings and a reference; `add(week, ...)` logs another one."
    def add(start, n=500, **kw): rows_of(start, n, **kw).to_csv(tmp_path / "log.csv", mode="a", index=False, header=not (tmp_path / "log.csv").exists())
    for week in WEEKS[:4]: add(week)
    def check(now="2026-03-30T06:00", rest="", environ={}, **kw):
        return m.check(settings_of(tmp_path, rest=rest), now=datetime.fromisoformat(now).replace(tzinfo=INDIA), environ=environ, **kw)
    m.fit(settings_of(tmp_path), end=datetime(2026, 3, 16, tzinfo=INDIA), now=NOW)
    check.add, check.folder = add, tmp_path
    return check


def levels(done): return {f.column: f.level for f in reversed(done.findings)}


def test_a_quiet_week_and_the_same_week_again(service):
    one, two = service(), service(now="2026-04-05T23:00")
    assert (one.code, one.rows, one.window.hours) == (0, 500, 168) and one.window == two.window and one.metrics == two.metrics and one.report == two.report
    data = json.loads(one.report.with_suffix(".json").read_text())
    assert data["monitor"]["metrics"]["rows"] == 500 and {f["column"] for f in data["findings"]} <= set(data["columns"]) and data["level"] == one.level
    with m.State(service.folder / "monitor/state.db") as state: assert len(state.history()) == 1
    assert not list(service.folder.glob("monitor/.*"))


@pytest.mark.parametrize("change,rest,column", [
    (dict(shift=0.5), "", "brightness"), (dict(healthy=0.3), "", "predicted_class"), (dict(healthy=0.2), "[floors]\nHealthy = 0.4\n", "share of 'Healthy'"), (dict(unsure=0.3), "[confidence]\nmean = 0.7\n", "mean confidence"),
    (dict(unsure=0.25), "[confidence]\nshare = 0.2\n", "sure answers"), (dict(labels=0.9), "[labels]\naccuracy = 0.97\nwindows = 1\n", "accuracy"), (dict(labels=0.9), "[labels]\nf1 = 0.97\nwindows = 1\n", "macro-F1"), (dict(n=40), "[traffic]\nusual = 70\n", "traffic")])
def test_what_is_watched(service, change, rest, column):
    service.add(WEEKS[4], **change)
    done = service("2026-04-06T06:00", rest)
    assert levels(done)[column] == "drift" and done.code == 1, m.lines_of(done)
    assert service("2026-03-30T06:00", rest).code == 0 or column in ("accuracy", "macro-F1", "traffic")


def test_floors_by_interval_and_plainly(service):
    rows_of(WEEKS[4], 100).assign(predicted_class=["Healthy"] * 36 + ["Early blight"] * 64).to_csv(service.folder / "log.csv", mode="a", index=False, header=False)
    for rule, level in (("interval", "watch"), ("plain", "drift")): assert levels(service("2026-04-06T06:00", f'[verdict]\nfloors = "{rule}"\n[floors]\nHealthy = 0.4\n'))["share of 'Healthy'"] == level


def test_no_rows_is_an_alarm_and_an_asked_for_window_without_rows_an_error(service):
    done = service("2026-04-13T06:00")
    assert (done.code, done.rows, levels(done)) == (1, 0, {"traffic": "drift"}) and "no rows came" in done.findings[0].why and "2026-03-29" in done.findings[0].why
    data = json.loads(done.report.with_suffix(".json").read_text())
    assert data["rows"] == 0 and set(data["columns"]) == {"brightness", "district", "predicted_class", "confidence", "traffic"}
    with pytest.raises(ValueError, match="has no rows from Thu 2020-01-02"): service(window=m.Window(datetime(2020, 1, 2, tzinfo=UTC), datetime(2020, 1, 3, tzinfo=UTC), INDIA))


def test_an_asked_for_window_is_a_report_and_nothing_else(service):
    service.add(WEEKS[4], shift=1)
    with slack_server(200) as (url, got):
        whole = m.Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 10, tzinfo=UTC), INDIA)
        done = service("2026-04-06T06:00", '[slack]\nwebhook = "HOOK"\n', {"HOOK": url}, window=whole)
        assert done.code == 1 and done.rows == 2500 and done.report.with_suffix(".json").exists() and not done.told and not got
        with m.State(service.folder / "monitor/state.db") as state: assert state.history() == []
        assert service("2026-04-06T06:00", '[slack]\nwebhook = "HOOK"\n', {"HOOK": url}).told == {"slack": 1}


def test_a_check_by_a_clock_that_was_years_ahead_silences_nobody(service):
    service.add(WEEKS[4], shift=1)
    with slack_server(200) as (url, got):
        rest, environ = '[slack]\nwebhook = "HOOK"\n', {"HOOK": url}
        service("2029-01-01T06:00", rest, environ)
        assert service("2026-04-06T06:00", rest, environ).told == {"slack": 2} and len(got) == 2 and "brightness" in str(got[1])


def test_two_monitors_do_not_share_a_folder(service):
    service()
    with pytest.raises(ValueError, match="belongs to the monitor 'leaves', not to 'loans'"): m.check(settings_of(service.folder, name="loans"), now=NOW)


def test_few_rows_are_called_few(service):
    service.add(WEEKS[4], n=12)
    done = service("2026-04-06T06:00", "[floors]\nHealthy = 0.4\n")
    assert done.code == 0 and done.level == "unsure" and "too few rows to tell" in m.lines_of(done)[-2]


def test_usual_traffic_comes_from_the_history_and_bad_rows_are_named(service):
    for week in WEEKS[1:4]: service((date.fromisoformat(week) + timedelta(1)).isoformat() + "T06:00")
    rows = rows_of(WEEKS[4], 60)
    rows.loc[5, "confidence"] = 70
    rows.to_csv(service.folder / "log.csv", mode="a", index=False, header=False)
    done = service("2026-04-06T06:00")
    assert levels(done)["traffic"] == "drift" == levels(done)["bad rows"] and "usual are 71.4 a day" in str(done.findings) and "line 2007: '70.0' in 'confidence'" in str(done.findings)


def test_labels_that_come_late_count_over_several_windows(service):
    done = service(rest="[labels]\naccuracy = 0.5\n")
    assert levels(done)["accuracy"] == "unsure" and done.metrics["labelled_of"] == 2000
    table = pd.read_csv(service.folder / "log.csv", dtype={"label": object})
    table.loc[:299, "label"] = table.predicted_class
    table.to_csv(service.folder / "log.csv", index=False)
    done = service(rest="[labels]\naccuracy = 0.5\n")
    assert done.metrics["accuracy"]["value"] == 1 == done.metrics["f1"]["value"] and done.metrics["labelled"] == 300 and service(rest="[labels]\nwindows = 1\n").metrics["labelled"] == 0


def test_the_newest_rows(service):
    c = settings_of(service.folder, window="rows = 300")
    now = datetime(2026, 4, 6, tzinfo=UTC)
    one, two = m.check(c, now=now), m.check(c, now=now + timedelta(1))
    assert one.rows == 300 and one.window == two.window and "traffic" not in levels(one) and one.metrics["labelled_of"] == 1200


def test_confidence_that_decays_over_windows(service):
    found = [m._trend(settings_of(service.folder), [0.9 - 0.008 * i for i in range(k)]) for k in (4, 6, 9)]
    assert [f[0].level if f else None for f in found] == [None, "watch", "drift"]


def test_an_alarm_stays_open_while_nothing_can_be_said(service):
    service.add(WEEKS[4], shift=1)
    with slack_server(200) as (url, got):
        run = lambda now: service(now, '[slack]\nwebhook = "HOOK"\n', {"HOOK": url})
        assert run("2026-04-06T06:00").told == {"slack": 1} and run("2026-04-13T06:00").told == {"slack": 1}
        assert "traffic" in str(got[1]) and "Over" not in str(got[1])  # a week without rows does not end the drift
        service.add("2026-04-13")
        assert run("2026-04-20T06:00").told == {"slack": 2} and "leaves: 2 over" == got[2]["text"]


def test_the_prediction_log(tmp_path):
    log = PredictionLog(tmp_path / "predictions")
    for row in pd.concat([rows_of(w, 300, labels=0.5) for w in WEEKS[:3]]).itertuples():
        at = datetime.fromisoformat(row.timestamp).replace(tzinfo=INDIA)
        id = log.write({"brightness": row.brightness, "district": row.district}, row.predicted_class, row.confidence, time=at)
        if isinstance(row.label, str): log.label(id, row.label, time=at)
    log.close()
    segment = next((tmp_path / "predictions").glob("rows-2026-03-17*"))
    with open(segment, "ab") as f: f.write(b"\n0badc0de 12 torn")
    c = settings_of(tmp_path, "predictions")
    reference, rows = m.fit(c, end=datetime(2026, 3, 16, tzinfo=INDIA), now=NOW)
    assert list(reference.columns) == ["brightness", "district", "predicted", "confidence"]
    done = m.check(c, now=datetime(2026, 3, 23, 6, tzinfo=INDIA))
    assert done.rows == 301 and levels(done)["bad rows"] == "watch" and done.metrics["labelled"] > 100 and done.code == 0, m.lines_of(done)
    (tmp_path / "gone.toml").write_text(c.path.read_text().replace('"predictions"', '"elsewhere"'))
    with pytest.raises(FileNotFoundError, match="prediction log"): m.fit(m.settings(tmp_path / "gone.toml"))
    assert not (tmp_path / "elsewhere").exists()


def test_names_that_are_no_unicode(tmp_path):
    log, rng = PredictionLog(tmp_path / "predictions"), np.random.default_rng(0)
    for day in range(1, 22):
        for hour in range(20): log.write({"half \ud800": float(rng.normal(3 * (day > 14)))}, "class \ud801" if rng.random() < 0.5 else "b", 0.9, time=datetime(2026, 3, 1 + day, hour, tzinfo=UTC))
    log.close()
    c = settings_of(tmp_path, "predictions", zone="UTC", rest='[slack]\nwebhook = "HOOK"\n')
    m.fit(c, end=datetime(2026, 3, 16, tzinfo=UTC), now=NOW)
    with slack_server(200) as (url, got): done = m.check(c, now=datetime(2026, 3, 23, 6, tzinfo=UTC), environ={"HOOK": url})
    assert done.code == 1 and done.told == {"slack": 1} and "New alarm: half" in str(got) and (c.folder / "drift.prom").read_text() and json.loads(done.report.with_suffix(".json").read_text())["level"] == "drift"


def test_an_error_in_one_channel_does_not_silence_the_other(service, monkeypatch):
    service.add(WEEKS[4], shift=1)
    monkeypatch.setattr(m, "slack_message", lambda *a: {}["secret"])
    with slack_server(200) as (url, got), mail_server(inbox := Inbox()) as port:
        done = service("2026-04-06T06:00", f'[slack]\nwebhook = "HOOK"\n[email]\nhost = "localhost"\nsecurity = "none"\nport = {port}\nsender = "m@example.org"\nto = ["ada@example.org"]\n', {"HOOK": url})
    assert done.code == 3 and done.told == {"email": 1} and "KeyError" in done.untold["slack"] and "secret" not in done.untold["slack"]


def test_metrics_for_prometheus_are_what_its_parser_reads(service):
    from prometheus_client.parser import text_string_to_metric_families as parse
    service.add(WEEKS[4], healthy=0.3, labels=0.5)
    done = service("2026-04-06T06:00")
    found = {f.name: f.samples for f in parse((service.folder / "monitor/drift.prom").read_text())}
    assert set(found) == {"mlops_drift_columns", "mlops_drift_alarm", "mlops_check_timestamp_seconds", "mlops_online_accuracy", "mlops_online_f1", "mlops_class_share", "mlops_confidence_mean", "mlops_feature_mean", "mlops_feature_missing_ratio"}
    value = lambda name: found[name][0].value
    assert value("mlops_drift_alarm") == 1 and value("mlops_check_timestamp_seconds") == datetime(2026, 4, 6, 0, 30, tzinfo=UTC).timestamp() and np.isclose(value("mlops_online_accuracy"), done.metrics["accuracy"]["value"])
    assert {s.labels["level"] for s in found["mlops_drift_columns"]} == set(m.LEVELS) and np.isclose(sum(s.value for s in found["mlops_class_share"]), 1)
    means, gone = ({s.labels["feature"]: s.value for s in found[name]} for name in ("mlops_feature_mean", "mlops_feature_missing_ratio"))
    assert set(means) <= set(gone) == set(done.metrics["features"]) and "confidence" not in gone and all(np.isclose(v, done.metrics["features"][k]["mean"]) for k, v in means.items())
    odd = m.prometheus('a"b\\', {"columns": {}, "level": "ok"}, {"shares": {'x"\n{}\\': {"value": 0.5}}}, NOW)
    assert next(iter(f for f in parse(odd) if f.name == "mlops_class_share")).samples[0].labels["monitor"] == 'a"b\\'


def test_figures_of_features():
    reference = m.Reference.fit(pd.DataFrame({"x": [1.0, 2, 3], "far": [0.0, 1, 2], "kind": ["a", "b", "a"], "answer": [0.1, 0.2, 0.3]}), predictions="answer")
    found = m._features(reference, pd.DataFrame({"x": [1, np.nan, np.inf, 4], "far": [1.7e308, 1.7e308, 1.7e308, 1.7e308], "kind": ["a", None, "", "b"], "answer": [0.5] * 4, "new": [1] * 4}))
    assert found == {"x": {"mean": 2.5, "missing": 0.25}, "far": {"mean": None, "missing": 0.0}, "kind": {"mean": None, "missing": 0.5}}


def test_the_page_and_its_json_or_the_json_alone(service, monkeypatch):
    done = service()
    page, data = done.report.read_text(), json.loads(done.report.with_suffix(".json").read_text())
    assert done.report.suffix == ".html" and page.startswith("<!doctype html>") and "brightness" in page and data["monitor"]["name"] in page
    monkeypatch.setattr("mlops_course.report.write", lambda data, path: 1 / 0)
    broken = service()
    assert broken.report.suffix == ".json" and "ZeroDivisionError" in broken.notes[0] and broken.code == 0


def test_a_reference_from_a_table_larger_than_memory(service):
    from mlops_course.sketch import Sketch
    c = settings_of(service.folder)
    service.add(WEEKS[4], shift=1)
    sorted_one = service("2026-04-06T06:00")
    rows = m.read(c.place, c.zone, c.columns, end=datetime(2026, 3, 16, tzinfo=INDIA), now=NOW).frame
    Sketch(c.name, categories=[c.columns.predicted], predictions=[c.columns.predicted, c.columns.confidence]).update(m._watched(c, rows)).save(c.reference)
    sketched = service("2026-04-06T06:00")
    assert sketched.code == 1 and levels(sketched) == levels(sorted_one)


# --- Slack ----------------------------------------------------------------------------------------------------------------------

@contextmanager
def slack_server(*behaviour):
    got, plan = [], list(behaviour)
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            status, headers = how if isinstance(how := plan.pop(0) if len(plan) > 1 else plan[0], tuple) else (how, {})
            if status == "hang": return time.sleep(2)
            if status == "cut": return self.connection.shutdown(2)
            self.send_response(status)
            for k, v in headers.items(): self.send_header(k, v)
            self.end_headers()
            try:
                self.wfile.write(b"ok" if status == 200 else b"invalid_token /services/secret")
                for _ in range(20 * ("Drip" in headers)): self.wfile.write(b"."); self.wfile.flush(); time.sleep(0.2)
            except OSError: pass
        def log_message(self, *a): pass
    class Server(http.server.ThreadingHTTPServer): daemon_threads, block_on_close = True, False
    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try: yield f"http://127.0.0.1:{server.server_port}/services/secret", got
        finally: server.shutdown()


@pytest.mark.parametrize("behaviour,asked,waits,error", [
    ([200], 1, [], None), ([(429, {"Retry-After": "7"}), 200], 2, [7], None), ([(429, {"Retry-After": "3600"})], 1, [], "asks to wait 3600 s"), ([(429, {"Retry-After": "soon"}), 200], 2, [1], None), ([500, 503, 200], 3, [1, 2], None), ([500], 3, [1, 2], "answered 500, 3 times"),
    ([403], 1, [], "answered 403"), ([(302, {"Location": "/services/secret"})], 1, [], "answered 302"), (["hang"], 1, [], "within 0.5 s|did not answer"), (["cut"], 1, [], "may have arrived"), ([(200, {"Content-Length": "99", "Drip": "1"})], 1, [], "within 0.5 s|did not answer")])
def test_slack_as_it_may_behave(behaviour, asked, waits, error):
    waited = []
    with slack_server(*behaviour) as (url, got):
        if error:
            with pytest.raises(m.NotSent, match=error) as e: m.send_slack(url, {"text": "x"}, seconds=0.5, wait=waited.append)
            assert "secret" not in str(e.value)
        else: m.send_slack(url, {"text": "x"}, seconds=5, wait=waited.append)
    assert (len(got), waited) == (asked, waits)


@pytest.mark.parametrize("url", ["http://hooks.slack.com/secret", "https://", "secret", "https://a\nb/secret", "file:///etc/secret", "https://[::1/secret", "http://localhost.example.org/secret", "https://127.0.0.1:99999/secret"])
def test_addresses_that_are_none_are_not_repeated(url):
    with pytest.raises(m.NotSent) as e: m.send_slack(url, {})
    assert "secret" not in str(e.value) and "hooks" not in str(e.value)


@some
@given(st.lists(st.tuples(st.sampled_from(list(m._KINDS)), st.text(max_size=200), st.text(max_size=1500)), min_size=1, max_size=60))
def test_messages_keep_to_slacks_limits_and_hold_no_commands(things):
    items = [(kind, key, m.Told(why, 0, over=1)) for kind, key, why in things]
    subject, lines = m._subject("leaves", items), m._lines(items, INDIA)
    message = m.slack_message(subject, lines, "x" * 5000)
    assert len(message["blocks"]) <= 50 and len(message["blocks"][0]["text"]["text"]) <= 150 and all(len(b["text"]["text"]) <= 3000 for b in message["blocks"][1:-1])
    assert not any(c in json.dumps(message) for c in "<>") and "\n" not in subject
    mail = m.email_message(MAIL, subject, lines, "footer")
    assert set(mail.keys()) == {"Subject", "From", "To", "Date", "Message-ID", "Auto-Submitted", "Content-Type", "Content-Transfer-Encoding", "MIME-Version"}
    assert message_from_bytes(mail.as_bytes(policy=policy.SMTP)).keys() == mail.keys()


# --- mail -----------------------------------------------------------------------------------------------------------------------

MAIL = type("Settings", (), {"email": type("Email", (), dict(host="localhost", port=25, security="none", sender="monitor@example.org", to=["ada@example.org", "bo@example.org"], user="", password="", ca=""))})()


class Inbox:
    def __init__(self, refuse=()): self.mails, self.refuse = [], refuse
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address in self.refuse: return "550 secret: no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"
    async def handle_DATA(self, server, session, envelope):
        self.mails.append((session.authenticated, session.ssl is not None, envelope.rcpt_tos, message_from_bytes(envelope.content, policy=policy.default)))
        return "250 OK"


@contextmanager
def mail_server(inbox, **kw):
    from aiosmtpd.controller import Controller
    from mlops_course.core import free_port
    server = Controller(inbox, hostname="127.0.0.1", port=free_port(), **kw)
    server.start()
    try: yield server.port
    finally: server.stop()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if not shutil.which("openssl"): pytest.skip("needs openssl to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return folder / "cert.pem", context


def mail_settings(**kw): return type("Settings", (), {"email": type("Email", (), {**vars(MAIL.email), **kw})})()


def mail_to(c, user="", password="", **kw): return m.send_email(c, m.email_message(c, "leaves: 1 new alarm", [("New alarm", "brightness", "higher \u2026")], "footer"), user, password, **kw)


def test_mail_in_the_clear_on_this_machine():
    with mail_server(inbox := Inbox()) as port: assert mail_to(mail_settings(port=port)) == []
    (_, tls, to, mail), = inbox.mails
    assert not tls and to == ["ada@example.org", "bo@example.org"] and mail["Subject"] == "leaves: 1 new alarm" and mail["Auto-Submitted"] == "auto-generated" and "higher \u2026" in mail.get_content()


def test_mail_encrypted_with_a_login(certificate):
    from aiosmtpd.smtp import AuthResult
    cert, context = certificate
    known = lambda server, session, envelope, mechanism, data: AuthResult(success=(data.login, data.password) == (b"ada", b"pass secret"), handled=False)
    with mail_server(inbox := Inbox(), tls_context=context, require_starttls=True, authenticator=known, auth_required=True) as port:
        c = mail_settings(port=port, security="starttls", ca=str(cert))
        assert mail_to(c, "ada", "pass secret") == [] and inbox.mails[0][:2] == (True, True)
        for wrong, word in ((lambda: mail_to(c, "ada", "wrong secret"), "refuses the user"), (lambda: mail_to(c, "ada", "s\u00e9cret secret"), "characters|refuses"), (lambda: mail_to(mail_settings(port=port, security="starttls"), "ada", "pass secret"), "certificate"),
                            (lambda: mail_to(mail_settings(port=port), "ada", "pass secret"), "STARTTLS|refuses|answered")):
            with pytest.raises(m.NotSent, match=word) as e: wrong()
            assert "secret" not in str(e.value)
    assert len(inbox.mails) == 1


def test_a_server_that_offers_no_encryption_gets_neither_password_nor_mail(certificate):
    with mail_server(inbox := Inbox()) as port, pytest.raises(m.NotSent, match="no STARTTLS"): mail_to(mail_settings(port=port, security="starttls", ca=str(certificate[0])), "ada", "secret")
    assert not inbox.mails


def test_addresses_that_are_refused_and_servers_that_are_silent():
    with mail_server(inbox := Inbox(refuse=["bo@example.org"])) as port: assert mail_to(mail_settings(port=port)) == ["bo@example.org"] and len(inbox.mails) == 1
    with mail_server(Inbox(refuse=MAIL.email.to)) as port, pytest.raises(m.NotSent, match="refuses all"): mail_to(mail_settings(port=port))
    with socketserver.TCPServer(("127.0.0.1", 0), lambda *a: time.sleep(1)) as silent:
        threading.Thread(target=silent.handle_request, daemon=True).start()
        with pytest.raises(m.NotSent, match="localhost"): mail_to(mail_settings(port=silent.server_address[1]), seconds=0.2)


@pytest.mark.parametrize("line", ['to = ["ada@example.org\\r\\nBcc: eve@example.org"]', 'to = ["ada"]', "to = []", 'to = ["ada@example.org"]\nsender = "a b@example.org"', 'to = ["ada@example.org"]\nsecurity = "none"', 'to = ["ada@example.org"]\nuser = "U"', 'to = ["ada@example.org"]\npassword = "hunter 2"\nuser="U"', 'to = ["ada@example.org"]\nport = "x"'])
def test_mail_settings_that_cannot_be(tmp_path, line):
    rest = f'[email]\nhost = "mail.example.org"\n{"" if "sender" in line else "sender = " + chr(34) + "m@example.org" + chr(34)}\n{line}\n'
    with pytest.raises(ValueError, match="email"): settings_of(tmp_path, rest=rest)


# --- told once ------------------------------------------------------------------------------------------------------------------

class Alerts(RuleBasedStateMachine):
    "A monitor, its file, and what people have heard; channels fail, processes end, time goes on."
    COOL = 28 * 86_400

    @initialize()
    def start(self):
        import tempfile
        self.folder = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.folder.name, "state.db")
        self.state, self.now, self.heard, self.wrong, self.missed_by = m.State(self.path), 1e9, [], {}, {}

    @rule(days=st.integers(1, 40), wrong=st.sets(st.sampled_from("abc")), unsure=st.sets(st.sampled_from("abc")), works=st.booleans())
    def week(self, days, wrong, unsure, works):
        self.now += days * 86_400
        end, unsure = datetime.fromtimestamp(self.now, UTC), unsure - wrong
        window = m.Window(end - timedelta(days=days), end, INDIA, days)
        self.state.record(window, end, "ok", {}, None, {k: f"{k} is off" for k in wrong}, unsure, ["slack"])
        for k in "abc":
            if k in wrong: self.wrong[k] = True
            elif k not in unsure: self.wrong[k] = False
        self.tell(works)

    @rule()
    def again(self): self.tell(True)

    @rule()
    def restart(self):
        self.state.close()
        self.state = m.State(self.path)

    def tell(self, works):
        def send(items):
            if not works: raise m.NotSent("down")
            self.heard.append((self.now, items))
        try: self.state.deliver("slack", send, self.now, self.COOL)
        except m.NotSent: return
        self.check_heard()

    def check_heard(self):
        "After a channel has worked: who listens knows what is wrong, unless the cool-down holds it back; nothing came twice."
        knows, last = {}, {}
        for now, items in self.heard:
            for kind, key, t in items:
                if kind == "over": assert knows.pop(key), "the end of what nobody was told"
                else:
                    assert now - last.get(key, -1e18) >= self.COOL, f"{key} was told too early"
                    assert kind != "new" or key not in last
                    assert (kind == "still") == bool(knows.get(key))
                    last[key] = now
                    if kind != "missed": knows[key] = True
        for key, wrong in self.wrong.items():
            rested = self.now - last.get(key, -1e18) >= self.COOL
            assert knows.get(key, False) == wrong or wrong and not rested, (key, wrong, self.heard)

    def teardown(self):
        if hasattr(self, "state"): self.state.close(); self.folder.cleanup()


TestAlerts = Alerts.TestCase
TestAlerts.settings = options(max_examples=30, stateful_step_count=12, deadline=None)


def test_two_checks_at_once_send_once(service):
    service.add(WEEKS[4], shift=1)
    settings_of(service.folder, rest='[slack]\nwebhook = "HOOK"\n')
    with slack_server(200) as (url, got):
        run = lambda: subprocess.Popen([*CLI, "check", "monitor.toml", "--at", "2026-04-06T06:00"], cwd=service.folder, env={**os.environ, "HOOK": url}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        ran = [run(), run()]
        said = [p.communicate(timeout=100)[0] for p in ran]
    assert [p.returncode for p in ran] == [1, 1] and len(got) == 1 and sorted("1 told" in s for s in said) == [False, True], said
    assert not any("secret" in s for s in said)


def test_a_failing_channel_delays_an_alert_and_does_not_lose_it(service, monkeypatch):
    monkeypatch.setattr(m, "send_slack", lambda url, message, real=m.send_slack: real(url, message, tries=1))
    service.add(WEEKS[4], shift=1)
    service.add("2026-04-06")
    with slack_server(500) as (url, got), mail_server(inbox := Inbox()) as port:
        rest = f'[slack]\nwebhook = "HOOK"\n[email]\nhost = "localhost"\nsecurity = "none"\nport = {port}\nsender = "m@example.org"\nto = ["ada@example.org"]\n'
        done = service("2026-04-06T06:00", rest, {"HOOK": url})
        assert done.code == 3 and done.told == {"email": 1} and "500" in done.untold["slack"] and "NOT TOLD" in m.lines_of(done)[-1]
        assert service("2026-04-06T07:00", rest, {"HOOK": url}).code == 3 and len(inbox.mails) == 1
    with slack_server(200) as (url, got), mail_server(inbox) as port:
        rest = rest[:rest.index("port")] + f'port = {port}\nsender = "m@example.org"\nto = ["ada@example.org"]\n'
        done = service("2026-04-13T06:00", rest, {"HOOK": url})  # all is well again; Slack has to hear that something was not
        assert done.code == 0 and done.told == {"slack": 1, "email": 1} and "Was wrong, and is over: brightness" in str(got) and inbox.mails[1][3]["Subject"] == "leaves: 1 over"
        assert service("2026-04-20T06:00", rest, {"HOOK": url}).told["slack"] == 1  # no rows any more


def test_what_is_private_is_nowhere(service, capfd):
    service.add(WEEKS[4], shift=1)
    with slack_server(403) as (url, got): done = service("2026-04-06T06:00", '[slack]\nwebhook = "HOOK"\n', {"HOOK": url})
    out = capfd.readouterr()
    assert done.code == 3 and "secret" not in out.out + out.err + str(done) + "".join(m.lines_of(done))
    assert not any(b"secret" in p.read_bytes() for p in service.folder.rglob("*") if p.is_file())
    with pytest.raises(ValueError, match="HOOK is not set"): service("2026-04-06T06:00", '[slack]\nwebhook = "HOOK"\n', {})


def test_old_windows_and_dry_runs_change_no_alert(service):
    service.add(WEEKS[4], shift=1)
    with slack_server(200) as (url, got):
        rest, environ = '[slack]\nwebhook = "HOOK"\n', {"HOOK": url}
        assert service("2026-04-06T06:00", rest, environ, dry=True).code == 1 and not (service.folder / "monitor").exists()
        assert service("2026-04-06T06:00", rest, environ).told == {"slack": 1}
        old = service("2026-03-30T06:00", rest, environ)
        assert old.code == 0 and old.told == {} and "later window" in old.notes[0] and len(got) == 1


# --- settings, cron, Kubernetes, and the command ----------------------------------------------------------------------------------

def test_settings_refuse_what_they_do_not_know(tmp_path):
    for rest, word in [("[sources]\n", "sources"), ("[verdict]\nalpha = 5\n", "alpha"), ("[verdict]\nlooks = true\n", "looks"), ("[floors]\nHealthy = 40\n", "share"), ("[verdict]\nfloors = 'x'\n", "interval"), ("[schedule]\nday = 'someday'\n", "schedule"), ("[traffic]\nusual = -1\n", "usual"), ("[slack]\nwebhook = 'https://x/secret'\n", "name")]:
        with pytest.raises(ValueError, match=word) as e: settings_of(tmp_path, rest=rest)
        assert "secret" not in str(e.value).replace("the secret itself", "")
    for kw in (dict(window="weeks = 1\ndays = 7"), dict(window="rows = -5"), dict(zone="Mars/Base"), dict(name="a\\nb")):
        with pytest.raises(ValueError): settings_of(tmp_path, **kw)


CRONJOB = {"type": "object", "required": ["apiVersion", "kind", "metadata", "spec"], "additionalProperties": False, "properties": {"apiVersion": {"const": "batch/v1"}, "kind": {"const": "CronJob"}, "metadata": {"type": "object", "properties": {"name": {"pattern": "^[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?$"}}},
    "spec": {"type": "object", "required": ["schedule", "timeZone", "concurrencyPolicy", "jobTemplate"], "additionalProperties": False, "properties": {"schedule": {"type": "string"}, "timeZone": {"type": "string"}, "concurrencyPolicy": {"const": "Forbid"}, "startingDeadlineSeconds": {"type": "integer"}, "successfulJobsHistoryLimit": {"type": "integer"}, "failedJobsHistoryLimit": {"type": "integer"},
        "jobTemplate": {"properties": {"spec": {"additionalProperties": False, "properties": {"backoffLimit": {"type": "integer"}, "activeDeadlineSeconds": {"type": "integer"},
            "podFailurePolicy": {"properties": {"rules": {"items": {"required": ["action", "onExitCodes"], "properties": {"action": {"enum": ["FailJob", "Ignore", "Count", "FailIndex"]}, "onExitCodes": {"required": ["operator", "values"], "properties": {"values": {"items": {"type": "integer"}}}}}}}}},
            "template": {"properties": {"spec": {"required": ["restartPolicy", "containers", "volumes"], "properties": {"restartPolicy": {"const": "Never"}, "containers": {"maxItems": 1, "items": {"required": ["name", "image", "command", "env", "resources", "securityContext", "volumeMounts"],
                "properties": {"env": {"items": {"anyOf": [{"required": ["name", "value"]}, {"required": ["name", "valueFrom"], "properties": {"valueFrom": {"required": ["secretKeyRef"], "properties": {"secretKeyRef": {"required": ["name", "key"]}}}}}]}},
                    "resources": {"required": ["requests", "limits"], "additionalProperties": {"required": ["cpu", "memory"], "additionalProperties": {"type": "string"}}}, "securityContext": {"required": ["readOnlyRootFilesystem"]}}}}}}}}}}}}}}}}


@pytest.mark.parametrize("name", ["leaves", "Loans of 2026 (.x)".replace("(", "").replace(")", ""), "आम", "-"])
def test_the_cron_job_of_kubernetes(tmp_path, name):
    import jsonschema
    import kubernetes_validate
    import yaml
    c = settings_of(tmp_path, name=name, zone="Europe/Berlin", rest='[slack]\nwebhook = "HOOK"\n[schedule]\nday = "Sunday"\ntime = "23:05"\n')
    job = yaml.safe_load(m.kubernetes(c, image="registry.example.org/mlops:1 # x"))
    jsonschema.validate(job, CRONJOB)
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert (job["spec"]["schedule"], job["spec"]["timeZone"]) == ("5 23 * * 0", "Europe/Berlin") and pod["containers"][0]["image"] == "registry.example.org/mlops:1 # x"
    assert {v["name"] for v in pod["containers"][0]["volumeMounts"]} == {v["name"] for v in pod["volumes"]} and pod["containers"][0]["env"][1]["valueFrom"]["secretKeyRef"]["key"] == "HOOK"
    assert kubernetes_validate.validate(job, "1.30", strict=True)


def test_the_command_from_a_csv_file_to_an_alarm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    def run(folder, *words, code=0, **environ):
        done = CliRunner(env=environ).invoke(monitor_app, words)
        assert done.exit_code == code and "Traceback" not in done.output, (done.exit_code, done.output)
        return done.output
    pd.concat([rows_of(w, 400) for w in WEEKS[:4]] + [rows_of(WEEKS[4], 400, healthy=0.3)]).assign(photo=[f"{i}.jpg" for i in range(2000)]).to_csv(tmp_path / "log.csv", index=False)
    assert "wrote monitor.toml" in run(tmp_path, "init", "log.csv", "--zone", "Asia/Kolkata")
    text = (tmp_path / "monitor.toml").read_text()
    assert 'ignore = ["photo"]' in text and 'label = "label"' in text
    (tmp_path / "monitor.toml").write_text(text.replace('# "Healthy"', '"Healthy"').replace("# [slack]", "[slack]").replace("# webhook", "webhook"))
    assert "is not set" in run(tmp_path, "check", "monitor.toml", code=2, SLACK_WEBHOOK="") and "1,200 rows" in run(tmp_path, "fit", "monitor.toml", "--end", "2026-03-23")
    with slack_server(200) as (url, got):
        assert "all quiet" in run(tmp_path, "check", "monitor.toml", "--at", "2026-03-30T06:00", SLACK_WEBHOOK=url)
        out = run(tmp_path, "check", "monitor.toml", "--at", "2026-04-06T06:00", SLACK_WEBHOOK=url, code=1)
    assert "share of 'Healthy'" in out and "below the floor of 40 %" in out and "told" in out and "secret" not in out and len(got) == 1
    assert "ALARM" in run(tmp_path, "history", "monitor.toml") and json.loads(run(tmp_path, "check", "monitor.toml", "--at", "2026-03-30T06:00", "--dry-run", "--json"))["code"] == 0
    assert "CRON_TZ=Asia/Kolkata" in run(tmp_path, "cron", "monitor.toml")


@pytest.mark.parametrize("words,word", [(("check", "none.toml"), "does not exist"), (("init", "none.csv"), "there is no file"), (("check", "bad.toml"), "not TOML"), (("check", "good.toml"), "no reference"), (("check", "good.toml", "--start", "2026-01-01"), "go together"), (("check", "good.toml", "--at", "Monday"), "no date"), (("fit", "good.toml"), "there is no file"), (("history", "good.toml"), "nothing was checked")])
def test_the_command_says_what_is_wrong_in_a_line(tmp_path, monkeypatch, words, word):
    (tmp_path / "bad.toml").write_text("=")
    settings_of(tmp_path).path.rename(tmp_path / "good.toml")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(monitor_app, words)
    assert done.exit_code == 2 and word in " ".join(done.output.replace("│", " ").split())
