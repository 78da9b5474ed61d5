"""Play a folder of cases and print how each went; the exit status is 0 if all passed that must, and all were run.

    python -m tests.conformance                                          our own cases, on the server of the course and, for REST, on a small one in this process
    python -m tests.conformance FOLDER                                   the server of the course, started for the cases
    python -m tests.conformance FOLDER --server "CMD"                    any program with TF Serving's flags, started for the cases
    python -m tests.conformance FOLDER --rest http://HOST:8501 --grpc HOST:8500    a server that runs with the models of the cases

Cases of the kind json_tensor ask no server: they are always played against the functions of mlops_course.tfjson. Life cycles need a server that may be started and stopped:
with the address of one that runs they count as not run, and that is a failure, unless --kinds leaves them out. Some cases want a model that nobody has asked before ("fresh_model"),
over REST and over gRPC: start the server anew for each run, and give --rest and --grpc of two servers, or play --kinds rest and --kinds grpc one after the other, each on a new one.
"""
import argparse, sys
from contextlib import nullcontext
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]))
from conformance import KINDS, OWN, kinds_of, processes, run_grpc, run_json, run_lifecycle, run_rest, servers

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", nargs="?", type=Path, default=OWN, help="a folder with *_cases.json and models/")
    p.add_argument("--rest", help="REST address of a running server that serves the models of the cases")
    p.add_argument("--grpc", help="its gRPC address")
    p.add_argument("--monitored-rest", help="REST address of one that was started with the monitoring configuration of the cases")
    p.add_argument("--server", help="the command to start when there are no addresses (default: our server, several times faster to start)")
    p.add_argument("--kinds", help=f"which cases (default: those of {','.join(KINDS)} that the folder has)")
    p.add_argument("--only", help="only the cases with this in their id")
    a = p.parse_args()
    there, outcomes, notes = a.rest or a.grpc or a.monitored_rest, {}, dict(json_tensor=" (functions of mlops_course.tfjson, no server)")
    kinds, well = kinds_of(a.folder, a.kinds)
    if "json_tensor" in kinds: outcomes["json_tensor"] = run_json.run(a.folder, a.only)
    if a.folder.resolve() == OWN.resolve() and "rest" in kinds: # their models are arithmetic
        outcomes["rest"], notes["rest"] = run_rest.run(OWN, servers.arithmetic, a.only), " (a small server in this process)"
    if left := [k for k in kinds if k not in outcomes]: outcomes |= over_sockets(a, there, left)
    for kind, outcome in outcomes.items(): print(f"{kind}{notes.get(kind, '')}: {outcome}")
    return 0 if well and outcomes and all(o.ok for o in outcomes.values()) else 1

def over_sockets(a, there, kinds):
    with servers.with_models(a.folder) as folder, nullcontext() if there else nullcontext(processes.command(a.server)) if a.server else processes.Warm() as launch:
        start = servers.running(a.rest or "", a.monitored_rest, a.grpc) if there else servers.process(launch, folder)
        play = dict(rest=lambda: run_rest.run(folder, start, a.only), grpc=lambda: run_grpc.run(folder, start, a.only), lifecycle=lambda: run_lifecycle.run(folder, launch, a.only))
        return {kind: play[kind]() for kind in kinds}

if __name__ == "__main__": sys.exit(main())
