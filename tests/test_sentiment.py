"""The sentiment service, asked over real sockets; the data and the figures that its chapter states."""
import hashlib
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from hypothesis import given, settings, strategies as st

from mlops_course.sentiment import LABELS, MOST_BYTES, MOST_TEXTS, TEXTS, by_review, label_of, opinions, out_of_fold, plain, ratings, reviews, sentiment_app, sentiment_model, words_model

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def model():
    return sentiment_model()


@pytest.fixture(scope="module")
def url(model):
    """The service as it is shipped, in a thread, on a free port."""
    server = uvicorn.Server(uvicorn.Config(sentiment_app(model), port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    ending = time.monotonic() + 60
    while not server.started and time.monotonic() < ending:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(30)


@pytest.fixture(scope="module")
def client(url):
    with httpx.Client(base_url=url, timeout=60) as c:
        yield c


def post(client, path, body):
    return client.post(path, content=body if isinstance(body, bytes) else json.dumps(body).encode(), headers=JSON)


def is_opinion(o):
    return set(o) == {"label", "confidence"} and o["label"] in LABELS and 1 / 3 <= o["confidence"] <= 1


def allowed(text):
    return 1 <= len(text) <= 5000 and text.strip() and "\0" not in text and not any(0xD800 <= ord(c) < 0xE000 for c in text)


# --- the service ----------------------------------------------------------------------------------------------------------------

def test_good_requests(client, model):
    assert client.get("/health").json() == {"status": "ok"}
    reply = client.post("/analyze", json={"text": "A great camera, I love it!"})
    assert reply.status_code == 200 and reply.json() == opinions(model, ["A great camera, I love it!"])[0] and reply.json()["label"] == "positive"
    many = client.post("/batch", json={"texts": ["A great camera!", "what a piece of junk"]})
    assert [o["label"] for o in many.json()["results"]] == ["positive", "negative"]
    assert client.get("/openapi.json").json()["paths"].keys() == {"/analyze", "/batch", "/health"}


@pytest.mark.parametrize("text", ["x", "a" * 5000, "👍🏽" * 2500, "\u200b", "नमस्ते", " a", "…", "ﷺ" * 5000, "a\r\n\tb", "İ" * 5000])
def test_unusual_but_good_texts(client, text):
    reply = client.post("/analyze", json={"text": text})
    assert reply.status_code == 200 and is_opinion(reply.json())


BAD = {"no characters": b'{"text": ""}', "5,001 characters": b'{"text": "' + b"a" * 5001 + b'"}', "only spaces": '{"text": " \\n\u3000"}'.encode(), "a NUL": b'{"text": "a\\u0000b"}', "half of a pair": b'{"text": "\\ud83d"}',
       "half of a pair as a name": b'{"text": "a", "\\ud83d": 1}', "half of a pair in a list": b'{"text": ["\\ud83d"]}', "a number": b'{"text": 5}', "true": b'{"text": true}', "null": b'{"text": null}', "a list": b'{"text": ["a"]}',
       "NaN": b'{"text": NaN}', "Infinity": b'{"text": 1e999}', "5,000 digits": b'{"text": ' + b"9" * 5000 + b"}", "deep": b"[" * 100_000, "deep inside": b'{"text": ' + b'{"a":' * 50_000, "no text": b"{}", "another key": b'{"text": "a", "lang": "en"}',
       "a long key": b'{"text": "a", "' + b"k" * 500_000 + b'": 1}', "no JSON": b"great", "no UTF-8": b'{"text": "\xff"}', "nothing": b"", "a bare text": b'"great"', "a bare NaN": b"NaN"}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_refused_with_a_reason(client, name):
    reply = post(client, "/analyze", BAD[name])
    assert reply.status_code in (400, 422), reply.text
    assert set(reply.json()) == {"error", "reason"} and 5 < len(reply.json()["reason"]) < 300 and "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk" not in reply.text
    assert client.get("/health").status_code == 200


def test_of_a_name_that_came_only_the_start_is_said_and_in_ascii(client):
    reason = post(client, "/analyze", {"text": "a", "naïf \x1b[31m" * 9: 1}).json()["reason"]
    assert reason.isascii() and "na\\xeff" in reason and len(reason) < 120


@pytest.mark.parametrize("body", [{"texts": []}, {"texts": ["a"] * (MOST_TEXTS + 1)}, {"texts": ["a"] * 100_000}, {"texts": "abc"}, {"texts": ["fine", ""]}, {"texts": ["fine", 5]}, {"texts": None}, {"texts": ["fine", "a" * 5001]}, {"text": "a"}, []])
def test_bad_batches_are_refused_whole(client, body):
    reply = post(client, "/batch", body)
    assert reply.status_code == 422 and reply.json()["reason"] and "results" not in reply.json()


def test_bodies_are_limited_and_what_is_allowed_fits(client):
    full = b'{"texts": [' + b", ".join([b'"' + rb"\ud83d\ude00" * 5000 + b'"'] * MOST_TEXTS) + b"]}"
    assert len(full) < MOST_BYTES and post(client, "/batch", full).status_code == 200
    reply = post(client, "/analyze", b'{"text": "' + b"a" * (MOST_BYTES + 1) + b'"}')
    assert reply.status_code == 413 and reply.json()["reason"]

    def chunks():  # no length is announced
        for _ in range(3 * MOST_BYTES // 65536): yield b" " * 65536
    try: reply = client.post("/analyze", content=chunks(), headers=JSON)
    except (httpx.WriteError, httpx.RemoteProtocolError, httpx.ReadError): return  # it hung up on us, which is its right
    assert reply.status_code == 413


def test_other_paths_methods_and_types_are_refused_as_json(client):
    replies = {"path": client.get("/nowhere"), "method": client.get("/analyze"), "delete": client.delete("/health"), "type": client.post("/analyze", content=b'{"text": "a"}', headers={"Content-Type": "text/plain"}),
               "form": client.post("/analyze", data={"text": "a"})}
    assert {name: r.status_code for name, r in replies.items()} == {"path": 404, "method": 405, "delete": 405, "type": 422, "form": 422}
    assert all(r.json()["reason"] for r in replies.values())


any_text = st.text(st.characters(codec=None, exclude_categories=()), max_size=60) | st.text(max_size=300) | st.builds(lambda t, n: t * n, st.text(min_size=1, max_size=3), st.sampled_from([1000, 1666, 1667, 2500, 5000, 5001]))


@settings(max_examples=150, deadline=None)
@given(text=any_text)
def test_any_text_is_answered_or_refused(client, text):
    reply = post(client, "/analyze", {"text": text})  # escaped, so that halves of pairs can be sent
    if allowed(text): assert reply.status_code == 200 and is_opinion(reply.json())
    else: assert reply.status_code == 422 and reply.json()["reason"]


any_json = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | any_text, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["text", "texts"]) | any_text, inner, max_size=4), max_leaves=8)


