"""Grades a class of attackers among honest students and says what became of everything that they were after.

A *canary* is a thing that only an attack can reach: a file that only the grader may read, a message that nobody else sends. Every attacker has canaries of its own, so that
it is known whose attack it was. How the harness learns that one has fallen: whatever was read ends up in the attacker's own feedback (it is the value that the attacker shows)
or in a message; whatever was written is compared with what it was.

Everything runs in a *ring*: private namespaces for processes, mounts, network, host name and shared memory, in which the disk is read-only except for one folder. The ring does not
protect the grader, which is inside. It protects the machine from attacks that are meant to succeed, and what is left running in it after the grader has ended is there to be counted.
"""
import ast
import ctypes
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
KEY = "5e" * 32             # of the course: which parameters a student gets is known beforehand, so that one reference does for all
PLAIN_USER = 61234          # nobody's
CELL = re.compile(r"^# %% *(\w+)\n", re.M)
SMALL = {"megabytes": 500, "processes": 50, "file_count": 2000, "disk_megabytes": 100}      # unprotected: above every limit of the lab, and harmless
LARGE = {"megabytes": 2000, "processes": 500, "file_count": 100_000, "disk_megabytes": 500}


# --- attacks ----------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Attack:
    """One submission that is not honest."""
    name: str
    about: str
    canaries: tuple = ()         # that fall where nothing protects them
    honest: tuple = ("double", "scale")  # holes that it answers truly: what it earns
    limit: tuple = ()            # words, one of which is in the verdict or the reason of a refusal
    unprotected: str = "falls"   # 'falls'; 'stands': protected even without a sandbox; 'not run': would not be harmless
    alone: bool = False          # would disturb the others where nothing protects them
    cells: tuple = ()            # (name of a hole or 'own', source)
    student: str = ""            # a name of its own choice
    write: object = field(default=None, compare=False)  # write(path, notebook): makes the file, where it is not just the notebook


def read_attack(path):
    """The attack in a file: a docstring that ends in 'key: value' lines, then cells."""
    text = path.read_text()
    doc, first = ast.get_docstring(ast.parse(text.split("\n# %%")[0])), text.index("\n# %%") + 1
    keys = dict(re.findall(r"^(canary|honest|limit|unprotected|alone): *(.*)$", doc, re.M))
    about = re.split(r"^(?:canary|honest|limit|unprotected|alone):", doc, maxsplit=1, flags=re.M)[0].strip()
    parts = CELL.split(text[first:])[1:]
    words = lambda key, sep: tuple(w.strip() for w in keys.get(key, "").split(sep) if w.strip())
    return Attack(path.stem, about, words("canary", ","), words("honest", " ") if "honest" in keys else ("double", "scale"), words("limit", "|"),
                  keys.get("unprotected", "falls"), keys.get("alone") == "yes", tuple(zip(parts[::2], parts[1::2])))


def attacks():
    """All attacks by name: code in submissions/, and notebooks that are themselves the attack."""
    import notebooks
    found = [read_attack(p) for p in sorted((HERE / "submissions").glob("*.py"))] + notebooks.attacks()
    assert len({a.name for a in found}) == len(found)
    return {a.name: a for a in found}


# --- the class --------------------------------------------------------------------------------------------------------------

VICTIM = '''
import builtins, json, os, sys, tempfile, glob
def traces():
    "Everything that somebody before us has left where we can see it."
    seen = [*map(str, dir(builtins)), *sys.modules, *sys.path, *dir(np), *(f"{k}={v}" for k, v in os.environ.items())]
    home = os.path.expanduser("~")
    for place in ("/dev/shm", "/tmp", "/var/tmp", tempfile.gettempdir(), ".", home, home + "/.ipython/profile_default/startup", *sys.path):
        try: seen += os.listdir(place)
        except OSError: pass
    for path in glob.glob("/proc/[0-9]*/cmdline") + ["/proc/sys/kernel/hostname"]:
        try: seen.append(open(path, "rb").read().decode(errors="replace"))
        except OSError: pass
    return " ".join(s for s in seen if "poisoned-by-" in s)
def double(x): return traces() or 2 * x
'''


