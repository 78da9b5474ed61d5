"""The predict contract: `check_server` catches servers that break it and survives hostile ones; the standard-library server survives hostile callers."""
import contextlib
import io
import json
import random
import socket
import threading
import time
from http.client import HTTPConnection

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from mlops_course import server as S
from mlops_course.server import JSON, App, Handler, ModelServer, Number, Refused, Served, Text, ask, check_server, read_json, read_row

LABELS = ("small", "medium", "large")


# --- a model, its app and its server -----------------------------------------------------------------------------------------

def softmax(z):
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def score(rows): return softmax(np.array([[row[0] / 10 + sum(map(len, map(str, row[2:]))), 0.5 - row[1], 0.1] for row in rows]))


def row_of(colours): return [colours[0] / 10, 0.5 - colours[1] / 100]


def prepare(body):
    """Reads the size before the pixels, and pixels only where there are few of them."""
    from PIL import Image
    try:
        image = Image.open(io.BytesIO(body), formats=("JPEG", "PNG"))
        if image.width * image.height > 10_000_000:
            raise Refused(422, "bad_image", "an image may have at most 10 million pixels")
        return row_of(np.asarray(image.convert("RGB"), float).mean((0, 1)))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise Refused(422, "bad_image", "this is no JPEG or PNG image that can be read") from None


NUMBERS = {"width": Number(3), "height": Number(0.5)}
FEATURES = {"numbers": NUMBERS, "texts": NUMBERS | {"colour": Text("green", ("green", "red", "brown")), "note": Text("")}}


def served(features="texts", image=True, **changes):
    what = dict(name="leaves", version="3", trained="2026-11-20", labels=LABELS, accuracy=0.9, score=score) | changes
    return what | ({"features": FEATURES[features]} if features else {}) | ({"prepare": what.get("prepare", prepare)} if image else {})


def app_of(kind=App, model=Served, features="texts", image=True, feedback=True, options={}, **changes):
    return kind(model(**served(features, image, **changes)), on_feedback=(lambda key, label: None) if feedback else None, **options)


@contextlib.contextmanager
def running(app, handler=Handler, **options):
    with ModelServer(app, **options) as server:
        server.RequestHandlerClass = handler
        yield server


@pytest.mark.parametrize("feedback", [False, True])
@pytest.mark.parametrize("features, image", [("numbers", False), ("texts", False), (None, True), ("numbers", True), ("texts", True)])
def test_a_good_server_keeps_the_contract_whatever_it_offers(features, image, feedback):
    with running(app_of(features=features, image=image, feedback=feedback)) as server:
        seen = check_server(server.url)
    assert seen, str(seen)
    ran = {"features": "predict", "image": "image", "feedback": "feedback"}
    assert {offer for offer, check in ran.items() if check in seen.checked} == {o for o, there in (("features", features), ("image", image), ("feedback", feedback)) if there}


@pytest.mark.parametrize("changes", [dict(labels=("no", "yes"), score=lambda rows: np.tile([0.25, 0.75], (len(rows), 1)), image=False), dict(accuracy=None), dict(options=dict(instances=2)), dict(options=dict(instances=1)),
                                     dict(options=dict(body_bytes=150_000))], ids=["one answer to everything", "no accuracy", "batches of two", "batches of one", "small bodies"])
def test_unusual_but_good(changes):
    with running(app_of(**changes)) as server:
        seen = check_server(server.url)
    assert seen, str(seen)


# --- servers that break the contract, each in one way ------------------------------------------------------------------------

MUTANTS = {}


def mutant(check):
    """The function makes an app, a handler, or both, that must be caught by the check of this name."""
    def keep(f):
        MUTANTS[f.__name__] = (check, f)
        return f
    return keep


def app(method=None, options={}, **methods):
    """An app whose methods of these names are replaced."""
    return app_of(type("Mutant", (App,), methods), options=options)


def changed(name, change):
    """An app whose answers from the route `name` are changed."""
    return app(**{name: lambda self, kind, body: change(getattr(App, name)(self, kind, body))})


def status_of(method, path, new):
    """An app that answers this route with another status."""
    def respond(self, m, p, kind="", body=b""):
        status, answer, headers = App.respond(self, m, p, kind, body)
        return (new.get(status, status) if (m, p) == (method, path) else status), answer, headers
    return app(respond=respond)


def model_gives(change):
    """An app whose model's answers are changed."""
    return app_of(model=type("Model", (Served,), {"answer": lambda self, p: change(Served.answer(self, p))}))


