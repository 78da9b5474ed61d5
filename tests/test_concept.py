"Concept drift: what a notebook cannot test. Labels in any order, odd numbers, known answers of river and NannyML; and the real apple leaves where they lie."
import hashlib, math, os, subprocess, sys
from pathlib import Path
import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from mlops_course import concept
from mlops_course.concept import CBPE, DETECTORS, METRICS, Components, ConceptWatch, Detector, LabelQueue, PictureReference, answers, penultimate, picture_statistics, replay, tiny_pixels
from mlops_course.data import leaves, photos, worsen
from mlops_course.detect import Reference

pytest.importorskip("river", reason="needs river: pip install 'mlops_course[drift]'")
some = settings(max_examples=60, deadline=None)
few = settings(max_examples=20, deadline=None)
NETWORK = Path(concept.__file__).parent / "models" / "leaves.onnx"

# --- the queue ----------------------------------------------------------------------------------------------------------------

events = st.lists(st.tuples(st.sampled_from(["predicted", "labelled"]), st.integers(0, 7), st.sampled_from([0, 1])), max_size=60)

@some
@given(events=events, order=st.sampled_from(["arrival", "prediction"]))
def test_any_events_in_any_order_give_each_pair_once(events, order):
    q, out, first, last_early, truth = LabelQueue(order), [], {}, {}, {}
    for kind, id, value in events:  # the slow way: two dictionaries
        out += getattr(q, kind)(id, value)
        if kind == "predicted": first.setdefault(id, value)
        elif id not in truth: last_early[id] = value
        if id in first and id in last_early: truth.setdefault(id, last_early[id])
    rows = {str(id): i for i, id in enumerate(first)}
    assert len({p.id for p in out}) == len(out) and all(p.row == rows[p.id] and p.predicted == str(first[int(p.id)]) and p.label == str(truth[int(p.id)]) for p in out)
    s = q.state
    assert s["pairs"] == len(truth) and s["predictions"] == len(first) == s["pairs"] + s["waiting"] and s["labels without a prediction"] == len(set(last_early) - set(first))
    assert s["repeated predictions"] == sum(k == "predicted" for k, *_ in events) - len(first)
    if order == "arrival": assert len(out) == len(truth)
    else: assert [p.row for p in out] == list(range(len(out))) and (len(out) == len(first) or str(list(first)[len(out)]) in q.open)


@some
@given(delays=st.lists(st.integers(0, 30), min_size=1, max_size=80), patience=st.integers(1, 40))
def test_patience_bounds_memory_and_accounts_for_everybody(delays, patience):
    q, due = LabelQueue("prediction", patience), {}
    rows = []
    for i, d in enumerate(delays): due.setdefault(i + d, []).append(i)
    for now in range(len(delays) + 31):
        if now < len(delays): rows += q.predicted(now, 0)
        for i in due.get(now, []): rows += q.labelled(i, 0)
        assert len(q.open) <= patience + 1 and len(q.early) <= patience and len(q.done) <= 2 * patience + 2
    s = q.state
    assert s["predictions"] == len(delays) == s["pairs"] + s["given up"] + s["waiting"] and s["given up"] == s["labels without a prediction"]
    kept = [p.row for p in rows]
    assert kept == sorted(kept) and len(kept) == s["pairs"] and not s["waiting"]


def test_labels_for_nobody_do_not_fill_the_memory():
    q = LabelQueue(patience=10)
    for i in range(1000): q.labelled(f"stranger {i}", 1)
    assert len(q.early) == 10 and q.state["labels without a prediction"] == 1000


def test_an_early_label_that_comes_again_waits_anew():
    q = LabelQueue(patience=3)
    q.labelled("z", 1); q.labelled("y", 1)
    for i in range(3): q.predicted(i, 0)
    q.labelled("z", 0)
    q.predicted(3, 0)
    assert q.predicted("y", 1) == [] and [p.wrong for p in q.predicted("z", 0)] == [False]


