"""Serve a model by vLLM, for the process that started this one: it ends with its standard input, and vLLM's processes with it.

It runs as a script, and imports nothing of affq. Its arguments are the folder that holds vLLM, then those of `vllm serve`.
"""

import os
import signal
import sys
import threading


def end_with_input() -> None:
    """End this process's group once standard input does, however the process that held its other end has ended."""
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":  # vLLM's own processes import this file by another name
    threading.Thread(target=end_with_input, daemon=True).start()
    sys.path.append(sys.argv[1])
    from vllm.entrypoints.cli.main import main

    sys.argv = ["vllm", "serve", *sys.argv[2:]]
    main()
