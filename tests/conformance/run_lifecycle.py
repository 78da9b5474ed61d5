"The cases of `lifecycle_cases.json`: a server for each case, over folders that change while it runs."
import json, shutil, socket, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote
from . import Mismatch, NotRun, Outcome, contains, load, same
from .run_grpc import Client, as_list, value_of
from .run_rest import check_reply, send
from .servers import free_port, stop

HALF = '{"instances": [2.0]}'

class Played:
    "One case while it is played."
    def __init__(self, case, folder, launch, root):
        self.case, self.models, self.launch, self.root, self.setup = case, Path(folder)/"models", launch, Path(root)/"models", case["setup"]
        self.config, self.log, self.ports, self.running, self.client = Path(root)/"models.config", Path(root)/"log", (free_port(), free_port()), None, None
        self.root.mkdir()
        self.url, self.within, self.seen, self.asking, self.calls = f"http://127.0.0.1:{self.ports[1]}", 0, {}, None, []
        for path, origin in self.setup.get("layout", {}).items(): self.put(path, origin)

    # --- what the steps do
    def put(self, path, origin): # a copy under another name, then a rename: whole or not there
        to = self.root/path
        to.parent.mkdir(parents=True, exist_ok=True)
        if origin is None: return to.mkdir()
        new = to.parent/f".{to.name}.new"
        shutil.copytree(self.models/origin, new)
        if to.exists():
            old = to.parent/f".{to.name}.old"
            to.rename(old)
            new.rename(to)
            return shutil.rmtree(old)
        new.rename(to)
    def absolute(self, config):
        config = json.loads(json.dumps(config))
        for model in config.get("model_config_list", {}).get("config", []):
            if not model.pop("_verbatim_base_path", False): model["base_path"] = str(self.root/model["base_path"])
        return config
    def message(self, config):
        from google.protobuf.json_format import ParseDict
        from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig
        message = ParseDict(self.absolute(config), ModelServerConfig())
        if "model_config_list" in config: message.model_config_list.SetInParent()
        return message
    def write(self, text):
        new = self.config.with_suffix(".new")
        new.write_text(text, encoding="utf8")
        new.rename(self.config)
    def do_start(self, step):
        from google.protobuf import text_format
        flags, single = {"port": self.ports[0], "rest_api_port": self.ports[1], **self.setup.get("flags", {})}, self.setup.get("single_model")
        if "config" in self.setup:
            self.write(text_format.MessageToString(self.message(self.setup["config"])))
            flags["model_config_file"] = self.config
        if "config_file" in self.setup: flags["model_config_file"] = self.models/self.setup["config_file"]
        if single:
            verbatim = single.get("_verbatim_base_path") or self.setup.get("_verbatim_base_path")
            flags |= {**single, "model_base_path": single["model_base_path"] if verbatim else self.root/single["model_base_path"]}
            flags.pop("_verbatim_base_path", None)
        self.running = self.launch([f"--{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in flags.items()], self.log)
        self.client = Client(f"127.0.0.1:{self.ports[0]}")
        if step.get("wait_ready", True): self.wait_ready()
    def wait_ready(self, seconds=90):
        until = time.monotonic() + seconds
        for port in self.ports:
            while True:
                try: socket.create_connection(("127.0.0.1", port), 1).close(); break
                except OSError:
                    if self.running.poll() is not None: raise Mismatch(f"the server ended with {self.running.returncode}: {self.tail()}") from None
                    if time.monotonic() > until: raise Mismatch(f"not ready after {seconds} s: {self.tail()}") from None
                    time.sleep(0.05)
    def tail(self): return self.log.read_text(errors="replace")[-600:] if self.log.exists() else ""
    def do_add_version(self, step): self.put(step["path"], step["copy_of"])
    do_replace_version = do_add_version
    def do_rename(self, step): (self.root/step["path"]).rename(self.root/step["to"])
    def do_remove(self, step): shutil.rmtree(self.root/step["path"])
    def do_rewrite_config(self, step):
        from google.protobuf import text_format
        self.write(step["text"] if "text" in step else text_format.MessageToString(self.message(step["config"])))
    def reload(self, step, timeout=60):
        import grpc
        from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
        try: self.client.stubs[1].HandleReloadConfigRequest(ReloadConfigRequest(config=self.message(step["config"])), timeout=timeout)
        except grpc.RpcError as e: return e.code().name, e.details()
        return "OK", ""
    def do_reload_rpc(self, step):
        code, message = self.reload(step)
        want = step.get("expect", {})
        if code != want.get("code", "OK"): raise Mismatch(f"reload: {code} instead of {want.get('code', 'OK')}: {message}")
        contains(message, as_list(want.get("message_contains")))
    def do_reload_rpc_async(self, step): threading.Thread(target=self.reload, args=(step, 30), daemon=True).start()
    def do_wait(self, step):
        time.sleep(step["seconds"])
        self.within = 0
    def do_poll_predict_in_background(self, step):
        self.asking, self.calls = threading.Event(), []
        request = dict(method="POST", path=f"/v1/models/{quote(step['model'], safe='')}:predict", body=HALF)
        def ask():
            while not self.asking.is_set():
                try:
                    status, _, body = send(self.url, request)
                    self.calls.append(json.loads(body)["predictions"][0] if status == 200 else f"status {status}: {body[:200]}")
                except Exception as e: self.calls.append(f"{type(e).__name__}: {e}")
                self.asking.wait(step["interval_ms"] / 1000)
        self.thread = threading.Thread(target=ask, daemon=True)
        self.thread.start()
    def do_stop_background(self, step):
        self.asking.set()
        self.thread.join(60)
        need, failures = step["require"], [c for c in self.calls if isinstance(c, str)]
        if len(failures) > need.get("failures", 0) or not self.calls: raise Mismatch(f"{len(failures)} of {len(self.calls)} requests failed: {failures[:3]}")
        answers = [c for c in self.calls if not isinstance(c, str)]
        if odd := [a for a in answers if a not in need.get("answers_in", answers)]: raise Mismatch(f"the answers {odd[:3]}")
        if (last := need.get("never_back_from")) in answers and any(a != last for a in answers[answers.index(last):]): raise Mismatch(f"after {last} came another answer")

    # --- what is expected
    def holds(self, item):
        (kind, want), = item.items()
        getattr(self, f"check_{kind}")(want)
    def check_rest(self, want):
        expect = {**want["expect"], **({"error_contains": as_list(want["expect"]["error_contains"])} if "error_contains" in want["expect"] else {})}
        try: reply = send(self.url, want, timeout=20)
        except OSError as e: raise Mismatch(f"no reply: {e}") from None
        check_reply(*reply, expect, want.get("accept_status", ()))
    def check_grpc(self, want):
        request, expect = {"model_spec": want["model_spec"]}, want["expect"]
        if "x" in want: request["inputs"] = {"x": dict(dtype="DT_FLOAT", tensor_shape={"dim": [{"size": str(len(want["x"]))}]}, float_val=want["x"])}
        code, message, reply = self.client(want["rpc"], request, 20)
        if code != expect.get("code", "OK"): raise Mismatch(f"{want['rpc']}: {code} instead of {expect.get('code', 'OK')}: {message}")
        contains(message, as_list(expect.get("message_contains")))
        if "version" in expect: same(str(reply.model_spec.version.value), expect["version"], "version")
        if "y" in expect: same(value_of(reply.outputs["y"])[2], expect["y"], "y")
    def states(self, model):
        try: status, _, body = send(self.url, dict(method="GET", path=f"/v1/models/{quote(model, safe='')}"), timeout=20)
        except OSError as e: raise Mismatch(f"no reply: {e}") from None
        return {v["version"]: v for v in json.loads(body)["model_version_status"]} if status == 200 else {}
    def check_states(self, want):
        got = self.states(want["model"])
        same({v: got.get(v, {}).get("state") for v in want.get("versions", {})}, want.get("versions", {}), "states")
        for v in want.get("error_versions", []):
            if got.get(str(v), {}).get("status", {}).get("error_code", "OK") == "OK": raise Mismatch(f"version {v} carries no error")
    def check_state_sequence(self, want):
        order, seen = want["subsequence_of"], self.seen.setdefault((want["model"], want["version"]), [])
        state = self.states(want["model"]).get(want["version"], {}).get("state")
        if state and seen[-1:] != [state]: seen.append(state)
        places = [order.index(s) for s in seen if s in order]
        if len(places) < len(seen) or places != sorted(set(places)): raise AssertionError(f"version {want['version']} went through {seen}, which is not in the order {order}")
        if not seen or seen[-1] != order[-1]: raise Mismatch(f"version {want['version']} is at {state}, expected at the end {order[-1]}")
    def check_process(self, want):
        code = self.running.poll()
        if want.get("exits") != (code is not None): raise Mismatch("the process runs" if code is None else f"the process ended with {code}")
        if want.get("nonzero") and code == 0: raise Mismatch("the process ended with 0")
        contains(self.log.read_text(errors="replace"), as_list(want.get("stderr_contains")))
    def check_any_of(self, want):
        reasons = []
        for some in want:
            try: return [self.holds(item) for item in (some if isinstance(some, list) else [some])] and None
            except Mismatch as e: reasons.append(str(e))
        raise Mismatch(" and ".join(reasons))
    def expect(self, step):
        until = time.monotonic() + (step.get("within_s", 15) if self.within is None else self.within)
        while True:
            try: return [self.holds(item) for item in step["expect"]] and None
            except Mismatch:
                if time.monotonic() >= until: raise
            time.sleep(0.02)

    def play(self):
        try:
            for i, step in enumerate(self.case["steps"]):
                self.within = self.within if "expect" in step and "do" not in step else None  # after a wait, at once
                try: getattr(self, f"do_{step['do']}")(step) if "do" in step else self.expect(step)
                except Mismatch as e: raise Mismatch(f"step {i} ({step.get('do', 'expect')}): {e}") from None
        finally:
            if self.asking: self.asking.set()
            if self.client: self.client.close()
            if self.running: stop(self.running)

def run(folder, launch, only=None, jobs=4): # launch(flags, log): a process; most of a case is waiting, so several are played at a time
    "Play all cases of a folder and print how each went."
    outcome = Outcome()
    def play(case):
        if not launch: raise NotRun("needs a server that the runner may start: give a --server, not an address")
        with TemporaryDirectory(ignore_cleanup_errors=True) as root: Played(case, folder, launch, root).play()
    with ThreadPoolExecutor(jobs) as pool: list(pool.map(lambda case: outcome.play(case, play), load(folder, "lifecycle", only)))
    return outcome