@pytest.mark.parametrize("value,word", [(None, "missing"), (np.nan, "missing"), (pd.NA, "missing"), (0.5, "no class"), (math.inf, "no class"), ([1], "list"), (b"1", "bytes"), ({}, "dict")])
def test_what_is_no_answer_is_refused_and_changes_nothing(value, word):
    q = LabelQueue()
    for call in (q.predicted, q.labelled):
        with pytest.raises(ValueError, match=word): call("a", value)
    assert q.state["predictions"] == 0 == q.state["labels without a prediction"]


@pytest.mark.parametrize("id", [None, np.nan, ""])
def test_an_id_is_needed(id):
    for call in (LabelQueue().predicted, LabelQueue().labelled):
        with pytest.raises(ValueError, match="id is needed"): call(id, 1)


@pytest.mark.parametrize("wrong", [dict(order="time"), dict(patience=0), dict(patience=True), dict(patience=1.5), dict(recent=0), dict(detector="eddm")])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))): ConceptWatch(**wrong)

# --- the detectors ------------------------------------------------------------------------------------------------------------

def test_alarms_are_rivers_own():
    from river import drift
    errors = np.random.default_rng(3).random(3000) < np.repeat([0.1, 0.4, 0.1], 1000)
    for name, river in zip(DETECTORS, (drift.ADWIN(), drift.PageHinkley(), drift.binary.DDM())):
        ours, watch, right = [], ConceptWatch(name), []
        for i, e in enumerate(errors.tolist()):
            river.update(e if name == "ddm" else int(e))
            if river.drift_detected: right.append(i)
            watch.predicted(i, 0); watch.labelled(i, e)
        ours = [a.pair.row for a in watch.alarms if a.level != "warning"]
        assert ours == right and any(1000 <= i < 1500 for i in ours), name
        assert watch.pairs == 3000 and watch.error == errors.mean()


def test_settings_reach_river():
    errors = (np.random.default_rng(1).random(1500) < np.repeat([0.1, 0.3], [1000, 500])).tolist()
    def first(**kwargs):
        d = Detector("page_hinkley", **kwargs)
        return next((i for i, e in enumerate(errors) if d.update(e)), None)
    assert 1000 < first(threshold=20) < first(threshold=50) and first(threshold=1000) is None


def test_false_alarms_and_delay_over_many_streams():
    "Error 10 % to 30 % after 3,000 rows, river's settings: ADWIN and Page-Hinkley hardly ever cry, ADWIN is first, DDM cries in half of the streams."
    false, delay = {}, {}
    for name in DETECTORS:
        for seed in range(40):
            d, errors = Detector(name), (np.random.default_rng(seed).random(4500) < np.repeat([0.1, 0.3], [3000, 1500])).tolist()
            alarms = [i for i, e in enumerate(errors) if d.update(e) == "drift"]
            false.setdefault(name, []).append(sum(a < 3000 for a in alarms)); delay.setdefault(name, []).append(min((a - 3000 for a in alarms if a >= 3000), default=math.inf))
    assert np.mean(false["adwin"]) <= 0.05 and np.mean(false["page_hinkley"]) <= 0.05 and np.mean(np.array(false["ddm"]) > 0) > 0.25
    assert 60 < np.median(delay["adwin"]) < 200 < np.median(delay["page_hinkley"]) < 300 and max(delay["adwin"]) < 500


@few
@given(seed=st.integers(0, 999), d=st.integers(0, 400), name=st.sampled_from(["adwin", "page_hinkley"]))
def test_labels_that_are_d_rows_late_move_each_alarm_by_d_rows(seed, d, name):
    errors = (np.random.default_rng(seed).random(1200) < np.repeat([0.1, 0.6], 600)).tolist()
    def alarms(d):
        watch = ConceptWatch(name)
        for now in range(len(errors) + d):
            if now < len(errors): watch.predicted(now, 0)
            if now >= d: watch.labelled(now - d, errors[now - d])
        return watch.alarms
    soon, late = alarms(0), alarms(d)
    assert soon and [a.pair.row for a in soon] == [a.pair.row for a in late] and all(b.pair.seen == min(a.pair.row + 1 + d, 1200) and a.pair.delay == 0 for a, b in zip(soon, late))


