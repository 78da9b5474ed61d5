"""Attacks that run no code: the file itself, its name, its metadata or its recorded outputs are meant to harm whoever reads them.

Each builder writes one such file from the student's copy with honest answers in it."""
import json
import os

from harness import Attack

MIME = "application/vnd.mlops-course.value+json"
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)>"
_made = []


def builder(about, **options):
    """Make an attack of a function `write(path, nb)`; `nb` is a notebook as plain data."""
    def wrap(function):
        write = lambda path, nb: function(path, json.loads(json.dumps(nb)))
        _made.append(Attack("file_" + function.__name__, about, write=write, **{"unprotected": "stands", "canaries": ("run", "points"), **options}))
        return function
    return wrap


def attacks():
    return list(_made)


def save(path, nb):
    path.write_text(json.dumps(nb))


def cells_of(nb, key):
    return [c for c in nb["cells"] if key in c["metadata"].get("mlops_course", {})]


def own_cell(source, id="mine", **metadata):
    return {"cell_type": "code", "id": id, "source": source, "metadata": metadata, "outputs": [], "execution_count": None}


@builder("Takes the ids and the metadata of the instructor's cells for cells of its own: a hole is answered twice, a check is code of its own.", honest=("double",))
def forged_ids(path, nb):
    first = cells_of(nb, "check")[0]
    for role in ("judge", "secret", "parameters", "expected", "author", "alternative", "check"):
        nb["cells"].insert(2, own_cell("show(6.0)", id=first["id"], tags=[role], mlops_course={"check": "scale", "points": 1000, "needs": [], "judged": False, "rtol": 1e9, "hidden": False}))
    for check in cells_of(nb, "check"):
        check["source"] = "show(recorded)"
        check["metadata"]["mlops_course"].update(points=1000, rtol=1e9, atol=1e9, kind="set")
    save(path, nb)


@builder("Says in the notebook's metadata that there is nothing to do: other limits, another kernel, another lab format, a parameter of its own.", honest=("double", "scale"))
def forged_metadata(path, nb):
    nb["metadata"].update(kernelspec={"name": "bash", "language": "bash", "display_name": "x"}, papermill={"parameters": {"seed": 0}}, language_info={"name": "\u0000"})
    nb["metadata"]["mlops_course"].update(limits={"cell_seconds": 1e9}, format=99, earned=15)
    save(path, nb)


@builder("Has no answer, but the right outputs and execution counts are recorded under every check.", honest=())
def recorded_outputs(path, nb):
    for check in cells_of(nb, "check"):
        check["outputs"] = check["outputs"] or [{"output_type": "display_data", "metadata": {}, "data": {MIME: 9}}]
        check["execution_count"] = 7
        check["metadata"]["mlops_course"]["earned"] = 8
    save(path, nb)


@builder("Is JSON that is nested a hundred thousand deep.", limit=("nested too deeply",))
def deep_json(path, nb):
    path.write_text('{"cells": ' + "[" * 100_000 + "]" * 100_000 + "}")


@builder("Is nested deeply in a place that grading does not need.", limit=("nested too deeply",))
def deep_metadata(path, nb):
    path.write_text(json.dumps(nb)[:-1] + ', "x": ' + '{"a":' * 50_000 + "1" + "}" * 50_001)


@builder("Is 100 MB of a notebook.", limit=("is larger than",))
def hundred_megabytes(path, nb):
    save(path, nb)
    os.truncate(path, 100_000_000)


@builder("Carries 15 MB of outputs that become much more when they are unpacked or drawn: an entity bomb in SVG, a picture of 50,000 × 50,000 points, one line of 10 MB.")
def output_bomb(path, nb):
    import base64
    import struct
    import zlib
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(bytes(50_000_000), 9)) + chunk(b"IEND", b"")
    laughs = "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(12))
    svg = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a0 "ha">{laughs}]><svg>&a12;</svg>'
    nb["cells"][1]["outputs"] = [{"output_type": "display_data", "metadata": {}, "data": {"image/png": base64.b64encode(png).decode(), "image/svg+xml": svg, "text/plain": "x" * 10_000_000}}]
    save(path, nb)


@builder("Carries markup, scripts and escape sequences in its outputs, its text and its metadata, for whoever opens the report.")
def markup(path, nb):
    nb["cells"].insert(1, {"cell_type": "markdown", "id": "m", "metadata": {"x": MARKUP}, "source": MARKUP + "\x1b[2J"})
    nb["cells"][0]["attachments"] = {MARKUP: {"text/html": MARKUP}}
    for check in cells_of(nb, "check"):
        check["outputs"] = [{"output_type": "display_data", "metadata": {}, "data": {"text/html": MARKUP, "application/javascript": "alert(1)"}}]
        check["metadata"]["mlops_course"]["title"] = MARKUP
    nb["cells"].append(own_cell("pass", id=MARKUP))
    nb["metadata"]["title"] = MARKUP
    save(path, nb)


