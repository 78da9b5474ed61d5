"""Known answers of the training chapter, repeatability across processes, two frameworks that agree, and real leaves."""
import os
import pickle
import re
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from mlops_course.core import Stopwatch
from mlops_course.data import TARGET, leaves
from mlops_course.train import (LOAN_COLUMNS, augment, calibrate, ece, error_gallery, evaluate, fit, gap, get_weights, by_group, loan_book, loan_model, logits,
                                model_card, occlusion, parameters, per_class, predict, resnet50, set_weights, shapley_exact, shapley_sample, small_cnn, split, temperature,
                                time_split, weights_digest, wilson)

torch = pytest.importorskip("torch")
tf = pytest.importorskip("tensorflow")
torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent
LEAVES = Path(os.environ.get("APPLE_LEAVES") or ROOT.parent / "shared" / "data" / "apple_leaves")
SLACK = 3  # limits on CPU time hold on a slow, shared machine as well
CLASSES = ("healthy", "late blight", "yellow leaf curl")


def uneven(model, seed=5):
    """Weights in which every array matters, moving averages included."""
    rng = np.random.default_rng(seed)
    return {k: (v * rng.lognormal(0, 0.2, v.shape) + rng.normal(0, 0.02, v.shape)).astype(np.float32) for k, v in get_weights(model).items()}


# --- two frameworks, one network ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("size, width", [(64, 16), (32, 8), (40, 5)])  # 40 is halved to 20, 10, 5, 2: odd sizes round down in both
def test_both_frameworks_give_the_same_outputs(size, width):
    one, two = (small_cnn(f, 4, size, width, seed=3) for f in ("torch", "keras"))
    pixels = np.random.default_rng(0).integers(0, 256, (6, size, size, 3), dtype=np.uint8)
    assert np.abs(logits(one, pixels) - logits(two, pixels)).max() < 1e-4
    set_weights(two, uneven(two))
    set_weights(one, get_weights(two))
    assert np.abs(predict(one, pixels) - predict(two, pixels)).max() < 1e-4
    pixels[1] //= 4
    assert np.ptp(predict(one, pixels), axis=0).max() > 1e-3, "the pictures should not all get one answer"
    assert np.abs(predict(one, pixels) - predict(two, pixels)).max() < 1e-4
    assert parameters(one) == parameters(two) == two.count_params()
    assert parameters(one) - sum(p.numel() for p in one.parameters()) == 2 * width * (1 + 2 + 4 + 8), "what is left are moving means and variances"


def test_every_array_matters_in_both_frameworks():
    base = uneven(small_cnn("torch", 3, 32, 4))
    pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    for framework in ("torch", "keras"):
        model = small_cnn(framework, 3, 32, 4)
        before = logits(set_weights(model, base), pixels)
        for name in base:
            after = logits(set_weights(model, base | {name: base[name] * np.float32(1.5)}), pixels)
            assert np.abs(after - before).max() > 1e-6, f"{framework}: {name} changes nothing"


def test_a_variant_is_large():
    assert parameters(small_cnn("torch", 4, 32, 48)) > 800_000 and parameters(small_cnn("torch", 4)) < 100_000


def test_resnet_50_is_the_one_that_papers_mean():
    one, two = resnet50("torch", size=64, seed=3), resnet50("keras", size=64, seed=3)
    assert sum(p.numel() for p in one.parameters()) == 25_557_032 and parameters(one) == parameters(two) == 25_557_032 + 53_120
    pixels = leaves(3, CLASSES, size=64, seed=1)[0]
    assert np.abs(logits(one, pixels) - logits(two, pixels)).max() < 1e-3
    assert 0.3 < logits(one, pixels).std() < 30 and np.ptp(logits(one, pixels), axis=0).max() > 0.1, "neither dead nor exploding, and not blind"
    set_weights(one, uneven(two))
    set_weights(two, get_weights(one))
    assert np.abs(predict(one, pixels) - predict(two, pixels)).max() < 1e-3
    assert np.array_equal(logits(pickle.loads(pickle.dumps(one)), pixels), logits(one, pixels))
    with pytest.raises(ValueError, match="at least 32"):
        resnet50("torch", size=31)


def test_order_of_the_axes_and_dtype_do_not_slip():
    model = small_cnn("torch", 3, 32, 4)
    pixels = np.random.default_rng(2).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    assert np.array_equal(logits(model, pixels), logits(model, pixels.astype(np.float32)))
    with pytest.raises(ValueError, match="torch order"):
        logits(model, pixels.transpose(0, 3, 1, 2))


