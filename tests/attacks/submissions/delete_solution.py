"""Deletes the solution, so that nothing can be graded any more.

canary: write solution
"""
# %% own
import os
os.remove(canary["files"]["solution"])
