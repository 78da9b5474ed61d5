"""The monitoring stack: rules and alerts with promtool, and Prometheus itself over the real server, whose answers must be what was sent."""
import contextlib
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import uvicorn
import yaml

from mlops_course.api import SURE, Api, Predictions, Settings
from mlops_course.core import free_port
from mlops_course.server import Number, Served, ask
from mlops_course.stack import _get, alerts, history, panels, prometheus, query, short, textfile

STACK = Path(__file__).parent.parent/"deploy/monitoring"
RULES = [rule for file in sorted((STACK/"rules").glob("*.yml")) for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
PROMTESTS = sorted((STACK/"rules_tests").glob("*.yml"))
DASHBOARD = json.loads((STACK/"grafana/dashboard.json").read_text())
LIKELY = 90  # seconds for what takes a few, on a machine that does other things too


def promtool(*words):
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def wait_until(true, seconds=LIKELY):
    until = time.monotonic() + seconds
    while not (it := true()) and time.monotonic() < until: time.sleep(0.1)
    return it


# --- rules and alerts, without a server ------------------------------------------------------------------------------------------

def test_configuration_and_rules_are_valid():
    code, said = promtool("check", "config", "--lint-fatal", STACK/"prometheus.yml")
    assert code == 0 and "2 rule files found" in said, said
    code, said = promtool("check", "rules", "--lint-fatal", *(STACK/"rules").glob("*.yml"))
    assert code == 0, said


@pytest.mark.parametrize("file", PROMTESTS, ids=lambda p: p.stem)
def test_alerts_fire_when_they_should_and_only_then(file):
    code, said = promtool("test", "rules", file)
    assert code == 0, said


def expected():
    """(file, alert, how many series fire) of each look at an alert in the tests of the rules."""
    for file in PROMTESTS:
        for test in yaml.safe_load(file.read_text())["tests"]:
            for look in test["promql_expr_test"]:
                if name := re.search(r'alertname="(\w+)"', look["expr"]): yield file.stem, name[1], len(look["exp_samples"])


@pytest.mark.parametrize("name", [a["alert"] for a in ALERTS])
def test_every_alert_has_both_tests(name):
    looks = [n for _, alert, n in expected() if alert == name]
    assert any(n > 0 for n in looks) and any(n == 0 for n in looks), f"{name} needs a test in rules_tests/ where it fires, and one where it does not"


@pytest.mark.parametrize("expression", ["vector(1) == 0", "vector(1)"], ids=["never", "always"])
def test_these_tests_can_fail(tmp_path, expression):
    shutil.copytree(STACK, tmp_path/"stack")
    rules = tmp_path/"stack/rules/alerts.yml"
    spoilt = yaml.safe_load(rules.read_text())
    for rule in (rule for group in spoilt["groups"] for rule in group["rules"]): rule.update(expr=expression)
    rules.write_text(yaml.safe_dump(spoilt))
    for name in (file.stem for file in PROMTESTS):
        code, said = promtool("test", "rules", tmp_path/f"stack/rules_tests/{name}.yml")
        assert code == 1
        for file, alert, n in expected():
            if file == name and (n == 0) == (expression == "vector(1)"): assert alert in said


def test_alerts_say_what_to_do():
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("page", "ticket") and set(rule["annotations"]) == {"summary", "description"}
        assert len(rule["annotations"]["description"]) > 40, rule["alert"]
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS)


