"""Compares nbgrader, otter-grader and this project's grader on one class. Run it by `make bench-grading`; README.md says what it does."""
import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from datetime import datetime, timezone

import psutil

import tasks
from measure import measure
from tools import COURSE, HERE, TOOLS, WORK, Ours, ToolFailed

SMALL, WARM_UP, LARGE = 8, 2, 200
TARGETS = {"light": 40, "heavy": 90}  # wall seconds for the large class on 2 cores
LARGE_JOBS, MARKS = 2, (20, 200)


def say(text, end="\n"): print(text, end=end, file=sys.stderr, flush=True)


class _Progress:
    "One line on stderr that grows where it is a terminal, and one line at the end elsewhere."
    def __init__(self, what, n): self.what, self.n, self.live = what, n, sys.stderr.isatty()
    def __call__(self, done):
        if self.live: say(f"\r{self.what}: {min(done, self.n)} of {self.n}", end="")
    def end(self, text): say(f"{chr(13) if self.live else ''}{self.what}: {text}")


def run_class(tool, assignment, n, jobs=1, marks=()):
    "Grade a class of `n`; what it took and the scores it gave. Raises `ToolFailed`."
    folder = tool.hand_in(assignment, n)
    progress, load = _Progress(f"{assignment.name:6} {tool.title:20} {n:3} submissions", n), os.getloadavg()[0]
    used = measure(tool.command(assignment, folder, jobs), tool.cwd(folder), tool.environment(), folder / "log.txt",
                   limit=300 + 90 * n, done=lambda: tool.done(folder), on_done=progress, marks=marks)
    if used.code != 0:
        how = "took too long and was stopped" if used.code is None else f"gave {used.code}"
        raise ToolFailed(f"{tool.name}: {how} on {assignment.name}; it said last:\n{used.tail[-800:]}")
    scores = tool.scores(assignment, folder)
    if len(scores) != n: raise ToolFailed(f"{tool.name}: {len(scores)} of {n} submissions of {assignment.name} have scores; see {folder / 'log.txt'}")
    progress.end(f"{used.cpu:7.1f} CPU s, {used.wall:7.1f} s wall, {used.peak / 1e6:5.0f} MB {used.memory_from}")
    took = {"n": n, "jobs": jobs, "cpu": round(used.cpu, 2), "cpu_from": used.cpu_from, "wall": round(used.wall, 2), "peak_mb": round(used.peak / 1e6),
            "memory_from": used.memory_from, "load_before": round(load, 2)}
    if marks: took["mb_at"] = {str(m): round(b / 1e6) for m, b in sorted(used.marks.items())}
    return took, scores


def warm_up(tool, assignment, jobs):
    "A class of two that is not measured: disks are warm after it, and what cannot work at all shows."
    try: run_class(tool, assignment, WARM_UP, jobs)
    except ToolFailed as e:
        if not (isinstance(tool, Ours) and tool.takes_jobs and "No such option" in str(e)): raise
        say("ours: this version has no --jobs; it grades one after the other")
        tool.takes_jobs = False
        run_class(tool, assignment, WARM_UP, jobs)


def split(small, full):
    "Seconds per submission and for the start, from a small and a full class: the line through the two points."
    slope = (full["cpu"] - small["cpu"]) / (full["n"] - small["n"])
    return {"small": small, "full": full, "cpu_per_submission": round(slope, 4), "cpu_start_up": round(small["cpu"] - slope * small["n"], 2),
            "cpu_per_submission_with_start": round(full["cpu"] / full["n"], 4), "wall_per_submission": round(full["wall"] / full["n"], 3)}


def disagreements(assignment, class_, scores):
    "Where a grader gives other points than the answers deserve, as rows for people."
    deserved, rows = tasks.deserved(assignment, class_), []
    for student, answers in class_.items():
        for task, (state, _) in answers.items():
            given = {tool: found[student].get(task) for tool, found in scores.items()}
            if any(points != deserved[student][task] for points in given.values()):
                rows.append({"student": student, "task": task, "answer": state, "deserved": deserved[student][task], **given})
    return rows


