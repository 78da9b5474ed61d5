"""Versions swapped under load:  python tests/swaps.py [--swaps 100] [--connections 50] [--out FOLDER]

A server polls every second; callers ask over kept connections without a pause; versions are published one after the other. Passes when no request failed, nobody was
sent back to an older version, and each version answered within the poll interval and its own loading time (and a second for the machine). With --out the figures are
written to swaps.json and swaps.md, whether they pass or not; `make bench-swaps` does that for benchmarks/tfserving."""
import argparse, asyncio, json, os, platform, re, shutil, statistics, subprocess, sys, tempfile, time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parent))
from conformance import processes
from conformance.servers import free_port, stop

POLL = 1  # seconds between two looks of the server for new versions
BODY = b'{"instances": [2.0]}'
REQUEST = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY

async def ask(reader, writer): # → the answer, or what was wrong
    writer.write(REQUEST)
    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.readexactly(int(re.search(rb"(?i)content-length: (\d+)", head)[1]))
    return json.loads(body)["predictions"][0] if head.startswith(b"HTTP/1.1 200") else f"{head[:30]} {body[:200]}"

async def caller(port, seen, going): # seen: list of (begun, ended, answer)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while going():
        begun = time.time()
        try: answer = await asyncio.wait_for(ask(reader, writer), 30)
        except Exception as e: answer = f"{type(e).__name__}: {e}"
        seen.append((begun, time.time(), answer))
        if isinstance(answer, str): break
    writer.close()

async def play(port, base, models, swaps, connections, pause):
    going, seen, published = True, [[] for _ in range(connections)], []
    tasks = [asyncio.create_task(caller(port, s, lambda: going)) for s in seen]
    await asyncio.sleep(1)
    for n in range(2, swaps + 2):
        shutil.copytree(models[n % 2], base/f".{n}")
        (base/f".{n}").rename(base/str(n))
        published.append(time.time())
        want = 3. + n % 2
        until = time.time() + 30
        while time.time() < until and not all(t.done() for t in tasks) and not any(s and s[-1][2] == want for s in seen): await asyncio.sleep(0.02)
        await asyncio.sleep(pause)
    going = False
    await asyncio.gather(*tasks)
    return seen, published

def loads(log): # version → seconds from LOADING to AVAILABLE, from the log of our server
    at = {m[3] + m[2]: datetime.strptime(m[1], "%Y-%m-%d %H:%M:%S,%f").timestamp() for m in re.finditer(r"(?m)^(\S+ \S+) INFO m version (\d+): (LOADING|AVAILABLE)", log)}
    return {int(k[7:]): at["AVAILABLE" + k[7:]] - t for k, t in at.items() if k.startswith("LOADING") and "AVAILABLE" + k[7:] in at}

def watch(launch, swaps=100, connections=50, pause=0.2):
    "Play → what every connection saw, when the versions were there, and how long each took to load."
    from mlops_course.tfserving import half_plus
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        root, ports = Path(root), (free_port(), free_port())
        models, base = [half_plus(n, root/"made"/str(n)) for n in (2, 3)], root/"m"   # an even version answers 3, an odd one 4
        shutil.copytree(models[1], base/"1")
        running = launch([f"--port={ports[0]}", f"--rest_api_port={ports[1]}", "--model_name=m", f"--model_base_path={base}", f"--file_system_poll_wait_seconds={POLL}", "--tensorflow_session_parallelism=1"], root/"log")
        try:
            until = time.time() + 90
            while not (root/"log").exists() or "Exporting HTTP" not in (root/"log").read_text():
                assert time.time() < until and running.poll() is None, (root/"log").read_text()
                time.sleep(0.05)
            seen, published = asyncio.run(play(ports[1], base, models, swaps, connections, pause))
            return seen, published, loads((root/"log").read_text())
        finally: stop(running)

def swap(launch, swaps=100, connections=50, pause=0.2, slack=1): # slack: seconds that the machine may take beside
    "Play, check and return what was measured; an AssertionError says what did not hold."
    return check(*watch(launch, swaps, connections, pause), swaps, slack)

