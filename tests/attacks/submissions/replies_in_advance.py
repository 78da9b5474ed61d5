"""Sends replies to requests that have not been made: a reader that takes any reply for its own loses step with the cells.

canary: points, run
honest: double
unprotected: stands
"""
# %% own
kernel = getattr(get_ipython(), "kernel", None)
if kernel is not None:
    for state in ("idle", "busy", "idle"): kernel.session.send(kernel.iopub_socket, "status", {"execution_state": state}, parent={"header": {"msg_id": "0"}}, ident=b"kernel")
    for _ in range(50): kernel.session.send(kernel.iopub_socket, "error", {"ename": "E", "evalue": "e", "traceback": []}, parent={}, ident=b"kernel")
