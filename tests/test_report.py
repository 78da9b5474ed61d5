"""Chapter 10, the page of a drift report: hostile names and damaged files, pictures held against the counts they are made from, every finding on the page, and files that are whole or not there."""
import base64
import copy
import hashlib
import json
import re
import subprocess
import sys
import time
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from mlops_course.detect import FORMAT, LEVELS, MEASURES, Finding, Reference, Report
from mlops_course.report import _FIELDS, _NEXT, _SHOWN, experiment, experiment_picture, explore, html, write

some = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
VOID = {"meta"}


def seed():
    global RNG
    RNG = np.random.default_rng(10)


@pytest.fixture(autouse=True)
def seeded(): seed()  # every test draws the same, whichever ran before it


class Page(HTMLParser):
    "Elements as nested dicts, and everything that one wants to ask of a page."

    def __init__(self, text):
        super().__init__()
        self.root = self.at = {"tag": None, "attrs": {}, "inside": [], "up": None}
        self.all = []
        self.feed(text)
        self.close()
        assert self.at is self.root, f"<{self.at['tag']}> is not closed"

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute of <{tag}> twice"
        node = {"tag": tag, "attrs": dict(attrs), "inside": [], "up": self.at}
        self.at["inside"].append(node)
        self.all.append(node)
        if tag not in VOID: self.at = node

    def handle_endtag(self, tag):
        assert self.at["tag"] == tag, f"</{tag}> closes <{self.at['tag']}>"
        self.at = self.at["up"]

    def handle_data(self, data): self.at["inside"].append(data)
    def handle_comment(self, data): raise AssertionError("a comment: " + data)
    def unknown_decl(self, data): raise AssertionError("a declaration: " + data)
    def of(self, tag, **attrs): return [n for n in self.all if n["tag"] == tag and all(n["attrs"].get(k.rstrip("_").replace("_", "-")) == v for k, v in attrs.items())]
    def skeleton(self): return [(n["tag"], sorted(k for k in n["attrs"] if (n["tag"], k) != ("bdi", "title"))) for n in self.all]


def words(node): return "".join(x if isinstance(x, str) else words(x) for x in node["inside"] if isinstance(x, str) or x["tag"] not in ("style", "title", "desc"))
def below(node, tag): return [m for n in node["inside"] if isinstance(n, dict) for m in ([n] if n["tag"] == tag else []) + below(n, tag)]


def table(rows, **moved): # one column of each kind
    return pd.DataFrame({"x": RNG.normal(moved.get("x", 0), 1, rows), "count": RNG.poisson(3 + moved.get("count", 0), rows), "gaps": np.where(RNG.random(rows) < 0.05 + moved.get("gaps", 0), np.nan, RNG.normal(size=rows)),
                         "kind": RNG.choice(["a", "b", "c"], rows, p=[0.5, 0.3 - moved.get("kind", 0), 0.2 + moved.get("kind", 0)]), "yes": RNG.random(rows) < 0.3, "far": RNG.lognormal(0, 3, rows)})


@pytest.fixture(scope="module")
def report():
    seed()
    return Reference.fit(table(3000), "the first").score(table(2000, x=0.5, kind=0.1))


@pytest.fixture(scope="module")
def data(report): return json.loads(report.json())


# --- stands alone ----------------------------------------------------------------------------------------------------------------

