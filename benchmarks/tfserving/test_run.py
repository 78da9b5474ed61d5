"Targets that hold, are missed, or were not measured; a table and a picture of what there is. python -m pytest benchmarks/tfserving"
import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("bench_tfserving", Path(__file__).with_name("run.py"))
run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run)


def results(own=100., peer=300., rest=300., failures=0):
    one = lambda cpu: run.summed([{"cpu_us": cpu * k, "per_second": 1e6 / cpu, "p50_ms": 1., "p99_ms": 2., "answered": 10, "failures": failures, "died": [], "processes": 1} for k in (0.9, 1, 1.2)])
    r = {"date": "2026-11-21", "quick": False, "commit": "", "machine": {"processor": "x", "python": "3", "load_before": 0, "cores": 2}, "versions": {}, "rounds": 3, "seconds": 1, "failed": {},
         "peers": {c.name: one(own if c.kind == "ours" else peer) for c in run.PEERS}, "protocols": {case: {way: one(100. if way.startswith("gRPC") else rest) for way in run.WAYS} for case in run.CASES},
         "batching": {f"{way}, batching {on}": one(200.) for way in ("REST", "gRPC") for on in ("on", "off")}}
    return r | {"targets": run.targets(r), "findings": run.findings(r)}


def held(r): return [t["held"] for t in r["targets"]]


def test_targets():
    assert held(results()) == [True] * 3 and held(results(own=301)) == [False, False, True] and held(results(failures=1)) == [True, True, False]
    r = results()
    del r["peers"]["mlflow-keras"]  # one of its ways is missing: which one is the cheapest is not known
    assert [t["measured"] is None for t in run.targets(r)] == [True, False, False]


@pytest.mark.parametrize("rest, says", [(300., "It holds"), (90., "does not hold"), (3000., "does not hold")])
def test_the_claim_about_grpc(rest, says): assert says in results(rest=rest)["findings"]["gRPC is about 3 times as fast as REST"]


def test_table_and_picture(tmp_path):
    for r in (results(), {**results(), "protocols": {}, "batching": {}, "failed": {"protocols": "it died\nbadly"}}):
        run.write(r | {"findings": run.findings(r)}, tmp_path)
        assert (tmp_path / "results.png").stat().st_size > 5000 and "| held |" in (tmp_path / "results.md").read_text()
    assert "Not measured: protocols (it died)" in (tmp_path / "results.md").read_text()


def test_other_numbers_are_not_measured():
    run.same([[0.1, 0.9]], [[0.1, 0.9]], "x")
    for other in ([[0.1, 0.8]], [0.1, 0.9], [[float("nan"), 0.9]]):
        with pytest.raises(run.ServerFailed): run.same(other, [[0.1, 0.9]], "x")
