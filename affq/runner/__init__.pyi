from . import notebooks as notebooks
from . import planning as planning
from .doctor import examine as examine
from .doctor import lines as lines
from .execute import run_study as run_study
from .execute import score_study as score_study
from .execute import summarize_study as summarize_study
from .progress import reporter as reporter