@pytest.mark.parametrize("wrong", [np.nan, None, 0.5, 2, -1, "1"])
def test_an_answer_is_right_or_wrong(wrong):
    for name in DETECTORS:
        with pytest.raises(ValueError, match="wrong"): Detector(name).update(wrong)


def test_without_river_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "river", None)
    monkeypatch.delitem(sys.modules, "river.drift", raising=False)
    with pytest.raises(ImportError, match="river"): Detector()
    LabelQueue().predicted("a", 1)  # needs none


def test_the_chapter_imports_no_framework():
    code = "import sys, mlops_course.concept; print(sorted({'river', 'onnxruntime', 'onnx', 'torch', 'tensorflow', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}).stdout.strip() == "[]"

# --- replay -------------------------------------------------------------------------------------------------------------------

def log(n=1500, late=50, seed=0):
    r = np.random.default_rng(seed)
    time = pd.date_range("2026-01-01", periods=n, freq="min", tz="UTC")
    predictions = pd.DataFrame({"prediction_id": [f"p{i}" for i in range(n)], "time": time, "predicted": "pays"})
    labels = pd.DataFrame({"prediction_id": predictions.prediction_id, "time": time + pd.Timedelta(late, "min"), "label": np.where(r.random(n) < np.repeat([0.05, 0.5], [1000, n - 1000]), "defaults", "pays")})
    return predictions, labels


def test_a_log_may_be_in_any_order_and_hold_anything():
    predictions, labels = log()
    plain = replay(predictions, labels)
    again = replay(predictions.sample(frac=1, random_state=1), labels.sample(frac=1, random_state=2))
    assert plain.alarms == again.alarms and plain.alarms[0].pair.row > 1000 and plain.alarms[0].pair.delay == 50 and not plain.queue.state["waiting"]
    twice = replay(pd.concat([predictions, predictions.head(9)]), pd.concat([labels, labels.tail(20), labels.head(5).assign(prediction_id="nobody")]))
    assert twice.alarms == plain.alarms and {k: v for k, v in twice.queue.state.items() if v} == {"predictions": 1500, "pairs": 1500, "labels without a prediction": 1, "repeated predictions": 9, "repeated labels": 20}
    early = replay(predictions, labels.assign(time=labels.time - pd.Timedelta("3h")))
    assert early.pairs == 1500 and [a.pair.row for a in early.alarms] == [a.pair.row for a in plain.alarms]
    assert replay(predictions, labels.head(0)).queue.state["waiting"] == 1500


def test_a_log_that_cannot_be_played_is_refused():
    predictions, labels = log(1001)
    for a, b, word in [(predictions.head(0), labels, "no predictions"), (predictions.drop(columns="time"), labels, r"predictions lack the columns \['time'\]"), (predictions, labels.rename(columns={"label": "y"}), r"labels lack the columns \['label'\]"),
                       (predictions.assign(time=pd.NaT), labels, "1001 of 1001 have no time"), (predictions, labels.assign(label=None), "label of 'p0' is missing"), (predictions.assign(predicted=0.73), labels, "no class"), (predictions.assign(prediction_id=None), labels, "id is needed")]:
        with pytest.raises(ValueError, match=word): replay(a, b)

# --- CBPE ---------------------------------------------------------------------------------------------------------------------

def too_sure(r, rows, shift):
    x = r.normal(shift, 1, rows)
    return 1 / (1 + np.exp(-3 * x)), (r.random(rows) < 1 / (1 + np.exp(-1.5 * x))).astype(int)


def nannyml_data():
    r = np.random.default_rng(7)
    x = r.normal(size=6000); truth = (r.random(6000) < 1 / (1 + np.exp(-1.5 * x))).astype(int)
    return 1 / (1 + np.exp(-3 * x)), truth, 1 / (1 + np.exp(-3 * r.normal(0.7, 1, 2000)))


