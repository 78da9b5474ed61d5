"""Targets that hold, are missed, or were not measured; answers that differ; a table and a picture of what there is."""
import copy

import pytest

import claims
import run
from contestants import FEATURES, IMAGES
from measure import ServerFailed


def results(own=40.0, plain=100.0, picture=1.5):
    one = lambda cpu, rate: run.summed([{"cpu_us": cpu * k, "per_second": rate, "p50_ms": 1.0, "p99_ms": 2.0, "answered": 10, "failures": 0, "died": [], "processes": 1} for k in (0.9, 1, 1.2)])
    found = {c.name: one({"ours": own, "fastapi": plain}.get(c.kind, 300.0), {"ours": 9000, "fastapi": 5000}.get(c.kind, 1000)) for c in FEATURES}
    images = {name: {"bytes": 1, "floor_cpu_us": 100.0, "floors": [90.0, 100.0, 120.0], "servers": {c.name: one(100 * picture, 10) for c in IMAGES}} for name in run.PICTURES}
    return {"date": "2026-11-20", "quick": False, "commit": "", "machine": {"processor": "x", "python": "3", "load_before": 0, "cores": 2}, "versions": {}, "connections": 50, "rounds": 3, "seconds": 1, "features": found, "images": images, "failed": {}}


def verdicts(r): return {t["what"].partition(" (")[0]: t["held"] for t in run.targets(r)}


def test_all_targets_hold_where_they_should():
    assert all(verdicts(results()).values())


@pytest.mark.parametrize("change, broken", [({"own": 51}, "features: CPU of ours / plain FastAPI"), ({"own": 101}, "features: CPU of ours / the best of the peers"), ({"picture": 2.1}, "picture 1080p: CPU of ours / decode and inference alone")])
def test_a_target_that_is_missed_is_said(change, broken): assert verdicts(results(**change))[broken] is False


def test_ratios_are_taken_round_by_round(): assert run.ratio([1, 20, 300], [2, 40, 600]) == 0.5


def test_a_peer_that_is_missing_leaves_the_target_open_and_failures_count():
    r = results()
    del r["features"]["mlserver"]
    assert verdicts(r)["features: CPU of ours / the best of the peers"] is False and verdicts(r)["features: CPU of ours / plain FastAPI"]
    r = results()
    r["features"]["ours"]["failures"] = 1
    assert verdicts(r)["features: requests to ours that failed"] is False
    assert not any(verdicts({**results(), "features": {}, "images": {}}).values())


def test_other_probabilities_are_not_measured():
    run.same([0.1, 0.9], [0.1, 0.9], "x")
    for other in ([0.1, 0.8], [0.1], [float("nan"), 0.9]):
        with pytest.raises(ServerFailed): run.same(other, [0.1, 0.9], "x")


def test_a_contestant_that_fails_is_left_out_and_named():
    def one(c):
        if c.name == "mlserver": raise ServerFailed("it ended with code 1")
        return results()["features"]["ours"]["rounds"][0]
    failed = {}
    found = run.rounds(FEATURES, 2, one, failed, "features")
    assert "mlserver" not in found and len(found) == len(FEATURES) - 1 and all(len(each) == 2 for each in found.values()) and "ended with code 1" in failed["features: MLServer"]


def test_table_and_picture_show_what_there_is(tmp_path):
    for r in (results(), {**results(), "features": {}, "images": {}, "failed": {"features: MLServer": "it died"}}):
        r = copy.deepcopy(r) | {"findings": claims.findings(r["features"], {})}
        r["targets"] = run.targets(r)
        run.write(r, tmp_path)
        text = (tmp_path / "results.md").read_text()
        assert (tmp_path / "results.png").stat().st_size > 5000 and ("MLServer" in text) and text.count("held") == sum(t["held"] for t in r["targets"])
        assert "not measured in this run" in r["findings"]["async gains"]
