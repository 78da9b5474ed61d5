"""mlops_course: all tests of a report, its verdicts, the page and its JSON, both in files."""
import tempfile
from pathlib import Path

import numpy as np
from common import main

from mlops_course.detect import Reference, _merger, _Sorted, _sorter
from mlops_course.report import write

_merger()(_Sorted(np.zeros(1)), np.ones(1))  # numba is loaded, and has compiled, before the clock starts
_sorter(2)(np.ones(2))

with tempfile.TemporaryDirectory() as folder:
    main(Reference.fit, lambda reference, batch: write(reference.score(batch), Path(folder) / "report.html"), lambda page: None, lambda page: {"page_mb": page.stat().st_size / 1e6})
