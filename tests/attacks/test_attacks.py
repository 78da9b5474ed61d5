"""Attacks that a student could hand in. Without a sandbox each one takes its canary; in the sandbox every canary stands, and everybody gets what they deserve.

With ALL_ATTACKS=1 in the environment, the attacks that come to nothing even without a sandbox are graded without one as well, to prove that."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest

import harness
from fort import POINTS

ATTACKS = harness.attacks()
FALLS = [a.name for a in ATTACKS.values() if a.unprotected == "falls"]
STANDS = [a.name for a in ATTACKS.values() if a.unprotected == "stands"]
ALONE = [name for name in FALLS if ATTACKS[name].alone]
MODES = {"sandbox": {"options": ["--jobs", "1"]}, "two jobs": {"options": ["--jobs", "2"]}, "plain user": {"options": ["--jobs", "1"], "plain": True}}

pytestmark = pytest.mark.skipif(harness.ring_problem() is not None, reason=f"no namespaces to keep the attacks in: {harness.ring_problem()}")


@cache
def grade_help():
    words = [sys.executable, "-c", "from mlops_course.cli import main; main()", "grade", "--help"]
    return subprocess.run(words, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200", "PYTHONPATH": str(harness.ROOT)}).stdout


def there(option):
    return option in grade_help()


@pytest.fixture(scope="session")
def ran():
    """ran(names, **how): the result of grading a class of these attacks; each class is graded once."""
    folder = Path(tempfile.mkdtemp(prefix="attacks-"))  # short: the names of sockets must be
    harness.make_course(folder / "course", "SECRET-OF-THE-COURSE")
    done = {}

    def run(names, **how):
        key = json.dumps([names, how])
        if key not in done:
            done[key] = harness.run_class(folder / f"r{len(done)}", folder / "course", names, **how)
        return done[key]
    yield run
    shutil.rmtree(folder, ignore_errors=True)


def unprotected(ran, names, **how):
    options = (["--no-sandbox"] if there("--no-sandbox") else []) + (["--jobs", "1"] if there("--jobs") else [])
    return ran(names, unprotected=True, options=options, **how)


def sandboxed(ran, mode):
    how = MODES[mode]
    for option in ["--no-sandbox", *(o for o in how.get("options", ()) if o.startswith("--"))]:
        if not there(option):
            pytest.skip(f"mlops-course grade has no {option} yet")
    return ran(list(ATTACKS), victim_every=8, **how)


def honest_points(name):
    return sum(POINTS[hole] for hole in ATTACKS[name].honest)


def has_earned(told, attack):
    """Whether the attacker got exactly what its honest answers are worth, or was refused where it hands in nothing that can be read."""
    if told["status"] == "refused":
        return attack.limit and any(word in told["reason"] for word in attack.limit)
    return told["earned"] == honest_points(attack.name)


# --- without a sandbox ------------------------------------------------------------------------------------------------------

@pytest.mark.attack_unprotected
@pytest.mark.parametrize("name", FALLS)
def test_takes_its_canary_where_nothing_protects_it(ran, name):
    attack = ATTACKS[name]
    if attack.alone:
        result = unprotected(ran, [name], seconds=40)
        fallen = set(result["fallen"][name]) | set(result["fallen"][""])
    else:
        result = unprotected(ran, [n for n in FALLS if n not in ALONE])
        fallen = set(result["fallen"][name])
    assert attack.canaries and set(attack.canaries) <= fallen, (result["students"][name], result["stderr"][-2000:])


if os.environ.get("ALL_ATTACKS"):
    @pytest.mark.attack_unprotected
    @pytest.mark.parametrize("name", STANDS)
    def test_comes_to_nothing_even_without_a_sandbox(ran, name):
        result = unprotected(ran, STANDS)
        told = result["students"][name]
        assert told and result["fallen"][name] == [] and has_earned(told, ATTACKS[name]), (result["fallen"][name], told, result["stderr"][-2000:])


@pytest.mark.attack_unprotected
def test_a_plain_user_can_grade_in_the_ring(ran):
    result = unprotected(ran, [], plain=True)
    assert result["code"] == 0 and [v["earned"] for v in result["victims"].values()] == [sum(POINTS.values())], result["stderr"]


# --- in the sandbox ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("mode", MODES)
def test_gets_what_it_has_earned_and_nothing_else(ran, mode, name):
    result = sandboxed(ran, mode)
    attack, told = ATTACKS[name], result["students"][name]
    assert told, f"no result: {result['stderr'][-2000:]}"
    assert result["fallen"][name] == []
    assert has_earned(told, attack), told
    said = " / ".join([told["reason"], *told["notes"], *(v["reason"] for v in told["verdicts"])])
    assert not attack.limit or any(word in said for word in attack.limit), said


@pytest.mark.parametrize("mode", MODES)
def test_everybody_else_is_undisturbed(ran, mode):
    result = sandboxed(ran, mode)
    full = sum(POINTS.values())
    assert {name: told and told["earned"] for name, told in result["victims"].items()} == dict.fromkeys(result["victims"], full)
    assert len(result["victims"]) > len(ATTACKS) / 8
    assert result["code"] == 3, result["stderr"]  # some are refused, and nothing worse
    assert result["fallen"][""] == []


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_left(ran, mode):
    result = sandboxed(ran, mode)
    assert result["left"] == []
    assert [p for p in result["residue"] if "/home/" not in p] == []


@pytest.mark.parametrize("mode", MODES)
def test_nothing_of_theirs_reaches_a_terminal_or_a_browser(ran, mode):
    result = sandboxed(ran, mode)
    assert "\x1b" not in result["stdout"] + result["stderr"]
    assert result["markup"] == result["controls"] == 0


# --- the suite itself -------------------------------------------------------------------------------------------------------

def test_every_attack_says_what_it_is():
    for attack in ATTACKS.values():
        assert len(attack.about) > 20 and attack.canaries, attack.name
        assert attack.unprotected in ("falls", "stands", "not run") and set(attack.honest) <= set(POINTS), attack.name
        assert {hole for hole, _ in attack.cells} <= {"own", *POINTS}, attack.name
        assert not {hole for hole, _ in attack.cells} & set(attack.honest) - {"report"}, attack.name
    assert len(FALLS) > 50


def test_a_fallen_canary_is_seen(tmp_path):
    before = {kind: (path, harness.digest(path)) for kind, path in harness.make_files(tmp_path / "eve", lambda kind: f"SECRET-{kind}-0").items()}
    assert all(harness.digest(path) == was for path, was in before.values())
    before["key"][0].write_text("another")
    before["shadow"][0].unlink()
    before["solution"][0].unlink()
    before["solution"][0].symlink_to(before["kernel"][0])
    assert {kind for kind, (path, was) in before.items() if harness.digest(path) != was} == {"key", "shadow", "solution"}
