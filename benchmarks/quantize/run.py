"""What quantization gains and costs: one thread, one run, all variants in turns. Run it by `make bench-quantize`; README.md says what it does."""
import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from datetime import datetime, timezone
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1", TF_ENABLE_ONEDNN_OPTS="0")
import numpy as np

from mlops_course.core import race
from mlops_course.data import leaves, representative
from mlops_course.edge import convert_all
from mlops_course.quantize import CALIBRATIONS, agreement, int8_instructions, quantize, quantize_onnx, quantize_onnx_dynamic, quantize_torch
from mlops_course.serialize import save
from mlops_course.train import Preprocess, augment, fit, get_weights, parameters, resnet50, set_weights, small_cnn, split

HERE = Path(__file__).parent
WORK, PHOTOS = HERE / "work", HERE.parent.parent.parent / "shared" / "data" / "apple_leaves"
LARGE, WIDTHS, BATCHES = 48, (4, 8, 16, 24), (1, 32)
FLOATS, ASSERTED = ("ONNX Runtime float32", "LiteRT float32"), "ONNX Runtime int8 (minmax)"  # the best of the first two is what the last is held against


def say(text, end="\n"): print(text, end=end, file=sys.stderr, flush=True)


# --- the pictures and the model -------------------------------------------------------------------------------------------

def photos(folder):
    "Train and test photographs as pixels and labels, and the names of the classes; None where the folder is not there."
    from PIL import Image
    if not (folder / "train").is_dir() or not (folder / "test").is_dir(): return None
    classes = sorted(p.name for p in (folder / "train").iterdir() if p.is_dir())
    prep, out = Preprocess(classes), []
    for part in ("train", "test"):
        files = [(path, k) for k, name in enumerate(classes) for path in sorted((folder / part / name).glob("*.jpg"))]
        out.append((prep([Image.open(path) for path, _ in files]), np.array([k for _, k in files])))
    return classes, *out


def trained(classes, x, y, epochs):
    "small_cnn of 874,000 parameters, trained; kept in `work` for the next run on the same photographs."
    model = small_cnn("torch", classes, width=LARGE)
    kept = WORK / f"trained-{epochs}-{hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()[:12]}.npz"
    if kept.exists():
        with np.load(kept) as arrays: return set_weights(model, dict(arrays))
    say(f"training {parameters(model):,} parameters, {epochs} epochs, on {len(x)} photographs (some minutes; kept for the next run)")
    train, valid = split(np.arange(len(y)), 0.1)
    fit(model, x[train], y[train], (x[valid], y[valid]), epochs=epochs, rate=0.01, light=0.05, patience=epochs, progress=sys.stderr.isatty())
    np.savez(kept, **get_weights(model))
    return model


# --- the variants: each is a size and a function that makes a runner for pixels (n, size, size, 3) ---------------------------

def onnx_runner(path):
    import onnxruntime as ort
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    def prepared(pixels):
        feed = {name: pixels.astype(np.float32)}
        return lambda: session.run(None, feed)[0]
    return prepared


def litert_runner(path):
    from ai_edge_litert.interpreter import Interpreter
    def prepared(pixels):
        it = Interpreter(str(path), num_threads=1)
        door, out = it.get_input_details()[0], it.get_output_details()[0]
        it.resize_tensor_input(door["index"], pixels.shape)
        it.allocate_tensors()
        x = quantize(pixels, *door["quantization"]) if door["dtype"] == np.uint8 else pixels.astype(np.float32)
        def run():
            it.set_tensor(door["index"], x)
            it.invoke()
            return it.get_tensor(out["index"])
        return run
    return prepared


def torch_runner(model):
    import torch
    def prepared(pixels):
        x = torch.from_numpy(pixels)
        def run():
            with torch.inference_mode(): return model(x).numpy()
        return run
    return prepared


def torch_bytes(model):
    import torch
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(model.state_dict(), buffer := BytesIO())
    return buffer.tell()


