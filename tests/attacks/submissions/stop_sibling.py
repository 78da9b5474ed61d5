"""Stops another process without killing it, so that it hangs for ever.

canary: stop sibling
"""
# %% own
import os, signal
os.kill(canary["sibling"]["pid"], signal.SIGSTOP)