@mutant("health")
def health_says_up(): return changed("health", lambda a: {"status": "up"})
@mutant("health")
def health_is_a_list(): return changed("health", lambda a: ["ok"])
@mutant("health")
def health_is_204(): return status_of("GET", "/health", {200: 204})
@mutant("model_info")
def no_version(): return changed("info", lambda a: {k: v for k, v in a.items() if k != "version"})
@mutant("model_info")
def accuracy_in_percent(): return changed("info", lambda a: a | {"accuracy": 90})
@mutant("model_info")
def trained_in_words(): return changed("info", lambda a: a | {"trained": "last Monday"})
@mutant("model_info")
def a_label_twice(): return changed("info", lambda a: a | {"labels": ["small", "small", "large"]})
@mutant("model_info")
def offers_what_nobody_knows(): return changed("info", lambda a: a | {"offers": ["features", "poems"]})
@mutant("model_info")
def offers_nothing(): return changed("info", lambda a: a | {"offers": []})
@mutant("model_info")
def no_limits(): return changed("info", lambda a: a | {"limits": {}})
@mutant("model_info")
def a_feature_without_an_example(): return changed("info", lambda a: a | {"features": {"width": {"type": "number"}}})
@mutant("predict")
def another_version(): return model_gives(lambda a: a | {"model_version": "2"})
@mutant("predict")
def no_id(): return model_gives(lambda a: {k: v for k, v in a.items() if k != "prediction_id"})
@mutant("predict")
def the_same_id_always(): return model_gives(lambda a: a | {"prediction_id": "prediction-1"})
@mutant("predict")
def a_number_as_id(): return model_gives(lambda a: a | {"prediction_id": 123456789})
@mutant("predict")
def probabilities_in_percent(): return model_gives(lambda a: a | {"probabilities": {k: 100 * v for k, v in a["probabilities"].items()}})
@mutant("predict")
def probabilities_that_do_not_add_up(): return model_gives(lambda a: a | {"probabilities": {k: 0.9 * v for k, v in a["probabilities"].items()}})
@mutant("predict")
def probabilities_as_a_list(): return model_gives(lambda a: a | {"probabilities": list(a["probabilities"].values())})
@mutant("predict")
def a_label_is_missing(): return model_gives(lambda a: a | {"probabilities": dict(list(a["probabilities"].items())[:2])})
@mutant("predict")
def the_least_likely_label(): return model_gives(lambda a: a | {"label": min(a["probabilities"], key=a["probabilities"].get)})
@mutant("predict")
def created_201(): return status_of("POST", "/predict", {200: 201})


@mutant("predict")
def another_answer_each_time():
    noise = np.random.default_rng(1)
    return app_of(score=lambda rows: softmax(np.log(score(rows)) + noise.normal(0, 0.1, (len(rows), 3))))


@mutant("bad_features")
def missing_features_are_zero():
    return app(object=lambda self, kind, body: (lambda g: g | {"features": {n: f.example for n, f in self.model.features.items()} | g["features"]} if isinstance(g.get("features"), dict) else g)(App.object(self, kind, body)))


def lenient(read):
    """An app whose features read their values in another way."""
    kind = type("Lenient", (Number,), {"read": read})
    features = {name: kind(f.example) if isinstance(f, Number) else f for name, f in FEATURES["texts"].items()}
    return App(Served(**served() | {"features": features}), on_feedback=lambda key, label: None)


@mutant("bad_features")
def true_is_one(): return lenient(lambda self, value, name: float(value) if isinstance(value, bool) else Number.read(self, value, name))
@mutant("bad_features")
def null_is_zero(): return lenient(lambda self, value, name: 0.0 if value is None else Number.read(self, value, name))
@mutant("bad_numbers")
def text_is_read_as_zero(): return lenient(lambda self, value, name: 0.0 if isinstance(value, str) else Number.read(self, value, name))
@mutant("bad_numbers")
def infinity_is_a_large_number(): return lenient(lambda self, value, name: min(value, 1e30) if value == np.inf else Number.read(self, value, name))


@mutant("bad_numbers")
def huge_numbers_overflow():
    def read(self, value, name): return float(value) if isinstance(value, float) and 1e30 < value < np.inf else Number.read(self, value, name)
    kind = type("Any", (Number,), {"read": read})
    features = {"width": kind(3), "height": kind(0.5)}
    return App(Served(**served("numbers", score=lambda rows: softmax(np.array([[r[0] * 10 - r[0] * 10, -r[1], 1] for r in rows]))) | {"features": features}))


@mutant("bad_numbers")
def nan_is_json():
    class Lax(App):
        def object(self, kind, body):
            if kind != JSON: return App.object(self, kind, body)
            try: given = json.loads(body)
            except ValueError: raise Refused(400, "bad_json", "not JSON") from None
            except RecursionError: raise Refused(400, "bad_json", "too deep") from None
            return given if isinstance(given, dict) else App.object(self, kind, b"[]")
    features = {name: type("Nan", (Number,), {"read": lambda self, v, n: 0.0 if v != v else Number.read(self, v, n)})(f.example) if isinstance(f, Number) else f for name, f in FEATURES["texts"].items()}
    return Lax(Served(**served() | {"features": features}), on_feedback=lambda key, label: None)


@mutant("bad_features")
def unknown_features_are_ignored():
    def object(self, kind, body):
        given = App.object(self, kind, body)
        if isinstance(given.get("features"), dict): given["features"] = {k: v for k, v in given["features"].items() if k in self.model.features}
        return given
    return app(object=object)


@mutant("bad_features")
def a_reason_without_the_name(): return reasons(lambda reason: "your input is wrong")


def reasons(change):
    def respond(self, *request):
        status, answer, headers = App.respond(self, *request)
        return status, answer | {"reason": change(answer["reason"])} if status == 422 else answer, headers
    return app(respond=respond)


@mutant("bad_features")
def a_reason_that_is_a_list(): return reasons(lambda reason: [reason])
@mutant("bad_texts")
def any_choice_will_do(): return App(Served(**served() | {"features": NUMBERS | {"colour": type("Free", (Text,), {"read": lambda self, v, n: Text.read(Text(""), v, n)})("green", ("green", "red"))}}))


def all_statuses(new): return app(respond=lambda self, *request: (lambda s, a, h: (new.get(s, s), a, h))(*App.respond(self, *request)))


@mutant("bad_features")
def everything_bad_is_400(): return all_statuses({422: 400})
@mutant("bad_features")
def errors_are_200(): return all_statuses({s: 200 for s in (400, 404, 405, 413, 415, 422)})
@mutant("bad_json")
def not_json_is_422(): return all_statuses({400: 422})
@mutant("bad_json")
def not_json_is_500(): return all_statuses({400: 500})
def refusals(change):
    """An app whose refusals by address or method are changed."""
    def route(self, method, path):
        try: return App.route(self, method, path)
        except Refused as e: raise change(e) from None
    return app(route=route)


