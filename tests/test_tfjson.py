"TF Serving's JSON: the cases of our own and, where there are any, others'; and what must hold for every text, tried with Hypothesis."
import base64, json, math, os
from pathlib import Path
import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from conformance import OWN, Mismatch, Outcome, run_json, run_rest, servers
from mlops_course import tfjson
from mlops_course.tfjson import DTYPES, Status, _quick, _quick_rows, _rows, decimals, example_request, parse, predict_reply, predict_request, rest, show

OTHERS = Path(os.environ.get("TFSERVING_CASES", Path(__file__).parents[2]/"shared"/"conformance"/"tfserving"))
NUMERIC = {name: np.dtype(d) for name, d in {**tfjson._FLOATS, **tfjson._INTS}.items()}
quickly = settings(deadline=None)   # the number of examples is the profile's

def test_own_json_cases():
    outcome = run_json.run(OWN)
    assert outcome.ok and outcome.count("pass") > 100, outcome

def test_own_rest_cases():
    pytest.importorskip("tensorflow", reason="the Examples of :classify and :regress are written with TensorFlow")
    outcome = run_rest.run(OWN, servers.arithmetic)
    assert outcome.ok and outcome.count("pass") > 40, outcome

def test_other_json_cases():
    if not OTHERS.is_dir(): pytest.skip(f"no cases in {OTHERS}: set TFSERVING_CASES to a folder with json_tensor_cases.json")
    outcome = run_json.run(OTHERS)
    assert outcome.ok, outcome

# --- the runner itself must be able to say no
def test_the_runner_sees_what_is_wrong():
    outcome = Outcome()
    def wrong(case): raise Mismatch("2 instead of 3")
    for strict in (True, False): outcome.play(dict(id=f"strict {strict}", strict=strict), wrong)
    assert [how for _, how, _ in outcome.results] == ["FAIL", "differs"] and not outcome.ok
    assert not Outcome().ok                                              # nothing run is nothing passed

def test_a_case_that_was_not_run_fails_the_run(tmp_path):
    case = dict(id="m", feature="", strict=True, model=dict(name="half", dir="0.5,2"), server=dict(monitoring_config="m.txt"), request=dict(method="GET", path="/"), expect=dict(status=404))
    (tmp_path/"rest_cases.json").write_text(json.dumps([case]))
    outcome = run_rest.run(tmp_path, servers.running("http://127.0.0.1:9"))
    assert outcome.count("not run") == 1 and not outcome.ok

@pytest.mark.parametrize("expect", [dict(status=404), dict(json={"predictions": [2.5, 3]}), dict(json_text='{"predictions": [NaN]}'), dict(json_keys=["error"]), dict(error_contains=["x"]), dict(body_regex="outputs"),
                                    dict(headers={"content-type": "text/html"}), dict(json_subset={"predictions": [2.5, 2.5]}), dict(json_gen=dict(key="predictions", value=2.5, count=2)), dict(json_contains=dict(path="predictions", item=3))])
def test_each_expectation_can_fail(expect):
    with pytest.raises(Mismatch): run_rest.check_reply(200, {"content-type": "application/json"}, b'{"predictions": [2.5]}', expect)
    with pytest.raises(Mismatch): run_rest.same([1, True], [1, 1])
    with pytest.raises(Mismatch): run_rest.same({"a": [2, 1]}, {"a": [1, 2]})
    run_rest.same({"a": [2, 1]}, {"a": [1, 2]}, any_order=True)

def test_the_models_of_a_group_become_a_config():
    text = servers.model_config({"m": dict(name='a"b', dir="half", version_policy=dict(specific=[1, 2]), labels={"x": 1})}, "/cases")
    assert 'name: "a\\"b"' in text and "versions: 1 versions: 2" in text and 'version_labels { key: "x" value: 1 }' in text and 'base_path: "/cases/models/half"' in text

# --- reading
values = st.recursive(st.none() | st.booleans() | st.integers(-2**64, 2**65) | st.floats() | st.text(max_size=6) | st.sampled_from(["b64", "x"]),
                      lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["x", "y", "b64", ""]) | st.text(max_size=3), inner, max_size=3), max_leaves=12)
pieces = st.sampled_from([b"{", b"}", b"[", b"]", b",", b":", b'"instances"', b'"inputs"', b'"x"', b'"b64"', b'"signature_name"', b'"examples"', b"1", b"-0", b"2.5", b"0e999", b"1e5", b"1e999", b"NaN",
                          b"-Inf", b"true", b"null", b" ", b"\0", b"\xff", b'"\\ud800"', b'"\\u00e9"', b'"a', b"\\", b"18446744073709551616", b'{"x":1,"x":2}', b"[[1,2],[3]]"])
