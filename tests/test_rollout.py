"""The router of chapter 08: stickiness and moved users as properties, Argo's semantics as known answers, and a router on real sockets: failover, shadow, late labels, kill -9 in mid-canary, replay."""
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given, settings, strategies as st

from mlops_course.core import free_port
from mlops_course.rollout import (METRICS, PARTS, Client, Conflict, Router, Running, Store, Variant, blue_green, chosen, condition, counted, _fresh, _NotHttp, follow, judged, moved, parts, place, replay,
                                  reweigh, router_of, shares)
from mlops_course.server import App, ModelServer, Number, Served, ask, check_server

weights_st = st.lists(st.one_of(st.integers(0, 1000), st.floats(0, 100, allow_nan=False)), min_size=2, max_size=15).filter(lambda w: sum(w) > 1e-6)


# --- who gets which --------------------------------------------------------------------------------------------------------------

@given(st.text(max_size=40), st.text(max_size=10))
def test_a_user_stays_where_she_is(user, salt):
    assert place(user, salt) == place(user, salt) and 0 <= place(user, salt) < 1


def test_places_are_fixed_for_ever():
    """Known answers: another hash would move every user of every running experiment."""
    import hashlib
    for user in ("ada", "bo", "ünï"):
        assert place(user, "s") == (int.from_bytes(hashlib.blake2b(f"s:{user}".encode(), digest_size=8).digest(), "big") >> 11) / 2**53


@given(weights_st)
def test_ranges_cover_everything_once(weights):
    names = {f"v{i}": w for i, w in enumerate(weights)}
    ranges = reweigh([], names)
    assert ranges[0][0] == 0 and ranges[-1][1] == PARTS and all(a[1] == b[0] for a, b in zip(ranges, ranges[1:]))
    assert shares(ranges) == {n: p / PARTS for n, p in parts(names).items() if p}
    assert all(abs(p / PARTS - names[n] / sum(weights)) < 1.1e-6 for n, p in parts(names).items())


@given(st.lists(st.lists(st.integers(0, 100), min_size=5, max_size=5).filter(any), min_size=2, max_size=6))
def test_no_more_users_move_than_must(history):
    ranges = []
    for step in history:
        weights = dict(zip("abcde", step))
        before, ranges = ranges, reweigh(ranges, weights)
        if before:
            old, new = shares(before), shares(ranges)
            assert abs(moved(before, ranges) - sum(max(0, new.get(n, 0) - old.get(n, 0)) for n in "abcde")) < 1e-9


@given(st.lists(st.integers(0, 100), min_size=1, max_size=8))
def test_of_two_a_share_always_means_the_same_users(percents):
    ranges = []
    for p in percents: ranges = reweigh(ranges, {"old": 100 - p, "new": p})
    assert ranges == reweigh([], {"old": 100 - percents[-1], "new": percents[-1]})


def test_the_split_is_the_one_that_was_asked_for():
    """χ² at p < 0.001 with 14 degrees of freedom is 36.1."""
    ranges = reweigh([], {f"v{i}": i + 1 for i in range(15)})
    n = 30_000
    seen, want = Counter(chosen(ranges, place(f"u{i}", "split")) for i in range(n)), shares(ranges)
    assert sum((seen[v] - n * s) ** 2 / (n * s) for v, s in want.items()) < 36.1


@pytest.mark.parametrize("bad", [{}, {"a": 0}, {"a": -1, "b": 2}, {"a": float("nan")}, {"a": float("inf")}, {"a": "1"}, {"a": True}, {f"v{i}": 1 for i in range(16)}])
def test_what_is_no_weight(bad):
    with pytest.raises(ValueError): parts(bad)


# --- Argo's semantics ------------------------------------------------------------------------------------------------------------

RATE = {"rate": lambda e: e["rate"]}


def metric(**more): return dict(name="rate", interval="10s", count=3, failureCondition="result > 0.1") | more


class Play:
    """A rollout with a clock of its own."""
    def __init__(self, steps, analysis=None, weights=None):
        self.log, self.state, self.now = [], None, 0
        self.do("create", weights=weights or {"old": 1, "new": 0})
        self.do("start", plan=dict(stable="old", canary="new", steps=steps) | ({"analysis": analysis} if analysis else {}))
    def do(self, kind, wait=0, **event):
        self.now += wait
        event = dict(kind=kind, now=self.now, row=0) | event
        self.state = json.loads(json.dumps(follow(self.state, event, RATE)))
        self.log.append((len(self.log) + 1, event, self.state))
        return self
    def measure(self, *rates, run="run"):
        for rate in rates: self.do("measured", 10, run=run, metric="rate", started=self.state["rollout"][run]["started"] if self.state["rollout"][run] else -1, evidence={"rate": rate})
        return self
    @property
    def canary(self): return shares(self.state["ranges"]).get("new", 0)
    @property
    def phase(self): return self.state["rollout"]["phase"]
    @property
    def step(self): return self.state["rollout"]["step"]
    def __call__(self): return self.phase, self.step, self.canary


def look(**more): return {"analysis": {"metrics": [metric(**more)]}}


def test_the_example_of_argos_manual():
    """setWeight 10, pause 1h, setWeight 20, pause {}."""
    p = Play([{"setWeight": 10}, {"pause": {"duration": "1h"}}, {"setWeight": 20}, {"pause": {}}])
    assert p() == ("Paused", 1, 0.1)
    assert p.do("tick", 3599)() == ("Paused", 1, 0.1)
    assert p.do("tick", 1)() == ("Paused", 3, 0.2)
    assert p.do("tick", 1e9)() == ("Paused", 3, 0.2)
    assert p.do("promote")() == ("Healthy", 4, 1)


@pytest.mark.parametrize("text,seconds", [(10, 10), ("10", 10), ("10s", 10), ("2m", 120), ("1h", 3600)])
def test_durations(text, seconds):
    p = Play([{"setWeight": 10}, {"pause": {"duration": text}}, {"setWeight": 20}, {"pause": {}}])
    assert p.do("tick", seconds - 0.5).step == 1 and p.do("tick", 0.5).step == 3


def test_a_promote_ends_a_pause_early(): assert Play([{"setWeight": 10}, {"pause": {"duration": "1h"}}, {"setWeight": 20}, {"pause": {}}]).do("promote")() == ("Paused", 3, 0.2)


