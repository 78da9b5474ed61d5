"""Play a folder of cases and print how each went; the exit status is 0 if all passed that must, and all were run.

    python tests/conformance                              our own cases, on a small server in this process
    python tests/conformance FOLDER                       a server of the course is started for the REST cases
    python tests/conformance FOLDER --url http://...:8501 against a running server, for instance TF Serving itself
"""
import argparse, sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]))
from conformance import OWN, run_json, run_rest, servers

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("folder", nargs="?", type=Path, default=OWN, help="a folder with rest_cases.json, json_tensor_cases.json and models/")
p.add_argument("--url", help="REST address of a running server that serves the models of the cases")
p.add_argument("--monitored-url", help="the same, of one that was started with the monitoring configuration of the cases")
p.add_argument("--server", default="mlops-course serve tfserving", help="the program to start when there is no --url (default: %(default)s)")
p.add_argument("--only", help="only the cases with this in their id")
a = p.parse_args()
start = servers.running(a.url, a.monitored_url) if a.url else servers.arithmetic if a.folder == OWN else servers.process(a.server, a.folder)
runs = [("rest", lambda: run_rest.run(a.folder, start, a.only))] + ([] if a.url else [("json_tensor", lambda: run_json.run(a.folder, a.only))])
outcomes = {kind: play() for kind, play in runs if (a.folder/f"{kind}_cases.json").exists()}
for kind, outcome in outcomes.items(): print(f"{kind}: {outcome}")
sys.exit(not (outcomes and all(o.ok for o in outcomes.values())))
