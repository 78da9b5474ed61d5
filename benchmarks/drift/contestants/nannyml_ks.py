"""NannyML: univariate drift with KS, fitted once; the batch is one chunk. (Its logger and usage statistics are off.)"""
import os

os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"
from common import main
import nannyml


def fit(reference):
    return nannyml.UnivariateDriftCalculator(column_names=list(reference), continuous_methods=["kolmogorov_smirnov"], chunk_number=1).fit(reference)


def answer(found):
    row = found.filter(period="analysis").to_df().iloc[-1]
    return {c: [float(row[c, "kolmogorov_smirnov", "value"]), None] for c in row.index.get_level_values(0).unique() if c != "chunk"}


main(fit, lambda calculator, batch: calculator.calculate(batch), answer)