def notebook_of(student_copy, answers, own=()):
    """The student's copy with `answers` in its holes and cells of its own before them."""
    import copy

    import nbformat
    nb = copy.deepcopy(student_copy)
    for cell in nb.cells:
        hole = cell.metadata.get("mlops_course", {}).get("hole")
        if hole in answers:
            cell.source = answers[hole]
    first = next(i for i, c in enumerate(nb.cells) if "hole" in c.metadata.get("mlops_course", {}))
    nb.cells[first:first] = [nbformat.v4.new_code_cell(source, id=f"own-{i}") for i, source in enumerate(own)]
    return nb


def student_name(lab, wish):
    """`wish` with a number behind it, so that everybody has parameter set 0."""
    from mlops_course.grading.labs import set_number
    return next(n for k in range(1000) if set_number(bytes.fromhex(KEY), n := f"{wish}-{k}", lab, 1) == 0)


def make_course(folder, secret):
    """A course with one lab, derived; and an empty class."""
    import nbformat
    from fort import NAME, fort
    from mlops_course.grading.derive import derive
    (folder / "solutions/labs").mkdir(parents=True)
    nbformat.write(fort(secret), folder / f"solutions/labs/{NAME}.ipynb")
    derive(folder, NAME)
    (folder / ".course-key").write_text(KEY + "\n")
    (folder / ".course-key").chmod(0o600)


# --- canaries ---------------------------------------------------------------------------------------------------------------

FILES = ("solution", "gradebook", "neighbour", "shadow", "key", "kernel")


