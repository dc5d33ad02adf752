from . import annotation as annotation
from . import choose as choose
from . import disagreement as disagreement
from .claims import Reason as Reason
from .claims import Verdict as Verdict
from .comparison import WANTED as WANTED
from .comparison import Compared as Compared
from .results import Results as Results
