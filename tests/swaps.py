"""Versions swapped under load:  python tests/swaps.py [--swaps 100] [--connections 50]

A server polls every second; callers ask over kept connections without a pause; versions are published one after the other. Passes when no request failed, nobody was
sent back to an older version, and each version answered within the poll interval and its own loading time (and a second for the machine)."""
import argparse, asyncio, json, os, re, shutil, statistics, sys, tempfile, time
from datetime import datetime
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parent))
from conformance import processes
from conformance.servers import free_port, stop

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

def swap(launch, swaps=100, connections=50, pause=0.2, slack=1): # slack: seconds that the machine may take beside
    "Play, check and return what was measured; an AssertionError says what did not hold."
    from mlops_course.tfserving import half_plus
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        root, ports = Path(root), (free_port(), free_port())
        models, base = [half_plus(n, root/"made"/str(n)) for n in (2, 3)], root/"m"   # an even version answers 3, an odd one 4
        shutil.copytree(models[1], base/"1")
        running = launch([f"--port={ports[0]}", f"--rest_api_port={ports[1]}", "--model_name=m", f"--model_base_path={base}", "--file_system_poll_wait_seconds=1", "--tensorflow_session_parallelism=1"], root/"log")
        try:
            until = time.time() + 90
            while not (root/"log").exists() or "Exporting HTTP" not in (root/"log").read_text():
                assert time.time() < until and running.poll() is None, (root/"log").read_text()
                time.sleep(0.05)
            seen, published = asyncio.run(play(ports[1], base, models, swaps, connections, pause))
            took = loads((root/"log").read_text())
        finally: stop(running)
    return check(seen, published, took, swaps, slack)

def check(seen, published, took, swaps, slack=1):
    answers = [s for per in seen for s in per]
    failed = [a for _, _, a in answers if isinstance(a, str)]
    assert answers and not failed, f"{len(failed)} of {len(answers)} requests failed: {failed[:3]}"
    for per in seen: # answers alternate with the versions, so each change is one swap, and one back would be one too many
        changes = sum(a != b for (_, _, a), (_, _, b) in zip(per, per[1:]))
        assert changes <= swaps, f"{changes} changes of the answer in {swaps} swaps: somebody was sent back"
    late = [min(e for b, e, a in answers if b >= at and a == 3. + n % 2) - at for n, at in enumerate(published, 2)]
    over = [(n, round(l, 2), round(took.get(n, 0), 2)) for n, l in enumerate(late, 2) if l > 1 + took.get(n, 0) + slack]
    assert not over, f"versions that came late (version, seconds, loading time): {over}"
    return dict(requests=len(answers), failed=0, swaps=swaps, seconds_until_new=dict(median=round(statistics.median(late), 2), most=round(max(late), 2)), loading=round(statistics.median(took.values()), 2),
                requests_per_second=round(len(answers) / (max(e for _, e, _ in answers) - min(b for b, _, _ in answers))))

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--swaps", type=int, default=100)
    p.add_argument("--connections", type=int, default=50)
    a = p.parse_args()
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    print(json.dumps(swap(processes.command(f"{sys.executable} -m mlops_course.tfserving"), a.swaps, a.connections), indent=1))

if __name__ == "__main__": main()
