"""Evidently with the KS test for every column."""
from common import main
from evidently import Report
from evidently.presets import DataDriftPreset


def answer(found): # Evidently gives the p-value alone
    out = {}
    for m in found.dict()["metrics"]:
        column = m.get("config", {}).get("column")
        if column: out[column] = [None, float(m["value"])]
    return out


main(lambda reference: reference, lambda reference, batch: Report([DataDriftPreset(num_method="ks")]).run(batch, reference), answer)
