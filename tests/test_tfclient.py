"The client of chapter 07: every dtype there and back over both protocols, servers that die, stall, lie or ask for patience, and what retries may cost."
import json, os, signal, socket, struct, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.extra import numpy as hnp
grpc = pytest.importorskip("grpc", reason="needs grpcio, of the extra tfserving")
tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_serving", reason="needs tensorflow-serving-api, of the extra tfserving")
from conformance import processes, servers
from mlops_course.core import free_port
from mlops_course.tfclient import Client, Retries, RetryBudget, _Failed, messages
from mlops_course.tfjson import Status
from mlops_course.tfserving import half_plus, to_proto

NUMBERS = "float32 float64 int8 int16 int32 int64 uint8 uint32 uint64 bool".split()
GRPC_ONLY = "float16 bfloat16 complex64 complex128 uint16".split()  # TF Serving's JSON has none of these
dtype = lambda name: tf.as_dtype(name).as_numpy_dtype

# --- a real server on real sockets: one model gives everything back
class Served:
    def __init__(self, launch, root):
        self.launch, self.root, self.ports, self.n = launch, root, (free_port(), free_port()), count()
        module = tf.Module()
        def same(name): return tf.function(lambda x: {"y_bytes" if name == "string" else "y": tf.identity(x)}, input_signature=[tf.TensorSpec(None, name, name="x")])
        signatures = {name: same(name) for name in [*NUMBERS, *GRPC_ONLY, "string"]}
        module.all = list(signatures.values())
        tf.saved_model.save(module, str(root/"types"/"1"), signatures=signatures)
        for n in (1, 2): half_plus(n, root/"half"/str(n))
        (root/"models.config").write_text(f'''model_config_list {{ config {{ name: "types" base_path: "{root}/types" model_platform: "tensorflow" }}
            config {{ name: "half" base_path: "{root}/half" model_platform: "tensorflow" model_version_policy {{ all {{}} }} version_labels {{ key: "stable" value: 1 }} }} }}''')
    def start(self):
        log = self.root/f"log{next(self.n)}"
        self.running = self.launch([f"--port={self.ports[0]}", f"--rest_api_port={self.ports[1]}", f"--model_config_file={self.root}/models.config", "--allow_version_labels_for_unavailable_models", "--tensorflow_session_parallelism=1"], log)
        return log
    def wait(self, log): servers.ready(self.addresses["REST"], dict.fromkeys(("types", "half")), self.running, log, 120)
    @property
    def addresses(self): return {"gRPC": f"127.0.0.1:{self.ports[0]}", "REST": f"http://127.0.0.1:{self.ports[1]}"}

@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with processes.Warm() as launch:
        s = Served(launch, tmp_path_factory.mktemp("served"))
        s.wait(s.start())
        yield s
        servers.stop(s.running)

@pytest.fixture(scope="module")
def clients(served):
    found = {name: Client(address, 60) for name, address in served.addresses.items()}
    yield found
    for c in found.values(): c.close()

def equal(a, b):
    assert a.dtype == b.dtype and a.shape == b.shape, (a, b)
    assert a.tobytes() == b.tobytes() or np.array_equal(a, b, equal_nan=True) and np.array_equal(np.signbit(a), np.signbit(b)) if a.dtype.kind == "f" else np.array_equal(a, b), (a, b)

asks = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)

@pytest.mark.parametrize("name", NUMBERS)
@asks
@given(data=st.data())
def test_numbers_come_back_as_they_were(clients, name, data):
    a = data.draw(hnp.arrays(dtype(name), shapes))
    equal(clients["gRPC"].predict("types", a, signature=name)["y"], a)
    for format in ("columnar", "row") if a.ndim and len(a) else ("columnar",):
        if 0 in a.shape[:-1]:
            with pytest.raises(Status, match="cannot tell the shape"): clients["REST"].predict("types", a, signature=name, format=format)
        else: equal(clients["REST"].predict("types", a, signature=name, format=format)["y"], a)

@asks
@given(a=hnp.arrays(object, shapes, elements=st.binary(max_size=9)))
def test_bytes_come_back_as_they_were(clients, a):
    for client in clients.values():
        if client.rest and 0 in a.shape[:-1]: continue
        equal(client.predict("types", a, signature="string")["y_bytes"], a)