def test_the_page_loads_nothing_runs_nothing_and_allows_nothing(report):
    text = html(report)
    page = Page(text)
    assert not {n["tag"] for n in page.all} & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "foreignobject", "animate", "video"}
    assert not [k for n in page.all for k in n["attrs"] if k.startswith("on") or k in ("style", "src", "srcset", "action", "formaction", "xlink:href")]
    assert all(n["attrs"]["href"].startswith("#") for n in page.all if "href" in n["attrs"]) and "url(" not in text and "@import" not in text and "://" not in text
    policy = page.of("meta", http_equiv="Content-Security-Policy")[0]["attrs"]["content"]
    digest = base64.b64encode(hashlib.sha256(page.of("style")[0]["inside"][0].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}';" in policy and "script-src" not in policy and "unsafe" not in policy and len(page.of("style")) == 1


def test_the_page_can_be_read_without_eyes(report):
    page = Page(html(report))
    assert page.of("html")[0]["attrs"]["lang"] == "en" and words(page.of("h1")[0]) == "Drift report: the first" and len(page.of("h1")) == 1 and page.of("title")[0]["inside"] == ["changed: Drift report: the first"]
    for svg in page.of("svg"):
        if svg["attrs"].get("aria-hidden") != "true":
            assert svg["attrs"]["role"] == "img" and any(isinstance(n, dict) and n["tag"] == "title" for n in svg["inside"])
            assert set(svg["attrs"].get("aria-labelledby", "").split()) <= {n["attrs"].get("id") for n in svg["inside"] if isinstance(n, dict)}
    assert page.of("th") and all(n["attrs"].get("scope") in ("row", "col") for n in page.of("th")) and all(below(t, "caption") for t in page.of("table"))
    ids = [n["attrs"]["id"] for n in page.all if "id" in n["attrs"]]
    assert len(ids) == len(set(ids)) and {n["attrs"]["href"][1:] for n in page.all if "href" in n["attrs"]} <= set(ids)
    heads = [int(n["tag"][1]) for n in page.all if re.fullmatch("h[1-6]", n["tag"])]
    assert heads[0] == 1 and all(b <= a + 1 for a, b in zip(heads, heads[1:]))
    for row in below(page.of("main")[0], "tr"): assert len(below(row, "td")) + len(below(row, "th")) in (6, 7, 8, 9)


def test_sixty_columns_are_far_below_a_megabyte():
    frame = pd.DataFrame(RNG.normal(size=(2000, 60))).add_prefix("a column with a rather long name, number ")
    labels = pd.DataFrame({f"label {i}": RNG.choice([f"a category with a long name {j:02}" for j in range(40)], 2000) for i in range(60)})
    sizes = {name: len(html(Reference.fit(a).score(b)).encode()) for name, a, b in [("moved", frame, frame + 1), ("quiet", frame, frame), ("labels", labels, labels.shift(axis=1).assign(**{"label 0": "new"}).map(lambda v: v + "x" if v[-1] in "12" else v))]}
    assert max(sizes.values()) < 420_000 and sizes["quiet"] < 150_000, sizes


def test_sixty_changed_columns_take_little_time():
    frame = pd.DataFrame(RNG.normal(size=(2000, 60)))
    found = Reference.fit(frame).score(frame + 1)
    start = time.process_time()
    html(found)
    assert time.process_time() - start < 1.0  # 0.05 measured


# --- everything is there, the worst first ------------------------------------------------------------------------------------------

def rows_of(page): # (column, test, level, n, m) of every row of the tables of statistics
    out = []
    for t in page.of("table", class_="stats"):
        card = t
        while card is not None and card["tag"] not in ("article", "section"): card = card["up"]
        name = words(below(below(card, "h3")[0], "bdi")[0]) if card["tag"] == "article" else None
        for row in below(below(t, "tbody")[0], "tr"):
            cells = [words(n).strip() for n in row["inside"]]
            out.append((name, *cells) if name is not None else tuple(cells))
    return out


@pytest.mark.parametrize("rules", [{}, {"rules": "textbook"}, {"looks": 100, "correction": "bonferroni"}])
@pytest.mark.parametrize("rows", [1, 25, 2000])
def test_every_finding_of_the_json_is_on_the_page(rules, rows):
    batch = table(rows, x=1, gaps=0.3, kind=0.2).drop(columns="far").assign(new=1)
    batch["count"] = batch["count"].astype(object).where(np.arange(rows) % 7 > 0, "n/a")
    found = Reference.fit(table(3000)).score(batch, **rules)
    page = Page(html(found))
    shown, text = rows_of(page), " ".join(words(page.of("main")[0]).split())
    assert len(shown) == len(found.findings)
    count = lambda rows: sorted(rows)
    assert count((r[0], r[1], r[-3], r[-2], r[-1]) for r in shown) == count((f.column, _SHOWN.get(f.test, f.test), f"{f.n:,}", f"{f.m:,}", {"drift": "changed", "watch": "worth a look", "unsure": "too few rows", "ok": "unchanged"}[f.level]) for f in found.findings)
    for f in found.findings:
        if f.level != "ok": assert " ".join(f.why[1:].split()) in text, f
    assert all(c in text for c in found.columns)


def test_the_worst_come_first(report):
    page = Page(html(report))
    cards = [n["attrs"]["class"].split()[1] for n in page.of("article")]
    worst = [f.column for f in report.findings if f.level in ("drift", "watch")]
    assert cards == sorted(cards, key=LEVELS.index) and [words(below(below(n, "h3")[0], "bdi")[0]) for n in page.of("article")] == list(dict.fromkeys(worst))
    assert words(page.of("div", class_="verdict")[0]).startswith("2 of 6 columns have changed: ")


@pytest.mark.parametrize("change,words_", [
    (dict(), "No change: all 6 columns look as before."), (dict(x=0.5), "1 of 6 columns has changed: x.")])
def test_the_head_says_what_happened_and_how_far_to_believe_it(change, words_):
    reference = Reference.fit(table(3000), "the first")
    page = Page(html(reference.score(table(2500, **change), looks=100)))
    trust = words(page.of("p", class_="trust")[0])
    assert words(page.of("div", class_="verdict")[0]) == words_
    assert "2,500 rows" in trust and "3,000 of the reference “the first”" in trust and "1 in 2,000 such pages" in trust and "100 looks" in trust and "α = 0.05" in trust
    assert trust.count(".") - trust.count("0.0") <= 1 and words(page.of("h1")[0]) == "Drift report: the first"


def test_the_page_from_the_json_is_the_page_from_the_report(report, data):
    assert html(report) == html(data) and html(report, title="April") != html(report)
    before = copy.deepcopy(data)
    html(data)
    assert data == before


# --- what to do ----------------------------------------------------------------------------------------------------------------

def said(reference, batch, **kw): return words(Page(html(Reference.fit(reference, **kw).score(batch))).of("main")[0])


@pytest.mark.parametrize("batch,advice", [
    (lambda t: t.assign(x=t.x * 1000 + 60_000), None), (lambda t: t.assign(money=t.money * 100), "100 times those of before"), (lambda t: t.assign(money=t.money * 0.45359237), "pounds to kg"),
    (lambda t: t.assign(money=t.money * 1.8 + 32), "°C to °F"), (lambda t: t.assign(money=-t.money), "their sign had changed"), (lambda t: t.assign(money=t.money * 0 + 3), _NEXT["constant"]),
    (lambda t: t.assign(gaps=t.gaps.where(t.x < 0)), _NEXT["missing"]), (lambda t: t.assign(x=t.x.where(t.x < 1, np.inf)), _NEXT["infinite"]), (lambda t: t.assign(kind=t.kind.replace("a", " A ")), "“A” for “a”"),
    (lambda t: t.assign(kind=t.kind.replace("a", "moon")), _NEXT["new categories"]), (lambda t: t.assign(x=t.x + 1), _NEXT["rank sum"]), (lambda t: t.assign(kind=t.kind.replace("a", "b")), _NEXT["chi2"]),
    (lambda t: t.drop(columns="kind"), "Begin with what is gone: kind"), (lambda t: t.drop(columns="kind"), _NEXT["missing column"]), (lambda t: t.assign(x="text"), _NEXT["type"]), (lambda t: t.assign(moon=1), _NEXT["new column"]),
    (lambda t: t.sort_values("x"), _NEXT["order"]), (lambda t: t + 0 if False else t.assign(**{c: t[c] + 3 for c in ("x", "money", "gaps", "more")}), "Look for one cause before you look for"), (lambda t: t.head(9), "Wait for more rows")])
def test_next_steps_fit_the_cause(batch, advice):
    make = lambda rows: table(rows).drop(columns=["yes", "far", "count"]).assign(money=RNG.normal(50, 6, rows), more=RNG.normal(size=rows), kind=RNG.choice(["a", "b", "c"], rows))
    text = said(make(4000), batch(make(3000)))
    if advice: assert advice in text
    else: assert "times those of before" not in text


def test_steps_are_those_of_the_worst_tests_of_a_column(report):
    new = json.loads(report.json())
    for f in new["findings"]: f["level"] = {"rank sum": "drift", "ks": "drift", "range": "watch"}.get(f["test"], "ok") if f["column"] == "x" else f["level"]
    card = words(Page(html(new)).of("article", class_="card drift")[[words(n).startswith("x") for n in Page(html(new)).of("article", class_="card drift")].index(True)])
    assert _NEXT["rank sum"] in card and _NEXT["range"] not in card
    for f in new["findings"]: f["level"] = "ok" if f["column"] == "x" and f["test"] != "range" else f["level"]
    new["columns"]["x"]["level"] = "watch"
    assert _NEXT["range"] in words(Page(html(new)).of("article", class_="card watch")[0])


def test_answers_of_the_model_are_told_from_inputs():
    a, b = (pd.DataFrame({"x": RNG.normal(size=2000), "y": RNG.normal(shift, size=2000)}) for shift in (0, 1))
    text = said(a, b, predictions="y")
    assert "The answers changed, and no input did." in text and "answer of the model" in text and "This is an answer of the model, not an input." in text


def test_rows_that_make_the_wait_worth_it_really_do():
    reference = Reference.fit(table(3000))
    rows = int(re.search(r"with ([\d,]+) rows", words(Page(html(reference.score(table(10)))).of("main")[0]))[1].replace(",", ""))
    assert reference.score(table(rows)).detectable <= 0.51 and reference.score(table(rows // 2)).detectable > 0.6


# --- pictures ------------------------------------------------------------------------------------------------------------------

def shaped(edges, then, now, q=None): # a report of one column with this histogram
    found = json.loads(Reference.fit({"x": RNG.permutation(200)}).score({"x": RNG.permutation(200) + 150}).json())
    assert found["level"] == "drift"
    q = q or ([edges[0]] * 4 + [(edges[0] + edges[-1]) / 2] + [edges[-1]] * 4)
    found["shapes"]["x"] = {"edges": edges, "reference": {"quantiles": q, "counts": then}, "current": {"quantiles": q, "counts": now}}
    return found


def drawn(path): # "M6 104V80H30..." -> [(from, to, height)]
    assert re.fullmatch(r"M[\d.]+ 104(?:[VH][\d.]+)*Z", path), path
    x, y, out = float(path[1:].split(" ")[0]), 104.0, []
    for move, v in re.findall(r"([VH])([\d.]+)", path):
        if move == "V": y = float(v)
        else: out.append((x, float(v), 104 - y)); x = float(v)
    return out


def height_at(path, x): return next(h for a, b, h in drawn(path) if a <= x < b)


@some
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=4, max_size=23), st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_bars_are_as_high_as_their_counts(counts, low, step):
    then, now = (list(c) for c in zip(*counts))
    then[1] += 1; now[1] += 1
    then[0] = now[0] = 0; then[-1] = now[-1] = 0  # nothing in the open ends: it is drawn as bars
    page = Page(html(shaped([low + step * i for i in range(len(counts) - 1)], then, now)))
    plot = page.of("svg", class_="plot")[0]
    top = max(max(then) / sum(then), max(now) / sum(now))
    for side, kind in ((then, "then"), (now, "now")):
        path = next(n["attrs"]["d"] for n in plot["inside"] if isinstance(n, dict) and n["attrs"].get("class") == kind)
        wide = (420 - 12 - 48) / (len(counts) - 2)
        for i, c in enumerate(side[1:-1]): assert abs(height_at(path, 30 + wide * (i + 0.5)) - 96 * c / sum(side) / top) < 0.11, (i, path)


def test_open_ends_hold_what_lies_beyond():
    plot = Page(html(shaped([0.0, 1.0, 2.0], [0, 50, 50, 0], [0, 45, 45, 10]))).of("svg", class_="plot")[0]
    then, now = (next(n["attrs"]["d"] for n in plot["inside"] if isinstance(n, dict) and n["attrs"].get("class") == kind) for kind in ("then", "now"))
    assert abs(height_at(now, 400) - 96 * 0.1 / 0.5) < 0.11 and drawn(then)[-1][1] <= 414 and (drawn(then)[-1][2] == 0 or drawn(then)[-1][1] <= 390)


@some
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=20), st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_pairs_of_bars_have_the_shares_of_their_categories(counts, others):
    found = json.loads(Reference.fit({"x": RNG.permutation(["a", "b"] * 99)}).score({"x": ["a"] * 99}).json())
    n, m = (max(sum(c[i] for c in counts) + others[i], 1) for i in (0, 1))
    found["shapes"]["x"] = {"categories": [[f"k{i}", a, b] for i, (a, b) in enumerate(counts)], "others": list(others)}
    plot = Page(html(found)).of("svg", class_="plot")[0]
    texts, bars = [words(t) for t in below(plot, "text")], [float(r["attrs"]["width"]) for r in below(plot, "rect")]
    names = [t for t in texts if re.fullmatch(r"k\d+|all others", t)]
    assert len(bars) == 2 * len(names) and len(names) <= 9
    shares = [v for name in names if name[0] == "k" for v in (counts[int(name[1:])][0] / n, counts[int(name[1:])][1] / m)]
    if "all others" in names: shares += [sum(c[i] for j, c in enumerate(counts) if f"k{j}" not in names) / total + others[i] / total for i, total in ((0, n), (1, m))]
    assert len(shares) == len(bars) and (len(counts) > 8 or len(names) >= len(counts))
    for bar, share in zip(bars, shares): assert bar == 0 if not share else abs(bar - max(230 * share / max(shares), 0.8)) < 0.1


@pytest.mark.parametrize("a,b", [([5.0] * 99, [5.0] * 50), ([5.0] * 99, [7.0] * 50), ([1e308, -1e308] * 50, [0.0] * 50), ([5e-324, 1e300] * 50, [1e-300, 1e300] * 20), ([1e6 + 1e-7 * i for i in range(99)], [1e6] * 50), ([0.0] * 99, [np.nan] * 50), ([0.0, 1.0] * 50, [np.inf, 1.0] * 20),
                                 (list(range(99)), [1e9 * i for i in range(99)]), ([-1.0, 1.0] * 50, [-1e9, 1e9] * 50)])
def test_columns_that_no_axis_fits(a, b):
    text = html(Reference.fit({"x": a}).score({"x": b}))
    plots = Page(text).of("svg", class_="plot") + Page(text).of("svg", class_="spark")
    numbers = [float(v) for p in plots for n in below(p, "path") for v in re.findall(r"-?[\d.]+(?:e[-+]?\d+)?", n["attrs"]["d"])]
    assert plots and numbers and all(-1 <= v <= 421 for v in numbers) and "nan" not in text.lower() and not re.search(r"\binf\b", text)


# --- strangers' texts, strangers' files ------------------------------------------------------------------------------------------

NASTY = ["</script><script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "' autofocus onfocus=alert(1) x='", "<!--", "]]>", "</title></style><svg onload=alert(1)>", "</text><foreignObject>", "\x1b]0;t\x07", "\u202ecod.exe", "a\nb\r\nc\td", "\x00", "\ud800", "x" * 10_000, "<" * 10_000, "&lt;b&gt;", " ", "", "नमस्ते", "مرحبا", "e" + "\u0301" * 500]
texts = st.text(st.characters(exclude_categories=()), max_size=30) | st.sampled_from(NASTY)