def with_status(e, status):
    e.status = status
    return e


def with_headers(e, headers):
    e.headers = headers
    return e


@mutant("bad_requests")
def not_found_is_405(): return refusals(lambda e: with_status(e, 405))
@mutant("bad_requests")
def wrong_method_is_404(): return refusals(lambda e: with_status(e, 404))
@mutant("bad_requests")
def no_allow(): return refusals(lambda e: with_headers(e, {}))
@mutant("bad_requests")
def allow_names_another_method(): return refusals(lambda e: with_headers(e, {"Allow": "PATCH"}))
@mutant("bad_requests")
def any_content_type(): return app(object=lambda self, kind, body: App.object(self, JSON, body))


@mutant("bad_requests")
def a_body_of_any_size():
    info = lambda self, kind, body: App.info(self, kind, body) | {"limits": {"body_bytes": 100_000, "instances": 1000}}
    return app(info=info)


@mutant("batch")
def batch_in_reverse(): return changed("batch", lambda a: {"predictions": a["predictions"][::-1]})
@mutant("batch")
def batch_off_by_one(): return changed("batch", lambda a: {"predictions": a["predictions"][1:] + a["predictions"][:1]})
@mutant("batch")
def batch_loses_the_last(): return changed("batch", lambda a: {"predictions": a["predictions"][:-1]})
@mutant("batch")
def batch_sorted(): return changed("batch", lambda a: {"predictions": sorted(a["predictions"], key=lambda p: p["probabilities"]["small"])})
@mutant("batch")
def batch_is_a_list(): return changed("batch", lambda a: a["predictions"])
@mutant("batch")
def batch_with_one_id(): return changed("batch", lambda a: {"predictions": [p | {"prediction_id": "one for all"} for p in a["predictions"]]})
@mutant("batch")
def batch_normalised_by_itself(): return app_of(score=lambda rows: score(np.array([[*r[:2]] for r in rows], float) - (np.mean([r[:2] for r in rows], 0) if len(rows) > 1 else 0)))


@mutant("batch")
def batch_answers_the_good_ones():
    def batch(self, kind, body):
        given = self.object(kind, body).get("instances")
        if not isinstance(given, list) or not given or given == [{}] * len(given): return App.batch(self, kind, body)
        good = []
        for row in given:
            with contextlib.suppress(Refused): read_row(self.model.features, row); good.append(row)
        return App.batch(self, kind, json.dumps({"instances": good or given}).encode())
    return app(batch=batch)


@mutant("batch")
def batch_does_not_say_which():
    def batch(self, kind, body):
        try: return App.batch(self, kind, body)
        except Refused as e: raise Refused(e.status, "bad", "one of them is wrong") from None
    return app(batch=batch)


@mutant("batch")
def batch_without_a_limit():
    def batch(self, kind, body):
        self.instances, most = 10**9, self.instances
        try: return App.batch(self, kind, body)
        finally: self.instances = most
    return app(batch=batch)


@mutant("image")
def text_is_a_jpeg(): return app_of(prepare=lambda body: prepare(body) if body.startswith((b"\x89PNG", b"\xff\xd8")) else [0, 0.5])


@mutant("image")
def half_an_image():
    from PIL import Image, ImageFile
    def patient(body):
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try: return prepare(body)
        finally: ImageFile.LOAD_TRUNCATED_IMAGES = False
    return app_of(prepare=patient)


@mutant("image")
def a_bomb_is_decoded():
    from PIL import Image
    def brave(body):
        most, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try: image = Image.open(io.BytesIO(body)); return row_of(np.asarray(image.resize((8, 8)).convert("RGB"), float).mean((0, 1)))
        except (OSError, ValueError, SyntaxError): raise Refused(422, "bad_image", "no image") from None
        finally: Image.MAX_IMAGE_PIXELS = most
    return app_of(prepare=brave)


@mutant("image")
def any_image_type(): return app(predict=lambda self, kind, body: App.predict(self, "image/png" if kind == "image/gif" else kind, body))


@mutant("image")
def an_image_in_a_random_crop():
    dice = random.Random(1)
    return app_of(prepare=lambda body: row_of(np.array([20, 50]) + 100 * dice.random() * np.arange(2)))


@mutant("feedback")
def any_label():
    def feedback(self, kind, body):
        given = self.object(kind, body)
        return App.feedback(self, kind, json.dumps(given | {"label": LABELS[0]} if isinstance(given.get("label"), str) else given).encode())
    return app(feedback=feedback)


@mutant("feedback")
def feedback_is_200(): return status_of("POST", "/feedback", {202: 200})
@mutant("feedback")
def feedback_says_nothing(): return changed("feedback", lambda a: {})


@mutant("feedback")
def feedback_only_once():
    known = set()
    def feedback(self, kind, body):
        answer = App.feedback(self, kind, body)
        if (key := json.loads(body)["prediction_id"]) in known: raise Refused(422, "twice", "prediction_id was here before")
        known.add(key)
        return answer
    return app(feedback=feedback)


@mutant("feedback")
def feedback_on_nothing(): return app(feedback=lambda self, kind, body: (App.feedback(self, kind, json.dumps({"prediction_id": "12345678"} | g).encode()) if isinstance(g := json.loads(body), dict) else App.feedback(self, kind, body)))


@mutant("bad_features")
def errors_in_html():
    class Html(Handler):
        def reply(self, status, answer, headers={}):
            if status < 400: return super().reply(status, answer, headers)
            body = b"<h1>Error</h1>"
            self.send_response(status)
            for name, value in {"Content-Type": "text/html", "Content-Length": len(body), **headers}.items(): self.send_header(name, value)
            self.end_headers(); self.wfile.write(body)
    return app(), Html


