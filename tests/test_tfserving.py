"The server of chapter 07 as a process: others' cases over real sockets, swaps under load, SavedModels of every age, memory, flags and signals."
import contextlib, gc, os, re, signal, subprocess, sys, time
from pathlib import Path
import numpy as np
import pytest
tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_serving", reason="needs tensorflow-serving-api, of the extra tfserving")
from conformance import OWN, kinds_of, load, processes, run_grpc, run_lifecycle, run_rest, servers
from mlops_course.core import free_port
from mlops_course.server import ask
from mlops_course.tfjson import Status
from mlops_course.tfserving import Options, Servable, Versions, half_plus
import swaps

OTHERS = Path(os.environ.get("TFSERVING_CASES", Path(__file__).parents[2]/"shared"/"conformance"/"tfserving"))
others = pytest.mark.skipif(not OTHERS.is_dir(), reason=f"no cases in {OTHERS}: set TFSERVING_CASES to a folder with rest_cases.json, grpc_cases.json, lifecycle_cases.json and models/")

@pytest.fixture(scope="module")
def warm():
    with processes.Warm() as launch: yield launch

# --- conformance
def test_own_grpc_and_lifecycle_cases(warm):
    with servers.with_models(OWN) as folder: outcomes = run_grpc.run(folder, servers.process(warm, folder)), run_lifecycle.run(folder, warm, jobs=6)
    for outcome in outcomes: assert outcome.ok and outcome.count("pass") > 10, outcome

@others
def test_rest_and_grpc_cases(warm):
    start = servers.process(warm, OTHERS)
    for outcome in (run_rest.run(OTHERS, start), run_grpc.run(OTHERS, start)): assert outcome.ok, outcome

@others
def test_lifecycle_cases(warm):
    outcome = run_lifecycle.run(OTHERS, warm, jobs=6)
    assert outcome.ok, outcome

@others
def test_a_wrong_server_is_seen(warm): # the runners can say no: every model of the cases answers, but with another model
    def start(models, monitoring=None):
        return servers.process(warm, OTHERS)({name: {**m, "dir": "saved_model_half_plus_three", "version_policy": {}} for name, m in models.items()}, monitoring)
    outcome = run_grpc.run(OTHERS, start, "grpc-predict-cpu")
    assert not outcome.ok and outcome.count("FAIL") == 1

