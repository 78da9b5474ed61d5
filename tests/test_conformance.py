"The run of the cases against tensorflow/serving in Docker, without Docker: what it says where there is none, and, with a stand-in for the command, what it would start."
import os, stat, subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).parent.parent
STAND_IN = f'''#!{sys.executable}
import os, signal, sys, time
from pathlib import Path
words, here = sys.argv[1:], Path(__file__).parent
with open(here/"said", "a") as f: print(*words, file=f)
if words[0] == "compose" and "run" in words:
    flags = words[words.index("tensorflow-serving") + 1:]
    ports = sorted(f.partition("=")[2] for f in flags if f.startswith(("--port=", "--rest_api_port=")))
    published = sorted(w.split(":")[1] for w in words if w.startswith("127.0.0.1:"))
    mounted = [os.environ["CASES"], os.environ["SCRATCH"]]
    paths = [v for f in flags if (v := f.partition("=")[2]).startswith("/")]
    paths += [line.split('"')[3] for p in paths if p.endswith(".config") for line in Path(p).read_text().splitlines() if "base_path" in line]
    if ports != published or len(paths) < 2 or not all(any(p.startswith(m) for m in mounted) for p in paths): sys.exit(f"{{ports}} {{published}} {{paths}} {{mounted}}")
    (here/words[words.index("--name") + 1]).write_text(str(os.getpid()))
    os.execv(sys.executable, [sys.executable, "-m", "mlops_course.tfserving", *flags])
if words[0] == "stop": os.kill(int((here/words[-1]).read_text()), signal.SIGTERM)
if words[0] == os.environ.get("BROKEN"): sys.exit("no such thing here")
'''

def run(tmp_path, *words, docker=True, **env):
    if docker:
        (tmp_path/"docker").write_text(STAND_IN)
        (tmp_path/"docker").chmod(stat.S_IRWXU)
    return subprocess.run([sys.executable, "-m", "tests.conformance.tensorflow_serving", *words], cwd=ROOT, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "PATH": str(tmp_path), "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1", **env})

def test_without_docker_it_says_so(tmp_path):
    done = run(tmp_path, docker=False)
    assert done.returncode == 69 and "no Docker here" in done.stderr and "not played" in done.stderr

@pytest.mark.parametrize("broken, says", [("compose", "its plugin 'compose'"), ("info", "daemon does not answer")])
def test_with_half_a_docker_it_says_which_half(tmp_path, broken, says):
    done = run(tmp_path, BROKEN=broken)
    assert done.returncode == 69 and says in done.stderr and "no such thing here" in done.stderr

def test_cases_are_played_against_what_docker_runs(tmp_path):
    pytest.importorskip("tensorflow_serving", reason="needs tensorflow-serving-api, of the extra tfserving")
    done = run(tmp_path, "--kinds", "grpc", "--only", "predict")
    said = (tmp_path/"said").read_text()
    assert done.returncode == 0 and "grpc: " in done.stdout and "0 FAIL" in done.stdout and "0 not run" in done.stdout, done.stdout + done.stderr
    assert "pull" in said and said.count("run --rm") == said.count("stop --time") == 1

def test_the_compose_file_has_what_the_cases_need():
    yaml = pytest.importorskip("yaml")
    service, = yaml.safe_load((ROOT/"tests"/"conformance"/"compose.yaml").read_text())["services"].values()
    assert service["entrypoint"] == ["tensorflow_model_server"] and "tensorflow/serving:" in service["image"]
    assert [(v["source"].split(":")[0].strip("${}"), v["target"].strip("${}"), v["read_only"]) for v in service["volumes"]] == [("CASES", "CASES", True), ("SCRATCH", "SCRATCH", True)]