def test_alertmanager_knows_the_severities():
    config = yaml.safe_load((STACK/"alertmanager.yml").read_text())
    receivers, routes = {r["name"] for r in config["receivers"]}, [config["route"], *config["route"]["routes"]]
    assert {r["receiver"] for r in routes} == receivers and ['severity="page"'] in [r.get("matchers") for r in routes]
    named = set(re.findall(r"\w+", " ".join(m for rule in config["inhibit_rules"] for key in ("source_matchers", "target_matchers") for m in rule[key]))) - {"alertname"}
    assert named <= {rule["alert"] for rule in ALERTS}
    if shutil.which("amtool"):
        done = subprocess.run(["amtool", "check-config", STACK/"alertmanager.yml"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_docker_gets_files_that_are_there():
    services = yaml.safe_load((STACK/"compose.yaml").read_text())["services"]
    mounts = [v.split(":") for s in services.values() for v in s["volumes"] if v.startswith("./")]
    assert len(mounts) >= 6 and all((STACK/here).exists() for here, *_ in mounts if here != "./secrets"), mounts
    assert all(port.startswith("127.0.0.1:") for s in services.values() for port in s.get("ports", ()))
    assert all(re.search(r":v?\d+\.\d+\.\d+$", s["image"]) for s in services.values()), "an image without a version is another one tomorrow"
    where = {there for _, there, *_ in mounts}
    provider = yaml.safe_load((STACK/"grafana/provisioning/dashboards/models.yml").read_text())["providers"][0]
    assert f"{provider['options']['path']}/dashboard.json" in where and services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] in where
    for folder in ("targets", "targets-docker"): assert {p.name for p in (STACK/folder).iterdir()} == {"server.yml", "drift.yml", "alertmanager.yml"}


# --- the dashboard as a file -----------------------------------------------------------------------------------------------------

def test_dashboard_is_complete():
    shown = DASHBOARD["panels"]
    assert len({p["id"] for p in shown}) == len(shown) and {p["type"] for p in shown} == {"row", "stat", "timeseries"}  # all part of Grafana itself
    assert [p["title"] for p in shown if p["type"] == "row"] == ["Traffic", "Model", "Drift"] and {v["name"] for v in DASHBOARD["templating"]["list"]} == {"datasource", "job", "instance", "check"}
    for p in shown:
        if p["type"] == "row": continue
        assert len(p["description"]) > 20 and p["fieldConfig"]["defaults"]["unit"] and p["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["value"] is None, p["title"]
        assert p["targets"] and all(t["datasource"] == p["datasource"] == {"type": "prometheus", "uid": "${datasource}"} for t in p["targets"])
        assert [t["refId"] for t in p["targets"]] == list("ABCD"[:len(p["targets"])])
    boxes = [p["gridPos"] for p in shown]
    for a, b in itertools.combinations(boxes, 2):
        assert a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"] or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (a, b)
    assert all(b["x"] + b["w"] <= 24 for b in boxes)


def lost(a, b, path=""):
    """Where something of `a` is not in `b`."""
    if isinstance(a, dict) and isinstance(b, dict): return [x for k in a for x in (lost(a[k], b[k], f"{path}/{k}") if k in b else [f"{path}/{k}"])]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b): return [x for i, (c, d) in enumerate(zip(a, b)) for x in lost(c, d, f"{path}/{i}")]
    return [] if a == b else [path]


def test_grafanas_own_schema_knows_every_key():
    """Read and written by Grafana's Foundation SDK, nothing of a panel gets lost; a misspelt option would."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard
    register_default_plugins()
    def gone(board): return [path for path in lost(board, json.loads(JSONEncoder().encode(Dashboard.from_json(board)))) if not re.fullmatch(r"/id|/annotations/.*|/templating/list/\d/definition", path)]  # Grafana writes these, its SDK does not know them
    assert gone(DASHBOARD) == []
    spoilt = json.loads(json.dumps(DASHBOARD))
    spoilt["panels"][1]["options"]["colourMode"] = spoilt["panels"][1]["options"].pop("colorMode")
    assert gone(spoilt) == ["/panels/1/options/colourMode"]


# --- what the server counts ------------------------------------------------------------------------------------------------------

def exposed(counts):
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.parser import text_string_to_metric_families
    registry = CollectorRegistry()
    registry.register(counts)
    return {(s.name, *s.labels.values()): s.value for family in text_string_to_metric_families(generate_latest(registry).decode()) for s in family.samples}


def test_any_label_can_be_read_again():
    labels = ('a"b', "c\nd", "e\\f", "{g}", "ü,=")
    counts = Predictions(labels)
    for label in labels: counts({"label": label, "probabilities": {label: 0.5}})
    seen = exposed(counts)
    assert all(seen["model_predictions_total", label] == 1 for label in labels) and seen[("model_confidence_ratio_sum",)] == 2.5


def test_buckets_are_as_prometheus_has_them():
    """`le` is less or equal, sums go on, and the same as prometheus_client's own histogram."""
    from prometheus_client import Histogram
    counts, theirs = Predictions(("a",)), Histogram("model_confidence_ratio", "", buckets=SURE, registry=None)
    for sure in (0.0, 0.4, np.nextafter(0.4, 1), 0.7, 0.95, 0.9999, 1.0, 0.123):
        counts({"label": "a", "probabilities": {"a": sure}})
        theirs.observe(sure)
    ours = exposed(counts)
    for sample in next(iter(theirs.collect())).samples:
        if not sample.name.endswith("_created"): assert ours[(sample.name if sample.name.startswith("model") else "model_confidence_ratio" + sample.name, *sample.labels.values())] == pytest.approx(sample.value)


def test_what_a_worker_counted_outlives_it(tmp_path):
    """Two workers; one is killed; its successor and the other one go on from where it was."""
    from mlops_course.api import publish
    from mlops_course.serialize import given
    from mlops_course.data import LEAF_CLASSES
    from mlops_course.server import _leaf
    publish(given("leaves.onnx"), tmp_path/"leaves", name="leaves", trained="2026-11-21", labels=LEAF_CLASSES)
    port = free_port()
    code = f"from mlops_course.api import serve; serve({str(tmp_path/'leaves')!r}, port={port}, workers=2)"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    def send(n): return sum(ask(url, "POST", "/predict", _leaf("jpeg"), {"Content-Type": "image/jpeg"}, 30).status == 200 for _ in range(n))
    def counted(name="model_predictions_total"): return sum(float(line.split()[-1]) for line in ask(url, "GET", "/metrics").body.decode().splitlines() if line.startswith(name))
    def workers(): return [p for p in psutil.Process(process.pid).children() if p.status() != psutil.STATUS_ZOMBIE and "spawn_main" in " ".join(p.cmdline())]
    try:
        assert wait_until(lambda: ask(url, "GET", "/ready", timeout=1).status == 200 and len(workers()) == 2)
        assert send(20) == 20 and counted() == counted("model_confidence_ratio_count") == 20
        first = workers()[0]
        first.send_signal(signal.SIGKILL)
        assert wait_until(lambda: len(workers()) == 2 and first.pid not in {p.pid for p in workers()} and ask(url, "GET", "/ready", timeout=1).status == 200)
        assert counted() == 20
        n = send(20)
        assert n and counted() == counted("model_confidence_ratio_count") == 20 + n
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# --- the whole stack -------------------------------------------------------------------------------------------------------------

LABELS, CLASSES = ("healthy", "early blight", "late blight"), [0.5, 0.3, 0.2]
DRIFT = """# TYPE mlops_drift_columns gauge
mlops_drift_columns{monitor="leaves",level="ok"} 45
mlops_drift_columns{monitor="leaves",level="watch"} 3
mlops_drift_columns{monitor="leaves",level="drift"} 2
mlops_drift_columns{monitor="leaves",level="unsure"} 0
mlops_drift_alarm{monitor="leaves"} 1
mlops_check_timestamp_seconds{monitor="leaves"} %d
mlops_online_accuracy{monitor="leaves"} 0.93
mlops_online_f1{monitor="leaves"} 0.91
mlops_confidence_mean{monitor="leaves"} 0.88
mlops_class_share{monitor="leaves",class="healthy"} 0.6
mlops_class_share{monitor="leaves",class="late blight"} 0.4
"""


def score(rows):
    """Takes row[0] seconds, gives class row[1] with confidence row[2], and fails where there is no such class."""
    time.sleep(rows[0][0])
    p = [(1 - rows[0][2]) / 2] * 3
    p[int(rows[0][1])] = rows[0][2]
    return [p]


@contextlib.contextmanager
def running(app):
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert wait_until(lambda: server.started)
    try: yield "127.0.0.1:%d" % server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def traffic(n, rng):
    """Rows of `n` requests: seconds, class (7: there is none), confidence. Of three speeds, so that p50, p95 and p99 are in different buckets."""
    seconds = np.repeat([0.03, 0.15, 0.6], [int(0.9 * n), int(0.07 * n), n - int(0.9 * n) - int(0.07 * n)])
    klass = rng.choice(3, n, p=CLASSES)
    klass[rng.choice(n, n // 10, replace=False)] = 7
    sure = np.where(rng.random(n) < 0.8, 0.97, 0.55)
    return np.column_stack([rng.permutation(seconds), klass, sure]).tolist()


def send(where, rows, **headers):
    """Status, label and seconds of each, from eight callers."""
    def one(row):
        began = time.perf_counter()
        reply = ask(f"http://{where}", "POST", "/predict", {"features": dict(zip(("seconds", "class", "sure"), row))}, headers, timeout=LIKELY)
        return reply.status, reply.json.get("label"), time.perf_counter() - began
    with ThreadPoolExecutor(8) as pool: return list(pool.map(one, rows))


def value(url, expression):
    (_, v), = query(url, expression)
    return v


def test_prometheus_sees_what_was_sent(tmp_path):
    rows, key = traffic(300, np.random.default_rng(10)), {"X-API-Key": "let me in"}
    model = Served("leaves", "7", "2026-11-21", LABELS, 0.9, {"seconds": Number(0.03), "class": Number(0.0), "sure": Number(0.9)}, score)
    (tmp_path/"drift.prom").write_text(DRIFT % (time.time() - 9 * 86400))
    (tmp_path/"key").write_text("let me in\n")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running(Api(model, Settings(_env_file=None, threads=16, batch=1, keys=("let me in",)))))
        drift = stack.enter_context(contextlib.ExitStack())  # ends before the others
        config = short(STACK, tmp_path/"stack", server=[server], drift=[drift.enter_context(textfile(tmp_path/"drift.prom"))])
        text = config.read_text()
        config.write_text(text.replace("# authorization: {credentials_file: key}", f"authorization: {{credentials_file: {tmp_path/'key'}}}"))
        assert config.read_text() != text and promtool("check", "config", config)[0] == 0
        url = stack.enter_context(prometheus(config))
        assert wait_until(lambda: len(query(url, "up == 1")) == 2), _get(url, "targets")
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))  # the defects' tracebacks

        began, sent = time.monotonic(), send(server, rows, **key)
        total = "request_seconds_count{route='/predict'}"
        assert wait_until(lambda: value(url, f"sum({total})") == len(sent))

        # what was sent
        good, failed = [label for status, label, _ in sent if status == 200], sum(status == 500 for status, *_ in sent)
        assert len(good) + failed == len(sent) and failed >= 30
        assert value(url, f"sum({total[:-1]}, status=~'5..'}})") == failed
        def becomes(expression, expected): assert wait_until(lambda: value(url, expression) == pytest.approx(expected, rel=1e-6)), (expression, value(url, expression), expected)  # a rule looks once a second
        becomes("instance:request_errors:ratio_rate5m", failed / len(sent))
        assert {labels["class"]: v for labels, v in query(url, "model_predictions_total")} == {label: good.count(label) for label in LABELS}
        for label in LABELS: becomes(f"instance_class:model_predictions:ratio1h{{class='{label}'}}", good.count(label) / len(good))
        becomes("instance:model_confidence_ratio:mean1h", np.mean([row[2] for row, (status, *_) in zip(rows, sent) if status == 200]))

        # how long it took: within the width of the bucket in which the client's quantile lies
        took = [seconds for status, _, seconds in sent if status == 200]
        edges = sorted({float(labels["le"]) for labels, _ in query(url, "request_seconds_bucket{route='/predict',status='200'}")})
        found = {}
        for q, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99")):
            ours, theirs = value(url, f"instance:request_seconds:{name}_5m"), float(np.quantile(took, q))
            at = np.searchsorted(edges, theirs)
            assert abs(ours - theirs) <= edges[at] - (edges[at - 1] if at else 0), (name, ours, theirs)
            found[name] = edges[np.searchsorted(edges, ours)]
        assert found["p50"] < found["p95"] < found["p99"]

        # everything that the dashboard asks, and every rule, has an answer
        def silent():
            asked = [(p.title, p.expression) for p in panels(DASHBOARD, "1m")] + [(r["record"], r["record"]) for r in RULES if "record" in r]
            return [name for name, expression in asked if not query(url, expression)]
        assert wait_until(lambda: not silent()), silent()
        for variable in DASHBOARD["templating"]["list"][1:]:
            metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()
            assert _get(url, f"label/{label}/values", **{"match[]": re.sub(r"\$\w+", ".*", metric)}), variable["name"]
        assert not history(url, "up", 5, legend="{{job}}").empty

        # alerts: pending first, then firing; those that have a reason, and no others
        assert wait_until(lambda: {"HighErrorRate", "DriftFound", "DriftCheckTooOld", "ErrorBudgetBurnsFast"} <= {name for name, state in alerts(url).items() if state == "firing"}), alerts(url)
        def states(): return history(url, "ALERTS{alertname='HighErrorRate'}", time.monotonic() - began, 0.5, "{{alertstate}}")
        assert wait_until(lambda: "firing" in states())
        since = states().apply(lambda state: state.first_valid_index())
        assert since.firing - since.pending >= 1.5, since
        assert not {"TargetDown", "NoTraffic", "DriftCheckMissing", "ConfidenceDecay", "ClassShareBelowFloor"} & {name for name, state in alerts(url).items() if state == "firing"}
        drift.close()
        assert wait_until(lambda: alerts(url).get("TargetDown") == "firing")
        assert not any("error" in str(a["annotations"]).lower() and "expanding" in str(a["annotations"]) for a in _get(url, "alerts")["alerts"])


def test_prometheus_says_why_it_does_not_start(tmp_path, monkeypatch):
    (tmp_path/"bad.yml").write_text("scrape_configs: 3\n")
    with pytest.raises(RuntimeError, match="bad.yml"):
        with prometheus(tmp_path/"bad.yml"): pass
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="apt-get install"):
        with prometheus(tmp_path/"bad.yml"): pass