def played(folder, *words): # as one calls it → exit code, what was printed
    done = subprocess.run([sys.executable, "-m", "tests.conformance", str(folder), *words], cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=600, env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"})
    return done.returncode, done.stdout, done.stderr

@pytest.mark.parametrize("folder", [OWN, pytest.param(OTHERS, marks=others)], ids=["own", "others"])
def test_the_runner_against_servers_that_run_already(warm, folder):
    "Every case is played and printed, over the sockets of servers that somebody else started; and what wants to start and stop them counts as not run."
    kinds = ["json_tensor", "grpc"] if folder == OWN else ["json_tensor", "grpc", "rest"]  # our own REST cases have models of arithmetic
    with servers.with_models(folder) as here, contextlib.ExitStack() as stack:
        ids = {kind: [case["id"] for case in load(here, kind)] for kind in kinds}
        start, models = servers.process(warm, here), run_rest.models([case for kind in kinds[1:] for case in load(here, kind)])
        words = ["--grpc", stack.enter_context(start(models)).grpc]
        if "rest" in kinds: # two servers: REST and gRPC want the same model new
            monitoring, = {m for m, _ in run_rest.groups(load(here, "rest")) if m}
            words += ["--rest", stack.enter_context(start(models)), "--monitored-rest", stack.enter_context(start(models, monitoring))]
        code, said, wrong = played(here, *words, "--kinds", ",".join(kinds))
        assert code == 0 and "lifecycle: not asked for" in said, said[-3000:] + wrong[-3000:]
        for kind in kinds:
            counted = re.search(rf"(?m)^{kind}[^:\n]*: (\d+) cases: (\d+) pass, 0 FAIL, (\d+) differs, 0 not run$", said)
            assert counted and int(counted[1]) == int(counted[2]) + int(counted[3]) == len(ids[kind])
            assert all(re.search(rf"(?m)^(pass|differs) +{re.escape(i)}(:|$)", said) for i in ids[kind])
        code, said, _ = played(here, *words, "--kinds", "lifecycle")
        assert code == 1 and re.search(r"(?m)^lifecycle: (\d+) cases: 0 pass, 0 FAIL, 0 differs, \1 not run$", said)

def test_kinds_that_are_not_there_are_named(tmp_path, capsys):
    (tmp_path/"grpc_cases.json").write_text("[]")
    assert kinds_of(tmp_path) == (["grpc"], True) and "rest: not run, there is no" in capsys.readouterr().out      # a folder need not have all
    assert kinds_of(tmp_path, "grpc,rest") == (["grpc"], False) and "rest: not run, there is no" in capsys.readouterr().out
    assert kinds_of(tmp_path, "rest") == ([], False) and "grpc: not asked for" in capsys.readouterr().out
    assert kinds_of(tmp_path, None, ("rest",)) == ([], True) and "grpc: not run, these cases are not for this server" in capsys.readouterr().out
    (tmp_path/"batching_cases.json").write_text("[]")
    assert kinds_of(tmp_path) == (["grpc"], False) and "batching: not run, nothing here can play it" in capsys.readouterr().out

# --- swaps
def test_swaps_under_load(warm):
    measured = swaps.swap(warm, swaps=5, connections=50, slack=10)  # other tests run beside it; alone, `python tests/swaps.py` keeps to one second
    assert measured["failed"] == 0 and measured["requests"] > 500

def test_a_failed_request_or_a_late_version_is_seen():
    good = [[(0, .1, 4.), (1, 1.1, 3.), (2, 2.1, 3.)]]
    swaps.check(good, [.5], {2: .1}, 1)
    for seen in ([[(0, .1, 4.), (1, 1.1, "HTTP/1.1 404")]], [[(0, .1, 4.), (1, 1.1, 3.), (2, 2.1, 4.)]], [[(0, .1, 4.), (9, 9.1, 3.)]]):
        with pytest.raises(AssertionError): swaps.check(seen, [.5], {2: .1}, 1)

def test_the_table_of_swaps():
    about = dict(date="2026-11-21T00:00", commit="abc", machine=dict(processor="x", cores=2, python="3", tensorflow="2", load_before=0.))
    seen = [[(0, .1, 4.), (1, 1.1, 3.), (2, 2.1, 3.), (4, 4.5, 4.)], [(0, .1, 4.), (1, 1.2, 3.), (2, 2.1, 3.), (4, 4.4, 4.)]]
    m = about | swaps.measured(seen, [.5, 3.5], {2: .1, 3: .3})
    assert (m["swaps"], m["requests"], m["failed"], m["changes"], m["until_new"], m["loading"]) == (2, 8, 0, 2, [.6, .9], [.1, .3]) and swaps.complaints(m) == []
    assert "| 0.75 | 0.90 |" in swaps.table(m) and "| 1.20 | 1.30 |" in swaps.table(m) and "Within poll interval + loading: 2 of 2" in swaps.table(m) and "All held" in swaps.table(m)
    late = about | swaps.measured([[*seen[0][:3], (4, 6.2, "HTTP/1.1 503")]], [.5, 3.5], {2: .1, 3: .3})
    assert late["until_new"] == [.6, 30] and len(swaps.complaints(late)) == 2 and "1 requests failed" in swaps.table(late) and "2; with 1 s more for the machine: 1. **Did not hold:**" in swaps.table(late)

# --- SavedModels of every age
def test_a_model_trained_and_saved_by_legacy_keras_serves(warm, tmp_path):
    pytest.importorskip("tf_keras", reason="Keras 2 is not installed (pip install tf_keras)")
    make = f"""
import numpy as np, tf_keras as keras
keras.utils.set_random_seed(0)
model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.BatchNormalization(), keras.layers.Dense(3, "softmax")])
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
x = np.random.default_rng(0).normal(size=(600, 4)).astype("f4"); y = x[:, :3].argmax(axis=1)
model.fit(x, y, epochs=30, verbose=0)
assert model.evaluate(x, y, verbose=0)[1] > 0.8
model.save(r"{tmp_path/'legacy'/'1'}", save_format="tf")
np.save(r"{tmp_path/'expected.npy'}", model.predict(np.arange(8, dtype="f4").reshape(2, 4), verbose=0))
"""
    subprocess.run([sys.executable, "-c", make], check=True, timeout=300, env={**os.environ, "TF_USE_LEGACY_KERAS": "1"})
    served = Servable("legacy", 1, tmp_path/"legacy"/"1")
    (name,), x = served.signatures["serving_default"].inputs, np.arange(8, dtype="f4").reshape(2, 4)
    np.testing.assert_allclose(next(iter(served.run("", {name: x}).values())), expected := np.load(tmp_path/"expected.npy"), atol=1e-6)
    served.close()
    port = free_port()
    running = warm([f"--port={free_port()}", f"--rest_api_port={port}", "--model_name=legacy", f"--model_base_path={tmp_path/'legacy'}"], tmp_path/"log")
    try:
        until = time.monotonic() + 60
        while (reply := ask(f"http://127.0.0.1:{port}", "POST", "/v1/models/legacy:predict", {"instances": x.tolist()})).status != 200 and time.monotonic() < until: time.sleep(0.1)
    finally: running.kill()
    np.testing.assert_allclose(reply.json["predictions"], expected, atol=1e-6)

def test_a_model_exported_by_keras_3_serves(tmp_path):
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3, "softmax")])
    model.export(str(tmp_path/"1"), verbose=False)
    served, x = Servable("new", 1, tmp_path/"1"), np.ones((5, 4), "f4")
    (name,) = served.signatures["serving_default"].inputs
    np.testing.assert_allclose(next(iter(served.run("", {name: x}).values())), model(x).numpy(), atol=1e-6)
    served.close()