@pytest.mark.parametrize("given,rates,end", [
    ({}, [0, 0, 0], ("Healthy", 2, 1)),                                                  # count reached
    ({}, [0.2], ("Degraded", 1, 0)),                                                     # failureLimit is 0: the first is one too many
    ({"failureLimit": 1}, [0.2, 0, 0], ("Healthy", 2, 1)),                               # as many as the limit are allowed
    ({"failureLimit": 1}, [0.2, 0, 0.2], ("Degraded", 1, 0)),                            # not in a row, and counted
    ({"successCondition": "result < 0.05"}, [0.07], ("Paused", 1, 0.1)),                 # neither: inconclusive
    ({"successCondition": "result < 0.05", "inconclusiveLimit": 1}, [0.07, 0, 0], ("Healthy", 2, 1)),
    ({"successCondition": "result < 0.05", "inconclusiveLimit": 1}, [0.07, 0.07], ("Paused", 1, 0.1)),
    ({}, [None] * 4, ("Progressing", 1, 0.1)),                                           # errors are tried again
    ({}, [None] * 5, ("Degraded", 1, 0)),                                                # consecutiveErrorLimit is 4
    ({"consecutiveErrorLimit": 0}, [None], ("Degraded", 1, 0)),
    ({}, [None] * 4 + [0] + [None] * 4 + [0, 0], ("Healthy", 2, 1)),                     # in a row, they mean it; and they do not count
])
def test_an_analysis_step(given, rates, end): assert Play([{"setWeight": 10}, look(**given)]).measure(*rates)() == end


def test_without_failure_condition_what_is_no_success_is_a_failure():
    m = metric(successCondition="result >= 0.95"); del m["failureCondition"]
    assert Play([{"setWeight": 10}, {"analysis": {"metrics": [m]}}]).measure(0.9)() == ("Degraded", 1, 0)


def test_one_measurement_is_enough_without_interval_and_count():
    assert Play([{"setWeight": 10}, {"analysis": {"metrics": [{"name": "rate", "failureCondition": "result > 1"}]}}]).measure(0)() == ("Healthy", 2, 1)


def test_after_an_inconclusive_analysis_promote_measures_anew():
    p = Play([{"setWeight": 10}, look(successCondition="result < 0.05"), {"setWeight": 50}, {"pause": {}}]).measure(0.07)
    assert p.phase == "Paused" and p.measure(0, 0, 0)() == ("Paused", 1, 0.1)       # what comes late changes nothing
    p.do("promote", 1)
    assert p() == ("Progressing", 1, 0.1) and p.measure(0, 0, 0)() == ("Paused", 3, 0.5)


def test_a_failed_metric_ends_it_though_others_still_run():
    two = {"analysis": {"metrics": [metric(), metric(name="other", metric="rate", count=100)]}}
    assert Play([{"setWeight": 10}, two]).measure(0.2)() == ("Degraded", 1, 0)


def test_analysis_beside_the_steps():
    beside = {"metrics": [{"name": "rate", "interval": "1s", "failureCondition": "result > 0.1"}], "startingStep": 1}
    p = Play([{"setWeight": 10}, {"pause": {"duration": "1h"}}, {"setWeight": 50}, {"pause": {}}], beside).measure(*[0] * 20, run="beside")
    assert p() == ("Paused", 1, 0.1) and p.do("tick", 3600)() == ("Paused", 3, 0.5)
    assert p.measure(0.2, run="beside")() == ("Degraded", 3, 0)


def test_abort_retry_and_promotion_in_full():
    p = Play([{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}]).do("promote")
    assert p.canary == 0.5 and p.do("abort")() == ("Degraded", 3, 0)
    assert p.do("retry")() == ("Paused", 1, 0.1)
    assert p.do("promote", full=True)() == ("Healthy", 4, 1)
    assert p.do("rollback")() == ("Degraded", 4, 0)


def test_blue_green_switches_at_once_and_back():
    look_ = {"metrics": [metric(count=1)]}
    p = Play(blue_green("old", "new", before=look_, after=look_)["steps"])
    assert p() == ("Progressing", 0, 0) and p.measure(0)() == ("Paused", 1, 0) and p.do("promote")() == ("Progressing", 3, 1)
    assert p.measure(0.5)() == ("Degraded", 3, 0)
    good = Play(blue_green("old", "new", automatic=True)["steps"])
    assert good() == ("Healthy", 1, 1) and good.do("rollback").canary == 0


@pytest.mark.parametrize("kind,event", [("promote", {}), ("abort", {}), ("retry", {}), ("rollback", {}), ("create", {"weights": {"a": 1}}), ("weights", {"weights": {"nobody": 1}}), ("shadow", {"variant": "nobody"}), ("no such", {})])
def test_what_cannot_be_done(kind, event):
    state = follow(None, dict(kind="create", now=0, weights={"old": 1, "new": 0}), RATE)
    with pytest.raises(Conflict): follow(state, dict(kind=kind, now=1) | event, RATE)


def test_weights_are_not_touched_during_a_rollout():
    p = Play([{"setWeight": 10}, {"pause": {}}])
    with pytest.raises(Conflict): p.do("weights", weights={"old": 1, "new": 1})
    with pytest.raises(Conflict): p.do("start", plan=p.state["rollout"]["plan"])


@given(st.lists(st.tuples(st.sampled_from(["tick", "promote", "abort", "retry", "rollback", "run", "beside"]), st.one_of(st.none(), st.sampled_from([0, 0.07, 0.2]))), max_size=25))
@settings(deadline=None)
def test_whatever_happens_the_state_makes_sense_and_replays(events):
    p = Play([{"setWeight": 10}, look(successCondition="result < 0.05"), {"pause": {"duration": "30s"}}, {"setWeight": 50}, {"pause": {}}], {"metrics": [metric(failureLimit=2)]})
    for kind, rate in events:
        before = p.state
        try: p.measure(rate, run=kind) if kind in ("run", "beside") else p.do(kind, 10)
        except Conflict: assert p.state == before
        assert p.canary == {"Degraded": 0, "Healthy": 1}.get(p.phase, p.canary) and p.canary in (0, 0.1, 0.5, 1)
        assert json.loads(json.dumps(p.state)) == p.state
    assert replay(p.log, RATE) == p.state