almost = st.lists(pieces, max_size=14).map(b"".join) | st.binary(max_size=40) | values.map(lambda v: json.dumps({"instances": v}).encode()) | values.map(lambda v: json.dumps({"inputs": {"x": v}, "examples": v}).encode())

def alike(a, b):
    "Equal, and of the same kinds: 1 is not 1.0, -0.0 is not 0.0, NaN is NaN."
    if type(a) is not type(b): return False
    if isinstance(a, dict): return list(a) == list(b) and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, list): return len(a) == len(b) and all(map(alike, a, b))
    return a == b and math.copysign(1, a) == math.copysign(1, b) or a != a and b != b if isinstance(a, float) else a == b

@quickly
@given(values)
def test_ordinary_json_is_read_as_python_reads_it(value):
    text = json.dumps(value)
    def whole(digits): return n if -2**63 <= (n := int(digits)) < 2**64 else float(n)
    assert alike(parse(text.encode()), json.loads(text, parse_int=whole)) and alike(parse(json.dumps(value, ensure_ascii=False, indent=1).encode()), json.loads(text, parse_int=whole))

# texts of JSON, with what parsers disagree about inside it: as Python cannot write them, they are put together
scalars = st.sampled_from(["0e999", "-0.0E400", "0.00e3", "-0", "0.0", "1e400", "1e-400", "18446744073709551615", "18446744073709551616", "-9223372036854775809", "9007199254740993", "2.5", "1", "true", "null", '"a:b"', '"\\u00e9"', "NaN"])
texts = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3).map(lambda v: f"[{', '.join(v)}]")
                     | st.lists(st.tuples(st.sampled_from(["a", "b", "c:"]), inner), max_size=3).map(lambda v: "{" + ", ".join(f'"{k}": {t}' for k, t in v) + "}"), max_leaves=6)

@quickly
@given(st.lists(st.tuples(st.sampled_from(["instances", "inputs", "x:y"]), texts), max_size=2).map(lambda v: "{" + ", ".join(f'"{k}": {t}' for k, t in v) + "}"))
@example('{"inputs": 0e999}')
@example('{"instances": [{"a": 1, "a": 2}]}')
@example('{"instances": 1, "instances": 2}')
def test_the_quick_reader_never_says_anything_else(text):
    try: exact = parse(text.encode())
    except Status: exact = Status                                        # then the quick one must not take it
    if (doc := _quick(text.encode())) is not None: assert exact is not Status and alike(doc, exact)

def test_half_a_surrogate_pair():
    assert parse(b'["\\udc80"]')[0].encode("utf8", "surrogateescape") == b"\xed\xb2\x80"     # the second half alone is three bytes
    for text in (b'["\\ud800"]', b'["\\ud800\\ud800"]', b'["\\ud800x"]'):
        with pytest.raises(Status, match="surrogate pair"): parse(text)

# --- never anything but Status
@quickly
@given(almost, st.sampled_from(sorted(DTYPES.values())), st.booleans())
def test_any_bytes_give_an_answer_or_a_status(body, dtype, two):
    types = {"x": dtype, "y": "DT_FLOAT"} if two else {"x": dtype}
    for f in (parse, example_request, lambda b: predict_request(b, lambda signature: types)):
        try: f(body)
        except Status as e: assert e.http in (400, 501) and len(e.message) < 4000

paths = st.lists(st.sampled_from(["/v1", "/models", "/half", "/versions", "/1", "/labels", "/stable", ":predict", ":classify", ":regress", "/metadata", "/", "?x=1", "%2F", "%", "%zz", "é", "9" * 30, "0" * 5000 + "1", ":PREDICT"]), max_size=6).map("".join)

@quickly
@given(st.sampled_from(["GET", "POST", "PUT", "OPTIONS", "BREW", ""]), paths, almost, st.dictionaries(st.sampled_from(["Content-Encoding", "Origin"]), st.sampled_from(["gzip", "http://shop.example"])))
def test_rest_answers_everything(method, path, body, headers):
    shelf = servers.Shelf({"half": dict(dir="0.5,2", labels={"stable": 1})})
    if path.endswith("metadata") or ":" in path and not path.endswith("predict"): return     # these need TensorFlow
    status, head, reply = rest(shelf, method, path, headers, body)
    assert status in (200, 400, 404, 501)
    if status != 200 and path.lower().startswith("/v1/"): assert list(json.loads(reply)) == ["error"]