def test_a_tf1_model_with_a_vocabulary_file_and_a_table_serves(tmp_path): # as estimators saved them: reference variables, assets, tables to initialize
    v1, words = tf.compat.v1, tmp_path/"words.txt"
    words.write_text("cat\ndog\n")
    with tf.Graph().as_default(), v1.Session() as session:
        asset = v1.constant(str(words), name="asset")
        v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, asset)
        table = tf.lookup.StaticHashTable(tf.lookup.TextFileInitializer(asset, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER), -1)
        word, weight = v1.placeholder(tf.string, [None], "word"), v1.get_variable("w", initializer=[10., 20.], use_resource=False)
        y = tf.gather(weight, tf.maximum(table.lookup(word), 0))
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        builder = v1.saved_model.Builder(str(tmp_path/"1"))
        builder.add_meta_graph_and_variables(session, ["serve"], assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS), main_op=v1.tables_initializer(),
                                             signature_def_map={"serving_default": v1.saved_model.signature_def_utils.predict_signature_def({"word": word}, {"y": y})})
        builder.save()
    words.unlink()
    served = Servable("words", 1, tmp_path/"1")
    assert served.run("", {"word": np.array([b"dog", b"cat"], object)})["y"].tolist() == [20, 10]
    served.close()

def test_warm_up_requests_are_replayed_and_a_failing_one_refuses_the_version(tmp_path):
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
    def with_requests(n, values):
        folder, log = half_plus(1, tmp_path/str(n)), PredictionLog()
        log.predict_log.request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.array(values)))
        (folder/"assets.extra").mkdir()
        with tf.io.TFRecordWriter(str(folder/"assets.extra"/"tf_serving_warmup_requests")) as f: f.write(log.SerializeToString())
        return folder
    Servable("m", 1, with_requests(1, np.float32([2]))).close()
    with pytest.raises(Status, match="Expects arg"): Servable("m", 2, with_requests(2, ["text"]))

# --- memory: a version that is gone leaves nothing behind
def test_thirty_swaps_do_not_grow(tmp_path):
    def rss(): return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    if not Path("/proc/self/statm").exists(): pytest.skip("reads /proc")
    module = tf.Module()
    module.w = tf.Variable(np.zeros((1000, 500), "f4"))   # 2 MB
    tf.saved_model.save(module, str(tmp_path/"big"), signatures=tf.function(lambda x: {"y": x @ module.w}, input_signature=[tf.TensorSpec([None, 1000])]))
    gc.collect(); gc.freeze()  # as the server does, so that a collection looks at the models only
    versions, at = Versions(Options(threads=(1, 1))), {}
    for n in range(1, 36):
        versions.want("m", {n: str(tmp_path/"big")})
        until = time.monotonic() + 30
        while {k: s.state for k, s in versions.states("m").items() if s.state != "END"} != {n: "AVAILABLE"}:
            assert time.monotonic() < until
            time.sleep(0.005)
        versions.find("m").servable.run("", {"x": np.zeros((1, 1000), "f4")})
        if n == 5: at["early"] = rss()
    grown = rss() - at["early"]
    versions.close()
    gc.unfreeze()
    assert grown < 30, f"{grown:.0f} MB more after 30 swaps of 2 MB"
    print(f"{grown:.1f} MB more after 30 swaps")

# --- the process
def run_it(*flags, seconds=120):
    return subprocess.run([sys.executable, "-m", "mlops_course.tfserving", *flags], capture_output=True, text=True, timeout=seconds, env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"})

def test_a_misspelt_flag_names_the_nearest():
    done = run_it("--model_config=x")
    assert done.returncode == 1 and "Did you mean --model_config_file?" in done.stderr

def test_a_model_that_cannot_load_ends_the_start(warm, tmp_path):
    (tmp_path/"m"/"1").mkdir(parents=True)
    running = warm([f"--port={free_port()}", "--model_name=m", f"--model_base_path={tmp_path/'m'}", "--max_num_load_retries=0"], tmp_path/"log")
    assert running.wait(60) == 1 and "1 model(s) did not become available: {{{name: m version: 1} due to error" in (tmp_path/"log").read_text()

def test_the_process_answers_and_sigterm_lets_requests_end(tmp_path):
    half_plus(2, tmp_path/"m"/"1")
    port = free_port()
    with open(tmp_path/"log", "wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "mlops_course.tfserving", "--port=0", f"--rest_api_port={port}", "--model_name=m", f"--model_base_path={tmp_path/'m'}", "--enable_batching"],
                                   stderr=log, stdout=log, env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"})
    try:
        until = time.monotonic() + 90
        while not (reply := ask(f"http://127.0.0.1:{port}", "POST", "/v1/models/m:predict", b'{"instances": [2]}', timeout=5)).status and time.monotonic() < until: time.sleep(0.1)
        assert reply.json == {"predictions": [3]}, (tmp_path/"log").read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally: process.kill()
