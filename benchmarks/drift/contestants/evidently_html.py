"""Evidently: the report with the preset for data drift, and its page in a file, as its documentation shows it."""
import tempfile
from pathlib import Path

from common import main
from evidently import Report
from evidently.presets import DataDriftPreset


def work(reference, batch):
    page = Path(folder) / "report.html"
    Report([DataDriftPreset()]).run(batch, reference).save_html(str(page))
    return page


with tempfile.TemporaryDirectory() as folder: main(lambda reference: reference, work, lambda page: None, lambda page: {"page_mb": page.stat().st_size / 1e6})