def test_a_metric_that_is_no_number_is_an_error():
    p = Play([{"setWeight": 10}, look()])
    for result in (float("nan"), {"p": float("inf")}, object(), None):
        event = dict(kind="measured", now=5, run="run", metric="rate", started=0, evidence={})
        state = follow(p.state, event, {"rate": lambda e: result})
        assert state["rollout"]["run"]["metrics"]["rate"]["errors"] == 1 and json.loads(json.dumps(state, allow_nan=False)) == state


def test_not_worse_is_a_plan_too():
    """`accuracy_test` fails a worse canary, passes a good one, and waits where nothing is known."""
    m = dict(failureCondition="result.high < 0", successCondition="result.low > -0.01")
    def says(right): return judged(m, METRICS["accuracy_test"](dict(stable=dict(labelled=4000, right=3600), canary=dict(labelled=4000, right=right))))
    assert (says(3300), says(3590), says(3800)) == ("Failed", "Inconclusive", "Successful")


@pytest.mark.parametrize("name,want", [("error_rate", 0.05), ("error_gain", 0.04), ("latency_p95", 30.0), ("latency_ratio", 1.5), ("accuracy", 0.9), ("accuracy_gain", 0.15), ("value", 7.0), ("value_gain", -1.0),
                                       ("requests", 400), ("users", 300), ("split_pvalue", 1.0)])
def test_what_a_plan_may_measure(name, want):
    """Known answers; and where nobody has come, no number that a condition could take for one."""
    stable = dict(share=0.75, assigned=900, requests=1200, errors=12, users=900, p95=20.0, labelled=200, right=150, value=8.0)
    canary = dict(share=0.25, assigned=300, requests=400, errors=20, users=300, p95=30.0, labelled=100, right=90, value=7.0)
    assert METRICS[name](dict(stable=stable, canary=canary)) == pytest.approx(want)
    assert METRICS["counts"](dict(stable=stable, canary=canary))["stable_users"] == 900 and METRICS["counts"](dict(stable=stable, canary=canary))["users"] == 300
    nobody = dict(share=0.25, assigned=0, requests=0, errors=0, users=0, p95=None, labelled=0, right=0, value=None)
    plan = {"metrics": [dict(name=name, interval="10s", count=3, successCondition="result >= -1000")]}
    state = follow(None, dict(kind="create", now=0, weights={"old": 1, "new": 0}), METRICS)
    for event in (dict(kind="start", plan=dict(stable="old", canary="new", steps=[{"setWeight": 25}, {"analysis": plan}])), dict(kind="measured", run="run", metric=name, started=0, evidence=dict(stable=stable, canary=nobody))):
        state = follow(state, dict(now=0) | event, METRICS)
    tally = state["rollout"]["run"]["metrics"][name]
    assert (tally["count"], tally["errors"]) == ((1, 0) if name in ("requests", "users", "split_pvalue") else (0, 1))


def test_a_forged_decision_does_not_replay():
    p = Play([{"setWeight": 10}, look()]).measure(0, 0.2)
    assert replay(p.log, RATE)["rollout"]["phase"] == "Degraded"
    for change in (lambda l: l[3][1]["evidence"].update(rate=0), lambda l: l.pop(2), lambda l: l[3][2]["rollout"].update(phase="Healthy")):
        log = json.loads(json.dumps(p.log)); change(log)
        with pytest.raises(ValueError): replay(log, RATE)


@pytest.mark.parametrize("text", ["__import__('os')", "result.__class__()", "(lambda: 1)()", "result[result]", "open('x')", "result if 1 else 2", "f'{result}'", "result <", "", "result\0", "(" * 250, "result < 1 < 2", "result < b'x'", "result < 9 ** 9"])
def test_a_condition_runs_nothing(text):
    with pytest.raises(ValueError): condition(text)


def test_a_condition_that_cannot_be_asked_is_an_error():
    assert judged({"failureCondition": "result.p < 1"}, 3) == "Error" == judged({"failureCondition": "result + 1"}, 3) == judged({"failureCondition": "1 / result > 1"}, 0)


# --- a router on sockets ---------------------------------------------------------------------------------------------------------

def wait_until(true, seconds=15):
    until = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < until: time.sleep(0.02)
    return found


def toy(version="1", score=lambda rows: [(0.1, 0.9)] * len(rows), **more):
    return App(Served("toy", version, "2026-01-01", ("no", "yes"), features={"x": Number(1.0)}, score=score), **more)


def fails(rows): raise OSError("on purpose")
def sleeps(rows): time.sleep(8); return [(0.1, 0.9)] * len(rows)  # far longer than the patience of any router here, on a busy machine too
def says_no(rows): return [(0.8, 0.2)] * len(rows)


def ask_as(url, user="ada", **headers): return ask(url, "POST", "/predict", {"features": {"x": 1}}, {"X-User-Id": user} | headers)


def router(tmp_path, servers, weights=None, **more): return Router([Variant(n, getattr(s, "url", s)) for n, s in servers.items()], tmp_path / "r.db", weights, **dict(key="k", tick=0.05) | more)


def test_the_router_keeps_the_contract(tmp_path):
    with ModelServer(toy()) as a, ModelServer(toy()) as b, Running(router(tmp_path, dict(a=a, b=b), dict(a=1, b=1))) as r:
        report = check_server(r.url)
        assert report and "feedback" in report.checked, report


def test_weights_change_live_and_users_stay(tmp_path):
    users = [f"u{i}" for i in range(150)]
    with ModelServer(toy("1")) as a, ModelServer(toy("2")) as b, Running(router(tmp_path, dict(a=a, b=b), dict(a=90, b=10))) as r:
        def met(): return {u: ask_as(r.url, u).headers["x-variant"] for u in users}
        first = met()
        assert first == met() and 3 <= sum(v == "b" for v in first.values()) <= 30
        assert r.admin("weights", weights=dict(a=50, b=50))[0] == 200
        second = met()
        assert {u for u in users if first[u] == "b"} < {u for u in users if second[u] == "b"} and 50 <= sum(v == "b" for v in second.values()) <= 100