# --- the ways to a tensor: orjson and numpy, our parser and numpy, our parser and one value after the other
def ways(body):
    "The same request three times. A NUL ends the text for us, and orjson refuses it; the word after it keeps numpy out."
    assert _quick(body + b"\0") is None and _quick(body + b"\0true") is None
    return body, body + b"\0", body + b"\0true"

numbers = st.integers(-300, 300) | st.integers(-2**63, 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.floats(width=32, allow_nan=False, allow_infinity=False)
odd = st.sampled_from([True, None, "1", [], [1], 2.0, 2**63, -1, 300, {"x": 1}])

@quickly
@given(st.data(), st.sampled_from(sorted(NUMERIC)), st.booleans(), st.booleans(), st.booleans())
def test_quick_and_exact_tensors_are_equal(data, dtype, named, columns, spoil):
    shape = data.draw(st.lists(st.integers(0, 3), max_size=2))
    one = st.integers(0, 100) if data.draw(st.booleans()) else numbers
    for d in reversed(shape): one = st.lists(one, min_size=d, max_size=d)
    rows = data.draw(st.lists(one, min_size=1, max_size=3))
    if spoil: rows[data.draw(st.integers(0, len(rows) - 1))] = data.draw(odd)
    body = json.dumps({"inputs": {"x": rows}} if columns else {"instances": [{"x": r} for r in rows] if named else rows}).encode()
    def ask(b):
        try: return predict_request(b, lambda signature: {"x": dtype}).feeds["x"]
        except Status as e: return str(e)
    quick, middle, exact = map(ask, ways(body))
    if isinstance(exact, str): assert quick == middle == exact
    else:
        for a in (quick, middle, exact): assert a.dtype == NUMERIC[dtype] and a.shape == exact.shape and a.tobytes() == exact.tobytes()

TRAPS = ["true", "[true]", "[1.5, true]", "[true, false]", "[null]", "[1, null]", '["1"]', '[1, "2"]', "[[1, 2], [3]]", "[[1], 2]", "[1, [2]]", "[[], []]", "[]", "[2.0]", "[1, 2.0]", "[300]", "[-1]", "[-129, 128]", "[32768]",
         "[2147483648]", "[4294967296]", "[9223372036854775808]", "[0, 18446744073709551615]", "[-1, 18446744073709551615]", "[18446744073709551616]", "[9007199254740993, 0.5]", "[16777217, 1e39]", "[0e999]", "[-0.0]",
         '[{"x": 1}]', '[{"x": 1, "x": 2}]', '{"x": 1, "x": [2]}', "[" * 70 + "1" + "]" * 70]

@pytest.mark.parametrize("text", TRAPS)
def test_quick_and_exact_agree_on_known_traps(text):
    for dtype in [*NUMERIC, "DT_BOOL", "DT_STRING"]:
        for key in ("instances", "inputs"):
            body, said = f'{{"{key}": {text}}}'.encode(), []
            for way in ways(body):
                try: a = predict_request(way, lambda signature: {"x": dtype}).feeds["x"]
                except Status as e: said.append(str(e))
                else: said.append((a.dtype, a.shape, a.tolist()))
            assert said[0] == said[1] == said[2]

def test_a_boolean_anywhere_keeps_numpy_out(monkeypatch):
    monkeypatch.setattr(tfjson, "_stack", lambda *_: pytest.fail("numpy converts here"))
    for body in (b'{"instances": [1, 2], "why": true}', b'{"inputs": [1, 2], "why": false}', b'{"inputs": [1]}\0true'): predict_request(body, lambda signature: {"x": "DT_FLOAT"})

def test_the_quick_way_is_taken_where_it_should_be():
    rows = np.random.default_rng(0).normal(size=(50, 4)).tolist()
    for some in (rows, [{"x": r} for r in rows]):
        doc = _quick(json.dumps({"signature_name": "a", "instances": some}).encode())
        assert doc is not None and np.array_equal(_quick_rows(doc["instances"], {"x": "DT_FLOAT"})["x"], _rows(doc["instances"], {"x": "DT_FLOAT"})["x"])

# --- round trips
def strings(): return st.lists(st.binary(max_size=5), min_size=6, max_size=6).map(lambda v: np.array([*v, None], object)[:-1])
def arrays(dtype):
    if dtype == "DT_STRING": return strings()
    if dtype == "DT_BOOL": return st.lists(st.booleans(), min_size=6, max_size=6).map(np.array)
    d = NUMERIC[dtype]
    one = st.floats(width=8 * d.itemsize) if d.kind == "f" else st.integers(*tfjson._RANGES[dtype])
    return st.lists(one, min_size=6, max_size=6).map(lambda v: np.array(v, d))

@quickly
@given(st.data(), st.sampled_from([*NUMERIC, "DT_BOOL", "DT_STRING"]), st.sampled_from([(6,), (2, 3), (3, 1, 2), (1, 6), (6, 1)]), st.sampled_from(["row", "columnar"]))
def test_what_is_written_is_read_back(data, dtype, shape, format):
    a = data.draw(arrays(dtype)).reshape(shape)
    name = "x_bytes" if dtype == "DT_STRING" else "x"
    reply = predict_reply({name: a}, format).replace(b'"predictions"', b'"instances"').replace(b'"outputs"', b'"inputs"')
    back = predict_request(reply, lambda signature: {name: dtype}).feeds[name]
    assert back.shape == a.shape and back.dtype == a.dtype
    assert back.tolist() == a.tolist() if dtype == "DT_STRING" else np.array_equal(back, a, equal_nan=NUMERIC.get(dtype, a.dtype).kind == "f")

@quickly
@given(st.binary(max_size=12))
def test_text_of_any_bytes_is_read_back(raw):
    a = np.array([raw, None], object)[:1]
    reply = predict_reply({"s": a}, "columnar").replace(b'"outputs"', b'"inputs"')
    assert predict_request(reply, lambda signature: {"s": "DT_STRING"}).feeds["s"].tolist() == [raw]

@quickly
@given(st.lists(st.sampled_from("aGVsbG8/+=. \n@-"), max_size=9).map("".join))
@example("aGVs====")
@example("aG=s")
def test_base64_follows_the_rule_one_by_one(text):
    data = "".join(c for c in text if not c.isspace())
    kept, pads = data.rstrip("=."), len(data) - len(data.rstrip("=."))
    good = set(kept) <= set("aGVsbG8/+") and len(kept) % 4 != 1 and pads in (0, -len(kept) % 4)
    try: got = tfjson._unbase64(text)
    except Status: got = None
    assert got == (base64.b64decode(kept + "=" * (-len(kept) % 4)) if good else None)

near = st.integers(-40, 38).flatmap(lambda e: st.integers(1, 2_000_000).map(lambda n: n * 10.0**(e - 6)))   # few digits, and their neighbours
floats = st.floats(width=32) | st.floats() | near | near.map(lambda x: float(np.nextafter(np.float32(x), np.float32(0)))) | near.map(lambda x: math.nextafter(x, 0))

@quickly
@given(st.lists(floats, max_size=8), st.sampled_from([np.float32, np.float64]))
def test_decimals_follow_the_rule_one_by_one(v, dtype):
    with np.errstate(over="ignore"): a = np.array(v, np.float64).astype(dtype)
    for text, x in zip(decimals(a), a, strict=True):
        if not np.isfinite(x): assert text == {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(float(x))]; continue
        with np.errstate(over="ignore"): short = f"{float(x):g}" if dtype(float(f"{float(x):g}")) == x else f"{float(x):.{9 if dtype is np.float32 else 17}g}"
        assert text == short + ("" if set(short) & set(".e") else ".0") and dtype(float(text)) == x

@quickly
@given(values)
def test_quotes_of_values_stay_short_and_whole_where_they_can(value):
    doc = parse(json.dumps(value).encode())
    text = show(doc, 300)
    assert len(text) <= 304
    if not text.endswith(" ..."): json.loads(text)

# --- cost: limits with room for a machine that does other things
def test_a_thousand_rows_cost_little():
    import time
    body = json.dumps({"instances": np.random.default_rng(0).normal(size=(1000, 10)).tolist()}).encode()
    def seconds(f): # processor time, the best of five
        def once():
            t = time.process_time(); f()
            return time.process_time() - t
        return min(once() for _ in range(5))
    quick, naive = seconds(lambda: predict_request(body, lambda s: {"x": "DT_FLOAT"})), seconds(lambda: np.array(json.loads(body)["instances"], np.float32))
    assert quick < max(3 * naive, 0.05)