def test_later_chapters_can_save_it(tmp_path):
    model = small_cnn("torch", 3, 32, 4, seed=1)
    pixels = np.random.default_rng(3).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    want, x = logits(model, pixels), torch.from_numpy(pixels).float()
    assert np.array_equal(logits(pickle.loads(pickle.dumps(model)), pixels), want)
    assert np.abs(torch.export.export(model, (x,)).module()(x).detach().numpy() - want).max() < 1e-5
    twin = small_cnn("keras", 3, 32, 4, seed=1)
    twin.save(tmp_path / "m.keras")
    assert np.abs(logits(tf.keras.models.load_model(tmp_path / "m.keras"), pixels) - want).max() < 1e-4


# --- training ----------------------------------------------------------------------------------------------------------------

RUN = """
import sys, numpy as np
from mlops_course.data import leaves
from mlops_course.train import fit, get_weights, small_cnn, weights_digest
if sys.argv[1] == "torch": import torch; torch.set_num_threads(1)
x, y = leaves(96, ("healthy", "yellow leaf curl"), size=32, seed=1)
model = small_cnn(sys.argv[1], 2, 32, 4, seed=int(sys.argv[2]))
fit(model, x[:64], y[:64], (x[64:], y[64:]), epochs=2, seed=int(sys.argv[2]), progress=False)
print("digest", weights_digest(get_weights(model)))
"""


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_two_processes_train_the_same_weights(framework):
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "PYTHONPATH": str(ROOT)}
    run = lambda seed: subprocess.run([sys.executable, "-c", RUN, framework, str(seed)], capture_output=True, text=True, check=True, env=env).stdout.split("digest ")[1]
    assert run(0) == run(0)
    assert run(0) != run(1)


def test_fit_keeps_the_best_epoch_and_stops():
    x, y = leaves(160, CLASSES[:2], size=32, seed=2)
    model = small_cnn("torch", CLASSES[:2], 32, 4)
    history = fit(model, x[:96], y[:96], (x[96:], y[96:]), epochs=30, rate=0.1, patience=2, progress=False)
    best = history[history.best].iloc[0]
    assert evaluate(predict(model, x[96:]), y[96:]).log_loss == pytest.approx(best.valid_loss, abs=1e-5)
    assert len(history) == 30 or len(history) - best.epoch == 2, "stops two epochs after the best"
    assert not model.training


def test_the_bar_of_a_training_reaches_its_end(capsys):
    x, y = leaves(32, CLASSES, size=32, seed=9)
    def said(**options):
        fit(small_cnn("torch", 3, 32, 4), x, y, (x, y), epochs=3, **options)
        return capsys.readouterr().out
    bar = said()
    assert "training (torch)" in bar and re.findall(r"(\d+)%", bar)[-1] == "100"
    assert said(progress=False) == ""


def test_what_does_not_fit_is_named():
    x, y = leaves(8, CLASSES, size=32, seed=0)
    model = small_cnn("torch", CLASSES, 32, 4)
    with pytest.raises(ValueError, match="validation rows.*from 0 to 2"):
        fit(model, x, y, (x, y + 7), progress=False)
    with pytest.raises(ValueError, match="resizes"):
        fit(model, x[:, ::2, ::2], y, (x, y), progress=False)
    with pytest.raises(ValueError, match="'torch' or 'keras'"):
        small_cnn("jax", 3)
    with pytest.raises(ValueError, match="same classes and width"):
        set_weights(model, get_weights(small_cnn("torch", CLASSES, 32, 5)))
    with pytest.raises(TypeError, match="LogisticRegression|dict"):
        logits({}, x)


def test_augmentation_only_turns_and_lights():
    x = np.random.default_rng(0).integers(0, 200, (50, 16, 16, 3), dtype=np.uint8)
    turned = augment(x, np.random.default_rng(1), light=0)
    assert np.array_equal(np.sort(turned.reshape(50, -1)), np.sort(x.reshape(50, -1)))
    lit = augment(x, np.random.default_rng(1), light=0.2)
    ratio = lit.mean((1, 2, 3)) / x.mean((1, 2, 3))
    assert 0.05 < np.log(ratio).std() < 0.35 and lit.max() <= 255