def test_nannymls_answer():
    """From NannyML 0.13.1 (numpy 2.4.6, scikit-learn 1.9.1), on `nannyml_data`: reference frame y, s, p = (s > 0.5), batch s, p;
    CBPE(y_pred_proba="s", y_pred="p", y_true="y", metrics=["accuracy", "f1", "roc_auc"], chunk_number=1, problem_type="classification_binary").fit(ref).estimate(cur),
    which chose to calibrate (isotonic); and estimate_accuracy, estimate_f1, estimate_roc_auc of its metrics module on the scores as they are."""
    score, truth, now = nannyml_data()
    assert np.allclose(CBPE.fit(score, truth, draws=2).estimate(now).value, [0.762572, 0.835178, 0.803544], atol=1e-6)
    assert np.allclose(CBPE.fit(score, truth, calibration="none", draws=2).estimate(now).value, [0.8667164445233972, 0.9113600156036317, 0.9226494998467583], atol=1e-8)


@some
@given(data=st.data())
def test_where_labels_are_certain_the_estimate_is_scikit_learns(data):
    from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
    n = data.draw(st.integers(2, 40))
    score = np.array(data.draw(st.lists(st.sampled_from([0, 0.1, 0.25, 0.5, 0.75, 1]), min_size=n, max_size=n)), float)
    truth = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    got = concept._performance(score, score > 0.5, truth)
    assert math.isclose(got[0], accuracy_score(truth, score > 0.5))
    if truth.any() or (score > 0.5).any(): assert math.isclose(got[1], f1_score(truth, score > 0.5), abs_tol=1e-12)
    else: assert math.isnan(got[1])
    if truth.any() and not truth.all(): assert math.isclose(got[2], roc_auc_score(truth, score), abs_tol=1e-12)
    else: assert math.isnan(got[2])


def test_intervals_hold_the_truth_and_alarms_are_few():
    r, inside, alarms = np.random.default_rng(5), [], []
    for _ in range(20):
        shift = r.choice([-0.5, 0, 0.5])
        past, (score, truth) = too_sure(r, 1200, 0), too_sure(r, 400, shift)
        e, true = CBPE.fit(*past, draws=50).estimate(score), concept._performance(score, score > 0.5, truth)
        inside.append((e.low <= true) & (true <= e.high)); alarms += [] if shift else [(e.level == "drift").any()]
        assert (e.low <= e.high).all()
    assert np.mean(inside) > 0.75 and np.mean(alarms) < 0.25


def test_covariate_shift_is_seen_and_concept_drift_is_not():
    r = np.random.default_rng(6)
    x = r.normal(0, 2, 8000); p = 1 / (1 + np.exp(-1.5 * x))
    cbpe = CBPE.fit(p, r.random(8000) < p, draws=60)
    near = 1 / (1 + np.exp(-1.5 * r.normal(0, 0.5, 3000)))  # all cases are hard ones
    e, right = cbpe.estimate(near), np.maximum(near, 1 - near).mean()
    assert e.level["accuracy"] == "drift" and abs(e.value["accuracy"] - right) < 0.02
    quiet = p[:3000]  # the same scores, but truth is now a coin: the estimate cannot know
    e = cbpe.estimate(quiet)
    assert (e.level == "ok").all() and e.value["accuracy"] > 0.75 and abs(((quiet > 0.5) == (r.random(3000) < 0.5)).mean() - 0.5) < 0.05


@pytest.mark.parametrize("calibration", ["isotonic", "platt"])
def test_constant_scores_have_a_right_answer(calibration):
    r = np.random.default_rng(0)
    e = CBPE.fit(np.full(400, 0.7), r.random(400) < 0.3, calibration=calibration, draws=40).estimate(np.full(500, 0.7))
    assert abs(e.value["accuracy"] - 0.3) < 0.06 and e.value["roc_auc"] == 0.5 and e.low["accuracy"] < 0.3 < e.high["accuracy"]
    e = CBPE.fit(np.full(400, 0.2), r.random(400) < 0.3, draws=40).estimate(np.full(500, 0.2))
    assert e.value["f1"] == 0 and abs(e.value["accuracy"] - 0.7) < 0.06