def ratios(tools):
    "CPU of each peer divided by ours, per submission and for the whole class with its start."
    if "ours" not in tools: return {}
    ratio = lambda theirs, own: round(theirs / own, 2) if theirs > 0 and own > 0 else None  # noise can bend the slope of cheap work below zero
    return {name: {key: ratio(took[key], tools["ours"][key]) for key in ("cpu_per_submission", "cpu_per_submission_with_start")}
            for name, took in tools.items() if name != "ours"}


def compare(assignment, tools, n, jobs, failed):
    "All tools on one lab, in turn: first the warm-up, then the small class, then the full one."
    runs, scores = {}, {}
    for size in (WARM_UP, SMALL, n):
        for tool in tools:
            if f"{tool.name} {assignment.name}" in failed: continue
            its_jobs = jobs if isinstance(tool, Ours) else 1
            try:
                if size == WARM_UP:
                    say(f"{assignment.name:6} {tool.title:20} is getting ready")
                    tool.make(assignment)
                    warm_up(tool, assignment, its_jobs)
                else: runs[tool.name, size], scores[tool.name] = run_class(tool, assignment, size, its_jobs)
            except (ToolFailed, tasks.NoAnswers) as e:
                failed[f"{tool.name} {assignment.name}"] = str(e)
                say(f"{e}\n{tool.name} is left out of {assignment.name}; going on with the others")
    whole = {t.name: split(runs[t.name, SMALL], runs[t.name, n]) for t in tools if (t.name, n) in runs}
    rows = disagreements(assignment, tasks.answers(assignment, n), {name: scores[name] for name in whole})
    for row in rows: say(f"scores differ: {row}")
    return {"tools": whole, "cpu_to_ours": ratios(whole), "answers": n * len(assignment.tasks), "disagreements": rows}


def large_class(tool, failed):
    "Ours on a class of 200 with two jobs, against the clock."
    out = {}
    for assignment in tasks.ASSIGNMENTS.values():
        if not tool.takes_jobs: return {"left_out": "this version has no --jobs"}
        try: took, scores = run_class(tool, assignment, LARGE, LARGE_JOBS, MARKS)
        except ToolFailed as e:
            failed[f"ours {assignment.name}, class of {LARGE}"] = str(e)
            say(str(e))
            continue
        wrong = disagreements(assignment, tasks.answers(assignment, LARGE), {"ours": scores})
        out[assignment.name] = {**took, "target_wall": TARGETS[assignment.name], "disagreements": wrong}
    return out


def machine():
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    return {"processor": model, "cores": len(os.sched_getaffinity(0)), "memory_gb": round(psutil.virtual_memory().total / 1e9), "system": platform.system(),
            "kernel": platform.release(), "python": platform.python_version()}


def commit():
    "The commit of this project, where it is a git repository; '+' where files were changed since."
    git = lambda *words: subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True).stdout.strip()
    try: return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except OSError: return ""

# --- the table ----------------------------------------------------------------------------------------------------------


def _row(*cells): return "| " + " | ".join(map(str, cells)) + " |"


def _lab_rows(name, lab):
    titles = {t.name: t.title for t in TOOLS}
    for tool, t in lab["tools"].items():
        full = t["full"]
        yield _row(name, titles[tool], f"{t['cpu_per_submission']:.2f}", f"{t['cpu_start_up']:.1f}", f"{full['cpu']:.1f}",
                   f"{full['wall']:.1f}", f"{t['wall_per_submission']:.2f}", f"{full['peak_mb']} ({full['memory_from']})")


def _large_rows(large):
    for name, t in large.items():
        held = "held" if t["wall"] < t["target_wall"] else "missed"
        at = [t["mb_at"].get(str(m), "–") for m in MARKS]
        yield _row(name, f"{t['wall']:.1f}", f"{t['target_wall']} ({held})", f"{t['cpu']:.1f}", *at, f"{t['peak_mb']} ({t['memory_from']})")


