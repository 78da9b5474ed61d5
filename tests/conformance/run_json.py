"The cases of `json_tensor_cases.json`: request JSON to tensors and tensors to reply JSON, played against the functions of `mlops_course.tfjson`."
import base64, json, re
import numpy as np
from mlops_course import tfjson
from . import Mismatch, Outcome, contains, load, same, text_of

KINDS = dict(DT_FLOAT="float32", DT_DOUBLE="float64", DT_BOOL="bool", DT_STRING="object", DT_COMPLEX64="complex64", DT_COMPLEX128="complex128", DT_HALF="float16")
WORDS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf"), "-0.0": -0.0}

def array(t): # {dtype, shape, values} of a case
    if t["dtype"] == "DT_STRING":
        a = np.empty(len(t["values"]), object)
        a[:] = [base64.b64decode(v["b64"]) if isinstance(v, dict) else v.encode("utf8", "surrogatepass") for v in t["values"]]
    else:
        with np.errstate(over="ignore"): a = np.array([WORDS.get(v, v) if isinstance(v, str) else v for v in t["values"]], KINDS.get(t["dtype"], t["dtype"][3:].lower()))
    return a.reshape(t["shape"])

def same_array(got, want, name):
    if (got.dtype, got.shape) != (want.dtype, want.shape): raise Mismatch(f"{name}: {got.dtype} {got.shape} instead of {want.dtype} {want.shape}")
    pairs = zip(got.ravel().tolist(), want.ravel().tolist())
    for i, (g, w) in enumerate(pairs):
        if not (g == w or g != g and w != w) or isinstance(w, float) and np.signbit(g) != np.signbit(w) and w == w: raise Mismatch(f"{name}[{i}]: {g!r} instead of {w!r}")

def predict_request(case):
    types = {name: t["dtype"] for name, t in case["inputs"].items()}
    got = tfjson.predict_request(text_of(case, "json").encode(), lambda signature: types)
    want = case["expect"]
    if got.format != want["format"]: raise Mismatch(f"format {got.format} instead of {want['format']}")
    if got.feeds.keys() != want["tensors"].keys(): raise Mismatch(f"the tensors {sorted(got.feeds)} instead of {sorted(want['tensors'])}")
    if "signature_name" in want: same(got.signature, want["signature_name"], "signature_name")
    for name, t in want["tensors"].items(): same_array(got.feeds[name], array(t), name)

TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+')

def tokens(text):
    "The JSON value with its numbers as texts, so that they are compared as written; the order of names is free."
    written = json.loads(" ".join(f'"number {t}"' if t[0] in "-0123456789NI" else t for t in TOKEN.findall(text)))
    return written

def reply(got, want):
    "A reply against what the case expects of it."
    if "expect_json" in want: same(json.loads(got), want["expect_json"])
    if "expect_json_text" in want:
        assert want.get("compare") == "tokens", f"no way to compare as {want.get('compare')!r}"
        same(tokens(got.decode()), tokens(want["expect_json_text"]))

def predict_response(case): reply(tfjson.predict_reply({n: array(t) for n, t in case["tensors"].items()}, case["format"]), case["expect"])
def classification_response(case): reply(tfjson.classify_reply([[(label, word(score)) for label, score in row] for row in case["classifications"]]), case["expect"])
def regression_response(case): reply(tfjson.regress_reply([word(v) for v in case["regressions"]]), case["expect"])
def status_json(case): reply(tfjson.status_reply(tfjson.Status(**case["status"])) or b"null", case["expect"])
def word(v): return WORDS.get(v, v) if isinstance(v, str) else v

def example_request(case):
    got, want = tfjson.example_request(text_of(case, "json").encode()), case["expect"]
    same(got.signature, want["signature_name"], "signature_name")
    if (got.context is None) != (want["context"] is None): raise Mismatch(f"context {got.context} instead of {want['context']}")
    for g, w in zip([got.context or {}, *got.examples], [want["context"] or {}, *want["examples"]], strict=True): features(g, w)

def features(got, want):
    if got.keys() != want.keys(): raise Mismatch(f"the features {sorted(got)} instead of {sorted(want)}")
    for name, f in want.items():
        (kind, values), = f.items() or [(None, [])]
        if got[name][0] != kind: raise Mismatch(f"{name}: {got[name][0]} instead of {kind}")
        dtype = dict(bytes_list="DT_STRING", float_list="DT_FLOAT", int64_list="DT_INT64").get(kind, "DT_FLOAT")
        want_values = array(dict(dtype=dtype, shape=[len(values)], values=values))
        got_values = np.empty(len(values), object)
        got_values[:] = got[name][1]
        same_array(got_values.astype(want_values.dtype), want_values, name)

CHECKS = {f.__name__: f for f in (predict_request, predict_response, example_request, classification_response, regression_response, status_json)}

def check(case):
    "Play one case; raises what speaks against it."
    wrong = case["expect"].get("error_contains")
    try: CHECKS[case["kind"]](case)
    except tfjson.Status as e:
        if wrong is None: raise Mismatch(f"refused with {e}") from None
        contains(e.message, wrong)
        if case["expect"].get("code", e.code) != e.code: raise Mismatch(f"{e.code} instead of {case['expect']['code']}") from None
    else:
        if wrong is not None: raise Mismatch(f"no error, expected one with {wrong}")

def run(folder, only=None):
    "Play all cases of a folder and print how each went."
    outcome = Outcome()
    for case in load(folder, "json_tensor", only): outcome.play(case, check)
    return outcome
