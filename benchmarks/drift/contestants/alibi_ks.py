"""alibi-detect: KSDrift with Bonferroni, fitted once."""
from common import main
from alibi_detect.cd import KSDrift


def answer(found):
    data = found["data"]
    return {f"x{i}": [float(d), float(p)] for i, (d, p) in enumerate(zip(data["distance"], data["p_val"]))}


main(lambda reference: KSDrift(reference.to_numpy(), p_val=0.05, correction="bonferroni"), lambda detector, batch: detector.predict(batch.to_numpy()), answer)
