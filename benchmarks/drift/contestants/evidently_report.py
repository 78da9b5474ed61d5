"""Evidently: a report with the preset for data drift, as its documentation shows it, without its page."""
from common import main
from evidently import Report
from evidently.presets import DataDriftPreset

main(lambda reference: reference, lambda reference, batch: Report([DataDriftPreset()]).run(batch, reference), lambda found: None)
