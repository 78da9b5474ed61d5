"""Known answers for the measuring: CPU of a whole tree of processes, servers that die or never answer, failures that are counted, and nothing left behind."""
import os
import sys
import textwrap
import time

import psutil
import pytest

from measure import ServerFailed, adopt, ask, free_port, measured, missing, quantile, read_hey, running, tree, wait_for, wrk

CORE = min(os.sched_getaffinity(0))


def python(tmp_path, source):
    (tmp_path / "server.py").write_text(textwrap.dedent(source))
    return running([sys.executable, tmp_path / "server.py"], CORE, tmp_path, dict(os.environ), tmp_path / "log")


def until(fact, seconds=20):
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_time_of_children_counts_and_sleep_does_not(tmp_path):
    source = """
        import os, time
        for _ in range(2):
            if os.fork() == 0:
                while time.process_time() < 0.5: pass
                open(str(os.getpid()) + ".done", "w")
                time.sleep(60)
        time.sleep(60)"""
    with python(tmp_path, source) as process:
        until(lambda: len(list(tmp_path.glob("*.done"))) == 2)
        found = tree(process.pid)
    assert len(found) == 3 and 1.0 <= sum(seconds for _, seconds in found.values()) < 1.6


def test_cpu_is_divided_by_what_was_answered(tmp_path):
    source = """
        import time
        while time.process_time() < 1: pass
        open("done", "w"); time.sleep(60)"""
    with python(tmp_path, source) as process:
        def load():
            until((tmp_path / "done").exists)
            return {"answered": 1000}
        r = measured(process.pid, load)
    assert 700 <= r["cpu_us"] <= 1300 and not r["died"]  # a little of its second may be over before we look


def test_a_worker_that_dies_is_reported(tmp_path):
    source = """
        import os, time
        if os.fork() == 0:
            while not os.path.exists("die"): time.sleep(0.01)
            os._exit(1)
        open("up", "w"); os.wait(); open("dead", "w"); time.sleep(60)"""
    with python(tmp_path, source) as process:
        until((tmp_path / "up").exists)
        def load():
            (tmp_path / "die").touch()
            until((tmp_path / "dead").exists)
            return {"answered": 1}
        assert len(measured(process.pid, load)["died"]) == 1


def test_a_server_that_ends_or_never_answers_says_so(tmp_path):
    with python(tmp_path, "raise SystemExit('no such model')") as process:
        with pytest.raises(ServerFailed, match="(?s)ended with code 1.*no such model"): wait_for(process, free_port(), "/", None, "", tmp_path / "log")
    with python(tmp_path, "import time; time.sleep(60)") as process:
        with pytest.raises(ServerFailed, match="no answer"): wait_for(process, free_port(), "/", None, "", tmp_path / "log", seconds=0.5)


def test_nothing_is_left_behind_not_even_a_daemon(tmp_path):
    adopt()
    source = """
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            os.setsid()
            if os.fork(): os._exit(0)
            open("daemon", "w").write(str(os.getpid())); time.sleep(60)
        open("up", "w"); time.sleep(60)"""
    with pytest.raises(KeyboardInterrupt):
        with python(tmp_path, source) as process:
            until(lambda: (tmp_path / "up").exists() and (tmp_path / "daemon").exists() and (tmp_path / "daemon").read_text())
            raise KeyboardInterrupt
    assert not psutil.pid_exists(process.pid) and not psutil.pid_exists(int((tmp_path / "daemon").read_text()))


SERVER = """
    import sys
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    class Handler(BaseHTTPRequestHandler):
        protocol_version, wbufsize, n = "HTTP/1.1", 65536, 0
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            Handler.n += 1
            self.send_response(500 if Handler.n % 4 == 0 else 200); self.send_header("Content-Length", "0"); self.end_headers()
        def log_message(self, *args): pass
    ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()"""


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_answers_with_an_error_are_failures(tmp_path):
    port, body = free_port(), tmp_path / "body"
    body.write_text("{}")
    with python(tmp_path, SERVER.replace("PORT", str(port))) as process:
        wait_for(process, port, "/", b"{}", "text/plain", tmp_path / "log")
        r = measured(process.pid, lambda: wrk(port, "/", CORE, 1, 4, body, "application/json"))
        assert ask(port, "/", b"{}")[0] in (200, 500)
    assert r["failures"] == r["errors"]["status"] > 0 and 0.2 < r["failures"] / (r["failures"] + r["answered"]) < 0.3 and r["cpu_us"] > 0


def test_hey_counts_what_was_not_answered():
    head = "response-time,DNS+dialup,DNS,Request-write,Response-delay,Response-read,status-code,offset\n"
    r = read_hey(head + "".join(f"{0.1 * i},0,0,0,0,0,{200 if i < 9 else 503},{i}\n" for i in range(1, 10)), 12)
    assert (r["answered"], r["failures"], r["errors"]) == (8, 4, {"status": 1, "none": 3})
    assert r["p50_ms"] == pytest.approx(400) and r["max_ms"] == pytest.approx(800) and r["per_second"] == pytest.approx(8 / 9.9)
    with pytest.raises(ServerFailed): read_hey(head, 3)


def test_quantiles():
    assert quantile(list(range(1, 101)), 0.5) == 50 and quantile(list(range(1, 101)), 0.99) == 99 and quantile([7], 0.99) == 7
