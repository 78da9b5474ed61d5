"""Rosters, and what platforms hand out and take back, against names, zips and tables that mean harm."""
import csv
import io
import os
import random
import re
import shutil
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mlops_course.grading import lms
from mlops_course.grading.gradebook import Grade
from mlops_course.grading.judge import Verdict
from mlops_course.grading.roster import RosterError, Student, hide_names, is_folder_name, name_key, pseudonyms, read_roster, show_names

KNOWN = ["01_data", "09_drift"]
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
NOTEBOOK = b'{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'

part = st.one_of(st.sampled_from(["..", ".", "", "~", "C:", "con", "labs", "09_drift", "ada_11_5_09_drift", "Bo_2_assignsubmission_file_", "x" * 300, "a\x00b", "\u202e", "e\u0301", ".git"]),
                 st.text(max_size=12))
name = st.builds(lambda parts, sep, end: sep.join(parts) + end, st.lists(part, min_size=1, max_size=4), st.sampled_from(["/", "\\", "_"]), st.sampled_from([".ipynb", ".zip", ".IPYNB", "", "/"]))
platform_name = st.one_of(name, st.builds(lambda n, f: f"ada_{n}_{n}_{f}.ipynb", st.integers(1, 5), st.sampled_from(["09_drift", "x"])),
                          st.builds(lambda who, n, up, f: f"{who}_{n}_{up}_{f}", part, st.integers(1, 20), st.integers(1, 99), name),
                          st.builds(lambda who, n, f: f"{who}_{n}_assignsubmission_file_/{f}", part, st.integers(1, 20), name), st.builds(lambda who, f: f"w-{who}/labs/{f}", part, name))
mode = st.sampled_from([0, 0o100644, 0o120777, 0o010644, 0o020666, 0o060666, 0o140777, 0o100755])
entry = st.tuples(platform_name, mode, st.sampled_from([NOTEBOOK, b"", b"[" * 5000, b"\xff\xfe", b'{"cells": 1}', bytes(3_000_000)]))