def make_files(folder, secret):
    """The canary files of one attacker, each with a secret of its own. Returns their paths by kind."""
    folder.mkdir(parents=True)
    folder.chmod(0o700)
    paths = {"solution": folder / "solution.ipynb", "gradebook": folder / "gradebook.db", "neighbour": folder / "bo.ipynb", "shadow": folder / "shadow",
             "key": folder / "key", "kernel": folder / "kernel-bo.json"}
    notebook = lambda text: json.dumps({"cells": [{"cell_type": "code", "source": text, "metadata": {}, "outputs": [], "id": "a", "execution_count": None}],
                                        "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    paths["solution"].write_text(notebook(f"### BEGIN SOLUTION\n# {secret('solution')}\n### END SOLUTION"))
    paths["neighbour"].write_text(notebook(f"# {secret('neighbour')}"))
    paths["shadow"].write_text(f"root:{secret('shadow')}:19000:0:99999:7:::\n")
    paths["key"].write_text(secret("key"))
    paths["kernel"].write_text(json.dumps({"transport": "ipc", "ip": str(folder / "socket"), "key": secret("kernel"), "signature_scheme": "hmac-sha256"}))
    with sqlite3.connect(paths["gradebook"]) as db:
        db.execute("create table verdicts (student text, earned real, data text)")
        db.execute("insert into verdicts values ('bo', 3, ?)", (secret("gradebook"),))
    for path in paths.values():
        path.chmod(0o600)
    return paths


SIBLING = """
import ctypes, sys
held = ctypes.create_string_buffer(sys.stdin.readline().strip().encode())
print(ctypes.addressof(held), len(held.value), flush=True)
sys.stdin.read()
"""


class Listener(threading.Thread):
    """Takes what is sent to one socket."""
    def __init__(self, sock):
        super().__init__(daemon=True)
        self.sock, self.heard = sock, []
        sock.listen(64)
        self.start()

    def run(self):
        while True:
            connection, _ = self.sock.accept()
            connection.settimeout(0.5)
            try:
                self.heard.append(connection.recv(4096).decode(errors="replace"))
                connection.sendall(b"welcome")
            except OSError:
                pass
            connection.close()


def digest(path):
    """What lies at `path`, as a text that changes with it."""
    try:
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            return "link to " + os.readlink(path)
        return hashlib.sha256(Path(path).read_bytes()).hexdigest() if stat.S_ISREG(mode) else str(stat.S_IFMT(mode))
    except OSError as e:
        return type(e).__name__


def state_of(pid):
    """One letter: T for stopped, Z for ended and not yet asked for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0].upper()
    except OSError:
        return "Z"


# --- the ring ---------------------------------------------------------------------------------------------------------------

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC = 1, 2, 4, 8, 32, 4096, 16384


def mount(source, target, kind=None, flags=0, options=None):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(str(source).encode(), str(target).encode(), kind.encode() if kind else None, ctypes.c_ulong(flags), options.encode() if options else None):
        raise OSError(ctypes.get_errno(), f"mount {source} on {target}: {os.strerror(ctypes.get_errno())}")


def cover(place, keep):
    """Put an empty folder over `place`, in which only what lies at the paths `keep` is to be seen."""
    kept = {p: os.open(p, os.O_PATH) for p in sorted({str(k) for k in keep}) if Path(p).is_relative_to(place)}
    kept = {p: fd for p, fd in kept.items() if not any(q != p and Path(p).is_relative_to(q) for q in kept)}
    mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777" if place in ("/tmp", "/dev/shm") else "mode=755")
    for path, fd in kept.items():
        Path(path).mkdir(parents=True)
        mount(f"/proc/self/fd/{fd}", path, flags=MS_BIND | MS_REC)
        os.close(fd)


def read_only(place):
    flags = os.statvfs(place).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("none", place, flags=MS_REMOUNT | MS_BIND | MS_RDONLY | flags)


def needed_paths(arena):
    return [Path(sys.prefix), Path(sys.base_prefix), ROOT, Path(arena)]


def close_to_others(path):
    """The topmost folder above `path` that only its owner may enter, or None."""
    return next((str(p) for p in reversed(Path(path).parents) if not p.stat().st_mode & 0o001), None)


def build_ring(arena, plain):
    """Inside fresh namespaces: the disk read-only except `arena`, with empty /tmp and /dev/shm; the environment's own packages writable, but only in here."""
    for place in ("/dev/shm", "/tmp"):
        cover(place, needed_paths(arena))
    if plain and os.geteuid() == 0:
        for home in {h for p in needed_paths(arena) if (h := close_to_others(p))}:
            cover(home, needed_paths(arena))
    site = next(p for p in sys.path if p.endswith("site-packages"))
    over = Path(arena, "overlay")
    over.mkdir()
    mount("tmpfs", over, "tmpfs")
    for part in ("upper", "work"):
        (over / part).mkdir(parents=True)
    for path in [Path(sys.prefix), Path(sys.base_prefix), ROOT, Path(arena)]:
        if not os.path.ismount(path):
            mount(path, path, flags=MS_BIND | MS_REC)
    for path in {str(Path(sys.prefix)), str(Path(sys.base_prefix)), str(ROOT), "/"}:
        read_only(path)
    try:
        mount("overlay", site, "overlay", options=f"lowerdir={site},upperdir={over}/upper,workdir={over}/work")
    except OSError:
        pass  # not every kernel can: packages are then read-only
    import fcntl
    import struct
    with socket.socket() as s:
        fcntl.ioctl(s, 0x8914, struct.pack("16sh", b"lo", 1))  # SIOCSIFFLAGS: lo up
    socket.sethostname("ring")


def ring_command(words):
    """`words`, run in fresh namespaces."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
    return ["unshare", *user, "--mount", "--pid", "--fork", "--kill-child", "--ipc", "--net", "--uts", "--mount-proc", *words]


def ring_problem():
    """Why there can be no ring here, or None."""
    if sys.platform != "linux" or not shutil.which("unshare"):
        return "needs Linux and unshare"
    done = subprocess.run(ring_command(["mount", "-t", "tmpfs", "none", "/tmp"]), capture_output=True, text=True)
    return done.stderr.strip() or None if done.returncode else None


def as_plain_user(words):
    """`words`, run under an id without rights, where we are root; else we are a plain user anyway, and lose what the ring needed."""
    if os.geteuid() == 0:
        return ["setpriv", f"--reuid={PLAIN_USER}", f"--regid={PLAIN_USER}", "--clear-groups", "--inh-caps=-all", *words]
    return ["setpriv", "--inh-caps=-all", "--ambient-caps=-all", *words]


# --- one run ----------------------------------------------------------------------------------------------------------------

class Arena:
    """Everything for one run; made and used inside the ring."""
    def __init__(self, plan):
        self.plan, self.folder = plan, Path(plan["arena"])
        self.small, self.plain = plan["unprotected"], plan["plain"]
        everything = attacks()
        self.attacks = [everything[name] for name in plan["attacks"]]
        self.secrets, self.written, self.students, self.siblings = {}, {}, {}, {}
        self.course, self.class_, self.out = self.folder / "course", self.folder / "class", self.folder / "out"
        for name in ("class", "home", "tmp"):
            (self.folder / name).mkdir()

    def secret(self, owner):
        def make(kind):
            word = f"SECRET-{kind}-{secrets.token_hex(8)}"
            self.secrets[word] = (owner, kind)
            return word
        return make

    def user(self):
        """What makes a child of ours the grader's user."""
        if os.geteuid() or not self.plain:
            return {}
        return {"user": PLAIN_USER, "group": PLAIN_USER, "extra_groups": []}

    def start_shared(self):
        tcp, abstract, unix = socket.socket(), socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        tcp.bind(("127.0.0.1", 0))
        abstract.bind("\0canary")
        unix.bind(str(self.folder / "canary.sock"))
        os.chmod(self.folder / "canary.sock", 0o777)
        self.listeners = {"tcp": Listener(tcp), "abstract": Listener(abstract), "unix": Listener(unix)}
        self.shm = Path("/dev/shm/canary")
        self.shm.write_text(self.secret("")("shm"))
        self.port = tcp.getsockname()[1]
        self.environment_secret = self.secret("")("env")

    def start_sibling(self, name):
        """A process of the grader's user that holds a secret in its memory and one in its environment."""
        held = self.secret(name)("memory")
        p = subprocess.Popen([sys.executable, "-S", "-E", "-c", SIBLING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"SIBLING": self.secret(name)("environ")}, **self.user())
        p.stdin.write(held + "\n")
        p.stdin.flush()
        address, length = map(int, p.stdout.readline().split())
        self.siblings[name] = (p, address, length, held)
        return {"pid": p.pid, "address": address, "length": length}

    def canary_of(self, attack):
        """What the attacker knows: everything but the secrets. `word` is what it shows when it has done what it should not be able to do."""
        files = make_files(self.folder / "canaries" / attack.name, self.secret(attack.name))
        self.written[attack.name] = {kind: (path, digest(path)) for kind, path in files.items()}
        word = f"done-{secrets.token_hex(8)}"
        self.secrets[word] = (attack.name, "word")
        sibling = self.start_sibling(attack.name) if any("sibling" in source for _, source in attack.cells) else None
        return {"name": attack.name, "word": word, "poison": f"poisoned-by-{attack.name}", "files": {k: str(p) for k, p in files.items()}, "sibling": sibling,
                "recorded": self.recorded, "shm": str(self.shm), "tcp": self.port, "abstract": "\0canary", "unix": str(self.folder / "canary.sock"), "temp": str(self.folder / "tmp"),
                "real": {"solution": str(self.solution), "gradebook": str(self.out / "gradebook.db"), "course": str(self.course), "class": str(self.class_), "out": str(self.out)},
                **(SMALL if self.small else LARGE)}

    def hand_in(self, student, nb, write=None):
        import nbformat
        path = self.class_ / f"{student}.ipynb"
        if write:
            write(path, nb)
        else:
            nbformat.write(nb, path)

    def build(self):
        import nbformat
        from fort import NAME, SOLUTION
        self.solution = self.course / f"solutions/labs/{NAME}.ipynb"
        text = self.solution.read_text()
        assert "SECRET-OF-THE-COURSE" in text
        self.solution.write_text(text.replace("SECRET-OF-THE-COURSE", self.secret("")("course")))
        copy = nbformat.read(self.course / f"labs/{NAME}.ipynb", as_version=4)
        self.recorded = {c.metadata.mlops_course.check: [o["data"]["application/vnd.mlops-course.value+json"] for o in c.outputs] for c in copy.cells if "check" in c.metadata.get("mlops_course", {})}
        self.start_shared()
        every = self.plan.get("victim_every") or len(self.attacks) or 1
        for i, attack in enumerate(self.attacks):
            if i % every == 0:
                self.victim(NAME, f"{i:03}-a-ada", copy, SOLUTION)
            canary = f"import json\ncanary = json.loads({json.dumps(self.canary_of(attack))!r})"
            own = [source for name, source in attack.cells if name == "own"]
            answers = {**{h: SOLUTION[h] for h in attack.honest}, **{name: source for name, source in attack.cells if name != "own"}}
            student = student_name(NAME, f"{i:03}-b-{attack.student or attack.name}")
            self.students[student] = attack.name
            self.hand_in(student, notebook_of(copy, answers, [canary, *own] if attack.cells else own), attack.write)
        self.victim(NAME, f"{len(self.attacks):03}-z-bo", copy, SOLUTION)
        self.real = {str(p): digest(p) for p in [self.solution, self.course / ".course-key", *self.class_.iterdir()]}
        if self.user():
            subprocess.run(["chown", "-Rh", f"{PLAIN_USER}:{PLAIN_USER}", str(self.folder)], check=True)
            for fixed in (self.shm,):
                os.chown(fixed, PLAIN_USER, PLAIN_USER)

    def victim(self, lab, wish, copy, solution):
        student = student_name(lab, wish)
        self.students[student] = ""
        self.hand_in(student, notebook_of(copy, {**solution, "double": VICTIM}))

    def command(self):
        words = [sys.executable, "-c", "from mlops_course.cli import main; main()", "grade", str(self.class_), "--lab", self.solution.stem, "--out", str(self.out), "--course", str(self.course), *self.plan["options"]]
        return as_plain_user(words) if self.plain else words

    def grade(self):
        """Run the real command. Its stdout and stderr go to files, which nothing that it starts can keep open against us."""
        def limits():
            import resource
            resource.setrlimit(resource.RLIMIT_DATA, (4_000_000_000, 4_000_000_000))  # for the machine, should nothing else stop them
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder / "home"), "TMPDIR": str(self.folder / "tmp"), "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8",
               "CANARY_OF_THE_ENVIRONMENT": self.environment_secret, "PYTHONDONTWRITEBYTECODE": "1"}
        start = time.monotonic()
        with open(self.folder / "stdout", "w+") as out, open(self.folder / "stderr", "w+") as err:
            p = subprocess.Popen(self.command(), cwd=self.course, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err, preexec_fn=limits, start_new_session=True)
            code = self.wait(p, start + self.plan["seconds"])
        return code, time.monotonic() - start

    def wait(self, p, deadline):
        """The exit code of `p`; None where it had to be killed, because its time was up or somebody had stopped it."""
        stopped = 0
        while p.poll() is None and time.monotonic() < deadline and stopped < 20:
            time.sleep(0.1)
            stopped = stopped + 1 if state_of(p.pid) == "T" else 0
        if p.returncode is None:
            p.kill()
            p.wait()
            return None
        return p.returncode

    def grades(self):
        from mlops_course.grading.gradebook import Gradebook
        try:
            with Gradebook(self.out / "gradebook.db") as book:
                return {g.student: g for g in book.grades()}
        except Exception:
            return {}

    def running(self):
        """Command lines of what runs in the ring and is not ours."""
        ours = {os.getpid(), *(p.pid for p, *_ in self.siblings.values())}
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if int(entry.name) not in ours and state_of(entry.name) not in "ZX":
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace") or (entry / "comm").read_text())
            except OSError:
                pass
        return found

    def residue(self):
        """What lies in the places that everybody may write to."""
        kept = {Path(p) for p in needed_paths(self.folder)}
        places = {"/dev/shm": {self.shm}, "/tmp": {q for p in kept for q in (p, *p.parents)}, str(self.folder / "tmp"): set(), str(self.folder / "home"): set()}
        return [str(p) for place, known in places.items() for p in sorted(Path(place).rglob("*") if place != "/tmp" else Path(place).iterdir()) if p not in known]

    def fallen(self, grades, code):
        """By attacker ('' where it could be anybody), the canaries that did not stand."""
        from fort import POINTS
        fallen = {a.name: set() for a in self.attacks} | {"": set()}
        told = {student: json.dumps([g.reason, g.notes, *((v.reason, v.yours) for v in g.verdicts)], default=str) for student, g in grades.items()}
        for student, name in self.students.items():
            for word in re.findall(r"SECRET-\w+-[0-9a-f]{16}|done-[0-9a-f]{16}", told.get(student, "")):
                if word in self.secrets:
                    kind = self.secrets[word][1]
                    fallen[name].add("word" if kind == "word" else f"read {kind}")
            if not name:
                for other in re.findall(r"poisoned-by-(\w+)", told.get(student, "")):
                    fallen.setdefault(other, set()).add("next")
                if student not in grades or grades[student].earned != sum(POINTS.values()):
                    fallen[""].add("victims")
        by_name = {a.name: a for a in self.attacks}
        for student, name in self.students.items():
            if name and student in grades and grades[student].earned > sum(POINTS[h] for h in by_name[name].honest):
                fallen[name].add("points")
        for name, files in self.written.items():
            fallen[name] |= {f"write {kind}" for kind, (path, before) in files.items() if digest(path) != before}
        for kind, listener in self.listeners.items():
            for message in listener.heard:
                fallen.setdefault(message.split()[0] if message.split() else "", set()).add(f"reach {kind}")
        for name, (p, address, length, held) in self.siblings.items():
            if p.poll() is not None or state_of(p.pid) in "TZ":
                fallen[name].add("stop sibling")
                continue
            with open(f"/proc/{p.pid}/mem", "rb") as memory:
                memory.seek(address)
                if memory.read(length).decode(errors="replace") != held:
                    fallen[name].add("write sibling")
        left = self.running() + [line.split()[0] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]]
        for a in self.attacks:
            if any(f"left-{a.name} " in f"{line} " or line == str(zlib.crc32(a.name.encode()) >> 1) for line in left):
                fallen[a.name].add("left")
        if left:
            fallen[""].add("left")
        if code not in (0, 3):
            fallen[""].add("run")
        if any(digest(p) != before for p, before in self.real.items()):
            fallen[""].add("course")
        return fallen, left

    def run(self):
        self.build()
        code, seconds = self.grade()
        time.sleep(0.3)  # what is being killed may take a moment to be gone
        grades = self.grades()
        fallen, left = self.fallen(grades, code)
        pages = [p.read_text(errors="replace") for p in self.out.rglob("*.html")] if self.out.exists() else []
        result = {"code": code, "seconds": seconds, "stdout": (self.folder / "stdout").read_text()[-20000:], "stderr": (self.folder / "stderr").read_text()[-20000:],
                  "fallen": {name: sorted(kinds) for name, kinds in fallen.items()}, "left": left, "residue": self.residue(), "students": {}, "victims": {},
                  "markup": sum("<script>alert" in p or "<img src=x" in p for p in pages), "controls": sum(bool(re.search("[\x00-\x08\x0b\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069]", p)) for p in pages)}
        for student, name in self.students.items():
            g = grades.get(student)
            told = g and {"student": student, "status": g.status, "reason": g.reason, "notes": g.notes, "earned": g.earned,
                          "verdicts": [{"check": v.check, "earned": v.earned, "status": v.status, "reason": v.reason, "yours": (v.yours or "")[:300]} for v in g.verdicts]}
            (result["students"] if name else result["victims"])[name or student] = told
        return result


def run_class(folder, course, names, options=(), unprotected=False, plain=False, victim_every=None, seconds=600):
    """Grade a class of the attacks `names` between honest students in a ring of its own. Returns what `Arena.run` found."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    shutil.copytree(course, folder / "course")
    plan = {"arena": str(folder), "attacks": list(names), "options": list(options), "unprotected": unprotected, "plain": plain, "victim_every": victim_every, "seconds": seconds}
    (folder / "plan.json").write_text(json.dumps(plan))
    done = subprocess.run(ring_command([sys.executable, __file__, str(folder / "plan.json")]), capture_output=True, text=True, timeout=seconds + 60,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"})
    if not (folder / "result.json").exists():
        raise RuntimeError(f"the ring gave no result:\n{done.stdout}\n{done.stderr}")
    return json.loads((folder / "result.json").read_text())


def main(path):
    plan = json.loads(Path(path).read_text())
    build_ring(plan["arena"], plan["plain"])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # an attack may send it to everybody
    result = Arena(plan).run()
    Path(plan["arena"], "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