def variants(name, model, twin, calibration, methods=tuple(CALIBRATIONS)):
    "name -> (bytes, runner) of one model in all runtimes; `twin` is the same model in Keras."
    folder = WORK / name
    folder.mkdir(parents=True, exist_ok=True)
    files = {"ONNX Runtime float32": save(model, folder / "float32.onnx", tolerance=1e-3)}
    for method in methods: files[f"ONNX Runtime int8 ({method})"] = quantize_onnx(files["ONNX Runtime float32"], folder / f"{method}.onnx", calibration, method=method)
    files["ONNX Runtime int8, dynamic"] = quantize_onnx_dynamic(files["ONNX Runtime float32"], folder / "dynamic.onnx")
    for variant, path in convert_all(twin, folder, calibration).items(): files[f"LiteRT {variant}"] = path
    made = {title: (path.stat().st_size, (onnx_runner if path.suffix == ".onnx" else litert_runner)(path)) for title, path in files.items()}
    made["torch float32"] = torch_bytes(model), torch_runner(model)
    if type(model).__name__ == "SmallCNN":
        byte_model = quantize_torch(model, calibration)
        made["torch int8"] = torch_bytes(byte_model), torch_runner(byte_model)
    return made


# --- measuring ------------------------------------------------------------------------------------------------------------

def timed(made, size, batch, rounds):
    pixels = leaves(batch, size=size, seed=9)[0]
    t = race({title: runner(pixels) for title, (_, runner) in made.items()}, rounds)
    return {title: {"min_ms": round(1e3 * min(seconds), 4), "median_ms": round(1e3 * float(np.median(seconds)), 4)} for title, seconds in t.items()}


def answers(made, pixels, step=40):
    "Logits of each variant; `step` divides the number of pictures, so that shapes are set once."
    out = {}
    for title, (_, runner) in made.items():
        say(f"  answers of {title} to {len(pixels):,} pictures")
        out[title] = np.concatenate([runner(pixels[i:i+step])() for i in range(0, len(pixels), step)])
    return out


def gains(made, times):
    "Each variant against the best float32 of ONNX Runtime and LiteRT."
    best_size, rows = min(made[f][0] for f in FLOATS), {}
    for title, (size, _) in made.items():
        rows[title] = {"bytes": size, "smaller": round(best_size / size, 3)}
        for batch, t in times.items():
            best = min(FLOATS, key=lambda f: t[f]["min_ms"])
            rows[title] |= {f"faster_{batch}": round(t[best]["min_ms"] / t[title]["min_ms"], 3), f"faster_{batch}_by_median": round(min(t[f]["median_ms"] for f in FLOATS) / t[title]["median_ms"], 3), f"ms_{batch}": t[title]}
    return rows