def zipped(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for filename, mode, data in entries:
            info = zipfile.ZipInfo("x", (2026, 11, 20, 18, 30, 0))
            info.filename, info.external_attr, info.compress_type = filename.encode("utf8", "replace").decode(), mode << 16, zipfile.ZIP_DEFLATED
            z.writestr(info, data)
    return path


def everything(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*")}


@pytest.fixture
def place(tmp_path):
    """A fresh folder for each example."""
    count = iter(range(10**9))

    def fresh():
        folder = tmp_path / str(next(count))
        folder.mkdir()
        return folder
    return fresh


def check_collected(folder, got):
    """Nothing but OUT/STUDENT/LAB.ipynb and the list of times was written, and each file that was taken is there."""
    written = {p for p in everything(folder) if not (folder / p).is_dir()} - {"in.zip"}
    assert written == {f"out/{h.student}/{h.lab}.ipynb" for h in got.taken} | {"out-handed-in.csv"}
    for h in got.taken:
        assert is_folder_name(h.student) and h.lab in KNOWN
        assert stat.S_ISREG((folder / "out" / h.student / f"{h.lab}.ipynb").lstat().st_mode)
    assert len({(name_key(h.student), h.lab) for h in got.taken}) == len(got.taken)


@QUICK
@given(st.lists(entry, max_size=8), st.sampled_from(lms.PLATFORMS), st.sampled_from([None, "09_drift"]))
@example([("ada_1_2_09_drift.ipynb", 0o120777, NOTEBOOK), ("bo_2_3_09_drift.ipynb", 0o010644, NOTEBOOK), ("chi_3_4_09_drift.ipynb", 0o060666, NOTEBOOK)], "canvas", None)
@example([("../../up_1_2_09_drift.ipynb", 0, NOTEBOOK), ("/abs_1_2_09_drift.ipynb", 0, NOTEBOOK)], "canvas", None)
@example([("Ada_1_assignsubmission_file_/09_drift.ipynb", 0, NOTEBOOK), ("ADA_1_assignsubmission_file_/09_drift.ipynb", 0, NOTEBOOK)], "moodle", None)
@example([("w-ada/labs/09_drift.ipynb", 0, NOTEBOOK), ("w-ADA/09_drift.ipynb", 0, NOTEBOOK)], "github", None)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_zips(place, entries, platform, lab):
    folder = place()
    got = lms.collect(zipped(folder / "in.zip", entries), folder / "out", KNOWN, platform, lab=lab)
    check_collected(folder, got)
    assert len(got.taken) + len(got.refused) <= len(entries)
    with zipfile.ZipFile(folder / "in.zip") as z:
        good = {i.filename for i in z.infolist() if stat.S_IFMT(i.external_attr >> 16) in (0, stat.S_IFREG)}
    assert all(any(h.source in (g, lms.unicodedata.normalize("NFC", g)) for g in good) for h in got.taken)


@QUICK
@given(st.lists(entry, min_size=1, max_size=4), st.integers(0, 2**32), st.integers(1, 30))
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_damaged_zips(place, entries, seed, flips):
    folder, rng = place(), random.Random(seed)
    raw = bytearray(zipped(folder / "in.zip", entries).read_bytes())
    for _ in range(flips):
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    (folder / "in.zip").write_bytes(raw)
    try:
        got = lms.collect(folder / "in.zip", folder / "out", KNOWN, "canvas")
    except lms.LmsError:
        assert everything(folder) == {"in.zip"}
    else:
        check_collected(folder, got)


@QUICK
@given(st.binary(max_size=300))
def test_what_is_no_zip(place, raw):
    folder = place()
    (folder / "in.zip").write_bytes(raw)
    with pytest.raises(lms.LmsError):
        lms.collect(folder / "in.zip", folder / "out", KNOWN)


def canvas_name(who, late, user, upload, file):
    """As ContentZipper makes it."""
    base = re.sub(r"\W", "", re.sub(r"_(\d+)_", r"\1", who).lower() + ("_LATE" if late else "") + f"_{user}")
    return f"{base}_{upload}_" + re.sub(r'[\x00/\\:*?"<>|]+', "_", file)


TRICKY = st.one_of(st.text(max_size=15), st.builds(lambda a, n, b: f"{a}_{n}{b}", st.sampled_from(["bo", "ada", "", "_"]), st.integers(1, 30), st.sampled_from(["", "_2", "_11", "_LATE"])))
FILES = st.one_of(st.just("09_drift"), st.text(max_size=12), st.builds(lambda n, u, f: f"{n}_{u}_{f}", st.integers(1, 30), st.integers(1, 30), st.sampled_from(["09_drift", "x"])))


@QUICK
@given(TRICKY, FILES, st.booleans(), st.booleans())
@example("bo_11", "09_drift", False, True)
@example("bo_11", "homework", False, True)
@example("oneilbo", "11_5_09_drift", False, False)
def test_no_name_gets_into_anothers_folder(place, who, file, late, with_roster):
    """Student 12 chooses a display name and a file name; 11 is Ada."""
    folder = place()
    roster = {"ada": Student("ada", "Ada Doe", "ada@example.org", canvas="11"), "bo": Student("bo", "Bo O'Neil", "bo@example.org", canvas="12")}
    theirs = canvas_name(who, late, 12, 4000, file + ".ipynb")
    got = lms.collect(zipped(folder / "in.zip", [("doeada_11_1_09_drift.ipynb", 0, b'{"cells": ["ada"]}'), (theirs, 0, NOTEBOOK)]), folder / "out", KNOWN, "canvas",
                      roster if with_roster else None, lab="09_drift")
    for h in got.taken:
        if h.source != "doeada_11_1_09_drift.ipynb":
            assert h.student == "bo" if with_roster else h.student.endswith("_12"), h


@QUICK
@given(TRICKY, FILES)
@example("Ada Doe_11", "Ada Doe_11_assignsubmission_file_/09_drift")
def test_moodle_names(place, who, file):
    folder = place()
    prefix = re.sub(r'[\x00-\x1f/\\:*?"<>|&]', "", who.replace("_", " "))  # as its downloader and clean_filename do
    path = f"{prefix}_12_assignsubmission_file_/{file}.ipynb"
    got = lms.collect(zipped(folder / "in.zip", [(path, 0, NOTEBOOK)]), folder / "out", KNOWN, "moodle", lab="09_drift")
    assert all(h.student.endswith("_12") for h in got.taken), got


def test_folders_with_links_and_pipes(tmp_path):
    made = tmp_path / "in"
    made.mkdir()
    secret = tmp_path / "secret.ipynb"
    secret.write_bytes(NOTEBOOK)
    (made / "ada_11_1_09_drift.ipynb").write_bytes(NOTEBOOK)
    (made / "bo_12_2_09_drift.ipynb").symlink_to(secret)
    os.mkfifo(made / "chi_13_3_09_drift.ipynb")
    (made / "dan_14_4_dir").symlink_to(tmp_path)
    got = lms.collect(made, tmp_path / "out", KNOWN, "canvas")
    assert [h.student for h in got.taken] == ["ada_11"] and len(got.refused) == 3


def test_limits(tmp_path, monkeypatch):
    made = zipped(tmp_path / "in.zip", [(f"s_{i}_{i}_09_drift.ipynb", 0, os.urandom(1000)) for i in range(1, 11)])
    monkeypatch.setattr(lms, "MAX_TOTAL", 5_000)
    got = lms.collect(made, tmp_path / "a", KNOWN, "canvas", lab="09_drift")
    assert len(got.taken) == 5 and all("beyond" in why for _, why in got.refused)
    monkeypatch.setattr(lms, "MAX_ENTRIES", 9)
    with pytest.raises(lms.LmsError, match="more than 9"):
        lms.collect(made, tmp_path / "b", KNOWN, "canvas")
    big = zipped(tmp_path / "big.zip", [("s_1_1_09_drift.ipynb", 0, os.urandom(lms.MAX_SUBMISSION + 1))])
    monkeypatch.setattr(lms, "MAX_TOTAL", 10**9)
    assert "larger than 20 MB" in lms.collect(big, tmp_path / "c", KNOWN, "canvas").refused[0][1]


def test_killed_while_collecting(tmp_path):
    """Whenever the run is killed, each file is whole or not there, and the same command finishes."""
    size = len(NOTEBOOK) + 20_000
    zipped(tmp_path / "in.zip", [(f"s_{i}_{i}_09_drift.ipynb", 0, NOTEBOOK + b" " * 20_000) for i in range(1, 400)])
    code = f"from mlops_course.grading.lms import collect; print('go', flush=True); collect({str(tmp_path / 'in.zip')!r}, {str(tmp_path / 'out')!r}, {KNOWN!r}); print('done', flush=True)"

    def run(seconds):
        """Whether the run got to its end within `seconds`, and what it left."""
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        child.stdout.readline()
        start = time.monotonic()
        if seconds is None:
            child.wait()
        else:
            time.sleep(seconds)
            child.kill()
        done = b"done" in child.communicate()[0]
        sizes = [p.stat().st_size for p in (tmp_path / "out").rglob("*.ipynb")]
        assert set(sizes) <= {size}
        return done, len(sizes), time.monotonic() - start

    _, _, whole = run(None)
    shutil.rmtree(tmp_path / "out")
    left = [run(whole * i / 12) for i in range(1, 12)]
    assert any(not done for done, *_ in left), "no run was killed in time: the test shows nothing"
    assert len(lms.collect(tmp_path / "in.zip", tmp_path / "out", KNOWN).taken) == len(list((tmp_path / "out").rglob("*.ipynb"))) == 399
    assert everything(tmp_path) & {".out-collecting"} == set()


@pytest.mark.parametrize("fails_at", [1, 7, 19])
def test_a_full_disk_while_moving(tmp_path, monkeypatch, fails_at):
    """The files that were moved are whole, nothing is left beside them, and the same call finishes."""
    made, replace, calls = zipped(tmp_path / "in.zip", [(f"s_{i}_{i}_09_drift.ipynb", 0, NOTEBOOK) for i in range(1, 21)]), os.replace, []

    def failing(source, target):
        calls.append(target)
        if len(calls) == fails_at:
            raise OSError(28, "No space left on device")
        replace(source, target)
    monkeypatch.setattr(lms.os, "replace", failing)
    with pytest.raises(OSError, match="No space"):
        lms.collect(made, tmp_path / "out", KNOWN)
    there = list((tmp_path / "out").rglob("*.ipynb"))
    assert len(there) == fails_at - 1 and all(p.read_bytes() == NOTEBOOK for p in there) and not list(tmp_path.glob(".*"))
    assert len(lms.collect(made, tmp_path / "out", KNOWN).taken) == 20


def test_a_class_of_thousands(tmp_path):
    """Time grows with the class, not with its square."""
    def seconds(n):
        roster = {f"s{i}": Student(f"s{i}", f"Name{i} Surname", f"s{i}@example.org", canvas=str(i)) for i in range(1, n + 1)}
        made = zipped(tmp_path / f"{n}.zip", [(f"surnamename{i}_{i}_{i}_09_drift.ipynb", 0, NOTEBOOK) for i in range(1, n + 1)])
        start = time.process_time()
        got = lms.collect(made, tmp_path / f"out{n}", KNOWN, roster=roster)
        assert len(got.taken) == n and not got.refused and not got.notes
        return time.process_time() - start
    assert seconds(2000) < 10 * 4 * max(seconds(500), 0.1)


@QUICK
@given(st.binary(max_size=200))
@example(b"student id,name,e-mail\r\na,\x00,b")
@example(b'student id,name,e-mail\n"a')
def test_any_bytes_as_a_roster(place, raw):
    path = place() / "roster.csv"
    path.write_bytes(raw)
    try:
        assert all(is_folder_name(id) for id in read_roster(path))
    except RosterError:
        pass


cell = st.one_of(st.text(alphabet=st.characters(blacklist_categories=("Cs", "Cc")), max_size=12), st.sampled_from(["=1+1", "+1", "-1", "@x", '=HYPERLINK("x")', "a,b", 'a"b', "a;b"]))


@QUICK
@given(st.lists(st.tuples(cell, cell), min_size=1, max_size=5))
def test_canvas_round_trip(place, people):
    """Canvas finds every student again, whatever they are called, and a spreadsheet finds no formula in a name."""
    template, out = place() / "canvas.csv", io.StringIO(newline="")
    write = csv.writer(out).writerow
    write(["Student", "ID", "SIS Login ID", "Section", "09_drift (7)"])
    write(["    Points Possible", "", "", "", "8"])
    for i, (who, login) in enumerate(people): write([who, 100 + i, login, "A", ""])
    template.write_text(out.getvalue(), newline="")
    grades = [Grade(f"x_{100 + i}", "09_drift", 1, "graded", "", (Verdict("ks", "KS", 8, i, "right", ""),), (), "", 0.0) for i in range(len(people))]
    got = lms.canvas_csv(grades, template)
    rows = list(csv.reader(io.StringIO(got.text, newline="")))[2:]
    assert not got.left_out and [(r[1], r[2], r[4]) for r in rows] == [(str(100 + i), login, str(i)) for i, (_, login) in enumerate(people)]
    assert not any(re.match(r"\s*[=+\-@]", r[0]) for r in rows)


@QUICK
@given(st.sets(st.text(alphabet="abcdé0123-_.", min_size=1, max_size=8).filter(is_folder_name), min_size=1, max_size=6), st.binary(min_size=32, max_size=32))
def test_pseudonyms_and_back(ids, key):
    grades = sorted((Grade(id, "09_drift", 1, "refused", f"{id}/ is empty", (), (), "", 0.0) for id in ids), key=lambda g: g.student)
    hidden = hide_names(grades, key)
    assert {g.student for g in hidden} == set(pseudonyms(ids, key).values()) and not ids & {g.student for g in hidden}
    assert show_names(hidden, key, ids) == grades