@mutant("health")
def content_type_text():
    class Plain(Handler):
        def send_header(self, name, value): super().send_header(name, "text/plain" if name == "Content-Type" else value)
    return app(), Plain


@mutant("bad_features")
def a_traceback():
    def respond(self, *request):
        status, answer, headers = App.respond(self, *request)
        return (status, answer | {"reason": answer["reason"] + ' Traceback (most recent call last): File "/srv/app.py"'}, headers) if status == 422 else (status, answer, headers)
    return app(respond=respond)


@mutant("bad_features")
def drops_the_connection():
    class Drops(Handler):
        def reply(self, status, answer, headers={}):
            if status == 422: self.close_connection = True
            else: super().reply(status, answer, headers)
    return app(), Drops


@mutant("health")
def says_more_than_it_sends():
    class Short(Handler):
        def send_header(self, name, value): super().send_header(name, value + 5 if name == "Content-Length" else value)
        def finish(self): super().finish()
        timeout = 0.3
    return app(), Short


@mutant("still_there")
def dies_of_the_feedback():
    dead = []
    def feedback(self, kind, body): dead.append(1); return App.feedback(self, kind, body)
    def health(self, kind, body):
        if dead: raise Refused(503, "dead", "no more")
        return {"status": "ok"}
    return app(feedback=feedback, health=health)


@pytest.mark.parametrize("name", MUTANTS)
def test_check_server_catches(name):
    check, make = MUTANTS[name]
    made = make()
    kind, handler = made if isinstance(made, tuple) else (made, Handler)
    with running(kind, handler) as server:
        seen = check_server(server.url, timeout=5)
    assert not seen and check in {b.check for b in seen.breaches}, str(seen)
    assert all(b.request and b.reply and b.expected for b in seen.breaches) and "<td>" in seen._repr_html_()


def test_every_check_catches_something():
    assert {check for check, _ in MUTANTS.values()} == set(S.CHECKS)


# --- hostile callers ---------------------------------------------------------------------------------------------------------

class Hasty(Handler):
    timeout = 1


class Watched(ModelServer):
    """Keeps what went wrong in a thread, instead of printing it."""
    def __init__(self, *args, **kw):
        self.failures = []
        super().__init__(*args, **kw)
        self.RequestHandlerClass = Hasty
    def handle_error(self, request, address):
        import sys
        if not isinstance(sys.exception(), OSError): self.failures.append(sys.exception())


class Neighbour(threading.Thread):
    """Somebody else, who asks all the time and notes how long it takes."""
    def __init__(self, url):
        super().__init__(daemon=True)
        self.url, self.waits, self.statuses, self.over = url, [], set(), threading.Event()
        self.start()
    def run(self):
        body = {"features": {name: f.example for name, f in FEATURES["texts"].items()}}
        while not self.over.wait(0.02):
            began = time.monotonic()
            self.statuses.add(ask(self.url, "POST", "/predict", body, timeout=5).status)
            self.waits.append(time.monotonic() - began)
    def __enter__(self): return self
    def __exit__(self, *exc): self.over.set(); self.join()
    def undisturbed(self): return self.statuses == {200} and len(self.waits) > 1 and max(self.waits) < 1


def memory():
    """Bytes that this process has in memory."""
    with open("/proc/self/statm") as f: return int(f.read().split()[1]) * 4096


def wait_until(true, seconds=5):
    until = time.monotonic() + seconds
    while not true() and time.monotonic() < until: time.sleep(0.05)
    return true()


@pytest.fixture(scope="module")
def server():
    with Watched(app_of()) as server: yield server


def talk(server, *parts, pause=0.0, end=True, wait=6):
    """Send the parts as they are, with pauses; all that comes back until the server closes."""
    with socket.create_connection(server.server_address[:2], timeout=wait) as s:
        with contextlib.suppress(OSError):
            for part in parts: s.sendall(part); time.sleep(pause)
            if end: s.shutdown(socket.SHUT_WR)
        said = b""
        with contextlib.suppress(ConnectionError):
            while part := s.recv(65536): said += part
    return said


def replies(data):
    """[(status, JSON)] of a byte stream, which must hold whole JSON replies and nothing else."""
    out = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        line, *lines = head.decode().split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (x.partition(":") for x in lines)}
        if line == "HTTP/1.1 100 Continue": out.append((100, None)); continue
        assert line.startswith("HTTP/1.1 ") and headers["content-type"] == JSON, head
        size = int(headers["content-length"])
        assert len(data) >= size, "a reply that is not whole"
        out.append((int(line.split()[1]), json.loads(data[:size])))
        data = data[size:]
    return out


GOOD = json.dumps({"features": {name: f.example for name, f in FEATURES["texts"].items()}}).encode()
HIDDEN = b"GET /model-info HTTP/1.1\r\n\r\n"


def post(body=GOOD, path=b"/predict", headers=b"", length=None, version=b"HTTP/1.1"):
    return b"POST %s %s\r\nContent-Type: application/json\r\n%sContent-Length: %s\r\n\r\n%s" % (path, version, headers, str(len(body) if length is None else length).encode(), body)


def head(*lines): return b"POST /predict HTTP/1.1\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


