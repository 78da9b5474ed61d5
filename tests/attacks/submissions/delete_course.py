"""Deletes the course and the whole class while it is being graded.

canary: course
alone: yes
"""
# %% own
import shutil
for folder in ("class", "course"): shutil.rmtree(canary["real"][folder], ignore_errors=True)