def renamed(data, columns, categories, word):
    new, name = copy.deepcopy(data), dict(zip(data["columns"], columns))
    for f in new["findings"]: f.update(column=name[f["column"]], why=word, effect_name=word)
    for part in ("columns", "shapes"): new[part] = {name[k]: v for k, v in new[part].items()}
    for s in new["shapes"].values():
        for row, category in zip(s.get("categories", ()), categories): row[0] = category
    return new | {"reference": new["reference"] | {"name": word, "made": word, "hash": word}, "made": word, "correction": word}


@some
@given(columns=st.lists(texts, min_size=6, max_size=6, unique=True), categories=st.lists(texts, min_size=3, max_size=3, unique=True), word=texts)
def test_no_element_and_no_attribute_comes_from_a_text(data, columns, categories, word):
    text = html(renamed(data, columns, categories, word), title=word or None)
    page = Page(text)
    assert page.skeleton() == Page(html(renamed(data, "uvwxyz", "abc", "i"), title="t")).skeleton()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text) and len(text) < 200_000


def test_names_that_are_really_in_a_table():
    a = pd.DataFrame({NASTY[0]: RNG.normal(size=300), "x" * 10_000: RNG.normal(size=300), "a\nb\u202e": RNG.choice([NASTY[1], "y" * 10_000, "\x1b[2J"], 300)})
    b = a.copy()
    b[NASTY[0]] += 2
    b["a\nb\u202e"] = RNG.choice([NASTY[5], "\x1b[2J"], 300)
    text = html(Reference.fit(a, NASTY[4]).score(b))
    page = Page(text)
    assert "script" not in {n["tag"] for n in page.all} and "alert(1)" in words(page.of("main")[0]) and "⟨U+202E⟩" in text and "x" * 300 not in text and "\x1b" not in text
    assert {words(n) for n in page.of("bdi")} >= {"</script><script>alert(1)</script>", "a b⟨U+202E⟩"}


