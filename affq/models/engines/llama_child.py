"""Serve models by llama.cpp, one after the other, as the process that started this one asks: lines of JSON in, and out.

It runs as a script, and imports nothing of affq: what it holds is what llama.cpp holds. It ends with its standard input, however
the process that it serves ends.
"""

import functools
import json
import os
import shutil
import sys
from typing import Any


def serve(packages: str, folder: str) -> None:
    """Tell what llama.cpp is here, then load a server for each line of settings, and tell that it serves, or failed.

    packages: the folder that holds xllamacpp. folder: of its socket and its log, which goes with it. A setting's name says where
    it is among xllamacpp's parameters: model.path.
    """
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what llama.cpp prints is its log, and no answer
    sys.path.append(packages)
    import xllamacpp

    def tell(words: dict[str, Any]) -> None:
        print(json.dumps(words), file=told, flush=True)

    build = " ".join(str(value) for value in xllamacpp.BUILD_INFO.values())
    tell({"version": xllamacpp.__version__, "build": build, "system": xllamacpp.get_system_info().strip()})
    for line in sys.stdin:
        server = None  # its memory is free before the next one takes its own
        parameters = xllamacpp.CommonParams()
        for name, value in json.loads(line).items():
            *places, last = name.split(".")
            setattr(functools.reduce(getattr, places, parameters), last, value)
        try:
            server = xllamacpp.Server(parameters)
        except RuntimeError as error:
            tell({"error": str(error)})
        else:
            tell({"served": server is not None})
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # at once, whatever is being generated


if __name__ == "__main__":
    serve(*sys.argv[1:])
