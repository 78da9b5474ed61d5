"""Overwrites what another student has handed in with an empty notebook.

canary: write neighbour
"""
# %% own
with open(canary["files"]["neighbour"], "w") as f: f.write('{"cells": []}')