@pytest.fixture(scope="module")
def apple_leaves():
    if not (LEAVES / "train").is_dir():
        pytest.skip(f"the real apple leaves are not at {LEAVES}; set APPLE_LEAVES to a folder with train/CLASS/*.jpg and test/CLASS/*.jpg")
    from PIL import Image
    classes = sorted(p.name for p in (LEAVES / "train").iterdir())
    prep = small_cnn("torch", classes).preprocess
    def read(part):
        files = [(path, k) for k, name in enumerate(classes) for path in sorted((LEAVES / part / name).glob("*.jpg"))]
        return prep([Image.open(path) for path, _ in files]), np.array([k for _, k in files])
    return classes, read("train"), read("test")


def test_real_leaves(apple_leaves):
    classes, (x, y), (test_x, test_y) = apple_leaves
    model = small_cnn("torch", classes)
    with Stopwatch() as watch:
        train, valid = split(np.arange(len(y)), 0.1)
        fit(model, x[train], y[train], (x[valid], y[valid]), epochs=60, rate=0.005, light=0.05, patience=60, progress=False)
        seen = evaluate(predict(model, test_x), test_y, classes)
    print(f"{seen}, {watch.cpu:.0f} CPU s")
    assert seen.accuracy >= 0.95, f"{seen}\n{seen.classes}"
    assert watch.cpu < 60 * SLACK


# --- measuring ----------------------------------------------------------------------------------------------------------------

def test_evaluation_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    p, truth = rng.dirichlet([1, 1, 1], 300), rng.integers(0, 3, 300)
    seen = evaluate(p, truth)
    assert seen.accuracy == pytest.approx(metrics.accuracy_score(truth, p.argmax(1)))
    assert seen.log_loss == pytest.approx(metrics.log_loss(truth, p))
    assert np.array_equal(seen.matrix, metrics.confusion_matrix(truth, p.argmax(1)))
    precision, recall, _, rows = metrics.precision_recall_fscore_support(truth, p.argmax(1))
    assert np.allclose(seen.classes[["precision", "recall", "rows"]], np.c_[precision, recall, rows])
    assert (seen.classes.recall_low < recall).all() and (recall < seen.classes.recall_high).all()


def test_ece_by_hand():
    p = np.array([[0.9, 0.1]] * 4 + [[0.6, 0.4]] * 6)
    assert ece(p, [0, 0, 0, 1] + [0, 0, 0, 1, 1, 1]) == pytest.approx(0.4 * 0.15 + 0.6 * 0.1)
    assert ece(np.eye(3), [0, 1, 2]) == 0 and ece(np.eye(3), [1, 2, 0]) == 1


def test_a_temperature_is_found_and_travels_with_the_weights():
    model = small_cnn("keras", 3, 32, 4, seed=2)
    x = np.random.default_rng(0).integers(0, 256, (400, 32, 32, 3), dtype=np.uint8)
    sharp = set_weights(model, uneven(model))
    z = logits(sharp, x)
    truth = (np.random.default_rng(1).random((400, 1)) > predict(sharp, x).cumsum(1)[:, :-1]).sum(1)
    t = calibrate(sharp, x, truth)
    assert np.allclose(logits(sharp, x), z / t, rtol=1e-4, atol=1e-5)
    assert temperature(logits(sharp, x), truth) == pytest.approx(1, abs=0.01) or not 0.06 < t < 19  # at an edge there is nothing left to find


def test_shapley_by_all_orders():
    rng = np.random.default_rng(3)
    back, x = pd.DataFrame(rng.normal(size=(5, 3)), columns=list("abc")), pd.Series(dict(a=1.0, b=-2.0, c=0.5))
    f = lambda t: np.asarray(t.a * t.b + np.maximum(t.c, 0) * t.a + 2 * t.b, float)
    slow = pd.Series(0.0, index=x.index)
    orders = list(permutations(x.index))
    for order in orders:  # the definition, word by word
        rows = back.copy()
        for column in order:
            before = f(rows).mean()
            rows[column] = x[column]
            slow[column] += (f(rows).mean() - before) / len(orders)
    exact = shapley_exact(f, x, back)
    assert np.allclose(exact, slow)
    assert exact.sum() == pytest.approx(f(x.to_frame().T)[0] - f(back).mean())
    sampled = shapley_sample(f, x, back, walks=4000)
    assert (np.abs(sampled.value - exact) < 4.5 * sampled.error).all() and (sampled.error < 0.1).all()
    with pytest.raises(ValueError, match="shapley_sample"):
        shapley_exact(f, x, pd.DataFrame(np.zeros((2, 13))))


