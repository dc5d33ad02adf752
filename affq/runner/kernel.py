"""The process that a notebook runs in: this environment's Python, with nothing in it that belongs to the user alone.

No Jupyter kernel that is installed is used, no profile and start-up file of IPython, no module of the current folder.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from traitlets.config import Config

from affq.results import locks

NAME = "python3"
SCRATCH = "affq-kernel-"
# What another user does not have: tokens of the hub, which nothing in a notebook may use; code and settings of one's own; and
# switches that let products of fp32 be made of fewer bits, by whose name the runs would be called fp32 all the same.
LEFT_OUT = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "PYTHONSTARTUP", "MPLBACKEND"),
    *("DNNL_DEFAULT_FPMATH_MODE", "ONEDNN_DEFAULT_FPMATH_MODE", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
)
# The standard library first, then what packages() gives, then what Python adds by itself.
SET_PATH = """
import os, sys
packages = sys.argv.pop(1).split(os.pathsep)
place = next((n for n, path in enumerate(sys.path) if path.endswith("-packages")), len(sys.path))
sys.path[place:place] = packages
"""
LAUNCH = "from ipykernel import kernelapp; kernelapp.launch_new_instance()"


class Kernel(AsyncKernelManager):
    """Starts a kernel of this environment's Python, whatever kernels are installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(
            argv=[*python(LAUNCH), "-f", "{connection_file}"],
            display_name="Python 3",
            language="python",
            metadata={"supported_encryption": ["curve"], "kernel_provisioner": {"provisioner_name": "local-provisioner"}},
        )


def python(code: str) -> list[str]:
    """Return the command, without the code's own arguments, that runs code with this environment's Python as kernels run.

    -I: no module of the current folder, no variable PYTHON*, no module of the user's that Python runs when it starts.
    """
    return [sys.executable, "-I", "-c", SET_PATH + code, os.pathsep.join(packages())]


def packages() -> list[str]:
    """Return the folders of this process's import path that packages are installed in, and that of affq itself, in their order.

    A folder of scripts in PYTHONPATH is none of them, nor is the current folder: a script with a library's name stays outside.
    """
    kinds = ("*.dist-info", "*.egg-info", "affq/__init__.py")
    return [path for path in sys.path if os.path.isabs(path) and any(next(Path(path).glob(kind), None) for kind in kinds)]


@contextmanager
def stripped() -> Iterator[None]:
    """Strip this process's environment of LEFT_OUT and of the network, since what a run loads was fetched before."""
    before = dict(os.environ)
    for name in LEFT_OUT:
        os.environ.pop(name, None)
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def environment(mark: str) -> Iterator[Config]:
    """Change what kernels inherit, and give what Kernel is configured by.

    mark: what locks.end_processes knows the kernels by. Their files lie in a folder of their own, which goes with them; those
    that killed processes left are removed.
    """
    _sweep()
    with tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{os.getpid()}-", ignore_cleanup_errors=True) as scratch, stripped():
        os.environ |= {locks.MARK: mark, "MATPLOTLIBRC": os.devnull, "IPYTHONDIR": scratch, "JUPYTER_RUNTIME_DIR": scratch}
        # What notebook and kernel say to each other are texts: encrypted.
        connection = {"transport_encryption": "auto", "connection_file": str(Path(scratch, "connection.json"))}
        # Behind its last cell a kernel is ended at once: asked to, it would take apart what it has loaded first.
        yield Config({"KernelManager": connection, "NotebookClient": {"shutdown_kernel": "immediate"}})


def _sweep() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*-*"):
        owner = folder.name.removeprefix(SCRATCH).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)