def test_no_request_fails_while_weights_change(tmp_path):
    with ModelServer(toy("1")) as a, ModelServer(toy("2")) as b, Running(router(tmp_path, dict(a=a, b=b))) as r, ThreadPoolExecutor(8) as pool:
        going = True
        def load(k):
            seen = Counter()
            while going: reply = ask_as(r.url, f"u{k}"); seen[reply.status, reply.headers.get("x-variant")] += 1
            return seen
        loads = [pool.submit(load, k) for k in range(8)]
        try:
            for i in range(20): assert r.admin("weights", weights=dict(a=i % 2, b=1 - i % 2))[0] == 200; time.sleep(0.05)
        finally: going = False
        seen = sum((l.result(30) for l in loads), Counter())
        assert {status for status, _ in seen} == {200} and {v for _, v in seen} == {"a", "b"}
        assert r.admin("state")[1]["lost_rows"] == 0 and sum(v["requests"] for v in r.admin("state")[1]["variants"].values()) == sum(seen.values())


def test_the_page_tells_a_lost_half_of_the_users(tmp_path):
    """Users of one arm get lost before they are counted: the split is not what it should be."""
    with ModelServer(toy()) as a, ModelServer(toy()) as b, Running(router(tmp_path, dict(a=a, b=b), dict(a=1, b=1))) as r:
        users = [f"u{i}" for i in range(400)]
        arm = {u: chosen(r.router.state["ranges"], place(u, "1")) for u in users}
        for u in users[:200]: ask_as(r.url, u)
        assert not r.admin("state")[1]["statistics"]["split"]["alarm"]
        for u in users[200:]:
            if arm[u] == "a": ask_as(r.url, u)
        for u in [f"w{i}" for i in range(300)]:
            if chosen(r.router.state["ranges"], place(u, "1")) == "a": ask_as(r.url, u)
        assert r.admin("state")[1]["statistics"]["split"]["alarm"]
        assert r.admin("weights", weights=dict(a=1, b=3))[0] == 200
        for u in users[:200]: ask_as(r.url, u)
        assert not r.admin("state")[1]["statistics"]["split"]["alarm"]  # another split, counted anew


def test_admin_needs_the_key(tmp_path):
    with ModelServer(toy()) as a, Running(router(tmp_path, dict(a=a, b=a))) as r:
        for key in (None, "", "wrong"):
            for method, what in (("POST", "weights"), ("POST", "abort"), ("GET", "state"), ("GET", "decisions"), ("POST", "no-such")): assert ask(r.url, method, f"/admin/{what}", {"weights": {"b": 1}} if method == "POST" else None, {"X-Admin-Key": key} if key is not None else None).status == 401
        assert r.admin("weights", weights={"a": -1})[0] == 422 and r.admin("weights")[0] == 422 and r.admin("weights", weights={"a": 1}, x=1)[0] == 422 and r.admin("abort")[0] == 409
        assert r.admin("start", plan={"steps": [{"setWeight": 1000}]})[0] == 422 and r.admin("shadow", variant="b", share=True)[0] == 422
        assert r.router.state["ranges"] == [[0, PARTS, "a"]]
        page = ask(r.url, "GET", "/admin")
        assert page.status == 200 and "http" not in page.body.decode().replace("http-equiv", "") and "default-src 'none'" in page.headers["content-security-policy"]
    (tmp_path / "no key").mkdir()
    with ModelServer(toy()) as a, Running(router(tmp_path / "no key", dict(a=a), key="")) as r: assert ask(r.url, "GET", "/admin/state", headers={"X-Admin-Key": ""}).status == 401


def test_failover_and_clear_502(tmp_path):
    dead = f"http://127.0.0.1:{free_port()}"
    with ModelServer(toy()) as good, ModelServer(toy(score=fails)) as bad, Running(router(tmp_path, dict(dead=dead, bad=bad, good=good), dict(dead=1, bad=1, good=1))) as r:
        replies = [ask_as(r.url, f"u{i}") for i in range(30)]
        assert all(x.status == 200 and x.headers["x-variant"] == "good" for x in replies)
        seen = r.admin("state")[1]["variants"]
        assert seen["dead"]["errors"] == seen["dead"]["requests"] > 3 and not seen["dead"]["up"] and seen["bad"]["errors"] == seen["bad"]["requests"] > 3 and seen["good"]["errors"] == 0
    (tmp_path / "x").mkdir()
    with Running(router(tmp_path / "x", dict(dead=dead), failover=False)) as r:
        reply = ask_as(r.url)
        assert reply.status == 502 and reply.json["error"] == "no_answer" and "dead" in reply.json["reason"] and "retry-after" in reply.headers and ask(r.url, "GET", "/health").status == 200


def test_a_slow_variant_meets_its_deadline(tmp_path):
    with ModelServer(toy(score=sleeps)) as slow, ModelServer(toy()) as good, Running(router(tmp_path, dict(slow=slow, good=good), dict(slow=1, good=0), patience=0.3, failover=False)) as r:
        begun = time.monotonic()
        assert ask_as(r.url).status in (502, 504) and time.monotonic() - begun < 6  # the slow one would take 8
        r.router.failover = True
        assert r.admin("weights", weights=dict(slow=99, good=1))[0] == 200
        begun = time.monotonic()
        assert ask_as(r.url).status == 200 and time.monotonic() - begun < 6


def test_who_was_down_comes_back(tmp_path):
    port = free_port()
    with ModelServer(toy()) as good:
        with Running(router(tmp_path, dict(a=f"http://127.0.0.1:{port}", b=good), dict(a=1, b=0.0001))) as r:
            for _ in range(5): assert ask_as(r.url).status == 200
            assert r.router.failures["a"] >= 3
            with ModelServer(toy(), port=port):
                assert wait_until(lambda: ask_as(r.url).headers["x-variant"] == "a")


def test_during_a_canary_only_the_stable_one_steps_in(tmp_path):
    with ModelServer(toy(score=fails)) as old, ModelServer(toy()) as new, Running(router(tmp_path, dict(old=old, new=new))) as r:
        assert r.admin("start", plan=dict(stable="old", canary="new", steps=[{"setWeight": 10}, {"pause": {}}]))[0] == 200
        seen = Counter(ask_as(r.url, f"u{i}").headers["x-variant"] for i in range(60))
        want = Counter(chosen(r.router.state["ranges"], place(f"u{i}", "1")) for i in range(60))
        assert seen == want