numbers = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([0.0, 1.0, 5e-324, -0.0, 1e308, 2**53, 0]))


@some
@given(st.lists(st.fixed_dictionaries({k: numbers for k in ("statistic", "pvalue", "adjusted", "effect")} | {"level": st.sampled_from(LEVELS), "test": st.sampled_from([*_NEXT, "moon"]), "n": st.integers(0, 2**53), "m": st.integers(0, 10**6), "effect_name": st.none() | st.just("D")}), min_size=1, max_size=8), st.lists(numbers, min_size=len(MEASURES), max_size=len(MEASURES)), st.integers(1, 10**6))
def test_any_numbers_make_a_page(data, values, measures, looks):
    new = copy.deepcopy(data) | {"looks": looks, "detectable": measures[0]}
    new["findings"] = [{"column": "x", "why": "so", **v} for v in values]
    new["columns"]["x"] |= {"level": min((v["level"] for v in values), key=LEVELS.index), **dict(zip(MEASURES, measures))}
    text = html(new)
    assert len([r for r in rows_of(Page(text)) if r[0] == "x"]) == len(values) and not re.search(r"\b(nan|inf|None)\b", re.sub("<style>.*?</style>", "", text))


def test_a_page_from_findings_that_hold_nan_and_none(report):
    odd = Finding("x", "ks", float("nan"), None, float("inf"), float("-inf"), None, "drift", "odd", 1, 2)
    assert "odd" in html(Report((odd,), report.rows, report.columns, report.shapes, report.rules, float("nan"), report.made, report.reference)).lower()


