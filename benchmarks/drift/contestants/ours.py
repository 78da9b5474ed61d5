"""mlops_course: all tests of a report, its verdicts, and its JSON."""
import numpy as np
from common import main

from mlops_course.detect import Reference, _merger, _Sorted, _sorter

_merger()(_Sorted(np.zeros(1)), np.ones(1))  # numba is loaded, and has compiled, before the clock starts
_sorter(2)(np.ones(2))


def work(reference, batch):
    report = reference.score(batch)
    report.json()
    return report


def fit(frame):
    reference = Reference.fit(frame)
    reference.hash  # worked out once, for the JSON
    return reference


main(fit, work, lambda report: {f.column: [f.statistic, f.pvalue] for f in report.findings if f.test == "ks"})
