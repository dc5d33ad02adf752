from .annotator import Annotator as Annotator
from .explorer import Explorer as Explorer