@pytest.mark.parametrize("wrong,word", [
    ({}, "without a format"), ({"format": "mlops-course drift report 2"}, "report 2"), ({"format": 1}, "'1'"), ({"format": None}, FORMAT), ({"format": "<script>"}, FORMAT), ({"format": FORMAT}, "damaged"), ({"cells": [], "nbformat": 4}, "without a format")])
def test_json_of_another_kind_or_version_is_refused(wrong, word):
    with pytest.raises(ValueError, match=re.escape(word)): html(wrong)


@pytest.mark.parametrize("wrong", [None, "{}", b"{}", [], 7])
def test_what_is_no_report_at_all_is_a_type_error_that_says_what_to_do(wrong):
    with pytest.raises(TypeError, match="json.loads"): html(wrong)


JUNK = st.sampled_from([None, True, -1, 1.5, 10**400, "x", [], {}, [None], {"a": None}, [[1, 2]], "9" * 400, float("nan")])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_damaged_json_is_refused_or_drawn_and_nothing_else(data, draw):
    new = copy.deepcopy(data)
    at = new
    for _ in range(draw.draw(st.integers(0, 5))): # walk down to some place in it
        keys = list(at) if isinstance(at, dict) else list(range(min(len(at), 4)))
        inner = [k for k in keys if isinstance(at[k], (dict, list)) and at[k]]
        if not inner: break
        at = at[draw.draw(st.sampled_from(inner))]
    key = draw.draw(st.sampled_from(list(at) if isinstance(at, dict) else list(range(len(at)))))
    if draw.draw(st.booleans()): del at[key]
    else: at[key] = draw.draw(JUNK)
    try: text = html(new)
    except ValueError as e: assert len(str(e)) < 1000
    else: Page(text)


