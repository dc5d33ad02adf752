from . import report as report
from .analysis import Results as Results
from .errors import InputError as InputError
from .study import load_study as load_study
from .version import __version__ as __version__
