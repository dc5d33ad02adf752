from . import annotation as annotation
from . import choose as choose
from .claims import Reason as Reason
from .claims import Verdict as Verdict
from .comparison import WANTED as WANTED
from .comparison import Compared as Compared
from .planned import planned_runs as planned_runs
from .results import Results as Results
