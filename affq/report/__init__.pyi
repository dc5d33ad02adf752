from . import charts as charts
from . import comparison_words as comparison_words
from . import exports as exports
from . import index as index
from . import judge_words as judge_words
from . import publish as publish
from . import reading as reading
from . import words as words
