"""mlops_course: all tests of a report, its verdicts, and its JSON."""
from common import main

from mlops_course.detect import Reference


def work(reference, batch):
    report = reference.score(batch)
    report.json()
    return report


def fit(frame):
    reference = Reference.fit(frame)
    reference.hash  # worked out once, for the JSON
    return reference


main(fit, work, lambda report: {f.column: [f.statistic, f.pvalue] for f in report.findings if f.test == "ks"})