# --- files ---------------------------------------------------------------------------------------------------------------------

def test_page_and_json_side_by_side(report, tmp_path):
    path = write(report, tmp_path / "april.html", title="April")
    assert path == tmp_path / "april.html" and sorted(p.name for p in tmp_path.iterdir()) == ["april.html", "april.json"]
    again = json.loads((tmp_path / "april.json").read_text("utf-8"))
    assert again == json.loads(report.json()) and path.read_text("utf-8") == html(again, title="April")
    assert write(again, str(tmp_path / "again.html")).read_text("utf-8") == html(report) and json.loads((tmp_path / "again.json").read_text("utf-8")) == again


def test_nothing_is_written_where_the_report_is_wrong(data, tmp_path):
    path = write(data, tmp_path / "r.html")
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    for wrong in (data | {"format": "other"}, data | {"findings": 7}, data | {"detectable": float("nan")}):
        with pytest.raises(ValueError): write(wrong, path)
    with pytest.raises(ValueError, match="JSON file"): write(data, tmp_path / "r.json")
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_half_a_pair_of_letters_still_gives_json(data, tmp_path):
    path = write(renamed(data, ["\ud800", *"vwxyz"], "abc", "i"), tmp_path / "r.html")
    assert "\ud800" in json.loads(path.with_suffix(".json").read_text("utf-8"))["columns"] and "⟨U+D800⟩" in path.read_text("utf-8")