def test_labels_that_come_late(tmp_path):
    with ModelServer(toy()) as a, ModelServer(toy(score=says_no)) as b, Running(router(tmp_path, dict(a=a, b=b), dict(a=1, b=1))) as r:
        for i in range(40):
            reply = ask_as(r.url, f"u{i}")
            assert reply.headers["x-prediction-id"] == reply.json["prediction_id"]
            for _ in range(2): assert ask(r.url, "POST", "/feedback", {"prediction_id": reply.json["prediction_id"], "label": "yes", "value": 3 if reply.headers["x-variant"] == "a" else 1}).status == 202
        reply = ask_as(r.url, "u0")
        key, met_first = reply.json["prediction_id"], reply.headers["x-variant"]
        def right(): return sum(v["right"] for v in r.admin("state")[1]["variants"].values()), sum(v["labelled"] for v in r.admin("state")[1]["variants"].values())
        before = right()
        for label, more in (("no", (0, 1)), ("yes", (1, 1))) if ask_as(r.url, "u0").json["label"] == "yes" else (("yes", (0, 1)), ("no", (1, 1))):  # somebody corrects herself
            ask(r.url, "POST", "/feedback", {"prediction_id": key, "label": label})
            assert right() == (before[0] + more[0], before[1] + more[1])
        assert ask(r.url, "POST", "/feedback", {"prediction_id": "12345678", "value": 1}).status == 202  # of whom, nobody knows
        for bad in ({"value": True}, {"value": 1e300}, {"label": "maybe"}, {"label": 3}, {}): assert ask(r.url, "POST", "/feedback", {"prediction_id": "12345678"} | bad).status == 422
        assert ask(r.url, "POST", "/feedback", b'{"prediction_id": "\\ud800\\ud800345678", "value": 1}', {"Content-Type": "application/json"}).status == 422
        seen = r.admin("state")[1]["variants"]
        own = met_first == "b"  # the corrected one was right in the end
        assert seen["a"]["labelled"] + seen["b"]["labelled"] == 41 and seen["a"]["right"] == seen["a"]["labelled"] and seen["b"]["right"] == own and seen["a"]["value"] == 3 and seen["b"]["value"] == 1


def test_an_ab_test_of_value_and_latency(tmp_path):
    """What the page says is what scipy says of the values that were sent, and the p95 of both."""
    from scipy import stats
    with ModelServer(toy()) as a, ModelServer(toy()) as b, Running(router(tmp_path, dict(a=a, b=b), dict(a=1, b=1))) as r:
        sent = dict(a=[], b=[])
        for i in range(40):
            reply = ask_as(r.url, f"u{i}")
            arm = sent[reply.headers["x-variant"]]
            arm.append(10.0 + i % 4 + (reply.headers["x-variant"] == "b"))
            assert ask(r.url, "POST", "/feedback", {"prediction_id": reply.json["prediction_id"], "value": arm[-1]}).status == 202
        said = r.admin("state")[1]["statistics"]
        want, got = stats.ttest_ind(sent["b"], sent["a"], equal_var=False), said["value_at_one_planned_look"]
        assert list(got) == ["b"] and min(map(len, sent.values())) > 5
        assert got["b"] == pytest.approx(dict(difference=sum(sent["b"]) / len(sent["b"]) - sum(sent["a"]) / len(sent["a"]), low=want.confidence_interval().low, high=want.confidence_interval().high, pvalue=want.pvalue))
        assert said["accuracy"] == {} and set(said["p95"]) == {"a", "b"} and all(ms > 0 for ms in said["p95"].values())


@pytest.mark.parametrize("kind", ["good", "other", "slow", "fails", "dead", "hangs"])
def test_a_shadow_cannot_be_noticed(tmp_path, kind):
    hole = socket.create_server(("127.0.0.1", 0))  # takes connections, and never says a word
    score = dict(good=toy().model.score, other=says_no, slow=sleeps, fails=fails).get(kind, fails)
    with hole, ModelServer(toy()) as a, ModelServer(toy(score=score)) as b:
        url = dict(dead=f"http://127.0.0.1:{free_port()}", hangs=f"http://127.0.0.1:{hole.getsockname()[1]}").get(kind, b.url)
        patience = 10 if kind in ("good", "other") else 0.5  # a good copy is answered on a busy machine too
        with Running(router(tmp_path, dict(a=a, b=url), patience=patience)) as r:
            assert r.admin("shadow", variant="b")[0] == 200
            waits = []
            for i in range(60):
                begun = time.monotonic()
                reply = ask_as(r.url, f"u{i}")
                waits.append(time.monotonic() - begun)
                assert reply.status == 200 and reply.json["label"] == "yes" and reply.headers["x-variant"] == "a"
            assert sorted(waits)[30] < 0.4  # a slow shadow takes half a second
            assert wait_until(lambda: r.router.shadowing == 0)
            state = r.admin("state")[1]
            seen = state["compared"]["b"]
            assert seen["copies"] + state["skipped_copies"] == 60 and state["variants"]["b"]["requests"] == 0
            assert (seen["answered"], seen["same"]) == dict(good=(60, 60), other=(60, 0)).get(kind, (0, 0))
            if kind == "other": assert abs(seen["largest_difference"] - 0.7) < 1e-9