def small_case(found, rounds, epochs):
    "The accuracy case: 874,000 parameters, trained on photographs where there are any."
    if found:
        classes, (x, y), (test, truth) = found
        model = trained(classes, x, y, epochs)
        calibration = x[representative(x, 100, y)]
    else:
        model, calibration = small_cnn("torch", 4, width=LARGE), leaves(50, seed=3)[0]
    labels = model.preprocess.labels
    say("small_cnn, 874,000 parameters: converting")
    made = variants("small", model, set_weights(small_cnn("keras", labels, width=LARGE), get_weights(model)), calibration)
    times = {}
    for batch in BATCHES:
        say(f"  timing, batch {batch}")
        times[batch] = timed(made, 64, batch, rounds if batch == 1 else max(5, rounds // 5))
    case = {"parameters": parameters(model), "variants": gains(made, times)}
    if not found: return case
    views = augment(np.repeat(test, 8, 0), np.random.default_rng(0), light=0.05).round().astype(np.uint8)
    of_views, of_photos = answers(made, views), answers(made, test)
    score = lambda z, t: float((z.argmax(1) == t).mean())
    for title, row in case["variants"].items():
        row |= {"agreement": agreement(of_views[FLOATS[0]], of_views[title]), "accuracy": score(of_photos[title], truth), "accuracy_views": score(of_views[title], np.repeat(truth, 8))}
    return case | {"photographs": len(test), "views": len(views)}


def width_case(width, rounds):
    "Size and speed only: weights as they come."
    say(f"small_cnn, width {width}")
    model = small_cnn("torch", 4, width=width)
    made = variants(f"w{width}", model, set_weights(small_cnn("keras", 4, width=width), get_weights(model)), leaves(20, seed=3)[0], methods=("minmax",))
    return {"parameters": parameters(model), "variants": gains(made, {1: timed(made, 64, 1, rounds)})}


def resnet_case(rounds):
    say("ResNet-50: building and converting (a minute or two)")
    model = resnet50("torch")
    made = variants("resnet50", model, resnet50("keras"), leaves(8, size=224, seed=3)[0], methods=("minmax",))
    del made["ONNX Runtime int8, dynamic"]  # a hundred times as slow as it should be; the small one shows that
    say("  timing, batch 1")
    return {"parameters": parameters(model), "variants": gains(made, {1: timed(made, 224, 1, rounds)})}


def targets(results):
    "What is promised, what was measured, and whether it counts on this processor."
    fast, rows = bool(results["instructions"]), []
    def target(what, value, limit, at_least=True, counts=True, why=""):
        held = None if value is None else bool(value >= limit if at_least else value < limit)
        rows.append({"what": what, "measured": value, "limit": limit, "at_least": at_least, "held": held, "counts": counts and value is not None, "why_not": "" if counts and value is not None else why or results["photos"]})
    no_bytes = "this processor has no instructions that multiply bytes"
    for name, smaller, faster in (("small", 3.5, 2.0), ("resnet50", 3.85, 3.0)):
        if name not in results["cases"]: continue
        row = results["cases"][name]["variants"][ASSERTED]
        target(f"{name}: times smaller than the smallest float32", row["smaller"], smaller)
        target(f"{name}: times faster than the best float32, batch 1", row["faster_1"], faster, counts=fast, why=no_bytes)
    case = results["cases"]["small"]
    row, base = case["variants"][ASSERTED], case["variants"][FLOATS[0]]
    seen = "agreement" in row
    target(f"small: agreement with float32 on {case.get('views', 0):,} views", row["agreement"] if seen else None, 0.98)
    target("small: views that count, at least 1,000", case["views"] if seen else None, 1000)
    for key, what in (("accuracy_views", "the views"), ("accuracy", "the test photographs")):
        target(f"small: accuracy drop on {what}, points", round(100 * (base[key] - row[key]), 3) if seen else None, 1.0, at_least=False)
    return rows


# --- the table and the plot -----------------------------------------------------------------------------------------------

def machine():
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine()) if os.path.exists("/proc/cpuinfo") else platform.machine()
    return {"processor": model, "cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version(), "load_before": round(os.getloadavg()[0], 2)}


def commit():
    git = lambda *words: subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True).stdout.strip()
    try: return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except OSError: return ""


def _row(*cells): return "| " + " | ".join(map(str, cells)) + " |"


def table(r):
    m = r["machine"]
    out = [f"Measured {r['date'][:10]} on one thread of {m['processor']} ({', '.join(r['instructions']) or 'no byte instructions'}), Python {m['python']}: " + ", ".join(f"{k} {v}" for k, v in r["versions"].items())
           + (f" at {r['commit']}" if r["commit"] else "") + ". Times are CPU time, the smallest of many turns; smaller and faster are against the best float32 of ONNX Runtime and LiteRT.", "",
           _row("target", "measured", "limit", "verdict"), _row(*["---"] * 4)]
    for t in r["targets"]:
        out.append(_row(t["what"], "–" if t["measured"] is None else f"{t['measured']:.4g}", f"{'≥' if t['at_least'] else '<'} {t['limit']:g}", f"{'held' if t['held'] else 'missed'}" + ("" if t["counts"] else f" (does not count: {t['why_not']})") if t["held"] is not None else f"not measured: {t['why_not']}"))
    for name, case in r["cases"].items():
        batches, seen = [b for b in BATCHES if f"faster_{b}" in case["variants"][ASSERTED]], "views" in case
        head = ["variant", "bytes", "times smaller", *(f"times faster, batch {b}" for b in batches), *(f"ms, batch {b}" for b in batches)] + (["agreement", "accuracy, photographs", "accuracy, views"] if seen else [])
        out += ["", f"**{name}**, {case['parameters']:,} parameters" + (f", {case['photographs']} test photographs, {case['views']:,} views of them" if seen else ", untrained weights"), "", _row(*head), _row(*["---"] * len(head))]
        for title, v in case["variants"].items():
            out.append(_row(title, f"{v['bytes']:,}", f"{v['smaller']:.2f}", *(f"{v[f'faster_{b}']:.2f}" for b in batches), *(f"{v[f'ms_{b}']['min_ms']:.3g}" for b in batches), *([f"{v['agreement']:.4f}", f"{v['accuracy']:.4f}", f"{v['accuracy_views']:.4f}"] if seen else [])))
    return "\n".join(out) + "\n"


def picture(r):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    fig, (one, two, three) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    rows = r["cases"]["small"]["variants"]
    place = np.arange(len(rows))
    one.barh(place - 0.2, [v["smaller"] for v in rows.values()], 0.38, color="#1c568f", label="times smaller")
    one.barh(place + 0.2, [v["faster_1"] for v in rows.values()], 0.38, color="#c4511f", label="times faster, one picture")
    one.set_yticks(place, rows); one.invert_yaxis(); one.axvline(1, color="k", lw=0.6, ls=":"); one.legend(frameon=False, fontsize=8); one.set_title(f"small_cnn, {r['cases']['small']['parameters']:,} parameters", fontsize=10)
    cases = sorted(r["cases"].values(), key=lambda c: c["parameters"])
    for ax, key, title in ((two, "smaller", "times smaller"), (three, "faster_1", "times faster, one picture")):
        for name, colour in ((ASSERTED, "#1c568f"), ("LiteRT int8", "#c4511f"), ("LiteRT dynamic", "#e0a32e")):
            ax.semilogx([c["parameters"] for c in cases], [c["variants"][name][key] for c in cases], "o-", color=colour, label=name)
        ax.axhline(1, color="k", lw=0.6, ls=":"); ax.set(xlabel="parameters (the last is ResNet-50)" if "resnet50" in r["cases"] else "parameters", title=title, ylim=(0, None))
    two.legend(frameon=False, fontsize=8)
    fig.savefig(HERE / "results.png", dpi=110)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--photos", type=Path, default=PHOTOS, help="a folder with train/CLASS/*.jpg and test/CLASS/*.jpg; without it accuracy is not measured")
    p.add_argument("--rounds", type=int, default=100, help="turns of each timing; ResNet-50 takes a tenth")
    p.add_argument("--epochs", type=int, default=30, help="of training")
    p.add_argument("--no-large", action="store_true", help="leave out ResNet-50")
    args = p.parse_args()
    if args.rounds < 5: p.error(f"at least 5 rounds; got {args.rounds}")
    import torch
    torch.set_num_threads(1)
    WORK.mkdir(exist_ok=True)
    start, found = time.perf_counter(), photos(args.photos)
    reason = "" if found else f"no photographs at {args.photos}; name a folder by --photos"
    if reason: say(reason)
    packages = ("onnxruntime", "ai-edge-litert", "torch", "tensorflow", "onnx")
    results = {"format": 1, "date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "commit": commit(), "machine": machine(), "instructions": int8_instructions(),
               "versions": {k: version(k) for k in packages}, "photos": reason, "rounds": args.rounds, "cases": {"small": small_case(found, args.rounds, args.epochs)}}
    for width in WIDTHS: results["cases"][f"width {width}"] = width_case(width, args.rounds)
    if not args.no_large: results["cases"]["resnet50"] = resnet_case(max(5, args.rounds // 10))
    results["targets"] = targets(results)
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "results.md").write_text(table(results))
    picture(results)
    print(table(results))
    say(f"Wrote {HERE / 'results.json'}, results.md and results.png in {time.perf_counter() - start:.0f} s")
    missed = [t for t in results["targets"] if t["counts"] and not t["held"]]
    for t in missed: say(f"MISSED  {t['what']}: {t['measured']:.4g}, and {'at least' if t['at_least'] else 'less than'} {t['limit']:g} was promised")
    if missed: sys.exit(1)


if __name__ == "__main__":
    try: main()
    except KeyboardInterrupt: sys.exit("\nstopped; results.json holds the run before")