def test_too_little_says_so():
    score, truth = too_sure(np.random.default_rng(1), 2000, 0)
    cbpe = CBPE.fit(score, truth, draws=40)
    one = cbpe.estimate([0.9])
    assert (one.level == "unsure").all()
    assert "possible" in one.why["accuracy"] and "one class" in one.why["roc_auc"]
    sure = CBPE.fit(score, score > 0.5, draws=40).estimate(np.full(50, 0.999))
    assert sure.level["roc_auc"] == "unsure" and math.isnan(sure.value["roc_auc"]) and sure.value["accuracy"] == 1


@pytest.mark.parametrize("score,truth,word", [([], [], "empty"), ([0.1, np.nan], [0, 1], "1 of 2"), ([0.1, np.inf], [0, 1], "1 of 2"), ([0.1, 1.2], [0, 1], "between 0 and 1"), ([-3.0, 2.0], [0, 1], "sigmoid"), ([0.1, 0.2], [0], "truth has 1 rows"),
                                                ([0.1, 0.2], [0, 2], "between 0 and 1"), ([0.1, 0.2], [0, 0.5], "0 or 1"), ([0.1, 0.2], [0, np.nan], "missing"), ([0.1, 0.2], [0, 0], "both classes"), ([0.1, 0.2], [1, 1], "both classes"), ([[0.1, 0.9]], [1], "one dimension"), (["a", "b"], [0, 1], "numbers")])
def test_a_reference_that_teaches_nothing_is_refused(score, truth, word):
    with pytest.raises(ValueError, match=word): CBPE.fit(score, truth)


@pytest.mark.parametrize("score,word", [([], "empty"), ([np.nan], "missing"), ([2.0], "between"), (0.5, "one dimension"), ([None, 0.1], "numbers")])
def test_a_batch_that_says_nothing_is_refused(score, word):
    cbpe = CBPE.fit([0.1, 0.2, 0.8, 0.9] * 5, [0, 0, 1, 1] * 5, draws=3)
    with pytest.raises(ValueError, match=word): cbpe.estimate(score)
    with pytest.raises(ValueError, match="predicted"): cbpe.estimate([0.5, 0.6], predicted=[1])
    with pytest.raises(ValueError, match="calibration"): CBPE.fit([0.1, 0.9], [0, 1], calibration="temperature")


@few
@given(score=st.lists(st.floats(0, 1), min_size=1, max_size=50), calibration=st.sampled_from(list(concept.CALIBRATIONS)))
def test_any_scores_give_values_between_0_and_1_or_unsure(score, calibration):
    r = np.random.default_rng(0)
    past = np.append(r.random(100), [0, 1]); truth = r.random(102) < past
    e = CBPE.fit(past, truth, calibration=calibration, draws=10).estimate(score)
    assert list(e.index) == list(METRICS)
    for row in e.itertuples(): assert 0 <= row.value <= 1 and 0 <= row.low <= row.high <= 1 or row.level == "unsure"
    assert e.equals(CBPE.fit(past, truth, calibration=calibration, draws=10).estimate(score))  # the same question, the same answer

# --- answers ------------------------------------------------------------------------------------------------------------------

@some
@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=30), threshold=st.sampled_from([0.3, 0.5, 0.9]))
def test_both_ways_to_say_the_same(p, threshold):
    p = np.array(p)
    one = answers(p, ["no", "yes"], threshold)
    assert (one.predicted == np.where(p > threshold, "yes", "no")).all() and (one.confidence == np.where(p > threshold, p, 1 - p)).all() and (one.score == p).all()
    two = answers(np.column_stack([1 - p, p]), ["no", "yes"])
    assert (two["score of yes"] == p).all() and (two.confidence == np.maximum(1 - p, p)).all()


def test_answers_are_watched_with_psi_ks_and_chi2():
    r = np.random.default_rng(2)
    p, q = r.dirichlet([4, 2, 1], 3000), r.dirichlet([2, 4, 1], 1000)
    report = Reference.fit(answers(p, list("abc")), predictions=list(answers(p, list("abc")))).score(answers(q, list("abc")))
    tests = {(f.column, f.test): f.level for f in report.findings}
    assert tests["predicted", "chi2"] == tests["score of a", "ks"] == "drift" and tests["score of c", "ks"] == "ok" and report.columns["predicted"]["psi"] > 0.2 and report.columns["confidence"]["role"] == "prediction"


