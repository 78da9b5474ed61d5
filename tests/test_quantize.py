"""Chapter 11: the arithmetic against its definition and against the libraries, whole models, and what must be refused."""
import os
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mlops_course.core import Stopwatch
from mlops_course.data import leaves, representative
from mlops_course.quantize import (CALIBRATIONS, agreement, dequantize, entropy, fold_norm, integer_matmul, int8_instructions, minmax, patches, percentile, quantize,
                                   quantize_onnx, quantize_onnx_dynamic, quantize_torch, quantize_weights, quantized_conv, requantize, scale_zero, sensitivity)
from mlops_course.serialize import BadModel, Signature, load, read_signature, save, seal
from mlops_course.train import augment, evaluate, fit, get_weights, logits, predict, set_weights, small_cnn, split

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent
LEAVES = Path(os.environ.get("APPLE_LEAVES") or ROOT.parent / "shared" / "data" / "apple_leaves")
SLACK = 3  # limits on CPU time hold on a slow, shared machine as well
CLASSES = ("healthy", "late blight", "yellow leaf curl")
f32 = np.float32

numbers = st.floats(-1e6, 1e6, width=32)
ranges = st.tuples(numbers, numbers).map(sorted)
dtypes = st.sampled_from(["uint8", "int8"])
tensors = arrays(f32, array_shapes(min_dims=1, max_dims=3, max_side=8), elements=st.floats(-1000, 1000, width=32))


# --- the formula --------------------------------------------------------------------------------------------------------------

@given(ranges, dtypes, st.booleans())
def test_zero_is_exact_and_the_range_is_covered(bounds, dtype, symmetric):
    low, high = bounds
    s, z = scale_zero(low, high, dtype, symmetric)
    least, most = {"uint8": (0, 255), "int8": (-128, 127)}[dtype]
    assert s > 0 and s.dtype == f32 and least <= z <= most and int(z) == z
    assert dequantize(quantize(0.0, s, z, dtype), s, z) == 0
    for edge in (low, high):
        assert abs(dequantize(quantize(edge, s, z, dtype), s, z) - edge) <= s * 0.5 * 1.001 + 1e-30 if not (symmetric and dtype == "uint8") else True
    if symmetric: assert z == (0 if dtype == "int8" else 128)


@given(tensors, dtypes)
def test_inside_the_range_the_error_is_half_a_step(x, dtype):
    s, z = scale_zero(x.min(), x.max(), dtype)
    back = dequantize(quantize(x, s, z, dtype), s, z)
    assert back.shape == x.shape and back.dtype == f32
    assert (np.abs(back.astype(float) - x) <= float(s) / 2 * 1.001 + np.abs(x) * 1e-6).all()


@given(tensors, st.floats(1e-3, 10), st.integers(0, 255))
def test_outside_it_saturates_and_order_is_kept(x, s, z):
    q = quantize(x, s, z).ravel()
    exact = x.ravel().astype(float) / float(f32(s)) + z
    assert (q[exact > 255.51] == 255).all() and (q[exact < -0.51] == 0).all()
    order = np.argsort(x.ravel(), kind="stable")
    assert (np.diff(q[order].astype(int)) >= 0).all()


@given(st.integers(-300, 300), st.integers(0, 255), st.sampled_from([1.0, 0.5, 0.25, 2.0]))
def test_ties_go_to_the_even_neighbour(n, z, s):
    got = quantize((n + 0.5) * s, s, z)
    even = n if n % 2 == 0 else n + 1
    assert got == np.clip(even + z, 0, 255)


@given(tensors, st.floats(1e-3, 10), st.integers(0, 255))
def test_what_was_quantized_stays(x, s, z):
    q = quantize(x, s, z)
    assert np.array_equal(quantize(dequantize(q, s, z), s, z), q)


def test_infinite_saturates_and_nan_is_refused():
    assert quantize([np.inf, -np.inf, 3e38, -3e38], 1e-3, 7).tolist() == [255, 0, 255, 0]
    with pytest.raises(ValueError, match="1 of 2 values are NaN"): quantize([1, np.nan], 1)
    for low, high in ((np.nan, 1), (0, np.inf), (-np.inf, 0)):
        with pytest.raises(ValueError, match="finite"): scale_zero(low, high)
    with pytest.raises(ValueError, match="above high"): scale_zero(2, 1)
    for bad in (0, -1, np.nan, np.inf):
        with pytest.raises(ValueError, match="above 0"): quantize([1.0], bad)
    with pytest.raises(ValueError, match="whole numbers"): dequantize([1.5], 1)
    with pytest.raises(ValueError, match="'int4'"): quantize([1.0], 1, dtype="int4")


