"""Four variants of one model, and a client that is cut off, killed, refused, and still loses nothing and logs nothing twice."""
import json
import os
import random
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mlops_course import edge, serialize
from mlops_course.core import free_port
from mlops_course.data import LEAF_CLASSES, leaves
from mlops_course.edge import MODES, VARIANTS, Breaker, Cloud, HybridClient, Log, Outbox, Unreachable, compare, convert_all, convert_tflite, post
from mlops_course.train import get_weights, logits, set_weights, small_cnn

pytest.importorskip("ai_edge_litert")
DRIVER = Path(__file__).parent / "edge_driver.py"
OFFLINE = "http://127.0.0.1:9"


class Local:
    """Stands for a model: its answer depends on the picture alone."""
    class signature:
        labels = LEAF_CLASSES

    def predict(self, images):
        return np.eye(5)[[int(images.sum()) % 5]]


def picture(n):
    image = np.zeros((8, 8, 3), np.uint8)
    image.flat[:8] = list(int(n).to_bytes(8, "big"))
    return image


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return shutil.copy(serialize.given("leaves-float32.tflite"), tmp_path_factory.mktemp("model") / "leaves.tflite")


@pytest.fixture(scope="module")
def one_cloud(model, tmp_path_factory):
    with Cloud(tmp_path_factory.mktemp("cloud"), model) as c:
        yield c


@pytest.fixture
def cloud(one_cloud):
    one_cloud.be("ok")
    with closing(sqlite3.connect(one_cloud.file, isolation_level=None)) as db:
        db.executescript("delete from log; delete from devices;")
    return one_cloud


# --- four variants -----------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def net():
    pytest.importorskip("tensorflow").config.threading.set_intra_op_parallelism_threads(1)
    net = small_cnn("keras", LEAF_CLASSES, 32, 8, seed=1)
    rng = np.random.default_rng(0)  # averages as a trained network has them
    return set_weights(net, {k: v * rng.lognormal(0, 0.2, v.shape).astype(np.float32) + (rng.normal(0, 0.3, v.shape).astype(np.float32) if k.endswith(("beta", "mean")) else 0) for k, v in get_weights(net).items()})


@pytest.fixture(scope="module")
def pictures():
    return leaves(120, size=32, seed=3)


@pytest.fixture(scope="module")
def files(net, pictures, tmp_path_factory):
    return convert_all(net, tmp_path_factory.mktemp("files"), pictures[0][:60])


def test_each_variant_opens_signed_and_says_what_the_network_says(net, files, pictures):
    truth = logits(net, pictures[0])
    spread = truth.std()
    for variant, near in dict(float32=1e-4, float16=0.01, dynamic=0.1, int8=0.25).items():
        m = serialize.load(files[variant])
        assert m.signature.labels == LEAF_CLASSES and m.signature.preprocess["size"] == 32
        out = m(pictures[0])
        assert out.shape == truth.shape and np.abs(out - truth).max() < near * spread, variant
        assert (out.argmax(1) == truth.argmax(1)).mean() > 0.9
        assert np.abs(m(pictures[0][:1]) - out[:1]).max() < 0.3 * near * spread + 1e-5, "one picture or many, the same answer"
    sizes = [files[v].stat().st_size for v in VARIANTS]
    assert sizes[1] < 0.6 * sizes[0] and max(sizes[2:]) < 0.4 * sizes[0]


def test_int8_has_bytes_at_both_doors_and_integers_between(files):
    from ai_edge_litert.interpreter import Interpreter
    it = Interpreter(str(files["int8"]))
    it.allocate_tensors()
    assert it.get_input_details()[0]["dtype"] == it.get_output_details()[0]["dtype"] == np.uint8
    assert not [t["name"] for t in it.get_tensor_details() if t["dtype"] in (np.float32, np.float16)]
    assert all(Interpreter(str(files[v])).get_input_details()[0]["dtype"] == np.float32 for v in VARIANTS[:3])