def measured(seen, published, took):
    answers = [s for per in seen for s in per]
    late = [min((e for b, e, a in answers if b >= at and a == 3. + n % 2), default=at + 30) - at for n, at in enumerate(published, 2)]  # 30: nobody waited longer
    span = max(e for _, e, _ in answers) - min(b for b, _, _ in answers)
    return dict(swaps=len(published), connections=len(seen), requests=len(answers), requests_per_second=round(len(answers) / span), failed=sum(isinstance(a, str) for _, _, a in answers), faults=[a for _, _, a in answers if isinstance(a, str)][:3],
                changes=max(sum(a != b for (_, _, a), (_, _, b) in zip(per, per[1:])) for per in seen), poll=POLL, until_new=[round(l, 3) for l in late], loading=[round(took[n], 3) if n in took else None for n in range(2, len(published) + 2)])

def complaints(m, slack=1): # [] where all holds
    "What does not hold of what was measured, in words."
    out = [f"{m['failed']} of {m['requests']} requests failed: {m['faults']}"] if m["failed"] or not m["requests"] else []
    if m["changes"] > m["swaps"]: out.append(f"{m['changes']} changes of the answer in {m['swaps']} swaps: somebody was sent back")  # answers alternate with the versions, so each change is one swap, and one back would be one too many
    over = [(n, late, loading) for n, (late, loading) in enumerate(zip(m["until_new"], m["loading"]), 2) if late > m["poll"] + (loading or 0) + slack]
    return out + ([f"versions that came late (version, seconds, loading time): {over}"] if over else [])

def check(seen, published, took, swaps, slack=1):
    m = measured(seen, published, took)
    assert m["swaps"] == swaps and not (wrong := complaints(m, slack)), wrong
    return m

def table(m, slack=1): # of `measured`, with date, machine ...; markdown
    bounds = [m["poll"] + (loading or 0) for loading in m["loading"]]
    known = [loading for loading in m["loading"] if loading is not None]
    row = lambda what, values: f"| {what} | {statistics.median(values):.2f} | {max(values):.2f} |\n"
    return (f"Measured {m['date'][:10]} on {m['machine']['processor']}, {m['machine']['cores']} cores, Python {m['machine']['python']}, tensorflow {m['machine']['tensorflow']}{m['commit'] and ' at ' + m['commit']}; load before: {m['machine']['load_before']}. "
            f"{m['swaps']} versions, one after the other, while {m['connections']} connections asked without a pause: {m['requests']:,} requests, {m['requests_per_second']:,} a second.\n\n"
            f"**{m['failed']} requests failed**; no connection saw more than {m['changes']} changes of the answer in {m['swaps']} swaps.\n\n"
            "| seconds | median | worst |\n| --- | --- | --- |\n" + row("from the version's being written to its first answer", m["until_new"]) + (row("its loading, by the server's log", known) if known else "") + row(f"poll interval ({m['poll']} s) + its loading", bounds)
            + row("later than that (negative: sooner)", [late - bound for late, bound in zip(m["until_new"], bounds)])
            + f"\nWithin poll interval + loading: {sum(late <= bound for late, bound in zip(m['until_new'], bounds))} of {m['swaps']}; with {slack} s more for the machine: {sum(late <= bound + slack for late, bound in zip(m['until_new'], bounds))}."
            + (" **Did not hold:** " + "; ".join(complaints(m, slack)) if complaints(m, slack) else " All held.") + "\n")

def here(): # the machine, and what runs on it
    name = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "") if os.path.exists("/proc/cpuinfo") else ""
    return dict(processor=name or platform.machine(), cores=os.cpu_count(), python=platform.python_version(), tensorflow=version("tensorflow"), load_before=round(os.getloadavg()[0], 2))

def commit():
    try: return subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError): return ""

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--swaps", type=int, default=100)
    p.add_argument("--connections", type=int, default=50)
    p.add_argument("--out", type=Path, help="a folder for swaps.json and swaps.md")
    a = p.parse_args()
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    about = dict(date=datetime.now(timezone.utc).isoformat(timespec="seconds"), commit=commit(), machine=here())
    m = about | measured(*watch(processes.command(f"{sys.executable} -m mlops_course.tfserving"), a.swaps, a.connections))
    if a.out:
        a.out.mkdir(parents=True, exist_ok=True)
        (a.out/"swaps.json").write_text(json.dumps(m, indent=1, ensure_ascii=False) + "\n")
        (a.out/"swaps.md").write_text(table(m))
    print(table(m))
    return 1 if complaints(m) else 0

if __name__ == "__main__": sys.exit(main())
