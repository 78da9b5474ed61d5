"""Runs one command and says what it took: CPU and wall seconds, and the memory of all its processes. Linux only."""
import ctypes
import os
import resource
import signal
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

PERIOD = 0.25  # seconds between two looks at the memory
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Used:
    "What a command took."
    code: int       # its exit code; None if it was stopped because its time was up
    cpu: float      # seconds, user and system, of all its processes
    cpu_from: str   # 'wait4' or 'cgroup', whichever counted more
    wall: float     # seconds
    peak: int       # bytes
    memory_from: str  # 'PSS', or 'RSS' where this system does not let us read PSS of some process
    marks: dict     # {n: bytes when n were done}, for the numbers asked for
    tail: str       # the end of what it printed


def _adopt():
    "Have processes whose parents have ended become our own children, so that their time is counted too."
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0): raise OSError(ctypes.get_errno(), "prctl")


def _waited_for():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class _Cgroup:
    "A control group for the command, where we may make one: its clock also counts processes that nobody waited for."
    def __init__(self):
        self.folder = None
        for root, self.clock, self.unit in (("/sys/fs/cgroup/cpuacct", "cpuacct.usage", 1e-9), ("/sys/fs/cgroup", "cpu.stat", 1e-6)):
            folder = Path(root) / f"bench-grading-{os.getpid()}"
            try:
                folder.mkdir()
                if (folder / self.clock).exists():
                    self.folder = folder
                    return
                folder.rmdir()
            except OSError: pass

    def enter(self):
        "Called in the new process, before the command starts."
        try:
            if self.folder: (self.folder / "cgroup.procs").write_text("0")
        except OSError: pass  # then only wait4 counts

    def read(self):
        if not self.folder: return 0.0
        text = (self.folder / self.clock).read_text().split()
        return int(text[1] if text[0] == "usage_usec" else text[0]) * self.unit

    def __enter__(self): return self

    def __exit__(self, *exc):
        for _ in range(40 if self.folder else 0):
            try: return self.folder.rmdir()
            except OSError: time.sleep(0.05)  # a process is still in it: it has been killed and is on its way out


def _memory(processes):
    "(bytes, where they are from) of processes together. Shared pages count once in PSS, and once for each process in RSS."
    total, kind = 0, "PSS"
    for p in processes:
        try:
            try: total += p.memory_full_info().pss
            except psutil.AccessDenied: total, kind = total + p.memory_info().rss, "RSS"
        except psutil.NoSuchProcess: pass
    return total, kind


def _below(): return psutil.Process().children(recursive=True)


def _end_all(grace=5.0):
    "Wait a little for what the command left behind, then end it. Only our own descendants are touched."
    deadline = time.monotonic() + grace
    while (left := _below()) and time.monotonic() < deadline:
        _reap()
        time.sleep(0.05)
    for p in left:
        try: p.kill()
        except psutil.NoSuchProcess: pass
    for _ in range(100):
        _reap()
        if not _below(): return
        time.sleep(0.05)


def _reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]: pass
    except ChildProcessError: pass


@contextmanager
def _started(command, cwd, env, log, group):
    process = subprocess.Popen(list(map(str, command)), cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                               start_new_session=True, preexec_fn=group.enter)
    try: yield process
    finally:
        if process.poll() is None: os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _end_all()


def measure(command, cwd, env, log,
            limit:float=3600,          # seconds, after which it is stopped
            done=lambda: 0,            # how many submissions are graded so far
            on_done=lambda n: None,    # called when that has changed
            marks=()) -> Used:         # numbers of graded submissions at which to note the memory
    "Run `command` to its end, its output into the file `log`, and measure it with all the processes that it starts."
    _adopt()
    peak, kind, seen, noted, now = 0, "PSS", 0, {}, 0
    with _Cgroup() as group:
        before, start = _waited_for(), time.monotonic()
        with open(log, "wb") as out, _started(command, cwd, env, out, group) as process:
            while process.poll() is None and time.monotonic() - start < limit:
                now, how = _memory(_below())
                peak, kind = max(peak, now), "RSS" if how == "RSS" else kind
                if (n := done()) != seen: on_done(seen := n)
                noted.update({m: now for m in marks if n >= m and m not in noted})
                try: process.wait(PERIOD)
                except subprocess.TimeoutExpired: pass
            wall, code = time.monotonic() - start, process.poll()
        waited, counted = _waited_for() - before, group.read()
    if (n := done()) != seen: on_done(n)
    noted.update({m: now for m in marks if n >= m and m not in noted})  # it ended right after: the last look counts
    # wait4 misses processes that nobody waits for, a cgroup misses those that were moved out of it: neither counts too much
    how, cpu = max((("wait4", waited), ("cgroup", counted)), key=lambda pair: round(pair[1], 1))
    return Used(code, cpu, how, wall, peak, kind, noted, Path(log).read_text(errors="replace")[-1500:])