def test_constant_and_empty():
    for value in (0.0, 3.5, -2.0, 1e-30, 3e38):
        s, z = scale_zero(value, value)
        assert np.isfinite(s) and s > 0 and dequantize(quantize([value] * 3, s, z), s, z) == pytest.approx(value, rel=1e-6, abs=1e-30)
    assert quantize(np.empty((0, 3)), 1.0).shape == (0, 3) and dequantize(np.empty(0, np.uint8), 1.0).shape == (0,)
    for f in CALIBRATIONS.values():
        with pytest.raises(ValueError, match="empty"): f([])
        with pytest.raises(ValueError, match="1 of 3 are NaN"): f([1, 2, np.nan])
    with pytest.raises(ValueError, match="no weights"): quantize_weights(np.empty((3, 0)))


@given(arrays(f32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.floats(-100, 100, width=32)))
def test_one_scale_a_channel_is_never_coarser(w):
    (one, s), (each, sc) = quantize_weights(w), quantize_weights(w, axis=1)
    assert one.dtype == each.dtype == np.int8 and min(one.min(), each.min()) >= -127
    used = np.abs(w).max(0) / 127 >= np.finfo(f32).tiny  # a channel of zeros, or too small for a float32 scale, gets the scale 1
    assert (sc[used] <= s * (1 + 1e-6)).all()
    bound = lambda scale: scale.astype(float) / 2 * 1.001 + 1e-6
    assert (np.abs(dequantize(one, s) - w) <= bound(s)).all() and (np.abs(dequantize(each, sc, axis=1) - w) <= bound(sc)).all()


@given(arrays(f32, (20, 3), elements=st.floats(-1, 1, width=32)), st.floats(2, 100))
def test_uneven_channels_lose_more_with_one_scale(w, factor):
    w = w + np.sign(w) * f32(0.01)
    assume((np.abs(w).max(0) > 0.1).all())
    w = w * f32([1, factor, factor**2]).reshape(1, 3)
    worst = lambda q, s, **k: np.abs(dequantize(q, s, **k) - w).max()
    assert worst(*quantize_weights(w, axis=1), axis=1) <= worst(*quantize_weights(w)) * 1.001 + 1e-6 or worst(*quantize_weights(w, axis=1), axis=1) <= np.abs(w).max() / 254 * 1.001


def test_scales_must_fit_the_axis():
    x = np.ones((2, 3), f32)
    assert quantize(x, [1.0, 0.5], [0, 1], axis=0).tolist() == [[1] * 3, [3] * 3] == quantize(x, [1.0, 0.5], [0, 1], axis=-2).tolist()
    with pytest.raises(ValueError, match="that many scales"): quantize(x, [1.0, 2.0], axis=1)
    with pytest.raises(ValueError, match="name the axis"): quantize(x, [1.0, 2.0])


# --- whole numbers ------------------------------------------------------------------------------------------------------------

@given(arrays(np.uint8, (4, 9)), arrays(np.int8, (9, 5)), st.integers(0, 255))
def test_integer_products_are_exact(a, b, z):
    want = [[sum((int(a[i, k]) - z) * int(b[k, j]) for k in range(9)) for j in range(5)] for i in range(4)]
    assert integer_matmul(a, b, z).tolist() == want


def test_the_accumulator_does_not_overflow():
    k = 2**31 // 255**2
    a, b = np.full((1, k), 255, np.uint8), np.full((k, 1), -128, np.int8)
    assert integer_matmul(a, b)[0, 0] == -255 * 128 * k and integer_matmul(a, a.T)[0, 0] == 255**2 * k
    with pytest.raises(ValueError, match="32 bits"): integer_matmul(np.zeros((1, k + 1), np.uint8), np.zeros((k + 1, 1), np.int8))


def run_op(op, inputs, dtype, **attributes):
    h = onnx.helper
    kind = lambda d: h.np_dtype_to_tensor_dtype(np.dtype(d))
    graph = h.make_graph([h.make_node(op, list(inputs), ["y"], **attributes)], "one", [h.make_tensor_value_info(k, kind(v.dtype), v.shape) for k, v in inputs.items()],
                         [h.make_tensor_value_info("y", kind(dtype), None)])
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 20)], ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, inputs)[0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-5, 10), dtypes, st.integers(0, 127))
def test_quantize_linear_bit_for_bit(seed, s, dtype, z):
    rng, s = np.random.default_rng(seed), f32(s)
    x = np.concatenate([rng.normal(0, 60 * s, 300), np.arange(-200, 200) * s / 2, [3e38, -3e38]]).astype(f32)
    got = run_op("QuantizeLinear", dict(x=x, s=np.array(s), z=np.array(z, dtype)), dtype)
    assert np.array_equal(got, quantize(x, s, z, dtype))
    assert np.array_equal(run_op("DequantizeLinear", dict(q=got, s=np.array(s), z=np.array(z, dtype)), f32), dequantize(got, s, z))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(0, 255), st.sampled_from([1, 3, 5]))