@builder("Has a cell whose source is a list with things in it that are no text.", limit=("source is not text",))
def source_of_numbers(path, nb):
    nb["cells"][1]["source"] = ["seed = ", 3, None, {"a": []}]
    save(path, nb)


@builder("Has values of the wrong type everywhere: cells that are numbers, metadata that are lists, outputs that are text, an id of a million letters.", limit=("is not a notebook",))
def wrong_types(path, nb):
    nb["cells"][1]["metadata"] = [1]
    nb["cells"][2]["outputs"] = "all"
    nb["cells"][3]["id"] = "x" * 1_000_000
    nb["cells"].append(5)
    save(path, nb)


@builder("Has a number of a hundred thousand digits, a NaN and a lone half of a character, as only JSON has them.", limit=("is not",))
def odd_json(path, nb):
    path.write_text(json.dumps(nb)[:-1] + ', "x": ' + "9" * 100_000 + ', "y": NaN, "z": "\\ud800"}')


@builder("Has text that is no valid Unicode in a cell.", limit=("not valid Unicode",))
def half_a_character(path, nb):
    nb["cells"].append(own_cell("text = '\ud800'"))
    save(path, nb)


@builder("Is a symbolic link to a file of the instructor, which would be read, quoted and graded.", limit=("cannot be read",))
def link(path, nb):
    os.symlink(path.parent.parent / "course/solutions/labs/00_fort.ipynb", path)


@builder("Is a symbolic link to something without an end.", limit=("cannot be read",))
def link_to_device(path, nb):
    os.symlink("/dev/zero", path)


@builder("Is a named pipe, on which a reader waits for ever.", limit=("is empty", "cannot be read", "not a plain file"))
def named_pipe(path, nb):
    os.mkfifo(path)


@builder("Has its answer in a cell without id and metadata, as a source that no parser likes: a hundred thousand parentheses.", honest=("scale",))
def nested_source(path, nb):
    hole = cells_of(nb, "hole")[0]
    hole.update(source="double = " + "(" * 100_000 + "1" + ")" * 100_000, id="other", metadata={})
    save(path, nb)


@builder("Has sources on which a careless regular expression or parser takes for ever.")
def slow_to_parse(path, nb):
    tricks = ["x" + " " * 200_000 + "y", "#" * 200_000, "'" * 99_999, "\\\n" * 50_000, "f'" + "{" * 5000, "show(" * 5000, "check(\"" + "a-" * 100_000, "-" * 100_000 + "1", "a." * 50_000 + "a"]
    nb["cells"] += [own_cell(t, id=f"t{i}", tags=["check"]) for i, t in enumerate(tricks)]
    save(path, nb)


@builder("Has twenty thousand cells, each of which has the id of the same check.")
def twenty_thousand_cells(path, nb):
    first = cells_of(nb, "check")[0]
    nb["cells"] += [{**first, "outputs": []} for _ in range(20_000)]
    save(path, nb)


@builder("Uses line ends in its source that some count and others do not, with a cell magic that writes files.", canaries=("run",))
def line_ends(path, nb):
    nb["cells"].append(own_cell("a = 1\r\nb = 2\u2028c = 3\x0cd = 4\x85e = 5", id="l1"))
    nb["cells"].append(own_cell("%%writefile answer.txt\n9.0", id="l2"))
    nb["cells"].append(own_cell("%load_ext x\n!kill -STOP $$\n%run nothing.py\n%autoreload 2", id="l3"))
    save(path, nb)


@builder("Is handed in under a name that is markup.", student="<script>alert(1)<&'\">")
def name_of_markup(path, nb):
    save(path, nb)


@builder("Is handed in under a name with escape sequences, which change the title and clear the screen of a terminal.", student="\x1b]0;owned\x07\x1b[2Jeve\r\n0 graded")
def name_of_escapes(path, nb):
    save(path, nb)


@builder("Is handed in under a name of invisible characters and such that turn the reading direction: it looks like another one's.", student="\u202ebo\u200b\u2066\u200d\ufeff")
def name_of_nothing(path, nb):
    save(path, nb)


@builder("Is handed in under a name that a spreadsheet takes for a formula.", student="=HYPERLINK(\"x\")+cmd|' -C calc'!A0")
def name_of_formula(path, nb):
    save(path, nb)


@builder("Is handed in under a name that is a pattern, on which a careless search takes for ever, and a template.", student="(a+)+$" + "a" * 60 + "{{7*7}}%s{0.__class__}[bold]")
def name_of_patterns(path, nb):
    save(path, nb)


@builder("Is handed in under a name with a quote that ends an SQL text.", student="x'); drop table verdicts; --")
def name_of_sql(path, nb):
    save(path, nb)
