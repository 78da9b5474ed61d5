"The cases of `rest_cases.json`, played over a real socket against a server that runs, or servers that we start."
import json, re
from http.client import HTTPConnection
from urllib.parse import urlsplit
from . import Mismatch, NotRun, Outcome, contains, is_same, load, same, subset, text_of

def send(url, request, timeout=60):
    "(status, headers in lower case, body) of one request, sent as it is."
    at = urlsplit(url)
    body, headers = text_of(request, "body").encode("utf8", "surrogatepass"), {"Content-Type": "application/json", **(request.get("headers") or {})}
    connection = HTTPConnection(at.hostname, at.port, timeout=timeout)
    try:
        connection.putrequest(request["method"], request["path"], skip_accept_encoding=True)
        for name, value in headers.items():
            if value is not None: connection.putheader(name, value)
        if body or request["method"] not in ("GET", "HEAD"): connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body or None)
        reply = connection.getresponse()
        return reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read()
    finally: connection.close()

def check_reply(status, headers, body, expect, accept=()):
    "Raise `Mismatch` unless a reply is what the case expects."
    text = body.decode("utf8", "replace")
    if "status" in expect and status not in (expect["status"], *accept): raise Mismatch(f"status {status} instead of {expect['status']}: {text[:200]!r}")
    for name, value in expect.get("headers", {}).items():
        if (got := headers.get(name.lower(), "").split(";")[0].strip()) != value: raise Mismatch(f"{name}: {got!r} instead of {value!r}")
    if "body_regex" in expect and not re.search(expect["body_regex"], text): raise Mismatch(f"{text[:200]!r} does not match {expect['body_regex']!r}")
    if not expect.keys() & {"json", "json_text", "json_gen", "json_subset", "json_contains", "json_keys", "error_contains"}: return
    try: got = json.loads(text)
    except ValueError: raise Mismatch(f"no JSON: {text[:200]!r}") from None
    check_json(got, expect)

def check_json(got, expect):
    tolerance, any_order = expect.get("numeric_tolerance"), expect.get("list_order") == "any"
    if "json" in expect: same(got, expect["json"], "reply", tolerance, any_order)
    if "json_text" in expect: same(got, json.loads(expect["json_text"]), "reply", tolerance, any_order)
    if "json_gen" in expect: same(got, {expect["json_gen"]["key"]: [expect["json_gen"]["value"]] * expect["json_gen"]["count"]}, "reply", tolerance)
    if "json_subset" in expect: subset(got, expect["json_subset"])
    if "json_keys" in expect: same(sorted(got), sorted(expect["json_keys"]), "names")
    if "json_contains" in expect:
        path, item = expect["json_contains"]["path"], expect["json_contains"]["item"]
        if not any(covers(g, item) for g in got.get(path, [])): raise Mismatch(f"{path} has no {item}")
    if "error_contains" in expect:
        if not isinstance(got, dict) or list(got) != ["error"] or not isinstance(got["error"], str): raise Mismatch(f"not an object with the one name 'error': {str(got)[:200]}")
        contains(got["error"], expect["error_contains"])

def covers(got, item):
    try: subset(got, item)
    except Mismatch: return False
    return True

def models(cases):
    "What the server has to serve, by name. One name with two meanings is a mistake in the cases."
    found = {}
    for case in cases:
        model = case["model"]
        assert found.setdefault(model["name"], model) == model, f"{case['id']}: the model {model['name']!r} is served in two ways"
    return found

def groups(cases):
    "The cases by the server they need: (name of the monitoring configuration or None, cases). A case that wants its model loaded anew gets a server of its own, and comes first: where one runs already, its model is still new."
    found = {}
    for case in cases:
        monitoring = case.get("server", {}).get("monitoring_config")
        found.setdefault((monitoring, case["id"] if case.get("fresh_model") else None), []).append(case)
    return [(monitoring, some) for (monitoring, fresh), some in sorted(found.items(), key=lambda group: group[0][1] is None)]

def play(case, url):
    for request in case.get("before", []): send(url, request)
    check_reply(*send(url, case["request"]), case["expect"], case.get("accept_status", ()))

def run(folder, start, only=None): # start(models by name, monitoring configuration or None): a context that gives the base URL; raises NotRun
    "Play all cases of a folder and print how each went."
    outcome = Outcome()
    for monitoring, some in groups(load(folder, "rest", only)):
        try:
            with start(models(some), monitoring) as url:
                if not url: raise NotRun("needs the REST address of the server")
                for case in some: outcome.play(case, lambda case: play(case, url))
        except NotRun as e:
            def not_run(case, why=e): raise why
            for case in some: outcome.play(case, not_run)
    return outcome