@pytest.mark.parametrize("p,word", [([], "empty"), ([np.nan], "missing"), ([[0.5, 0.6]], "add up"), ([[0.5]], "shape"), ([3.0], "between"), (0.5, "shape")])
def test_no_answers_are_refused(p, word):
    with pytest.raises(ValueError, match=word): answers(p)

# --- pictures -----------------------------------------------------------------------------------------------------------------

@few
@given(n=st.integers(1, 3), h=st.integers(16, 40), w=st.integers(16, 40), fill=st.sampled_from(["black", "white", "noise"]))
def test_any_picture_has_finite_statistics(n, h, w, fill):
    x = np.random.default_rng(h).integers(0, 256, (n, h, w, 3)).astype(np.uint8) if fill == "noise" else np.full((n, h, w, 3), 255 * (fill == "white"), np.uint8)
    s = picture_statistics(x)
    assert s.shape == (n, 7) and np.isfinite(s).all(axis=None) and (s.dtypes == float).all() and tiny_pixels(x).shape == (n, 192)
    assert np.allclose(s, pd.concat([picture_statistics(x[i:i + 1]) for i in range(n)], ignore_index=True))


@pytest.mark.parametrize("how,column,sign", [(dict(night=0.4), "brightness", -1), (dict(blur=0.5), "sharpness", -1), (dict(cast=0.4), "blue", -1), (dict(cast=0.4), "red", 1), (dict(camera=0.4), "blue", 1), (dict(night=0.4), "contrast", -1), (dict(blur=0.5), "grain", -1)])
def test_each_condition_moves_its_column(how, column, sign):
    x = leaves(40, size=32, seed=3)[0]
    moved = picture_statistics(worsen(x, **how)[0])[column] - picture_statistics(x)[column]
    assert (sign * moved > 0).mean() > 0.9


@pytest.fixture(scope="module")
def learned(): return PictureReference.fit(leaves(400, size=32, seed=60)[0], {"pixels": tiny_pixels, **({"network": penultimate(NETWORK)} if _onnx() else {})})

def _onnx():
    try: import onnx, onnxruntime  # noqa: E401
    except ImportError: return False
    return True


@pytest.mark.parametrize("how,level", [({}, ("ok", "watch")), (dict(night=0.4), ("drift",)), (dict(blur=0.5), ("drift",)), (dict(cast=0.5), ("drift",)), (dict(camera=0.4), ("drift",))])
def test_conditions_are_found_with_two_hundred_pictures(learned, how, level):
    assert learned.score(worsen(leaves(200, size=32, seed=61)[0], **how)[0]).level in level


def test_another_crop_is_seen_by_the_network_and_not_by_light_and_colour(learned):
    if not _onnx(): pytest.skip("needs the extra onnx: pip install 'mlops_course[onnx]'")
    levels = {c: v["level"] for c, v in learned.score(leaves(300, size=32, seed=62, crop=1)[0]).columns.items()}
    assert "drift" in {v for c, v in levels.items() if c.startswith("network")} and levels["brightness"] == levels["red"] == levels["blue"] == "ok"


def test_pictures_that_cannot_be_compared_are_refused(learned):
    for x, word in [(leaves(2, size=64, seed=1)[0], "one size"), (np.zeros((0, 32, 32, 3), np.uint8), "empty"), (np.zeros((1, 32, 32, 3)), "uint8"), (np.zeros((1, 32, 32), np.uint8), "shape"), (np.zeros((1, 8, 8, 3), np.uint8), "16 pixels")]:
        with pytest.raises(ValueError, match=word): learned.score(x)
    with pytest.raises(ValueError, match="too few"): PictureReference.fit(leaves(5, size=32)[0])
    assert learned.score(leaves(1, size=32, seed=5)[0]).level == "unsure" and learned.score(np.zeros((50, 32, 32, 3), np.uint8)).level == "drift"