HOSTILE = { # name: (what is sent, the statuses that come back)
    "two lengths": (head(b"Content-Length: 2", b"Content-Length: 30") + HIDDEN, [400]),
    "two equal lengths": (post(headers=b"Content-Length: %d\r\n" % len(GOOD)), [200]),
    "a list of lengths": (head(b"Content-Length: 28, 28") + HIDDEN, [400]),
    "a length with a sign": (head(b"Content-Length: +28") + HIDDEN, [400]),
    "a negative length": (head(b"Content-Length: -1") + HIDDEN, [400]),
    "a hexadecimal length": (head(b"Content-Length: 0x1c") + HIDDEN, [400]),
    "a length in other digits": (head("Content-Length: \u0662\u0668".encode()) + HIDDEN, [400]),
    "an empty length": (head(b"Content-Length:") + HIDDEN, [400]),
    "5,000 zeros": (head(b"Content-Length: " + b"0" * 5000) + HIDDEN, [413]),
    "a terabyte after zeros": (head(b"Content-Length: " + b"0" * 20 + b"1000000000000") + HIDDEN, [413]),
    "a length and chunks": (head(b"Content-Length: 28", b"Transfer-Encoding: chunked") + b"0\r\n\r\n" + HIDDEN, [411]),
    "chunks": (head(b"Transfer-Encoding: chunked") + b"1c\r\n" + HIDDEN + b"\r\n0\r\n\r\n", [411]),
    "disguised chunks": (head(b"Transfer-Encoding: identity, xchunked") + b"0\r\n\r\n" + HIDDEN, [411]),
    "a space before the colon": (head(b"Content-Length : 28") + HIDDEN, [400]),
    "chunks with a space before the colon": (head(b"Transfer-Encoding : chunked", b"Content-Length: 5") + b"0\r\n\r\n" + HIDDEN, [400]),
    "a line that is no header": (head(b"what is this", b"Content-Length: 28") + HIDDEN, [400]),
    "a folded header": (head(b"X: a", b" Content-Length: 28") + HIDDEN, [400]),
    "a fold on the first line": (head(b" Content-Length: 28") + HIDDEN, [400]),
    "a carriage return alone": (head(b"X: a\rContent-Length: 28") + HIDDEN, [400]),
    "a null in a header": (head(b"X: \0", b"Content-Length: 28") + HIDDEN, [400]),
    "a vertical tab in a header": (head(b"X: a\x0bContent-Length: 28") + HIDDEN, [400]),
    "a body for a path that is not there": (post(HIDDEN, b"/nowhere"), [404]),
    "a body for a method that is not there": (post(HIDDEN, b"/health"), [405]),
    "a body with GET": (b"GET /health HTTP/1.1\r\nContent-Length: 28\r\n\r\n" + HIDDEN + HIDDEN, [200, 200]),
    "200 headers": (head(*[b"X: y"] * 200), [431]),
    "a header of 100 kB": (head(b"X: " + b"y" * 100_000), [431]),
    "a path of 60 kB": (b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\n\r\n", [404]),
    "a path of 100 kB": (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", [414]),
    "a method of 60 kB": (b"A" * 60_000 + b" /predict HTTP/1.1\r\n\r\n", [405]),
    "a method that nobody knows": (b"BREW /predict HTTP/1.1\r\n\r\n", [405]),
    "a null in the path": (b"GET /\0 HTTP/1.1\r\n\r\n", [404]),
    "dots": (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", [404]),
    "a whole address": (b"GET http://example.org/health HTTP/1.1\r\n\r\n", [200]),
    "a whole address in capitals": (b"GET HTTP://example.org/health HTTP/1.1\r\n\r\n", [200]),
    "a broken address": (b"GET http://[::1 HTTP/1.1\r\n\r\n", [404]),
    "a question mark": (b"GET /health?x=1 HTTP/1.1\r\n\r\n", [200]),
    "bytes of TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", [400]),
    "bytes": (bytes(range(256)) * 4 + b"\r\n\r\n", [400]),
    "nothing but lines": (b"\r\n" * 1000, []),
    "one word": (b"hello\r\n\r\n", [400]),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [505]),
    "HTTP/0.9": (b"GET /health\r\n\r\n", [400]),
    "no version": (b"GET /health HTTP/x.y\r\n\r\n", [400]),
    "HTTP/1.0": (b"GET /health HTTP/1.0\r\n\r\n" + HIDDEN, [200]),
    "HTTP/1.0 that wants to stay": (b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + HIDDEN, [200]),
    "three in one packet": (post() + post(b"{") + HIDDEN, [200, 400, 200]),
    "an error, then a good one": (post(b"[]") + post(b'{"features": {}}') + post(), [422, 422, 200]),
    "the last one first": (b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n" + HIDDEN, [200]),
    "a body announced": (post(headers=b"Expect: 100-continue\r\n"), [100, 200]),
    "too large a body announced": (post(b"", headers=b"Expect: 100-continue\r\n", length=10**9), [413]),
    "a body announced for nobody": (post(b"", b"/nowhere", b"Expect: 100-continue\r\n", length=100), [404]),
    "a body that ends early": (post(length=1000), [400]),
    "headers that end early": (b"POST /predict HTTP/1.1\r\nContent-Le", None),
    "deep JSON": (post(b"[" * 100_000), [400]),
    "deep objects": (post(b'{"a":' * 100_000), [400]),
    "deep features": (post(b'{"features":' + b"[" * 900 + b"]" * 900 + b"}"), [422]),
    "NaN": (post(GOOD.replace(b"3", b"NaN")), [400]),
    "infinity": (post(GOOD.replace(b"3", b"1e999")), [422]),
    "a number of 5,000 digits": (post(GOOD.replace(b"3", b"9" * 5000)), [400]),
    "a number of 4,000 digits": (post(GOOD.replace(b"3", b"9" * 4000)), [422]),
    "half a surrogate": (post(b'{"features": {"\\ud800": 1}}'), [422]),
    "UTF-16": (post(GOOD.decode().encode("utf-16")), [400]),
    "a key twice": (post(b'{"features": 1, "features": 2}'), [422]),
    "no type": (b"POST /predict HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", [415]),
    "an odd type": (b"POST /predict HTTP/1.1\r\nContent-Type: \xff\xfe;;;=\r\nContent-Length: 2\r\n\r\n{}", [415]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_request(server, name):
    data, statuses = HOSTILE[name]
    with Neighbour(server.url) as neighbour:
        said = replies(talk(server, data))
        wait_until(lambda: len(neighbour.waits) > 2)
    if statuses is not None: assert [status for status, _ in said] == statuses
    assert all(set(answer) == {"error", "reason"} and len(answer["reason"]) < 500 for status, answer in said if status >= 400)
    assert neighbour.undisturbed() and not server.failures


def test_hidden_requests_pass_where_the_length_is_not_looked_at(server):
    "The table would show a server that lets them pass."
    class Careless(Hasty):
        def body(self): return b""
    with running(app_of(), Careless) as careless:
        assert len(replies(talk(careless, HOSTILE["two lengths"][0]))) > 1


@pytest.mark.parametrize("parts, pause, statuses", [
    ([post()[:-5]], 0, [408]), ([post()[:-5]] + [b" "] * 4, 0.5, [408]), ([post()[i:i + 40] for i in range(0, len(post()), 40)], 0.05, [200]),
    ([b"GET /hea"], 0, []), ([], 0, []), ([post(), b"POST"], 0, [200])], ids=["half a body", "a body drop by drop", "a slow one, in time", "half a line", "nothing", "one and a half"])
def test_a_slow_caller_is_let_go(server, parts, pause, statuses):
    began = time.monotonic()
    with Neighbour(server.url) as neighbour: said = replies(talk(server, *parts, pause=pause, end=False))
    assert [status for status, _ in said] == statuses and time.monotonic() - began < 5
    assert neighbour.undisturbed() and not server.failures


def test_a_caller_that_announces_its_body_gets_its_word_at_once(server):
    with socket.create_connection(server.server_address, timeout=0.8) as s:  # the server would wait for a second
        whole = post(headers=b"Expect: 100-continue\r\n")
        s.sendall(whole[:-len(GOOD)])
        assert s.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        s.sendall(GOOD)
        assert s.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_hundred_megabytes_are_refused_and_the_reason_arrives(server):
    before = memory()
    with Neighbour(server.url) as neighbour:
        for _ in range(5): assert ask(server.url, "POST", "/predict", bytes(100_000_000), {"Content-Type": JSON}).status == 413
    assert neighbour.undisturbed() and not server.failures
    assert wait_until(lambda: memory() < before + 30_000_000)


def test_a_kept_connection_serves_on_after_errors(server):
    connection = HTTPConnection(*server.server_address, timeout=3)
    for method, path, body, status in (("GET", "/health", None, 200), ("POST", "/predict", b"{", 400), ("HEAD", "/health", None, 200), ("POST", "/predict", b"[]", 422), ("PUT", "/predict", None, 405),
                                       ("GET", "/nowhere", None, 404), ("HEAD", "/predict", None, 405), ("POST", "/predict", GOOD, 200)):
        connection.request(method, path, body, {"Content-Type": JSON})
        sock, reply = connection.sock, connection.getresponse()
        read = reply.read()
        assert reply.status == status and (read == b"") == (method == "HEAD") and sock is connection.sock, (method, path)
    connection.close()


def test_many_idle_callers_keep_nobody_waiting():
    with Watched(app_of(), connections=400) as server:
        before = threading.active_count()
        held = [socket.create_connection(server.server_address) for _ in range(300)]
        with Neighbour(server.url) as neighbour: time.sleep(0.5)
        assert neighbour.undisturbed()
        for s in held: s.close()
        assert wait_until(lambda: threading.active_count() <= before) and not server.failures


def test_more_callers_than_connections_all_get_an_answer():
    def call(): answers.append(ask(server.url, "POST", "/predict", GOOD, {"Content-Type": JSON}, timeout=5))
    with Watched(app_of(score=lambda rows: (time.sleep(0.3), score(rows))[1]), connections=5) as server:
        answers, callers = [], [threading.Thread(target=call) for _ in range(60)]
        for t in callers: t.start()
        for t in callers: t.join()
        assert {a.status for a in answers} == {200, 503} and all(a.headers["retry-after"] == "1" and a.json["error"] == "too_busy" for a in answers if a.status == 503)
        assert wait_until(lambda: ask(server.url, "GET", "/health").status == 200) and wait_until(lambda: not server.refused) and not server.failures


def test_a_thread_that_cannot_start_costs_no_place(monkeypatch):
    with Watched(app_of(), connections=2) as server:
        with monkeypatch.context() as patch:
            patch.setattr("socketserver.threading.Thread", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("can't start new thread")))
            for _ in range(4): talk(server, b"GET /health HTTP/1.1\r\n\r\n")
        assert len(server.failures) == 4 and ask(server.url, "GET", "/health").status == 200


def test_ipv6():
    try: socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError: pytest.skip("no IPv6 here")
    with ModelServer(app_of(image=False), host="::1") as server:
        assert server.url.startswith("http://[::1]:") and check_server(server.url)


def test_all_threads_end_and_all_ports_close():
    before = threading.active_count()
    for _ in range(20):
        with running(app_of(), Hasty) as server: assert ask(server.url, "GET", "/health").status == 200
    assert wait_until(lambda: threading.active_count() <= before)
    with pytest.raises(ConnectionError, match="nothing answers at"): check_server(server.url)


PIECES = [b"GET ", b"POST ", b"/predict", b"/health", b" HTTP/1.1", b" HTTP/1.0", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"Content-Length: 5", b"Content-Length: 300", b"Content-Type: application/json", b"Expect: 100-continue",
          b"Transfer-Encoding: chunked", b"Connection: close", b": ", b" ", b"\0", GOOD, post(), HIDDEN]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=12))
def test_any_bytes_get_whole_answers_or_none(server, parts):
    said = replies(talk(server, b"".join(parts)))
    assert all(status < 500 or status == 505 for status, _ in said)
    assert not server.failures


# --- reading, without a socket -----------------------------------------------------------------------------------------------

json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(), v, max_size=4), max_leaves=12)
ordinary = st.floats(-1e29, 1e29) | st.integers(-10**29, 10**29)


