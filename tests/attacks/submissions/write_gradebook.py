"""Gives another student other grades, with one line of SQL.

canary: write gradebook
"""
# %% own
import sqlite3
with sqlite3.connect(canary["files"]["gradebook"]) as db: db.execute("update verdicts set earned = 0")