def _large(large):
    if "left_out" in large: return [f"The class of {LARGE} was left out: {large['left_out']}."]
    head = ["lab", "wall s", "target, wall s", "CPU s", *(f"MB at the {m}th" for m in MARKS), "peak memory, MB"]
    return [f"Ours alone, a class of {LARGE} with {LARGE_JOBS} jobs:", "", _row(*head), _row(*["---"] * len(head)), *_large_rows(large)]


def table(r):
    "The results as Markdown."
    m, n = r["machine"], r["n"]
    head = ["lab", "grader", "CPU s per submission", "CPU s to start", f"CPU s, class of {n}", f"wall s, class of {n}", "wall s per submission", "peak memory, MB"]
    versions = ", ".join(f"{v['package']} {v[v['package']]}" for v in r["versions"].values())
    out = [f"Measured {r['date'][:10]} on {m['cores']} cores ({m['processor']}), {m['memory_gb']} GB, Python {m['python']}: {versions}"
           + (f" at {r['commit']}" if r["commit"] else "") + f". Classes of {SMALL} and {n}, jobs: {r['jobs']}.", "", _row(*head), _row(*["---"] * len(head))]
    for name, lab in r["labs"].items(): out += _lab_rows(name, lab)
    out += ["", "CPU seconds, theirs divided by ours:", "", _row("lab", "grader", "per submission", f"whole class of {n}, with its start"), _row(*["---"] * 4)]
    for name, lab in r["labs"].items():
        out += [_row(name, peer, *("–" if ratio is None else f"{ratio:.1f}" for ratio in x.values())) for peer, x in lab["cpu_to_ours"].items()]
    out += ["", *(f"Scores, {name}: {lab['answers']} answers, {len(lab['disagreements'])} of them scored otherwise than deserved by at least one grader.\n"
                  for name, lab in r["labs"].items())]
    out += _large(r["large_class"])
    out += [f"\nNot measured: {what} ({why.splitlines()[0]})" for what, why in r["failed"].items()]
    return "\n".join(out) + "\n"


def write(results):
    (HERE / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    (HERE / "results.md").write_text(table(results))


def usable(failed):
    "The graders whose environments are whole, and their versions."
    found = {}
    for tool in TOOLS:
        try: found[tool] = {"package": tool.package, **tool.versions()}
        except ToolFailed as e:
            failed[tool.name] = str(e)
            say(f"{e}\n{tool.name} is left out; going on with the others")
    return found


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--n", type=int, default=48, help="submissions in the full class")
    p.add_argument("--jobs", type=int, default=1, help="processes at a time, for ours; the peers have no such option")
    p.add_argument("--no-large", action="store_true", help=f"leave out the class of {LARGE}")
    args = p.parse_args()
    if sys.platform != "linux": p.error("this comparison needs Linux")
    if args.n < 2 * SMALL: p.error(f"N has to be {2 * SMALL} or more, to tell the start from the slope; got {args.n}")
    for folder in (WORK, COURSE): shutil.rmtree(folder, ignore_errors=True)
    (WORK / "home").mkdir(parents=True)
    failed = {}
    tools = usable(failed)
    if not tools: sys.exit("none of the three environments can be used; run  make bench-grading  with a network")
    results = {"format": 1, "date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "commit": commit(), "machine": machine(),
               "small": SMALL, "n": args.n, "jobs": args.jobs, "versions": {t.name: v for t, v in tools.items()},
               "labs": {}, "large_class": {"left_out": "not asked for"}, "failed": failed}
    for assignment in tasks.ASSIGNMENTS.values():
        results["labs"][assignment.name] = compare(assignment, tools, args.n, args.jobs, failed)
        write(results)
    own = next((t for t in tools if isinstance(t, Ours)), None)
    if own and not args.no_large:
        results["large_class"] = large_class(own, failed)
        write(results)
    print(table(results))
    say(f"Wrote {HERE / 'results.json'} and results.md")
    if failed or any(lab["disagreements"] for lab in results["labs"].values()): sys.exit(1)


if __name__ == "__main__":
    try: main()
    except KeyboardInterrupt: sys.exit("\nstopped; nothing is left running, and results.json holds the labs that were finished")