@pytest.mark.parametrize("name", GRPC_ONLY)
def test_types_that_json_has_not(clients, name):
    a = np.array([[1, 2], [3, 0]]).astype(dtype(name))
    got = clients["gRPC"].predict("types", a, signature=name)["y"]
    assert got.dtype == a.dtype and (got == a).all()
    with pytest.raises(Status, match="UNIMPLEMENTED.*ask over gRPC"): clients["REST"].predict("types", a, signature=name)

@pytest.mark.parametrize("way", ["gRPC", "REST"])
def test_versions_labels_states_and_errors(clients, way):
    c = clients[way]
    assert [c.predict("half", [2], **which)["y"].tolist() for which in ({}, {"version": 1}, {"label": "stable"})] == [[3.], [2.], [2.]]
    assert [(v.version, v.state) for v in c.status("half")] == [(2, "AVAILABLE"), (1, "AVAILABLE")] and [v.version for v in c.status("half", 1)] == [1]
    assert c.metadata("half")["serving_default"].inputs["x"] == ("DT_FLOAT", (None,)) and c.metadata("types")["int8"].outputs["y"] == ("DT_INT8", None)
    for call, says in ((lambda: c.predict("nobody", [1]), "NOT_FOUND: .*nobody"), (lambda: c.predict("half", [2], label="canary"), "INVALID_ARGUMENT: .*canary"), (lambda: c.status("nobody"), "NOT_FOUND"),
                       (lambda: c.predict("half", ["two"]), "INVALID_ARGUMENT"), (lambda: c.predict("half", [[1], [1, 2]]), "different lengths")):
        with pytest.raises(Status, match=says): call()
    with pytest.raises(ValueError, match="not both"): c.predict("half", [2], version=1, label="stable")

def test_fitting_makes_both_protocols_say_the_same(clients):
    for c in clients.values():
        assert c.predict("half", np.array([2.], "f8"))["y"].dtype == np.float32 and c.predict("types", [1, 2], signature="int8")["y"].dtype == np.int8
        for wrong in ([300], [1.5]):   # nothing is cut or rounded on the way
            with pytest.raises(Status, match="INVALID_ARGUMENT"): c.predict("types", wrong, signature="int8")

@pytest.mark.parametrize("name", ["float32", "float64"])
def test_numbers_at_the_edges(clients, name):
    i = np.finfo(name)
    a = np.array([[np.nan, np.inf, -np.inf, -0., 0.], [i.max, i.min, i.tiny, i.smallest_subnormal, 0.1]], name)
    for client, format in ((clients["gRPC"], "columnar"), (clients["REST"], "columnar"), (clients["REST"], "row")):
        for x in (a, a[1:]): equal(client.predict("types", x, signature=name, format=format)["y"], x)

def test_texts_in_lists(clients):
    for c in clients.values(): assert c.predict("types", [["a\0", b"\xff\0"], ["", "ü"]], signature="string")["y_bytes"].tolist() == [[b"a\0", b"\xff\0"], [b"", "ü".encode()]]

def test_threads_share_a_client(clients):
    for c in clients.values():
        with ThreadPoolExecutor(8) as pool: assert list(pool.map(lambda i: c.predict("half", [float(i)], version=1)["y"].item(), range(160))) == [i / 2 + 1 for i in range(160)]