def test_a_canary_that_errs_is_rolled_back(tmp_path):
    """A challenger that errs at 5 % is rolled back by the measurement after its failureLimit, and not more users met it than weight × traffic up to that one.

    Its first error is its 11th answer, and from there on more than 2 % have failed. 40 users come between two looks and half of them are its own, so the first look that
    fails is that after 40 users at the latest, the third that after 120, and by the plan 60 users have met it."""
    calls, weight, batch, limit = iter(range(10**9)), 50, 40, 2
    def errs(rows):
        if next(calls) % 20 == 10: raise OSError("one in twenty")
        return [(0.1, 0.9)] * len(rows)
    errors = dict(name="errors", metric="error_rate", interval="50ms", count=10_000, failureCondition="result > 0.02", failureLimit=limit, consecutiveErrorLimit=10_000)  # errors: nobody has come yet
    with ModelServer(toy("old")) as old, ModelServer(toy("new", score=errs)) as new, Running(router(tmp_path, dict(old=old, new=new))) as r:
        assert r.admin("start", plan=dict(stable="old", canary="new", steps=[{"setWeight": weight}, {"analysis": {"metrics": [errors]}}]))[0] == 200
        ranges = r.router.state["ranges"]
        def looks(): return [e["evidence"]["canary"] for _, e, _ in r.router.store.decisions() if e["kind"] == "measured"]
        def going(): return r.router.state["rollout"]["phase"] == "Progressing"
        asked, statuses = [], Counter()
        while going() and len(asked) < 20 * batch:
            for _ in range(batch): asked.append(f"u{len(asked)}"); statuses[ask_as(r.url, asked[-1]).status] += 1
            before = len(looks())
            assert wait_until(lambda: not going() or len(looks()) >= before + 2, 30)  # two: one may have counted before the last user came
        assert r.router.state["rollout"]["phase"] == "Degraded" and shares(r.router.state["ranges"]) == {"old": 1}
        assert set(statuses) == {200}  # the stable one stepped in
        failed = [c for c in looks() if c["requests"] and c["errors"] / c["requests"] > 0.02]
        assert len(failed) == limit + 1 and failed[-1] == looks()[-1] and f"{limit + 1} failed" in r.router.state["rollout"]["why"], (failed, r.router.state)
        met = r.admin("state")[1]["variants"]["new"]["users"]
        placed = [u for u in (f"u{i}" for i in range((limit + 1) * batch)) if chosen(ranges, place(u, "1")) == "new"]
        assert abs(len(placed) - 60) < 16 and met <= len(placed) < 76  # the stated number, and three standard deviations of chance in who comes
        assert next(calls) == met >= failed[-1]["users"] >= 11 and len(asked) <= (limit + 1) * batch
        assert {ask_as(r.url, f"w{k}").headers["x-variant"] for k in range(40)} == {"old"} and r.admin("state")[1]["variants"]["new"]["users"] == met
        replay(r.router.store.decisions())


# --- killed and back -------------------------------------------------------------------------------------------------------------

class Process:
    """A router as its users start it: uvicorn and a TOML file."""
    def __init__(self, config, port):
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen([sys.executable, "-m", "uvicorn", "--factory", "mlops_course.rollout:from_environment", "--port", str(port), "--log-level", "warning"],
                                        env=os.environ | {"MLOPS_ROLLOUT": str(config), "MLOPS_ROLLOUT_KEY": "k", "OMP_NUM_THREADS": "1"})
        assert wait_until(lambda: ask(self.url, "GET", "/health", timeout=1).status == 200 or self.process.poll() is not None, 60) and self.process.poll() is None
    def __enter__(self): return self
    def __exit__(self, *exc): self.process.kill(); self.process.wait(10)
    def admin(self, what, **given): return ask(self.url, "POST" if given or what not in ("state", "decisions") else "GET", f"/admin/{what}", given if what not in ("state", "decisions") else None, {"X-Admin-Key": "k"}).json


