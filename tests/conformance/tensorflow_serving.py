"""Play the cases against Google's own server, tensorflow/serving, in Docker (compose.yaml beside this file).

    python -m tests.conformance.tensorflow_serving [FOLDER] [--kinds rest,grpc,lifecycle] [--only PART-OF-AN-ID]      TF_SERVING_IMAGE=tensorflow/serving:2.18.0

Ends with 0 if all cases passed that must and all were run, with 1 if not, and with 69 where there is no Docker to run it in (sysexits.h: a service is unavailable).
"""
import argparse, itertools, os, shutil, subprocess, sys, tempfile
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]))
from conformance import OWN, kinds_of, run_grpc, run_lifecycle, run_rest, servers

NO_DOCKER = 69
COMPOSE = ["docker", "compose", "--file", str(Path(__file__).with_name("compose.yaml"))]

def missing(): # '' where all is there
    "What keeps us from starting a container, as a sentence."
    if not shutil.which("docker"): return "There is no Docker here (no command 'docker')"
    for words, what in ((["docker", "compose", "version"], "Docker is installed, but not its plugin 'compose' (version 2)"), (["docker", "info"], "Docker is installed, but its daemon does not answer")):
        try: done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        except subprocess.TimeoutExpired: return f"{what}: {' '.join(words)} gave no answer in a minute"
        if done.returncode: return f"{what} ({(done.stderr or done.stdout).strip().splitlines()[0]})"
    return ""

class Container(subprocess.Popen):
    "A server in a container, with what the runner needs of a process."
    numbers = itertools.count()
    def __init__(self, flags, log, env):
        self.name = f"conformance-{os.getpid()}-{next(self.numbers)}"
        ports = [f.partition("=")[2] for f in flags if f.startswith(("--port=", "--rest_api_port="))]
        published = [word for port in ports for word in ("--publish", f"127.0.0.1:{port}:{port}")]
        with open(log, "wb") as out:
            super().__init__([*COMPOSE, "run", "--rm", "--no-TTY", "--quiet-pull", "--name", self.name, *published, "tensorflow-serving", *flags], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env)
    def terminate(self): self._docker("stop", "--time", "5", self.name)
    def kill(self):
        self._docker("rm", "--force", self.name)
        super().kill()
    def _docker(self, *words): subprocess.run(["docker", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", nargs="?", type=Path, default=OWN, help="a folder with *_cases.json and models/ (default: our own cases)")
    p.add_argument("--kinds", help="which cases (default: all that need a server; the REST cases of our own folder have no SavedModels)")
    p.add_argument("--only", help="only the cases with this in their id")
    a = p.parse_args()
    if why := missing():
        print(f"{why}. The cases were not played against tensorflow/serving. To install Docker: https://docs.docker.com/get-docker/", file=sys.stderr)
        return NO_DOCKER
    tempfile.tempdir = scratch = tempfile.mkdtemp(prefix="conformance-")
    os.chmod(scratch, 0o755)  # the server in the container may run as somebody else
    try: return play(a, Path(scratch).resolve())
    finally: shutil.rmtree(scratch, ignore_errors=True)

def play(a, scratch):
    outcomes = {}
    with servers.with_models(a.folder.absolute()) as folder:
        env = {**os.environ, "CASES": str(folder.resolve()), "SCRATCH": str(scratch)}
        subprocess.run([*COMPOSE, "pull", "--quiet"], env=env, check=True)
        launch = lambda flags, log: Container(flags, log, env)
        start = servers.process(launch, folder)
        kinds, well = kinds_of(folder, a.kinds, ("grpc", "lifecycle") if a.folder.resolve() == OWN.resolve() else ("rest", "grpc", "lifecycle"))
        for kind in kinds: outcomes[kind] = run_lifecycle.run(folder, launch, a.only) if kind == "lifecycle" else {"rest": run_rest, "grpc": run_grpc}[kind].run(folder, start, a.only)
    for kind, outcome in outcomes.items(): print(f"{kind}: {outcome}")
    return 0 if well and outcomes and all(o.ok for o in outcomes.values()) else 1

if __name__ == "__main__": sys.exit(main())