@given(json_values)
def test_read_json_gives_back_what_was_written(value):
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        try: body = text.encode()
        except UnicodeEncodeError: continue  # half a surrogate
        assert read_json(body) == value


@given(st.binary() | st.builds(lambda v, cut: json.dumps(v).encode()[cut:], json_values, st.integers(0, 5)))
@example(b"\xef\xbb\xbf{}")
@example(b"{}\0")
@example(b"[1e400]")
def test_read_json_of_any_bytes_is_json_or_refused(body):
    try: value = read_json(body)
    except Refused as e: assert e.status == 400 and e.body["reason"]
    else: assert json.loads(body) == value


names = st.lists(st.text(min_size=1), min_size=1, max_size=6, unique=True)


@given(st.data(), names, st.randoms())
def test_read_row_puts_features_in_the_order_of_the_model(data, names, dice):
    features = {name: data.draw(st.sampled_from([Number(1), Text("a"), Text("a", ("a", "b"))])) for name in names}
    values = {name: data.draw(ordinary if isinstance(f, Number) else st.sampled_from(f.choices) if f.choices else st.text()) for name, f in features.items()}
    shuffled = dict(dice.sample(list(values.items()), len(values)))
    assert read_row(features, shuffled) == [v if isinstance(v, str) else float(v) for v in values.values()]
    assert all(type(v) is (float if isinstance(f, Number) else str) for v, f in zip(read_row(features, shuffled), features.values()))