def test_the_command_ends_well_at_sigterm(tmp_path):
    config, port = tmp_path / "router.toml", free_port()
    with ModelServer(toy("1")) as only:
        config.write_text(f'store = "r.db"\n[variants]\nonly = "{only.url}"\n')
        command = [sys.executable, "-c", "from mlops_course.cli import main; main()", "serve", "rollout", str(config), "--port", str(port)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
            try:
                assert wait_until(lambda: ask_as(f"http://127.0.0.1:{port}", "ada").status == 200, 60)
                process.send_signal(signal.SIGTERM)
                assert process.wait(30) == 0
            finally: process.kill()


def test_kill_9_in_mid_canary(tmp_path):
    look = {"metrics": [dict(name="errors", metric="error_rate", interval="300ms", count=12, failureCondition="result > 0.5", consecutiveErrorLimit=1000)]}
    users, config = [f"u{i}" for i in range(40)], tmp_path / "router.toml"
    with ModelServer(toy("1")) as old, ModelServer(toy("2")) as new:
        config.write_text(f'store = "r.db"\ntick = 0.05\nsalt = "s"\n[variants]\nold = "{old.url}"\nnew = "{new.url}"\n')
        def met(p): return {u: ask_as(p.url, u).headers["x-variant"] for u in users}
        with Process(config, free_port()) as p:
            assert "error" not in p.admin("start", plan=dict(stable="old", canary="new", steps=[{"setWeight": 30}, {"analysis": look}, {"setWeight": 60}, {"pause": {}}]))
            before = met(p)
            assert wait_until(lambda: p.admin("state")["rollout"]["run"]["metrics"]["errors"]["count"] >= 2)
            p.process.send_signal(signal.SIGKILL); p.process.wait(10)
        at_death = sqlite_state(tmp_path / "r.db")
        assert 2 <= at_death["rollout"]["run"]["metrics"]["errors"]["count"] < 12 and shares(at_death["ranges"]) == {"new": 0.3, "old": 0.7}
        config.write_text(config.read_text().replace('salt = "s"', 'salt = "another"'))  # the file of the router knows better
        with Process(config, free_port()) as p:
            assert met(p) == before and "new" in before.values()
            assert wait_until(lambda: p.admin("state")["rollout"]["phase"] == "Paused")
            state = p.admin("state")
            assert abs(state["variants"]["new"]["share"] - 0.6) < 1e-9 and {u for u in users if before[u] == "new"} <= {u for u, v in met(p).items() if v == "new"}
            log = p.admin("decisions")["decisions"]
    assert replay([tuple(d) for d in log])["rollout"]["phase"] == "Paused"
    assert sum(e["kind"] == "measured" and e["evidence"]["canary"]["requests"] > 0 for _, e, _ in log) == 12  # before and after: none twice, none lost


def test_one_router_to_a_file(tmp_path):
    with ModelServer(toy()) as a, Running(router(tmp_path, dict(a=a))):
        with pytest.raises(OSError, match="another one running"): router(tmp_path, dict(a=a))
    with pytest.raises(ValueError, match="configured are b"): router(tmp_path, dict(b="http://127.0.0.1:1"))


def sqlite_state(path):
    store = Store(path)
    try: return store.latest()
    finally: store.close()


def test_decisions_come_in_pages(tmp_path):
    with ModelServer(toy()) as a, Running(router(tmp_path, dict(a=a, b=a))) as r:
        for i in range(4): r.admin("weights", weights=dict(a=1, b=i))
        def page(after): return ask(r.url, "GET", f"/admin/decisions?after={after}", headers={"X-Admin-Key": "k"}).json["decisions"]
        assert [d[0] for d in page(0)] == [1, 2, 3, 4] and [d[0] for d in page(2)] == [3, 4] and page(4) == []  # b = 0 changed nothing, and is no decision
        assert replay([*map(tuple, page(0))]) == r.router.state


def test_a_row_that_does_not_fit_holds_up_nobody(tmp_path):
    store = Store(tmp_path / "r.db")
    for values in (("p1", 0.0, "yes", None), ("p1", 0.0, "twice", None), ("p2", 10**30, "no", None), ("p3", 0.0, "\ud800", 1.0)): store.queue("INSERT INTO feedback VALUES(?, ?, ?, ?)", *values)
    store.flush()
    assert [r[0] for r in store.db.execute("SELECT id FROM feedback ORDER BY id")] == ["p1", "p3"] and store.lost == 2
    store.close()


# --- how variants are asked ------------------------------------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize("method,said,want", [
    ("POST", [OK], b"ok"),
    ("POST", [OK[:10], OK[10:40], OK[40:]], b"ok"),
    ("POST", [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n", b"1\r\nk\r\n0\r\n\r\n"], b"ok"),
    ("POST", [b"HTTP/1.1 100 Continue\r\n\r\n" + OK], b"ok"),
    ("POST", [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\no", b"k", None], b"ok"),
    ("HEAD", [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"], b""),
    ("POST", [OK[:-1], None], ConnectionError),
    ("POST", [None], ConnectionError),
    ("POST", [b"SSH-2.0-OpenSSH_9.2\r\n", None], _NotHttp),
    ("POST", [OK + OK], _NotHttp),
])
def test_answers_of_all_kinds(method, said, want):
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        for part in said:
            if part is None: break
            writer.write(part); await asyncio.sleep(0.01)
        else: await reader.read()  # stays open
        writer.close()

    async def go():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        client = Client(5)
        try:
            async with asyncio.timeout(5): return await client.request("http://127.0.0.1:%d" % server.sockets[0].getsockname()[1], method, "/predict", {}, b"")
        finally: client.close(); server.close()
    if isinstance(want, bytes): assert asyncio.run(go())[::2] == (200, want)
    else:
        with pytest.raises(want): asyncio.run(go())


def test_connections_are_kept_and_a_closed_one_is_nobodys_failure():
    opened = []
    async def serve(reader, writer):
        opened.append(1)
        for _ in range(3):  # and then it hangs up, between two requests
            await reader.readuntil(b"\r\n\r\n"); writer.write(OK)
        writer.close()

    async def go():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        client, url = Client(5), "http://127.0.0.1:%d" % server.sockets[0].getsockname()[1]
        async with asyncio.timeout(5):
            for _ in range(12): assert (await client.request(url, "POST", "/", {}, b""))[2] == b"ok"
        client.close(); server.close()
    asyncio.run(go())
    assert len(opened) == 4


# --- TF Serving behind it --------------------------------------------------------------------------------------------------------

class Tf(BaseHTTPRequestHandler):
    """Answers as TF Serving's REST does: /v1/models/m and :predict."""
    protocol_version = "HTTP/1.1"
    def answer(self, status, said):
        body = json.dumps(said).encode()
        self.send_response(status); self.send_header("Content-Type", "application/json"); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def do_GET(self): self.answer(200, {"model_version_status": [{"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}]})
    def do_POST(self):
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(200, {"predictions": [self.server.scores] * len(given["instances"])}) if self.path == "/v1/models/m:predict" else self.answer(404, {"error": "Malformed request"})
    def log_message(self, *args): pass


def test_in_front_of_tf_serving(tmp_path):
    servers = []
    for scores in ([0.2, 0.8], [0.9, 0.1]):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Tf); server.scores = scores; servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    variants = [Variant(n, f"http://127.0.0.1:{s.server_port}", "/v1/models/m") for n, s in zip("ab", servers)]
    with Running(Router(variants, tmp_path / "r.db", dict(a=1, b=1), key="k")) as r:
        def predict(user, rows=1): return ask(r.url, "POST", "/v1/models/m:predict", {"instances": [[1, 2]] * rows}, {"X-User-Id": user})
        assert ask(r.url, "GET", "/v1/models/m").json["model_version_status"][0]["state"] == "AVAILABLE" and ask(r.url, "POST", "/v1/models/m:no", {"instances": []}).status == 404
        assert r.admin("shadow", variant="b")[0] == 200
        for i in range(20):
            reply = predict(f"u{i}")
            assert reply.json == {"predictions": [[0.2, 0.8]]} if reply.headers["x-variant"] == "a" else {"predictions": [[0.9, 0.1]]}
            assert ask(r.url, "POST", "/feedback", {"prediction_id": reply.headers["x-prediction-id"], "label": "1"}).status == 202
        assert wait_until(lambda: r.router.shadowing == 0)
        state = r.admin("state")[1]
        seen = state["variants"]
        assert seen["a"]["labelled"] + seen["b"]["labelled"] == 20 and seen["a"]["right"] == seen["a"]["labelled"] > 0 == seen["b"]["right"] < seen["b"]["labelled"]
        assert state["compared"]["b"]["copies"] == state["compared"]["b"]["answered"] == seen["a"]["labelled"] and abs(state["compared"]["b"]["largest_difference"] - 0.7) < 1e-9
    for server in servers: server.shutdown(); server.server_close()


def test_in_front_of_two_servers_of_chapter_07(tmp_path):
    """TF Serving's own REST in rows and columns, over SavedModels: shares, a shadow, late labels, errors in TF Serving's words."""
    tf = pytest.importorskip("tensorflow")
    pytest.importorskip("tensorflow_serving", reason="needs tensorflow-serving-api, of the extra tfserving")
    from contextlib import ExitStack
    from mlops_course.tfserving import Flags, Server
    def save(weights, folder):
        module = tf.Module()
        module.w = tf.Variable(weights)
        module.call = tf.function(lambda x: {"y": x * module.w}, input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
        tf.saved_model.save(module, str(folder / "1"), signatures=module.call)
    with ExitStack() as stack:
        variants = []
        for name, weights in (("a", [1., 3.]), ("b", [3., 1.])):
            save(weights, tmp_path / name)
            flags = Flags(port=0, rest_api_port=free_port(), model_name="m", model_base_path=str(tmp_path / name), rest_api_num_threads=2)
            stack.enter_context(Server(flags))
            variants.append(Variant(name, f"http://127.0.0.1:{flags.rest_api_port}", "/v1/models/m"))
        r = stack.enter_context(Running(Router(variants, tmp_path / "r.db", dict(a=1, b=1), key="k", patience=20, seconds=40)))
        assert ask(r.url, "GET", "/v1/models/m").json["model_version_status"][0]["state"] == "AVAILABLE"
        assert ask(r.url, "GET", "/v1/models/m/metadata").json["model_spec"]["name"] == "m"
        assert r.admin("shadow", variant="b")[0] == 200
        for i in range(24):
            body = {"instances": [[1, 1]]} if i % 2 else {"inputs": [[1, 1]]}
            reply = ask(r.url, "POST", "/v1/models/m/versions/1:predict" if i % 3 else "/v1/models/m:predict", body, {"X-User-Id": f"u{i % 12}"})
            assert reply.json["predictions" if i % 2 else "outputs"] == ([[1, 3]] if reply.headers["x-variant"] == "a" else [[3, 1]])
            assert ask(r.url, "POST", "/feedback", {"prediction_id": reply.headers["x-prediction-id"], "label": "1"}).status == 202
        wrong = ask(r.url, "POST", "/v1/models/m:predict", {"instances": [[1, 1, 1]]}, {"X-User-Id": "u0"})
        assert wrong.status == 400 and "error" in wrong.json and ask(r.url, "POST", "/v1/models/none:predict", {"instances": [[1, 1]]}).status == 404
        assert wait_until(lambda: r.router.shadowing == 0)
        state = r.admin("state")[1]
        seen, copies = state["variants"], state["compared"]["b"]
        assert seen["a"]["labelled"] + seen["b"]["labelled"] == 24 and seen["a"]["right"] == seen["a"]["labelled"] > 0 == seen["b"]["right"] < seen["b"]["labelled"]
        assert seen["a"]["errors"] == seen["b"]["errors"] == 0 and copies["copies"] == copies["answered"] == seen["a"]["labelled"] and abs(copies["largest_difference"] - 2) < 1e-6


# --- the file ---------------------------------------------------------------------------------------------------------------------

def test_the_file_stays_small_and_nothing_is_lost(tmp_path):
    """200,000 requests, of which 10,000 are kept: every count is that of all, the file stops growing, the decisions stay."""
    store, path = Store(tmp_path / "r.db", keep=10_000), tmp_path / "r.db"
    store.stop.set()  # its thread
    def user(i): return i // 20 if i <= 40_000 or 130_000 < i <= 150_000 else 10_000 + i * 7919 % 2000  # some never come again
    def size(): return sum(f.stat().st_size for f in tmp_path.glob("r.db*"))
    def served(n):
        for i in range(store.row + 1, store.row + n + 1):
            v = "b" if i % 10 == 0 else "a"
            store.queue("INSERT INTO requests VALUES(?, ?, ?, ?, ?, ?, ?)", i, float(i), f"{user(i):024d}", v, v, 500 if i % 50 == 0 else 200, 1.0)
            store.queue("INSERT INTO predictions VALUES(?, ?, ?, ?, 0)", f"{i:032d}", v, i, "yes")
            if i % 4 < 2: store.queue("INSERT OR REPLACE INTO feedback VALUES(?, ?, ?, ?)", f"{i:032d}", float(i), "yes" if i % 8 else "no", 2.0)
            if i % 20_000 == 0: store.queue("INSERT OR REPLACE INTO feedback VALUES(?, ?, ?, NULL)", f"nobody-{i}", float(i), "yes")
        store.row += n
        store.flush()
        store.trim()
    sizes = []
    for k in range(20):
        if k in (0, 7, 13): store.decide({"kind": "weights", "now": k}, {"row": store.row, "rollout": None, "k": k})
        served(10_000)
        sizes.append(size())
    def counts(after): # of all requests, the slow way
        rows = [i for i in range(after + 1, 200_001)]
        return {v: dict(requests=len(mine), errors=sum(i % 50 == 0 for i in mine), users=len({user(i) for i in mine}), labelled=sum(i % 4 < 2 for i in mine), right=sum(i % 4 < 2 and i % 8 > 0 for i in mine)) for v in "ab" for mine in [[i for i in rows if (i % 10 == 0) == (v == "b")]]}
    def check(store):
        for after in (0, 130_000):
            found, want = store.evidence("ab", after), counts(after)
            assert {v: {k: found[v][k] for k in want[v]} for v in "ab"} == want
            assert found["a"]["value"] == 2.0 and found["a"]["spread"] == 0 and found["a"]["assigned"] == want["a"]["users"] and found["a"]["p95"] == 1.0
        assert [s["k"] for _, _, s in store.decisions()] == [0, 7, 13] and store.latest()["row"] == 130_000
        assert {mark for mark, in store.db.execute("SELECT DISTINCT since FROM met")} == {0, 130_000}  # what nobody counts from any more is joined
        assert store.db.execute("SELECT count(*) FROM requests").fetchone()[0] <= 10_500 and store.db.execute("SELECT count(*) FROM feedback WHERE id LIKE 'nobody%'").fetchone()[0] <= 1
    check(store)
    store.close()
    store = Store(path, keep=10_000)
    check(store)
    store.close()
    assert max(sizes[10:]) < 1.25 * max(sizes[2:10]), sizes


def test_the_routers_own_thread_trims(tmp_path):
    with Running(Router([Variant("a", "http://127.0.0.1:1")], tmp_path / "r.db", key="k", keep=1000)) as r:
        for _ in range(1200):
            r.router.store.row += 1
            r.router.store.queue("INSERT INTO requests VALUES(?, 0.0, 'u', 'a', 'a', 200, 1.0)", r.router.store.row)
        assert wait_until(lambda: r.router.store.folded >= 150) and r.admin("state")[1]["variants"]["a"]["requests"] == 1200
    for keep in (999, True, 1e6):
        with pytest.raises(ValueError, match="keep must be"): Store(tmp_path / "x.db", keep=keep)


def test_a_file_with_a_mistake_says_which(tmp_path):
    for text, word in (("store = ", "TOML"), ('store = "x"', "variants"), ('stroe = "x"', "stroe"), ('store = "x.db"\n[variants]\na = "localhost"', "URL"), ('store = "y.db"\n[variants]\na = "http://h"\n[weights]\na = 0', "weights")):
        (tmp_path / "c.toml").write_text(text)
        with pytest.raises(ValueError, match=word): router_of(tmp_path / "c.toml")