def test_occlusion_finds_the_corner():
    f = lambda x: np.stack([x[:, :8, :8].mean((1, 2, 3)) / 255, 1 - x[:, :8, :8].mean((1, 2, 3)) / 255], 1)
    heat = occlusion(f, np.full((32, 32, 3), 255, np.uint8), 0)
    assert heat[0, 0] == pytest.approx(128 / 255) and heat[:6, :6].min() > 0.1 and not heat[12:].any() and not heat[:, 12:].any()
    assert np.allclose(heat, -occlusion(f, np.full((32, 32, 3), 255, np.uint8), 1))


def test_groups_and_their_gap():
    table = by_group([1] * 150, [1] * 56 + [0] * 14 + [1] * 48 + [0] * 32, ["a"] * 70 + ["b"] * 80)
    got = gap(table)
    assert (got["difference"], got["low"], got["high"]) == (pytest.approx(0.2), pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))  # Newcombe 1998
    mixed = by_group([1, 1, 0, 0], [1, 0, 1, 1], ["a", "a", "a", "b"])
    assert mixed.found["a"] == 0.5 and np.isnan(mixed.found["b"]) and mixed.selected.tolist() == [pytest.approx(2 / 3), 1]
    with pytest.raises(ValueError, match="two groups"):
        gap(mixed, "found")


def test_a_gap_of_equal_groups_covers_zero():
    rng = np.random.default_rng(0)
    alarms = [gap(by_group(np.ones(400), rng.random(400) < 0.7, rng.integers(0, 4, 400)))["low"] > 0 for _ in range(300)]
    assert np.mean(alarms) < 0.09, "four equal groups, the largest of six differences"


def test_splits_keep_groups_and_time_apart():
    groups = np.random.default_rng(0).integers(0, 40, 500)
    one, two = split(groups, 0.25, seed=3)
    assert not set(groups[one]) & set(groups[two]) and len(one) + len(two) == 500
    past, future = time_split(loan_book(6, 20), 2)
    assert past.month.max() < future.month.min() and len(future) == 40


def test_the_loan_model_ranks_and_takes_a_new_product():
    past, future = time_split(loan_book(18, 200, seed=3), 6)
    model = loan_model().fit(past[[*LOAN_COLUMNS]], past[TARGET])
    p = model.predict_proba(future[[*LOAN_COLUMNS]])
    assert metrics.roc_auc_score(future[TARGET], p[:, 1]) > 0.65 and ece(p, future[TARGET].to_numpy()) < 0.06
    assert evaluate(p, future[TARGET]).log_loss < metrics.log_loss(future[TARGET], np.full(len(future), past[TARGET].mean()))
    assert np.isfinite(model.predict_proba(future[[*LOAN_COLUMNS]].assign(product="gold"))).all()


def test_the_card_holds_what_was_measured_and_no_markup():
    p, truth = np.array([[0.8, 0.2], [0.3, 0.7], [0.6, 0.4]]), np.array([0, 1, 1])
    model = small_cnn("torch", ["<script>", "b|c"], 32, 4)
    table = by_group([1, 1, 0], [1, 0, 1], ["x", "<i>", "x"])
    card = model_card(model, evaluate(p, truth, model.preprocess.labels), name="t", purpose="p", data=dict(training="d"), limits=["l"], groups=dict(area=table))
    for text in (card.markdown(), card.html()):
        assert "0.667 (95 % interval" in text and "shape (n, 32, 32, 3)" in text and weights_digest(get_weights(model))[:16] in text
        assert "<script>" not in text and "<i>" not in text
    assert "b\\|c" in card.markdown()
    with pytest.raises(ValueError, match="purpose"):
        model_card(model, evaluate(p, truth), name="t", purpose="", data=dict(a=1), limits=["l"])


def test_figures_stand_nothing_wrong_too():
    import matplotlib
    matplotlib.use("Agg")
    x, y = leaves(4, CLASSES, size=32, seed=0)
    assert error_gallery(x, np.eye(3)[y], y, CLASSES)._suptitle.get_text() == "0 of 4 wrong"
    assert wilson(0, 0)[1] == 1 and per_class(np.zeros((2, 2), int), ["a", "b"]).recall.isna().all()