numbers = st.floats() | st.integers() | st.sampled_from([10**400, -10**400, 1e30, -1e30, 1e308])


@given(json_values | st.dictionaries(st.sampled_from(["width", "height", "colour", "note", "other"]), json_values | numbers | st.sampled_from(["green", "red"])))
@example({"width": 1, "height": float("nan"), "colour": "red", "note": ""})
@example({"width": 1, "height": 1e30, "colour": "red", "note": ""})
def test_read_row_gives_a_row_that_fits_or_refuses(given):
    try: row = read_row(FEATURES["texts"], given)
    except Refused as e: assert e.status == 422 and e.body["reason"].startswith("features")
    else: assert len(row) == 4 and all(abs(v) < 1e30 for v in row[:2]) and row[2] in ("green", "red", "brown") and isinstance(row[3], str)


STATUSES = {200, 202, 400, 404, 405, 413, 415, 422}
paths = st.sampled_from(["/health", "/model-info", "/predict", "/batch", "/feedback", "/predict?x=1"]) | st.text()
bodies = st.builds(lambda v: json.dumps(v).encode(), json_values | st.fixed_dictionaries({}, optional={k: json_values for k in ("features", "instances", "prediction_id", "label")})) | st.binary() | st.just(GOOD)


@pytest.mark.parametrize("kind", [App(Served(**served())), App(Served(**served(None)), on_feedback=print), App(Served(**served("numbers", False)), body_bytes=30, instances=1)], ids=["all", "images", "numbers, small"])
@settings(max_examples=200)
@given(st.sampled_from(["GET", "POST", "HEAD"]) | st.text(), paths, st.sampled_from([JSON, "application/json; charset=utf-8", "image/png", "image/jpeg"]) | st.text(), bodies)
def test_an_app_always_answers(kind, method, path, type_, body):
    status, answer, headers = kind.respond(method, path, type_, body)
    assert status in STATUSES and isinstance(answer, dict) and json.dumps(answer, allow_nan=False) and (status != 405 or headers["Allow"])
    if status >= 400: assert set(answer) == {"error", "reason"} and len(answer["reason"]) < 1000


def test_a_defect_is_a_500_that_says_nothing(capsys):
    status, answer, _ = app_of(score=lambda rows: 1 / 0).respond("POST", "/predict", JSON, GOOD)
    assert status == 500 and "ZeroDivision" not in str(answer) and "ZeroDivisionError" in capsys.readouterr().err
    assert app_of(score=lambda rows: np.full((len(rows), 3), np.nan)).respond("POST", "/predict", JSON, GOOD)[0] == 500


# --- hostile servers ---------------------------------------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@contextlib.contextmanager
def saying(first, then=b"", pause=0.02):
    """A server that says the same to everybody: `first`, then `then` again and again."""
    listener, over = socket.create_server(("127.0.0.1", 0)), threading.Event()
    def serve(s):
        with s, contextlib.suppress(OSError):
            s.settimeout(5); s.recv(65536); s.sendall(first)
            while then and not over.wait(pause): s.sendall(then)
    def accept():
        with contextlib.suppress(OSError):
            while True: threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
    threading.Thread(target=accept, daemon=True).start()
    try: yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally: over.set(); listener.shutdown(socket.SHUT_RDWR); listener.close()


