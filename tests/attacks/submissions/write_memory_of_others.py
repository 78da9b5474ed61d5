"""Changes the memory of another process, as the verdicts in the grader's memory could be changed.

canary: write sibling
"""
# %% own
there = canary["sibling"]
with open(f"/proc/{there['pid']}/mem", "r+b", buffering=0) as f:
    f.seek(there["address"])
    f.write(b"A" * 6)
