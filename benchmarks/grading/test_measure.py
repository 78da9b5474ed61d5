"""Known answers for the measuring: time of grandchildren, of orphans and of processes that nobody waits for, memory that is shared, and a stop in time."""
import os
import sys
import textwrap

import psutil
import pytest

from measure import _Cgroup, measure

BURN = "import time\nwhile time.process_time() < 0.6: pass\n"


def run(tmp_path, source, **kw): return measure([sys.executable, "-c", textwrap.dedent(source)], tmp_path, dict(os.environ), tmp_path / "log", **kw)


def test_time_of_a_grandchild_counts(tmp_path):
    used = run(tmp_path, f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}])")
    assert used.code == 0 and 0.6 <= used.cpu < 1.5


def test_sleeping_costs_wall_and_no_cpu(tmp_path):
    used = run(tmp_path, "import time; time.sleep(1)")
    assert used.cpu < 0.4 and 1 <= used.wall < 10


@pytest.mark.parametrize("with_cgroup", [True, False])
def test_time_of_an_orphan_counts(tmp_path, monkeypatch, with_cgroup):
    if not with_cgroup: monkeypatch.setattr(_Cgroup, "read", lambda self: 0.0)
    used = run(tmp_path, f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {BURN!r}], start_new_session=True)")
    assert used.code == 0 and 0.6 <= used.cpu < 1.5


def test_a_process_that_does_not_end_is_ended(tmp_path):
    used = run(tmp_path, "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True).pid)")
    assert not psutil.pid_exists(int(used.tail))


def test_time_that_nobody_waits_for_is_seen_where_there_are_cgroups(tmp_path):
    with _Cgroup() as group:
        if not group.folder: pytest.skip("no control group can be made here")
    assert not group.folder.exists()
    used = run(tmp_path, f"""
        import os, signal, time
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets the child's time
        reading, writing = os.pipe()
        if os.fork() == 0:
            exec({BURN!r})
            os._exit(0)
        os.close(writing)
        os.read(reading, 1)  # until the child has ended, which may take its time where others work too
        time.sleep(0.3)""")
    assert used.cpu_from == "cgroup" and 0.6 <= used.cpu < 1.5


def test_memory_shared_by_forks_counts_once(tmp_path):
    used = run(tmp_path, """
        import os, time
        block = b'x' * 200_000_000
        for _ in range(3):
            if os.fork() == 0:
                time.sleep(1.5)
                os._exit(0)
        time.sleep(1.5)
        for _ in range(3): os.wait()""")
    assert used.memory_from == "PSS" and 200e6 < used.peak < 300e6


def test_what_takes_too_long_is_stopped(tmp_path):
    used = run(tmp_path, "import time; time.sleep(60)", limit=0.5)
    assert used.code is None and used.wall < 10


def test_memory_is_noted_when_so_many_are_done(tmp_path):
    seen = []
    done = lambda: len(list(tmp_path.glob("done-*")))
    used = run(tmp_path, """
        import pathlib, time
        for i in range(4):
            if i == 3: block = b'x' * 100_000_000
            pathlib.Path(f'done-{i}').touch()
            time.sleep(0.7)""", done=done, on_done=seen.append, marks=(2, 4))
    assert seen[-1] == 4 and set(used.marks) == {2, 4} and used.marks[4] - used.marks[2] > 90e6


def test_a_failing_command_says_so(tmp_path):
    used = run(tmp_path, "raise SystemExit('no such thing')")
    assert used.code == 1 and "no such thing" in used.tail