@pytest.mark.parametrize("breakage", ["converter", "signature"])
def test_a_conversion_that_fails_leaves_the_old_file(net, pictures, tmp_path, monkeypatch, breakage):
    path = tmp_path / "m.tflite"
    path.write_bytes(b"the old one")

    def broken(*args):
        raise RuntimeError("out of memory")
    monkeypatch.setattr(*((edge, "_flatbuffer") if breakage == "converter" else (serialize, "load")), broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        convert_tflite(net, path)
    assert path.read_bytes() == b"the old one" and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_converted_is_refused_by_name(net, pictures, tmp_path):
    images, path = pictures[0], tmp_path / "m.tflite"
    cases = [(dict(variant="int4"), "must be one of"), (dict(variant="int8"), "needs calibration"), (dict(variant="dynamic", calibration=images), "leave them out"),
             (dict(variant="int8", calibration=images[0]), r"shape \(n, 32, 32, 3\)"), (dict(variant="int8", calibration=images[:0]), r"\(0, 32"), (dict(variant="int8", calibration=images[:, :16]), r"\(120, 16"),
             (dict(variant="int8", calibration=images / 255), "Do not scale"), (dict(variant="int8", calibration=np.full((3, 32, 32, 3), np.nan)), "uint8")]
    for options, says in cases:
        with pytest.raises(ValueError, match=says):
            convert_tflite(net, path, **options)
    with pytest.raises(TypeError, match="str"):
        convert_tflite("a model", path)
    assert not list(tmp_path.iterdir())


def test_compare_has_a_row_for_each_file(files, pictures):
    table = compare(files, pictures[0], pictures[1], turns=3)
    assert list(table.index) == list(VARIANTS) and table.agreement["float32"] == 1 and (table.ms > 0).all()
    assert ((table.low < table.accuracy + 1e-9) & (table.accuracy < table.high + 1e-9)).all()


# --- the fuse ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", range(20))
def test_an_open_fuse_lets_one_through_and_waits_within_its_bounds(seed):
    chance, now = random.Random(seed), [0.0]
    fuse, failures = Breaker(allowed=chance.randint(1, 4), pause=1, longest=30, clock=lambda: now[0], chance=chance.random), 0
    for _ in range(300):
        asked = [fuse.ask() for _ in range(chance.randint(1, 4))]
        if failures < fuse.allowed:
            assert all(asked)
        else:
            assert sum(map(bool, asked)) <= 1, "an open fuse lets at most one through"
        got = [t for t in asked if t]
        if got and chance.random() < 0.2:
            fuse.worked()
            failures = 0
            assert fuse.state == "closed"
        elif got:
            opened = failures >= fuse.allowed
            for t in got:
                fuse.failed(t)
            failures = fuse.failures
            if failures >= fuse.allowed:
                whole = min(30, 2 ** (failures - fuse.allowed))
                assert whole / 2 <= fuse.again - now[0] <= whole
                assert opened or failures == fuse.allowed, "failures of one opening count once"
        now[0] += chance.choice([0.01, 0.3, fuse.again - now[0] + 1e-9 if fuse.again > now[0] else 0.1])


def test_a_probe_that_never_reports_blocks_nobody_for_ever():
    now = [0.0]
    fuse = Breaker(1, 1, 8, lambda: now[0], lambda: 1.0)
    fuse.failed(fuse.ask())
    now[0] = 1.0
    assert fuse.ask() and not fuse.ask()
    now[0] = 2.0
    assert fuse.ask()


def test_the_wish_of_the_server_is_granted_within_reason():
    now = [0.0]
    fuse = Breaker(1, 1, 60, lambda: now[0], lambda: 1.0)
    fuse.failed(fuse.ask(), at_least=20)
    assert fuse.again == 20
    fuse = Breaker(1, 1, 60, lambda: now[0], lambda: 1.0)
    fuse.failed(fuse.ask(), at_least=1e9)
    assert fuse.again == 60


# --- one request -------------------------------------------------------------------------------------------------------------

def rude(lines, pause=0.0, accept=True):
    s = socket.create_server(("127.0.0.1", 0))

    def run():
        try:
            c, _ = s.accept()
            asked = b""
            while not asked.endswith(b"\r\n\r\nx"):
                asked += c.recv(9999)
            for line in lines:
                c.sendall(line)
                time.sleep(pause)
            c.close()
        except OSError:
            pass
        s.close()
    if accept:
        threading.Thread(target=run, daemon=True).start()
    return f"http://127.0.0.1:{s.getsockname()[1]}", s


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("lines, pause, says", [
    ([OK] + [b"X-A: b\r\n"] * 99, 0.1, "no answer in 0.5 s"), ([OK + b"Content-Length: 99\r\n\r\n"] + [b" "] * 99, 0.1, "no answer in 0.5 s"),
    ([OK + b"\r\n"] + [b" "] * 99, 0.1, "no answer in 0.5 s"), ([OK + b"\r\n"] + [b" " * 10**6] * 20, 0, "1 MB"), ([OK + b"\r\n" + b"[" * 200_000], 0, "no JSON"),
    ([OK + b"\r\n[1]"], 0, "not a JSON object"), ([OK + b"Content-Length: 20\r\n\r\n{\"a\": 1"], 0, "no JSON"), ([b"SSH-2.0-OpenSSH\r\n"], 0, "BadStatusLine"), ([], 0, "RemoteDisconnected"),
    ([b"HTTP/1.1 302 Found\r\nLocation: http://login\r\n\r\n"], 0, "HTTP 302"), ([b"HTTP/1.1 200 " + b"x" * 99_999], 0, "LineTooLong")])
def test_whatever_a_server_does_the_deadline_holds_and_the_reason_is_said(lines, pause, says):
    url, _ = rude(lines, pause)
    start = time.perf_counter()
    with pytest.raises(Unreachable, match=says):
        post(url, "/predict", b"x", {}, 0.5)
    assert time.perf_counter() - start < 5  # half a second, and what a busy machine takes; the slowest of them would talk for ten


def test_nobody_accepts():
    url, s = rude([], accept=False)
    with pytest.raises(Unreachable, match="no answer in 0.3 s"):
        post(url, "/", b"x" * 10_000_000, {}, 0.3)  # more than the kernel takes in advance
    s.close()
    with pytest.raises(Unreachable, match="Refused"):
        post(f"http://127.0.0.1:{free_port()}", "/", b"x", {}, 0.3)


@pytest.fixture
def certificate(tmp_path):
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate")
    where = [str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", where[0], "-out", where[1]], check=True, capture_output=True)
    return where


def test_tls_has_the_same_deadline_and_trusts_no_stranger(certificate, monkeypatch):
    import ssl
    key, cert = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    def serve(lines, pause=0.0):
        s = socket.create_server(("127.0.0.1", 0))

        def run():
            try:
                c = context.wrap_socket(s.accept()[0], server_side=True)
                c.recv(9999)
                for line in lines:
                    c.sendall(line)
                    time.sleep(pause)
                c.close()
            except OSError:
                pass
        threading.Thread(target=run, daemon=True).start()
        return f"https://127.0.0.1:{s.getsockname()[1]}"
    with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
        post(serve([OK + b"\r\n{}"]), "/", b"x", {}, 3)
    monkeypatch.setenv("SSL_CERT_FILE", cert)
    assert post(serve([OK + b"\r\n{\"a\": 1}"]), "/", b"x", {}, 3) == {"a": 1}
    for lines in ([OK + b"\r\n"] + [b" "] * 99, [OK + b"Content-Length: 99\r\n\r\n"] + [b" "] * 99, [OK] + [b"A: b\r\n"] * 90):
        start = time.perf_counter()
        with pytest.raises(Unreachable, match="no answer in 0.5 s"):
            post(serve(lines, 0.1), "/", b"x", {}, 0.5)
        assert time.perf_counter() - start < 5  # half a second, and what a busy machine takes; the slowest of them would talk for ten


@pytest.mark.parametrize("header, wait", [(b"7", 7), (b"99999999", 3600), (b"Wed, 21 Oct 2026 07:28:00 GMT", 0), (b"-5", 0), ("\u0663".encode(), 0)])
def test_retry_after(header, wait):
    with pytest.raises(Unreachable) as e:
        post(rude([b"HTTP/1.1 503 Busy\r\nRetry-After: " + header + b"\r\n\r\n"])[0], "/", b"x", {}, 1)
    assert (e.value.status, e.value.wait) == (503, wait)


def test_urls_that_cannot_work():
    for url in ("ftp://a", "a.b:80", "http://", ""):
        with pytest.raises(ValueError, match="url must look like"):
            HybridClient(url, Local(), "never.db")
    assert not Path("never.db").exists()


# --- the outbox --------------------------------------------------------------------------------------------------------------

def test_what_the_policy_drops_is_counted_and_the_server_learns_of_it(tmp_path, cloud):
    with HybridClient(OFFLINE, Local(), tmp_path / "q.db", limit=5) as client:
        ids = [client.predict(picture(i)).prediction_id for i in range(12)]
        assert client.status() | dict(waiting=5, dropped=7) == client.status()
        client.url = cloud.url
        assert client.flush() == 5
    assert set(cloud.rows().id) == set(ids[-5:])
    with sqlite3.connect(cloud.file) as db:
        assert db.execute("select dropped from devices").fetchall() == [(7,)]


def test_no_answer_without_a_log(tmp_path):
    with HybridClient(OFFLINE, Local(), tmp_path / "q.db") as client:
        client.outbox.db.execute("pragma query_only=on")  # stands for a disk that takes no more
        with pytest.raises(sqlite3.OperationalError):
            client.predict(picture(1))


def test_a_file_that_is_no_outbox_is_not_touched(tmp_path):
    path = tmp_path / "q.db"
    path.write_bytes(b"holiday pictures" * 999)
    with pytest.raises(RuntimeError, match="move it away, but keep it"):
        Outbox(path)
    assert path.read_bytes() == b"holiday pictures" * 999


def test_a_client_does_not_cross_a_fork(tmp_path):
    box = Outbox(tmp_path / "q.db")
    box.pid -= 1  # as a child sees it
    with pytest.raises(RuntimeError, match="open it again in the child"):
        box.put(dict(id="a"))


def test_threads_share_an_outbox(tmp_path):
    box = Outbox(tmp_path / "q.db")
    threads = [threading.Thread(target=lambda k=k: [box.put(dict(id=f"{k}-{i}")) for i in range(25)]) for k in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert box.facts()["waiting"] == 100 and [r["id"] for r in box.first(200) if r["id"].startswith("2-")] == [f"2-{i}" for i in range(25)]


@pytest.mark.parametrize("keep", ["hash", "image"])
def test_pictures_are_on_the_disk_only_where_asked_and_only_until_they_are_delivered(tmp_path, cloud, keep):
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    with HybridClient(OFFLINE, Local(), tmp_path / "q.db", keep=keep) as client:
        client.predict(image)
        row, = client.outbox.first(1)
        on_disk = lambda what: any(what in p.read_bytes() for p in tmp_path.glob("q.db*"))
        png = json.dumps(row.get("image", "-")).encode()[1:80]
        assert ("image" in row) == (keep == "image") and on_disk(row["sha256"].encode()) and on_disk(png) == (keep == "image")
        client.url = cloud.url
        assert client.flush() == 1 and not on_disk(row["sha256"].encode()) and (keep == "hash" or not on_disk(png))
    assert (cloud.rows().image.notna()).tolist() == [keep == "image"]
    assert (tmp_path / "q.db").stat().st_mode & 0o077 == 0


# --- cut off -----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("mode", [m for m in MODES if m != "ok"])
def test_each_way_to_fail_gives_an_answer_in_time_and_one_row(tmp_path, model, cloud, mode):
    local = serialize.load(model)
    with HybridClient(cloud.url, local, tmp_path / "q.db", timeout=0.4, upload_timeout=0.4, pause=0.2, longest=0.4) as client:
        answers = [client.predict(picture(n)) for n in range(2)]
        assert [a.source for a in answers] == ["cloud", "cloud"]
        cloud.be(mode)
        for n in range(2, 12):
            start = time.perf_counter()
            answers.append(client.predict(picture(n)))
            assert time.perf_counter() - start < 3 and answers[-1].source == "edge" and answers[-1].why
        if mode != "lost":
            assert client.cloud.state != "closed" and sum(a.why != "the fuse is open" for a in answers[2:]) < 10, "the fuse spares most of them"
        assert client.flush() == 0 and client.status()["waiting"] == 10 and client.status()["trouble"]
        cloud.be("ok")
        time.sleep(0.5)
        answers.append(client.predict(picture(12)))
        assert answers[-1].source == "cloud"
        assert client.flush() == 10 and client.status()["waiting"] == 0
    if mode == "slow":
        time.sleep(2.5)  # its late answers come in now
    rows = cloud.rows().set_index("id")
    assert set(rows.index) == {a.prediction_id for a in answers} and not rows.sha256.duplicated().any()
    for a in answers:
        assert (rows.label[a.prediction_id], rows.source[a.prediction_id]) == (a.label, a.source)
    assert (rows.times.max() > 1) == (mode in ("lost", "cut", "drip", "slow")), "these logged what nobody heard"


def test_an_outbox_that_uploads_by_itself_when_the_network_is_back(tmp_path, cloud):
    cloud.kill()
    with HybridClient(cloud.url, Local(), tmp_path / "q.db", every=0.1, pause=0.1, longest=0.3) as client:
        ids = [client.predict(picture(n)).prediction_id for n in range(5)]
        time.sleep(0.3)
        assert client.status()["waiting"] == 5
        cloud.be("ok")
        end = time.monotonic() + 10
        while client.status()["waiting"] and time.monotonic() < end:
            time.sleep(0.05)
        assert client.status()["waiting"] == 0
    assert set(cloud.rows().id) == set(ids)


@pytest.mark.parametrize("bad", [{3}, {0, 19}, {5, 6, 7}, set(range(20))])
def test_poison_is_set_aside_with_the_reason_and_can_come_back(tmp_path, cloud, bad):
    with HybridClient(OFFLINE, Local(), tmp_path / "q.db", batch=8) as client:
        ids = [client.predict(picture(n)).prediction_id for n in range(20)]
        with client.outbox.write() as db:
            for i in bad:
                db.execute("update waiting set row = json_set(row, '$.label', 'rust') where id = ?", [ids[i]])
        client.url = cloud.url
        assert client.flush() == 20 - len(bad) and client.status() | dict(waiting=0, refused=len(bad)) == client.status()
        assert all("rust" in reason for reason, in client.outbox.db.execute("select reason from refused"))
        assert set(cloud.rows().id) == {v for i, v in enumerate(ids) if i not in bad}
        with client.outbox.write() as db:  # the cause is mended
            db.execute("update refused set row = json_set(row, '$.label', 'healthy')")
        client.outbox.restore()
        assert client.flush() == len(bad) and set(cloud.rows().id) == set(ids)


class Scripted:
    """A server whose answers to uploads are given by a function of (path, body)."""
    def __init__(self, say):
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args): pass
            def do_POST(self):
                status, said = say(self.path, self.rfile.read(int(self.headers["Content-Length"])))
                text = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.mark.parametrize("status, refused", [(400, 4), (422, 4), (413, 4), (401, 0), (403, 0), (404, 0), (429, 0), (500, 0), (302, 0)])
def test_only_what_is_about_the_content_condemns_a_row(tmp_path, status, refused):
    with HybridClient(OFFLINE, Local(), tmp_path / "q.db") as client:
        [client.predict(picture(n)) for n in range(4)]
        client.url = Scripted(lambda path, body: (status, {})).url
        assert client.flush() == 0
        assert client.status() | dict(waiting=4 - refused, refused=refused) == client.status()


@pytest.mark.parametrize("said", [{}, {"logged": []}, {"logged": "all"}, {"logged": 4}, {"logged": ["x" * 32]}, {"logged": [None, {}]}])
def test_status_200_alone_is_no_receipt(tmp_path, said):
    with HybridClient(OFFLINE, Local(), tmp_path / "q.db") as client:
        [client.predict(picture(n)) for n in range(4)]
        client.url = Scripted(lambda path, body: (200, said)).url
        assert client.flush() == 0 and client.status()["waiting"] == 4 and "acknowledged 0 of 4" in client.status()["trouble"]


@pytest.mark.parametrize("said", [{}, {"prediction_id": "other", "label": "healthy"}, {"label": "healthy"}, {"prediction_id": "ID", "label": "rust"}, {"prediction_id": "ID", "label": ["healthy"]}, {"prediction_id": "ID", "label": "healthy", "probabilities": 7}])
def test_an_answer_to_something_else_is_none(tmp_path, monkeypatch, said):
    monkeypatch.setattr(edge.uuid, "uuid4", lambda: type("U", (), dict(hex="ID")))
    with HybridClient(Scripted(lambda path, body: (200, said)).url, Local(), tmp_path / "q.db") as client:
        a = client.predict(picture(1))
        assert a.source == "edge" and "right server" in a.why


def test_on_a_thin_line_batches_shrink_until_they_pass(tmp_path):
    got = []

    def say(path, body):
        rows = json.loads(body)["rows"]
        if len(rows) > 5:
            time.sleep(0.8)  # more than the deadline
        else:
            got.extend(r["id"] for r in rows)
        return 200, dict(logged=[r["id"] for r in rows])
    with HybridClient(OFFLINE, Local(), tmp_path / "q.db", batch=32, upload_timeout=0.4) as client:
        ids = [client.predict(picture(n)).prediction_id for n in range(30)]
        client.url = Scripted(say).url
        for tries in range(30):
            client.flush()
            if not client.status()["waiting"]:
                break
        assert sorted(got) == sorted(ids) and tries > 1


def test_a_wrong_clock_is_reckoned_with(tmp_path):
    log = Log(tmp_path / "log.db")
    row = dict(label="healthy", probabilities=[1, 0, 0, 0, 0])
    for name, off in dict(a=-56 * 365 * 86400.0, b=0.0, c=3e8).items():
        log.add([{**row, "id": name * 32, "made": time.time() + off - 3600}], LEAF_CLASSES, "edge", time.time() + off, "d")
    assert all(abs(at - time.time() + 3600) < 5 for at, in log.db.execute("select at from log"))


@pytest.mark.parametrize("order", [("cloud", "edge"), ("edge", "cloud"), ("edge", "cloud", "edge"), ("cloud", "edge", "cloud", "edge")])
def test_the_log_holds_what_the_user_saw_in_whatever_order_it_arrives(tmp_path, order):
    log = Log(tmp_path / "log.db")
    for source in order:
        log.add([dict(id="a" * 32, label=dict(cloud="healthy", edge="late blight")[source], made=1.0)], LEAF_CLASSES, source, 1.0)
    assert log.db.execute("select source, label, times from log").fetchall() == [("edge", "late blight", len(order))]


def test_hostile_rows_do_not_stop_the_cloud(cloud):
    for body in (b"", b"null", b"[]", b"{}", b"[" * 100_000, b'{"rows": [null], "clock": 1, "device": "d", "dropped": 0}', b'{"rows": 7, "clock": 1, "device": "d", "dropped": 0}',
                 b'{"rows": [], "clock": "x", "device": "d", "dropped": 0}', b'{"rows": [{"id": "' + b"a" * 32 + b'", "label": ["healthy"], "made": 1}], "clock": 1, "device": "d", "dropped": 0}'):
        with pytest.raises(Unreachable, match="HTTP 422"):
            post(cloud.url, "/log", body, {}, 3)
    for path, body in (("/predict", b"GIF89a"), ("/predict", b""), ("/nowhere", b"x")):
        with pytest.raises(Unreachable, match="HTTP 4"):
            post(cloud.url, path, body, {}, 3)
    assert len(cloud.rows()) == 0


def test_pictures_that_are_none_are_refused_before_anything_is_sent(tmp_path):
    with HybridClient(OFFLINE, Local(), tmp_path / "q.db") as client:
        for image in (np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8), np.zeros((1, 8, 8, 3), np.uint8), "leaf.jpg"):
            with pytest.raises(ValueError, match="image must be uint8"):
                client.predict(image)
        assert client.status()["waiting"] == 0


# --- killed ------------------------------------------------------------------------------------------------------------------

def test_killed_before_each_line_nothing_is_lost_and_nothing_logged_twice(tmp_path, cloud):
    done = subprocess.run([sys.executable, DRIVER, "lines", cloud.url, tmp_path], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    runs, rows = [json.loads(line) for line in done.stdout.splitlines()], cloud.rows()
    log = rows.set_index("id")
    assert len(runs) == runs[0]["total"] > 150 and all(r["killed"] for r in runs)
    assert all((r["left"]["waiting"], r["left"]["refused"], r["left"]["dropped"]) == (0, 0, 0) for r in runs)
    for a in (a for r in runs for a in r["seen"]):
        assert a["id"] in log.index, "an answer that a user saw is missing"
        assert (log.label[a["id"]], log.source[a["id"]]) == (a["label"], a["source"])
    assert not rows.sha256.duplicated().any(), "a picture was logged twice"
    seen = sum(len(r["seen"]) for r in runs)
    assert 0 <= len(rows) - seen <= len(runs), "at most the one that was on its way"
    assert (rows.times > 1).any(), "some must have arrived twice, or the test was too tame"


def test_killed_at_random_on_both_sides(tmp_path, cloud):
    chance, driver = random.Random(1), subprocess.Popen([sys.executable, DRIVER, "moments", cloud.url, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(driver.stdout))
    reader.start()
    server_kills, start = 0, time.monotonic()
    while driver.poll() is None and (server_kills < 4 or time.monotonic() - start < 10):
        cloud.be(chance.choice(["ok", "ok", "lost", "cut", "broken", "portal", "silent"]))
        time.sleep(chance.uniform(0.1, 0.8))
        if chance.random() < 0.5:
            cloud.kill()
            server_kills += 1
    cloud.be("ok")
    time.sleep(2)
    (tmp_path / "stop").touch()
    reader.join()
    driver.wait()
    assert driver.returncode == 0, driver.stderr.read()[-3000:]
    with HybridClient(cloud.url, Local(), tmp_path / "shared.db") as client:
        end = time.monotonic() + 60  # a machine may be busy
        while client.status()["waiting"] and time.monotonic() < end:
            client.flush()
        assert client.status() | dict(waiting=0, refused=0, dropped=0) == client.status()
    *seen, last = map(json.loads, lines)
    rows = cloud.rows()
    log = rows.set_index("id")
    assert last["kills"] >= 30
    assert {a["source"] for a in seen} == {"edge", "cloud"}
    assert {a["id"] for a in seen} <= set(log.index), "an answer that a user saw is missing"
    assert all((log.label[a["id"]], log.source[a["id"]]) == (a["label"], a["source"]) for a in seen)
    assert not rows.sha256.duplicated().any() and len(rows) - len(seen) <= last["kills"]


def test_one_uploader_at_a_time_across_processes(tmp_path, cloud):
    with HybridClient(OFFLINE, Local(), tmp_path / "q.db", batch=5) as client:
        ids = [client.predict(picture(n)).prediction_id for n in range(200)]
    code = "import sys, edge_driver as d\nwith d.edge.HybridClient(sys.argv[1], d.Local(), sys.argv[2], batch=5) as c: print(c.flush())"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(DRIVER.parent), str(DRIVER.parent.parent)])}
    ps = [subprocess.Popen([sys.executable, "-c", code, cloud.url, str(tmp_path / "q.db")], stdout=subprocess.PIPE, text=True, env=env) for _ in range(3)]
    sent = [int(p.communicate(timeout=120)[0]) for p in ps]
    rows = cloud.rows()
    assert sum(sent) == 200 and set(rows.id) == set(ids) and (rows.times == 1).all()
