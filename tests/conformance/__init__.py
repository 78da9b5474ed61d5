"""Conformance with TF Serving: cases as data, and runners that play them against a server or against our functions.

A folder of cases holds `rest_cases.json`, `json_tensor_cases.json` and the models they name; `cases/` beside this file is a small one of our own. Every case has an
`id`, what to do, what to `expect`, and `strict`: a case that is not strict is reported and does not count.
"""
import json
from dataclasses import dataclass, field
from pathlib import Path

OWN = Path(__file__).parent/"cases"

class Mismatch(AssertionError): "What came is not what was expected; says where."
class NotRun(Exception): "This case cannot be run here; says why. A run in which that happened has failed."

def load(folder, kind, only=None): # 'rest', 'json_tensor' ...; a part of the ids wanted
    cases = json.loads((Path(folder)/f"{kind}_cases.json").read_text(encoding="utf8"))
    ids = [case["id"] for case in cases]
    assert cases and len(set(ids)) == len(ids), f"{folder}/{kind}_cases.json: no cases, or an id that occurs twice"
    return [case for case in cases if not only or only in case["id"]]

KINDS = ("json_tensor", "rest", "grpc", "lifecycle")

def kinds_of(folder, asked=None, able=KINDS): # 'rest,grpc', or None for all; what the caller can play → (kinds to play, all is well)
    "Which kinds of cases of a folder are to be played. Names all others and says why; one that was asked for, or that nobody can play, must not be passed over."
    asked, there = asked and asked.split(","), {f.name.removesuffix("_cases.json") for f in Path(folder).glob("*_cases.json")}
    play, well = [], True
    for kind in dict.fromkeys([*(asked or KINDS), *sorted(there)]):
        if asked and kind not in asked: print(f"{kind}: not asked for"); continue
        if kind not in there: why, bad = f"there is no {Path(folder)/f'{kind}_cases.json'}", asked
        elif kind not in KINDS: why, bad = f"nothing here can play it; there are {', '.join(KINDS)}", True
        elif kind not in able: why, bad = "these cases are not for this server; python -m tests.conformance plays them", asked
        else: play.append(kind); continue
        well = well and not bad
        print(f"{kind}: not run, {why}")
    return play, well

def text_of(case, key): # a text as given, or made of parts: [text, how often]
    return "".join(text * count for text, count in case[f"{key}_parts"]) if f"{key}_parts" in case else case.get(key, "")

def same(got, want, where="reply", tolerance=None, any_order=False):
    "Raise `Mismatch` unless two JSON values are equal: 3 equals 3.0, NaN equals NaN, true is no number, numbers within the tolerance (absolute, or 1e-6 of their size)."
    if number(got) and number(want):
        near = abs(got - want) <= (tolerance if tolerance is not None else 1e-6 * max(abs(got), abs(want))) if abs(want) < float("inf") else False
        if not (near or got == want or got != got and want != want): raise Mismatch(f"{where}: {got!r} instead of {want!r}")
    elif type(got) is not type(want): raise Mismatch(f"{where}: {shorten(got)} instead of {shorten(want)}")
    elif isinstance(want, dict):
        if got.keys() != want.keys(): raise Mismatch(f"{where}: the names {sorted(got)} instead of {sorted(want)}")
        for key in want: same(got[key], want[key], f"{where}.{key}", tolerance, any_order)
    elif isinstance(want, list):
        if len(got) != len(want): raise Mismatch(f"{where}: {len(got)} elements instead of {len(want)}")
        if any_order: return bag(got, want, where, tolerance)
        for i, (g, w) in enumerate(zip(got, want)): same(g, w, f"{where}[{i}]", tolerance)
    elif got != want: raise Mismatch(f"{where}: {shorten(got)} instead of {shorten(want)}")

def bag(got, want, where, tolerance):
    rest = list(got)
    for w in want:
        hit = next((i for i, g in enumerate(rest) if is_same(g, w, tolerance)), None)
        if hit is None: raise Mismatch(f"{where}: {shorten(w)} is missing")
        rest.pop(hit)

def is_same(got, want, tolerance=None):
    try: same(got, want, "", tolerance, True)
    except Mismatch: return False
    return True

def subset(got, want, where="reply"):
    "Every name of `want` is in `got` with an equal value; lists have the same length."
    if isinstance(want, dict) and isinstance(got, dict):
        for key in want:
            if key not in got: raise Mismatch(f"{where}: no {key!r}")
            subset(got[key], want[key], f"{where}.{key}")
    elif isinstance(want, list) and isinstance(got, list) and len(got) == len(want):
        for i, (g, w) in enumerate(zip(got, want)): subset(g, w, f"{where}[{i}]")
    else: same(got, want, where)

def contains(text, fragments):
    for f in fragments:
        if f not in text: raise Mismatch(f"{shorten(text)} does not contain {f!r}")

def number(v): return isinstance(v, (int, float)) and not isinstance(v, bool)
def shorten(v, n=200): return (s := repr(v))[:n] + (" ..." if len(s) > n else "")

@dataclass
class Outcome:
    "How the cases of a run went: 'pass', 'FAIL', 'differs' (not strict) or 'not run', with the reason."
    results: list = field(default_factory=list)

    def play(self, case, check): # `check(case)` raises when the case does not hold
        try: how, why = "pass", check(case) and ""
        except NotRun as e: how, why = "not run", str(e)
        except Exception as e: how, why = "FAIL" if case["strict"] else "differs", f"{e}" if isinstance(e, Mismatch) else f"{type(e).__name__}: {e}"
        self.results.append((case["id"], how, why))
        print(f"{how:8}{case['id']}{': ' + shorten(why, 300) if why else ''}", flush=True)

    def count(self, how): return sum(h == how for _, h, _ in self.results)
    @property
    def ok(self): return bool(self.results) and not self.count("FAIL") and not self.count("not run")
    def __str__(self): return f"{len(self.results)} cases: " + ", ".join(f"{self.count(how)} {how}" for how in ("pass", "FAIL", "differs", "not run"))
