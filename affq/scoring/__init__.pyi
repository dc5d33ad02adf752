from . import classifiers as classifiers
from . import judge_file as judge_file
from . import scores as scores
from .judge import Judge as Judge
from .judge import packaged as packaged
from .perplexity import Scorer as Scorer
from .scores import distinct_n as distinct_n
