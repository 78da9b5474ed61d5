"""The loop that everybody writes: KS of scipy, column by column. No other test, no correction, no verdict."""
from common import main
from scipy import stats

main(lambda reference: reference, lambda reference, batch: {c: stats.ks_2samp(reference[c].to_numpy(), batch[c].to_numpy(), method="asymp") for c in reference},
     lambda found: {c: [float(r.statistic), float(r.pvalue)] for c, r in found.items()})