def test_tensorflow_is_not_needed(served):
    code = f"""
import sys
class No:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("tensorflow", "tensorflow_serving"): raise ModuleNotFoundError(name)
sys.meta_path.insert(0, No())
from mlops_course.tfclient import Client
for address in {list(served.addresses.values())!r}:
    with Client(address, 60) as c: assert c.predict("half", [2])["y"].tolist() == [3] and c.metadata("half") and c.status("half")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

@pytest.mark.parametrize("way", ["gRPC", "REST"])
def test_a_server_that_is_killed_and_comes_back(served, way):
    with Client(served.addresses[way], 60, Retries(1000, budget=RetryBudget(1, 10_000))) as client:
        going, answers = threading.Event(), []
        def ask():
            while not going.is_set(): answers.append(client.predict("half", [2], version=1)["y"].item())
        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask) for _ in range(4)]
            enough = lambda n: wait(lambda: len(answers) > n or any(f.done() for f in asking))
            enough(50)
            os.kill(served.running.pid, signal.SIGKILL)
            wait(lambda: served.running.poll() is not None)
            before = len(answers)
            time.sleep(0.5)
            served.wait(served.start())
            enough(max(before, len(answers)) + 50)
            going.set()
            for f in asking: f.result(60)   # raises what a call raised
        assert set(answers) == {2.}

def wait(fact, seconds=60):
    until = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < until
        time.sleep(0.02)

# --- servers that are not what they should be: the k-th prediction is answered by the k-th behaviour, the last one again and again
METADATA = dict(model_spec={}, metadata=dict(signature_def=dict(signature_def=dict(serving_default=dict(method_name="", inputs=dict(x=dict(name="x:0", dtype="DT_FLOAT", tensor_shape=dict(dim=[dict(size="-1", name="")], unknown_rank=False))),
                                                                                                            outputs=dict(y=dict(name="y:0", dtype="DT_FLOAT", tensor_shape=dict(dim=[dict(size="-1", name="")], unknown_rank=False))))))))

def http(body, status="200 OK", *headers, kind="application/json"):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers, "", ""]).encode() + body

GOOD = http(dict(outputs=[3.0]))

class Peer:
    def __init__(self, *behaviours): # bytes to answer, or what takes the connection; false = close it
        self.behaviours, self.asked, self.learned, self.connections, self.listener = list(behaviours), 0, 0, 0, socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.accept, daemon=True).start()
    @property
    def url(self): return f"http://127.0.0.1:{self.listener.getsockname()[1]}"
    def accept(self):
        while True:
            try: peer, _ = self.listener.accept()
            except OSError: return
            self.connections += 1
            threading.Thread(target=self.serve, args=[peer], daemon=True).start()
    def serve(self, peer):
        try:
            with peer, peer.makefile("rb") as lines:
                while request := lines.readline():
                    headers = dict(line.decode().strip().lower().split(": ", 1) for line in iter(lines.readline, b"\r\n"))
                    lines.read(int(headers.get("content-length", 0)))
                    if b"/metadata" in request:
                        self.learned += 1
                        peer.sendall(http(METADATA))
                        continue
                    act = self.behaviours[min(self.asked, len(self.behaviours) - 1)]
                    self.asked += 1
                    if not (peer.sendall(act) is None if isinstance(act, bytes) else act(peer)): return
        except OSError: pass
    def __enter__(self): return self
    def __exit__(self, *exc): self.listener.close()

def then_reset(part):
    def act(peer):
        peer.sendall(part)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing sends a reset
    return act
def then_close(part): return lambda peer: peer.sendall(part)
def stall(peer): time.sleep(30)
def drip(text):
    def act(peer):
        for byte in text * 1000: peer.sendall(bytes([byte])); time.sleep(0.1)
    return act

def ask(*behaviours, deadline=30., **kw):
    with Peer(*behaviours) as peer, Client(peer.url, deadline, Retries(**{"base": 0.01, **kw})) as client:
        began, fault, y = time.monotonic(), None, None
        try: y = client.predict("m", [2])["y"].tolist()
        except Status as e: fault = f"{e} " + " ".join(getattr(e, "__notes__", []))
        return y, fault, peer, time.monotonic() - began

@pytest.mark.parametrize("first", [then_reset(b""), then_reset(GOOD[:-3]), then_reset(GOOD[:30]), then_close(b""), then_close(GOOD[:-3]), http({"error": "full"}, "503 Service Unavailable"), http({"error": "slow down"}, "429 Too Many Requests"),
                                   http(b"<html>", "502 Bad Gateway", kind="text/html")], ids="reset half-reset head-reset close half 503 429 502".split())
def test_what_is_tried_again(first):
    y, _, peer, _ = ask(first, first, GOOD)
    assert y == [3.] and peer.asked == 3

@pytest.mark.parametrize("answer, says", [(http(b"<html>Welcome to nginx", kind="text/html"), "INTERNAL: .*Welcome to nginx"), (http({"outputs": "hello"}), "INTERNAL: .*does not fit"), (http(b""), "INTERNAL"), (http(b"[" * 99_999), "INTERNAL"),
    (http(b"<html>", "404 Not Found", kind="text/html"), "NOT_FOUND: .*not as TF Serving does.*<html>"), (http(b"", "301 Moved", "Location: https://elsewhere"), "UNKNOWN: .*points to https://elsewhere"), (http({"error": "x must be small"}, "400 Bad Request"), "^INVALID_ARGUMENT: x must be small $"),
    (http({"error": "late"}, "504 Gateway Timeout"), "^DEADLINE_EXCEEDED: late $"), (http({"error": {"a": 1}}, "500 Oops"), "UNKNOWN: .*500 Oops"), (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "UNKNOWN: .*does not speak HTTP")],
    ids="html nonsense empty deep 404 redirect 400 504 500 ssh".split())
def test_what_is_not_tried_again_and_says_why(answer, says):
    import re
    y, fault, peer, _ = ask(answer)
    assert y is None and re.search(says, fault, re.S), fault
    assert peer.asked <= 2  # twice at most: a reply that does not fit may mean that the signature is another one now

def test_a_reply_that_does_not_fit_is_asked_for_again_only_if_the_signature_changed():
    with Peer(http({"outputs": "?"})) as peer, Client(peer.url) as client:
        for n in range(1, 60):
            with pytest.raises(Status): client.predict("m", [2])
            assert peer.asked == n
        assert 1 < peer.learned < 30  # whoever makes the same mistake all day does not ask twice for everything

def test_retry_after_is_honoured():
    y, _, peer, took = ask(http({"error": "busy"}, "503 Service Unavailable", "Retry-After: 1"), GOOD)
    assert y == [3.] and peer.asked == 2 and took >= 1
    y, fault, peer, took = ask(http({"error": "busy"}, "503 Service Unavailable", "Retry-After: 3600"), GOOD, deadline=20)
    assert fault.startswith("UNAVAILABLE: busy") and "would come after the deadline" in fault and peer.asked == 1 and took < 10

@pytest.mark.parametrize("behaviour", [stall, drip(b"x"), drip(b"HTTP/1.1 200 OK\r\n"), lambda peer: (peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"), drip(b"x")(peer))], ids="silent first-line headers body".split())
def test_the_deadline_is_for_the_whole_call(behaviour):
    y, fault, peer, took = ask(behaviour, deadline=0.5)
    assert fault.startswith("DEADLINE_EXCEEDED") and 0.4 < took < 8 and peer.asked == 1

def test_the_deadline_holds_over_all_tries():
    y, fault, peer, took = ask(lambda peer: time.sleep(0.2), deadline=1., tries=1000, budget=RetryBudget(1, 1000))
    assert took < 10 and 2 <= peer.asked <= 6 and fault.startswith(("DEADLINE_EXCEEDED", "UNAVAILABLE"))

def test_connections_are_kept_and_a_closed_one_costs_nothing():
    with Peer(GOOD, GOOD, then_close(GOOD), GOOD) as peer, Client(peer.url, retries=Retries(tries=1)) as client:
        for n in range(4):
            assert client.predict("m", [2])["y"] == [3]
            if n == 2: time.sleep(0.3)  # until its end has arrived
        assert peer.asked == 4 and peer.connections == 2

def test_the_other_port(served):
    rest, grpc_port = served.addresses["REST"], served.addresses["gRPC"]
    with Client("http://" + grpc_port, 5) as c, pytest.raises(Status): c.status("half")
    with Client(rest.removeprefix("http://"), 1, Retries(tries=1)) as c, pytest.raises(Status, match="UNAVAILABLE|DEADLINE"): c.status("half")
    for bad in ("ftp://x", "http://"):
        with pytest.raises(ValueError, match="address"): Client(bad)

# --- what retries may cost
@given(outcomes=st.lists(st.booleans(), max_size=300), tries=st.integers(1, 30), ratio=st.floats(0, 1), most=st.integers(0, 20))
@settings(deadline=None, max_examples=60)
def test_retries_never_exceed_the_budget(outcomes, tries, ratio, most):
    retries, left, attempts, asked = Retries(tries, 0, 0, RetryBudget(ratio, most)), list(outcomes), 0, 0
    def once(until):
        nonlocal attempts
        attempts += 1
        if not (left.pop() if left else True): raise _Failed(Status("UNAVAILABLE", "down"), True)
    while left:
        asked += 1
        try: retries.run(once, time.monotonic() + 60)
        except Status: pass
    assert asked <= attempts <= min(asked * tries, asked + most + ratio * asked)

def test_an_outage_costs_the_server_a_tenth_more():
    with Peer(http({"error": "down"}, "503 Service Unavailable")) as peer, Client(peer.url, retries=Retries(base=0.001)) as client:
        def one(_):
            with pytest.raises(Status, match="down"): client.predict("m", [2])
        with ThreadPoolExecutor(8) as pool: list(pool.map(one, range(200)))
        assert 200 < peer.asked <= 200 + 10 + 0.1 * 201

# --- gRPC servers that are made for the purpose
class Grpc:
    def __init__(self, *behaviours, metadata=None): # of calls in order; context → reply, or what it raises
        self.asked, self.remaining = 0, []
        def method(request, context):
            act = behaviours[min(self.asked, len(behaviours) - 1)]
            self.asked += 1
            self.remaining.append(context.time_remaining())
            return act(context)
        self.metadata = metadata or GOOD_METADATA
        class Any(grpc.GenericRpcHandler):
            def service(_, details): return grpc.unary_unary_rpc_method_handler((lambda r, c: self.metadata) if details.method.endswith("GetModelMetadata") else method)
        self.server = grpc.server(ThreadPoolExecutor(4), handlers=[Any()])
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
    def __enter__(self): return self
    def __exit__(self, *exc): self.server.stop(0)

def _good():
    m = messages()
    reply, metadata = m["PredictResponse"](), m["GetModelMetadataResponse"]()
    to_proto(np.float32([3]), reply.outputs["y"])
    signature = dict(inputs=dict(x=dict(dtype=1, tensor_shape=dict(dim=[dict(size=-1)]))), outputs=dict(y=dict(dtype=1)))
    metadata.metadata["signature_def"].value = m["SignatureDefMap"](signature_def=dict(serving_default=signature)).SerializeToString()
    return reply.SerializeToString(), metadata.SerializeToString()
GOOD_REPLY, GOOD_METADATA = _good()

def unavailable(pushback=None):
    def act(context):
        if pushback: context.set_trailing_metadata((("grpc-retry-pushback-ms", pushback),))
        context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
    return act
good = lambda context: GOOD_REPLY

@pytest.mark.parametrize("first, least", [(unavailable(), 0), (unavailable("300"), 0.3)])
def test_grpc_is_tried_again_and_pushback_is_honoured(first, least):
    with Grpc(first, good) as server, Client(f"127.0.0.1:{server.port}", 30) as client:
        began = time.monotonic()
        assert client.predict("m", [2])["y"].tolist() == [3] and server.asked == 2 and time.monotonic() - began >= least

def test_grpc_that_is_not_tried_again():
    def refuse(context): context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too large")
    for act, says in ((unavailable("-1"), "UNAVAILABLE: not now"), (refuse, "RESOURCE_EXHAUSTED: too large")):
        with Grpc(act) as server, Client(f"127.0.0.1:{server.port}", 30) as client:
            with pytest.raises(Status, match=says): client.predict("m", [2])
            assert server.asked == 1

def test_the_deadline_is_passed_on():
    over = threading.Event()
    def slow(context): over.wait(30); return GOOD_REPLY
    with Grpc(slow) as server, Client(f"127.0.0.1:{server.port}", 30) as client:
        client.metadata("m")
        began = time.monotonic()
        with pytest.raises(Status, match="DEADLINE_EXCEEDED"): client.predict("m", [2], deadline=0.7)
        assert time.monotonic() - began < 10 and 0 < server.remaining[0] <= 1  # gRPC rounds to milliseconds
        over.set()

def test_a_reload_is_never_sent_twice():
    with Grpc(unavailable()) as server, Client(f"127.0.0.1:{server.port}", 30) as client:
        with pytest.raises(Status) as e: client.reload("model_config_list {}")
        assert server.asked == 1 and "must not be done twice" in e.value.__notes__[0]
    with Client("http://127.0.0.1:1") as client, pytest.raises(ValueError, match="gRPC"): client.reload("")

def test_a_grpc_reply_that_holds_no_tensor():
    broken = messages()["PredictResponse"]()
    broken.outputs["y"].dtype = 99
    with Grpc(lambda c: broken.SerializeToString()) as server, Client(f"127.0.0.1:{server.port}", 30) as client, pytest.raises(Status, match="INTERNAL: .*no tensor"): client.predict("m", [2])

def test_grpc_metadata_that_cannot_be_read():
    broken = messages()["GetModelMetadataResponse"]()
    broken.metadata["signature_def"].value = b"\xff\xff"
    with Grpc(good, metadata=broken.SerializeToString()) as server, Client(f"127.0.0.1:{server.port}", 30) as client, pytest.raises(Status, match="INTERNAL: .*cannot be read"): client.predict("m", [2])