@few
@given(data=st.data())
def test_damaged_files_are_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("f") / "r"
    good = SMALL.save(path).read_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    path.write_bytes(data.draw(st.sampled_from([good[:at], good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1:], good + good[:at + 1], good[:at] + good[at + 1:]])))
    with pytest.raises(ValueError, match="is no saved reference of pictures"): PictureReference.load(path)

SMALL = PictureReference.fit(leaves(20, size=16, seed=1)[0], components=2)


@pytest.mark.parametrize("head", [b"{}", b"[" * 100_000, b"null", b'{"shape": [16, 16, 3], "components": [["pixels", 2, 1000000000]]}', b'{"shape": [16, 16, 3], "components": [["pixels", -1, 192]]}', b'{"shape": [16, 16, 3], "components": [[7, 2, 192]]}',
                                  b'{"shape": "all", "components": []}', b'{"shape": [16, 16, 3], "components": []}', b'{"shape": [16, 16, 3], "components": [["pixels", true, "192"]]}', b"\xff"])
def test_files_of_strangers_are_refused(tmp_path, head):
    raw = concept.MAGIC + len(head).to_bytes(8, "little") + head + np.ones(600).tobytes()
    (tmp_path / "r").write_bytes(raw + hashlib.sha256(raw).digest())
    with pytest.raises(ValueError, match="is no saved reference of pictures"): PictureReference.load(tmp_path / "r")


def test_what_was_saved_scores_the_same(tmp_path):
    again, x = PictureReference.load(SMALL.save(tmp_path / "r")), leaves(30, size=16, seed=2)[0]
    assert again.score(x).findings == SMALL.score(x).findings and again.shape == (16, 16, 3)
    with pytest.raises(FileNotFoundError): PictureReference.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="made with the embeddings"): PictureReference.load(tmp_path / "r", {})


def test_directions_do_not_hang_on_a_sign_or_on_the_order():
    x = np.random.default_rng(0).normal(size=(200, 10)) * np.arange(10, 0, -1)
    a, b = Components.fit(x, 3), Components.fit(x[::-1], 3)
    assert np.allclose(np.exp(2 * a(x)[:, 3]) + (a(x)[:, :3]**2).sum(1), ((x - x.mean(0))**2).sum(1))  # Pythagoras
    assert np.allclose(a(x), b(x)) and np.isfinite(Components.fit(np.ones((20, 4)), 2)(np.ones((3, 4)))).all()


def test_a_network_without_a_dense_end_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx: pip install 'mlops_course[onnx]'")
    h = onnx.helper
    node = h.make_node("Relu", ["pixels"], ["out"])
    info = [h.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["batch", 32, 32, 3]) for n in ("pixels", "out")]
    onnx.save(h.make_model(h.make_graph([node], "g", info[:1], info[1:])), tmp_path / "relu.onnx")
    with pytest.raises(ValueError, match="dense layer"): penultimate(tmp_path / "relu.onnx")

# --- real photographs ---------------------------------------------------------------------------------------------------------

APPLES = next((p for p in (Path(os.environ.get("APPLE_LEAVES", "")), Path(__file__).parents[2]/"shared/data/apple_leaves") if (p/"train").is_dir()), None)
real = pytest.mark.skipif(APPLES is None, reason="needs real photographs: set APPLE_LEAVES to a PlantVillage folder with train/ and test/, or put one at ../shared/data/apple_leaves")

@real
def test_real_leaves_by_day_and_by_night():
    load = lambda split, k: np.stack([p.image for p in photos(APPLES, split, per_class=k)])
    train, test = load("train", 60), load("test", 25)
    reference = PictureReference.fit(train[np.random.default_rng(0).permutation(len(train))])
    batch = test[np.random.default_rng(1).permutation(len(test))]
    assert reference.score(batch).level != "drift"
    for how in (dict(night=0.3), dict(cast=0.5), dict(camera=0.5), dict(blur=0.5)): assert reference.score(worsen(batch, **how)[0]).level == "drift", how
