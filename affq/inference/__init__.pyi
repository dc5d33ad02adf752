from . import generate as generate
from . import interference as interference
from . import kernels as kernels
from . import measure as measure
from . import probes as probes
from .generate import KEY as KEY
from .measure import READINGS as READINGS