def test_a_convolution_bit_for_bit(seed, zx, zy, side):
    rng = np.random.default_rng(seed)
    x, w = rng.integers(0, 256, (2, 6, 7, 3), dtype=np.uint8), rng.integers(-127, 128, (side, side, 3, 5)).astype(np.int8)
    bias, sx, sw, sy = rng.integers(-5000, 5000, 5).astype(np.int32), f32(rng.uniform(0.001, 0.1)), rng.uniform(0.001, 0.1, 5).astype(f32), f32(rng.uniform(0.1, 2))
    theirs = run_op("QLinearConv", dict(x=x.transpose(0, 3, 1, 2).copy(), sx=np.array(sx), zx=np.array(zx, np.uint8), w=w.transpose(3, 2, 0, 1).copy(), sw=sw, zw=np.zeros(5, np.int8),
                                        sy=np.array(sy), zy=np.array(zy, np.uint8), b=bias), np.uint8, pads=[side // 2] * 4)
    assert np.array_equal(theirs.transpose(0, 2, 3, 1), quantized_conv(x, w, bias, (sx, sw, sy), (zx, zy)))


def test_torch_has_the_same_formula_in_another_order():
    rng = np.random.default_rng(0)
    for s, z in ((0.0123, 3), (0.1, 128), (7.77, 255)):
        x = rng.normal(0, 60 * s, 4000).astype(f32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            got = torch.quantize_per_channel(torch.from_numpy(x[None]), torch.tensor([s], dtype=torch.float64), torch.tensor([z]), 0, torch.quint8).int_repr().numpy()[0]
        assert np.array_equal(got, np.clip(np.rint(x * (f32(1) / f32(s)) + f32(z)), 0, 255)) and np.abs(got.astype(int) - quantize(x, s, z)).max() <= 1


def test_folding_the_norm_is_the_same_function():
    model = small_cnn("torch", 3, 32, 4)
    rng = np.random.default_rng(1)
    set_weights(model, {k: (v * rng.lognormal(0, 0.2, v.shape) + rng.normal(0, 0.02, v.shape)).astype(f32) for k, v in get_weights(model).items()})
    kernel, bias = fold_norm(get_weights(model), "block0")
    x = rng.normal(size=(2, 32, 32, 3)).astype(f32)
    with torch.inference_mode(): want = model.blocks[0][:2](torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy().transpose(0, 2, 3, 1)
    assert np.abs(patches(x) @ kernel.reshape(-1, 4) + bias - want).max() < 1e-4


def test_requantize_rounds_and_cuts():
    assert requantize(np.array([1, 3, 5, -1, 10_000, -10_000], np.int32), 0.5, 10).tolist() == [10, 12, 12, 10, 255, 0]
    assert requantize(np.array([[2, 2]], np.int32), [0.5, 2], 0, "int8").tolist() == [[1, 4]]


# --- calibration --------------------------------------------------------------------------------------------------------------

@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["relu", "bell", "skew", "odd", "few", "negative"]), st.sampled_from([256, 512, 1024]))
def test_the_ranges_of_onnx_runtime(seed, shape, bins):
    from onnxruntime.quantization.calibrate import HistogramCollector
    rng = np.random.default_rng(seed)
    bell = rng.normal(0, 1, 3000)
    x = f32(dict(relu=np.maximum(bell, 0), bell=bell, skew=np.exp(bell) - 0.5, odd=np.append(bell, 50), few=rng.integers(-3, 4, 500), negative=-np.abs(bell) - 1)[shape])
    for method, f in (("percentile", percentile), ("entropy", entropy)):
        collector = HistogramCollector(method, symmetric=False, num_bins=bins, num_quantized_bins=128, percentile=99.99, scenario="same")
        with redirect_stdout(StringIO()):
            collector.collect(dict(t=[x]))
            low, high = collector.compute_collection_result()["t"][:2]
        assert f(x, bins=bins) == (low, high), method


@given(arrays(f32, st.integers(1, 200), elements=st.floats(-100, 100, width=32)))
def test_every_calibration_stays_inside(x):
    assume(np.ptp(x) > 0.01)
    for f in CALIBRATIONS.values():
        low, high = f(x) if f is not entropy else f(x, bins=256)
        assert x.min() <= low <= high <= x.max() and np.isfinite(scale_zero(low, high)[0])
    assert minmax(x) == (x.min(), x.max())


# --- whole models -------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    x, y = leaves(300, CLASSES, size=32, seed=1)
    model = small_cnn("torch", CLASSES, 32, 8)
    fit(model, x[:240], y[:240], (x[240:], y[240:]), epochs=6, progress=False)
    return model, save(model, folder / "float.onnx"), x, y


@pytest.mark.parametrize("method", CALIBRATIONS)
def test_static(small, tmp_path, method):
    model, file, x, _ = small
    made = quantize_onnx(file, tmp_path / "sub" / "int8.onnx", x[:40], method=method)
    want, got = load(file).predict(x), load(made).predict(x)
    assert agreement(want, got) > (0.9 if method != "entropy" else 0.7) and 0 < np.abs(want - got).mean() < 0.1
    assert read_signature(made) == read_signature(file) and [p.name for p in made.parent.iterdir()] == ["int8.onnx"]
    graph = onnx.load(made).graph
    int8 = [t for t in graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4]
    assert len(int8) == 4 and not [t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 4]
    for t, name in zip(int8, [f"block{i}" for i in range(4)]):
        kernel = fold_norm(get_weights(model), name)[0].transpose(3, 2, 0, 1)
        assert np.abs(onnx.numpy_helper.to_array(t).astype(int) - quantize_weights(kernel, axis=0)[0]).max() <= 1  # the exporter's folding rounds otherwise in the last bit


def test_our_entropy_is_the_librarys(small, tmp_path):
    from mlops_course.quantize import _prepare, _ranges
    from mlops_course.serialize import _quiet
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    _, file, x, _ = small
    with _quiet():
        ready = _prepare(onnx.load(file), tmp_path)
        ours = _ranges(ready, x[:20].astype(f32), "entropy", 0, tmp_path)
        theirs = calibrate.create_calibrator(ready, augmented_model_path=str(tmp_path / "a.onnx"), calibrate_method=calibrate.CalibrationMethod.Entropy, extra_options=dict(num_bins=2048))
        for part in (x[:10], x[10:20]):
            feed = iter([dict(pixels=part.astype(f32))])
            theirs.collect_data(type("R", (), dict(get_next=lambda self: next(feed, None)))())
        counted = theirs.collector.histogram_dict
        assert set(ours.data) == set(counted) and len(counted) > 8
        theirs.collector.histogram_dict = {k: counted[k] for k in list(counted)[3::4]}  # some are enough; theirs takes seconds for each
        theirs = theirs.compute_data()
    assert len(theirs.data) > 1 and all(tuple(map(float, ours[k].range_value)) == tuple(map(float, theirs[k].range_value)) for k in theirs.data)


def test_layers_can_stay_float(small, tmp_path):
    _, file, x, _ = small
    layers = sensitivity(file, x[:30])
    assert list(layers.operator) == ["Conv"] * 4 + ["Gemm"] and (layers.error > 0).all() and layers.agreement.between(0.5, 1).all()
    made = quantize_onnx(file, tmp_path / "m.onnx", x[:30], exclude=[layers.node[0]])
    floats = [t for t in onnx.load(made).graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 4]
    assert len(floats) == 1 and floats[0].dims[1] == 3
    with pytest.raises(ValueError, match="no node 'nobody'"): quantize_onnx(file, tmp_path / "n.onnx", x[:30], exclude=["nobody"])


def test_dynamic(small, tmp_path):
    _, file, x, _ = small
    made = quantize_onnx_dynamic(file, tmp_path / "dynamic.onnx")
    assert agreement(load(file).predict(x), load(made).predict(x)) > 0.9 and read_signature(made) == read_signature(file)
    assert "ConvInteger" in {n.op_type for n in onnx.load(made).graph.node}


def test_torch_static(small):
    model, _, x, _ = small
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = quantize_torch(model, x[:40])
    assert agreement(predict(model, x), predict(made, x)) > 0.9 and "QuantizedConvReLU2d" in str(made)
    assert "BatchNorm" in str(model), "the model that was given stays as it was"
    with pytest.raises(ValueError, match="at least one picture"): quantize_torch(model, x[:0])
    with pytest.raises(ValueError, match="NaN"): quantize_torch(model, np.full((2, 32, 32, 3), np.nan, f32))
    with pytest.raises(TypeError, match="quantize_onnx"): quantize_torch(torch.nn.Linear(2, 2), x)


def test_refused_and_nothing_written(small, tmp_path):
    model, file, x, _ = small
    done = quantize_onnx(file, tmp_path / "done.onnx", x[:8])
    before = done.read_bytes()
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "cut.onnx").write_bytes(file.read_bytes()[:-500])
    (tmp_path / "empty.onnx").write_bytes(b"")
    broken = set_weights(small_cnn("torch", CLASSES, 32, 8), {k: v * f32(np.nan) if k == "block1.kernel" else v for k, v in get_weights(model).items()})
    torch.onnx.export(broken, (torch.zeros(2, 32, 32, 3),), tmp_path / "nan.onnx", input_names=["pixels"], output_names=["logits"], dynamic_shapes=({0: "batch"},), external_data=False, verbose=False)
    seal(tmp_path / "nan.onnx", read_signature(file))
    there = sorted(p.name for p in tmp_path.iterdir())
    for source, images, words in ((file, x[:0], "at least one input"), (file, x[:3, ::2], "shape"), (file, x[0], "shape"), (file, np.full((1, 32, 32, 3), np.inf), "1|3072|infinite"),
                                  (done, x[:8], "quantized already"), (tmp_path / "text.onnx", x[:8], "Next:"), (tmp_path / "cut.onnx", x[:8], "Next:"), (tmp_path / "empty.onnx", x[:8], "Next:"),
                                  (tmp_path / "nan.onnx", x[:8], "NaN"), (tmp_path / "gone.onnx", x[:8], "does not exist"), (tmp_path / "m.pkl", x[:8], "ONNX")):
        with pytest.raises((ValueError, BadModel), match=words): quantize_onnx(source, tmp_path / "out.onnx", images)
        with pytest.raises((ValueError, BadModel), match=words): quantize_onnx(source, tmp_path / "done.onnx", images)
    with pytest.raises(BadModel, match="end in .onnx"): quantize_onnx(file, tmp_path / "out.bin", x[:8])
    assert sorted(p.name for p in tmp_path.iterdir()) == there and done.read_bytes() == before, "what was there stays as it was"


def test_interrupted_writing_leaves_nothing(small, tmp_path, monkeypatch):
    import mlops_course.quantize as q
    _, file, x, _ = small
    monkeypatch.setattr(q, "seal", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt): quantize_onnx(file, tmp_path / "m.onnx", x[:8])
    assert not list(tmp_path.iterdir())


def test_instructions_are_a_list(): assert isinstance(int8_instructions(), list)


# --- real leaves --------------------------------------------------------------------------------------------------------------

def test_real_leaves(tmp_path):
    """Agreement on more than 1,000 augmented views, and accuracy, for a network of 98,000 parameters; `make bench-quantize` has the large ones."""
    if not (LEAVES / "train").is_dir(): pytest.skip(f"the real apple leaves are not at {LEAVES}; set APPLE_LEAVES to a folder with train/CLASS/*.jpg and test/CLASS/*.jpg")
    from PIL import Image
    classes = sorted(p.name for p in (LEAVES / "train").iterdir())
    model = small_cnn("torch", classes)
    def read(part):
        files = [(path, k) for k, name in enumerate(classes) for path in sorted((LEAVES / part / name).glob("*.jpg"))]
        return model.preprocess([Image.open(path) for path, _ in files]), np.array([k for _, k in files])
    (x, y), (test_x, test_y) = read("train"), read("test")
    train, valid = split(np.arange(len(y)), 0.1)
    fit(model, x[train], y[train], (x[valid], y[valid]), epochs=40, rate=0.005, light=0.05, patience=40, progress=False)
    views, truth = augment(np.repeat(test_x, 8, 0), np.random.default_rng(0), light=0.05).round().astype(np.uint8), np.repeat(test_y, 8)
    file = save(model, tmp_path / "float.onnx")
    with Stopwatch() as watch: made = quantize_onnx(file, tmp_path / "int8.onnx", x[representative(x, 100, y)])
    want, got = load(file), load(made)
    alike = agreement(want.predict(views), got.predict(views))
    drop = evaluate(want.predict(views), truth).accuracy - evaluate(got.predict(views), truth).accuracy
    print(f"agreement {alike:.4f} on {len(views)} views, drop {100 * drop:.2f} points, {watch.cpu:.1f} CPU s")
    assert len(views) >= 1000 and alike >= 0.98 and drop < 0.01
    assert evaluate(want.predict(test_x), test_y).accuracy - evaluate(got.predict(test_x), test_y).accuracy < 0.0126, "two of 160 photographs"
    assert watch.cpu < 10 * SLACK