NASTY = {
    "nothing": (b"", b""), "one byte": (b"H", b""), "no answer": (b"", b" "), "not HTTP": (b"SSH-2.0-server\r\n", b""), "zeros": (bytes(100_000), b""),
    "a status of words": (b"HTTP/1.1 fine\r\n\r\n", b""), "status 0": (b"HTTP/1.1 0 x\r\n\r\n", b""), "status 99999": (b"HTTP/1.1 99999 x\r\n\r\n", b""),
    "a line without end": (b"HTTP/1.1 200 " + b"x" * 10_000, b"x" * 1000), "headers without end": (OK, b"X: y\r\n"), "a header drop by drop": (OK + b"X: ", b"y"),
    "bytes as headers": (b"HTTP/1.1 200 OK\r\n" + bytes(range(128, 256)) + b"\r\n\0: \0\r\n\r\n{}", b""), "continue, for ever": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 10),
    "a body without end": (OK + b"\r\n{", b" " * 1000), "a body drop by drop": (OK + b"Content-Length: 1000000\r\n\r\n{", b" "), "10 MB": (OK + b"\r\n" + b"[" + b" " * 10_000_000 + b"]", b""),
    "10 MB announced": (OK + b"Content-Length: 10000000\r\n\r\n" + b" " * 10_000_000, b""), "a length beyond measure": (OK + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n{}", b""), "a negative length": (OK + b"Content-Length: -5\r\n\r\n{}", b""),
    "a length of words": (OK + b"Content-Length: many\r\n\r\n{}", b""), "bad chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n", b""), "negative chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", b"{}" * 100_000),
    "huge chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n", b"{}" * 100_000), "chunks without end": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"), "a list": (OK + b"\r\n[]", b""), "null": (OK + b"\r\nnull", b""),
    "a text": (OK + b'\r\n"ok"', b""), "deep JSON": (OK + b"\r\n" + b"[" * 100_000 + b"]" * 100_000, b""), "a number of 10,000 digits": (OK + b"\r\n" + b"9" * 10_000, b""), "UTF-16": (OK + b"\r\n" + '{"status": "ok"}'.encode("utf-16"), b""),
    "the screen wiped": (b"HTTP/1.1 200 \x1b[2J\r\nContent-Type: \x1b[2J\r\n\r\n\x1b[2J\x07\xc2\x9b31m", b""), "another place": (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n", b""), "a bomb of gzip": (OK + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b", b""),
    "health for everything": (OK + b'\r\n{"status": "ok"}', b""),
}


@pytest.mark.parametrize("name", NASTY)
def test_check_server_outlives(name):
    before, began = memory(), time.monotonic()
    with saying(*NASTY[name]) as url: seen = check_server(url, timeout=0.3)
    assert not seen and seen.breaches and time.monotonic() - began < 5 and memory() < before + 60_000_000
    assert all(c.isprintable() or c == "\n" for c in str(seen)) and len(str(seen)) < 50_000


def test_check_server_gives_up_after_three_waits():
    with saying(b"", b" ", 5) as url: seen = check_server(url, timeout=0.1)
    assert seen.requests < 4 and not seen
    with running(app_of(score=lambda rows: (time.sleep(0.5), score(rows))[1])) as server: seen = check_server(server.url, timeout=0.2)
    assert not seen and "nothing more is asked" in str(seen) and sum("TimeoutError" in b.reply for b in seen.breaches) == 3


INFO = App(Served(**served("texts", False)), on_feedback=print).info("", b"")
odd = json_values | st.sampled_from([1e999, 10**400, -1, True, [[]], [{}], {"a": []}, ["features"], ["features", ["x"]], [None, {}], "\ud800", {"x": {"type": "number", "example": 10**400}},
                                    {"x": {"type": "number", "example": 1e999}}, {"x": {"type": "text", "example": "a", "choices": 7}}, {"x": {"type": "text", "example": "a", "choices": [[], 1]}}, {"x": {"type": []}}])


class Liar(App):
    """Gives what it is told where an answer should be."""
    def __init__(self, lies):
        super().__init__(Served(**served("texts", False)), on_feedback=lambda key, label: None)
        self.lies = lies
    def respond(self, method, path, kind="", body=b""):
        status, answer, headers = super().respond(method, path, kind, body)
        key = path if status < 300 else status
        return status, self.lies.get(key, answer), headers


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(list(INFO)), odd, max_size=2), st.dictionaries(st.sampled_from(["/health", "/predict", "/batch", "/feedback", 400, 404, 405, 413, 415, 422]), odd | st.just({"predictions": [[], 1, {}, None]}), max_size=3))
@example({"limits": {"body_bytes": 10**9, "instances": 10**9}}, {})
@example({"features": {"x": {"type": "text", "example": "a" * 100_000}}, "limits": {"body_bytes": 10**9, "instances": 10_000}}, {})
@example({"labels": [[], {}]}, {})
@example({}, {"/predict": []})
@example({}, {"/batch": []})
@example({}, {422: []})
@example({}, {"/health": [], "/feedback": 7})
def test_check_server_survives_any_types(info, lies):
    liar = Liar(({"/model-info": INFO | info} if info else {}) | lies)
    def reply(url, method, path, body=None, headers=None, timeout=10):
        if body is not None and not isinstance(body, bytes): body, headers = json.dumps(body).encode(), {"Content-Type": JSON}
        status, answer, more = liar.respond(method, path, (headers or {}).get("Content-Type", ""), body or b"")
        return S.Reply(status, {"content-type": JSON} | {k.lower(): v for k, v in more.items()}, json.dumps(answer).encode())
    with pytest.MonkeyPatch.context() as patch, saying(b"") as url:
        patch.setattr(S, "ask", reply)
        seen = check_server(url)
    assert str(seen) and (seen or info or lies)  # and no exception
