"""Leaves files in the temporary folders for the next student.

canary: next
"""
# %% own
import os, tempfile
for folder in {"/tmp", "/var/tmp", tempfile.gettempdir(), canary["temp"]}:
    try: open(os.path.join(folder, canary["poison"]), "w").close()
    except OSError: pass