def test_a_full_disk_leaves_the_old_pair(data, tmp_path):
    path = write(data, tmp_path / "r.html", title="the old one")
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    both = len(before[path]), len(before[path.with_suffix(".json")])
    assert min(both) < max(both) - 100
    code = """import json, resource, sys
from mlops_course.report import write
data = json.load(open(sys.argv[2]))
for room in map(int, sys.argv[3:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    try: write(data, sys.argv[1], title="the new one")
    except OSError as e: print("OSError")
"""
    done = subprocess.run([sys.executable, "-B", "-c", code, path, path.with_suffix(".json"), "0", "1000", str(max(both) - 50)], capture_output=True, text=True) # room for nothing, for neither, for one of both
    assert done.stdout.split() == ["OSError"] * 3 and not done.returncode and {p: p.read_bytes() for p in tmp_path.iterdir()} == before


# --- the explorer --------------------------------------------------------------------------------------------------------------

def test_sliders_move_the_verdict():
    pytest.importorskip("ipywidgets")
    import matplotlib
    matplotlib.use("agg")
    w = explore()
    by = {c.description: c for c in w.children if hasattr(c, "description")}
    assert set(by) == {"shift", "rows", "threshold", "spread", "kind"}
    by["shift"].value, by["rows"].value = 0.0, 500
    assert w.result["verdict"] == "ok" and w.result["p"] > 0.001
    by["shift"].value = 0.6
    assert w.result["verdict"] == "drift" and w.result["p"] < 1e-6 and w.result == {k: experiment(0.6, 500)[k] for k in w.result}
    by["threshold"].value = 1e-4
    assert w.result["verdict"] == "drift"
    by["shift"].value, by["rows"].value = 0.2, 10
    assert w.result["verdict"] == "unsure"
    by["shift"].value, by["rows"].value, by["spread"].value = 0.0, 5000, 1.5
    assert w.result["verdict"] == "drift" and w.result["statistic"] > 0.05
    by["spread"].value, by["kind"].value = 1.0, "whole numbers"
    assert w.result["verdict"] == "ok"


def test_without_widgets_there_is_a_hint_and_a_picture():
    code = "import sys; sys.modules['ipywidgets'] = None\nfrom mlops_course.report import *\ntry: explore()\nexcept ImportError as e: print(e)\nimport matplotlib; matplotlib.use('agg')\nprint(len(experiment_picture(experiment(0.5, 200))))"
    done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True)
    assert "mlops_course[lab]" in done.stdout and "experiment_picture(experiment(" in done.stdout and done.stdout.strip().endswith("2"), done.stderr