@settings(max_examples=100, deadline=None)
@given(path=st.sampled_from(["/analyze", "/batch"]), value=any_json)
def test_any_json_is_answered_or_refused(client, path, value):
    reply = post(client, path, value)
    assert reply.status_code in (200, 422) and (reply.status_code == 200 or reply.json()["reason"])


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=80).filter(str.strip) | st.sampled_from(["great", "not bad", "crap!"]), min_size=1, max_size=MOST_TEXTS))
def test_a_batch_is_its_texts_one_by_one(client, texts):
    results = post(client, "/batch", {"texts": texts}).json()["results"]
    singles = [post(client, "/analyze", {"text": text}).json() for text in texts]
    assert [o["label"] for o in results] == [o["label"] for o in singles]
    assert np.allclose([o["confidence"] for o in results], [o["confidence"] for o in singles], rtol=1e-9)


def test_many_callers_at_once_get_their_own_answers(url, model):
    texts = list(reviews().text[:120])
    expected = opinions(model, texts)

    def ask(i):
        with httpx.Client(base_url=url, timeout=60) as c: return c.post("/analyze", json={"text": texts[i]}).json()
    with ThreadPoolExecutor(16) as pool: got = list(pool.map(ask, range(len(texts))))
    assert [o["label"] for o in got] == [o["label"] for o in expected]
    assert np.allclose([o["confidence"] for o in got], [o["confidence"] for o in expected], rtol=1e-9)


def test_health_answers_while_batches_are_computed(url):
    body = {"texts": ["not a bad camera, " * 270] * MOST_TEXTS}
    with ThreadPoolExecutor(4) as pool, httpx.Client(base_url=url, timeout=60) as c:
        running = [pool.submit(httpx.post, url + "/batch", json=body, timeout=60) for _ in range(4)]
        waits = []
        while not all(r.done() for r in running):
            began = time.monotonic()
            assert c.get("/health").status_code == 200
            waits.append(time.monotonic() - began)
        assert waits and max(waits) < 5 and all(r.result().status_code == 200 for r in running)


# --- the data and the model ----------------------------------------------------------------------------------------------------

def test_the_texts_are_those_that_were_published():
    stated = dict(reversed(line.split()) for line in re.findall(r"^    (\w{64}  \S+)$", (TEXTS / "README.md").read_text(), re.M))
    there = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in Path(TEXTS).glob("*.txt")}
    assert there == stated and len(there) == 2 and "Permission is hereby granted" in (TEXTS / "README.md").read_text()


def test_ratings_belong_to_their_sentences():
    table, votes = reviews(), ratings()
    assert votes.shape == (3708, 20) and abs(votes).max() == 4
    assert np.abs(votes.mean(1) - table.rating).max() < 0.006 and (label_of(table.rating) == table.label).all() and set(table.label) == {0, 1, 2}
    assert table.text.str.len().between(1, 5000).all() and table.review.is_monotonic_increasing


def test_the_model_is_as_good_as_the_chapter_says():
    table = reviews()
    p = out_of_fold(words_model, table)
    mean, low, high = by_review(p.argmax(1) == table.label, table.review)
    baseline = np.bincount(table.label).max() / len(table)
    assert 0.653 - (high - low) / 2 < mean < 0.75 and low > baseline + 0.1
    shuffled = table.assign(label=np.random.default_rng(0).permutation(table.label))  # without anything to learn, there is nothing to gain
    assert (out_of_fold(words_model, shuffled).argmax(1) == shuffled.label).mean() < baseline + 0.02


def test_no_review_is_on_both_sides():
    seen = []

    class Spy:
        def fit(self, texts, labels): self.trained = set(table.review[texts.index]); return self
        def predict_proba(self, texts): seen.append(self.trained & set(table.review[texts.index])); return np.tile([0.2, 0.3, 0.5], (len(texts), 1))
    table = reviews()
    out_of_fold(Spy, table)
    assert seen == [set()] * 5


def test_the_model_is_the_same_every_time(model):
    texts = reviews().text[:200]
    assert np.array_equal(sentiment_model().predict_proba(texts), model.predict_proba(texts))


def test_forms_of_the_same_text_are_the_same(model):
    assert plain("I DON’T") == "i don't" and opinions(model, ["I DON’T like it"]) == opinions(model, ["i don't like it"])
