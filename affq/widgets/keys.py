"""Keys that a box of widgets answers to while it has the focus; JupyterLab's own shortcuts stay what they are elsewhere."""

from collections.abc import Callable, Mapping

import anywidget
import traitlets
from ipywidgets import Box

BOX = "affq-keyed"  # the CSS class of a box with keys

# The window hears a key before JupyterLab does, whose single letters cut and delete cells: none reaches it from within a box.
# Where something is typed, and with a modifier, a key is what it always was.
SCRIPT = """
function render({ model, el }) {
  const typing = "input, textarea, [contenteditable=true]";
  const hear = (event) => {
    const box = el.closest(".affq-keyed");
    if (!box || !box.contains(event.target) || event.target.matches(typing)) return;
    if (event.ctrlKey || event.metaKey || event.altKey || event.key.length > 1) return;
    event.stopImmediatePropagation();
    if (event.key === model.get("writes")) box.querySelector("textarea").focus();
    else if (!model.get("heard").includes(event.key)) return;
    else if (!event.repeat) model.send({ key: event.key });
    event.preventDefault();
  };
  let gone = false;
  const focusable = () => {  // the box is put around this element after it was made
    const box = el.closest(".affq-keyed");
    if (box) box.tabIndex = 0;
    else if (!gone) requestAnimationFrame(focusable);
  };
  focusable();
  window.addEventListener("keydown", hear, true);
  return () => { gone = true; window.removeEventListener("keydown", hear, true); };
}
export default { render };
"""
STYLE = """
.affq-keyed {padding: 4px; border: 2px solid transparent; outline: none}
.affq-keyed:focus-within {border-color: var(--jp-brand-color1, #1976d2)}
"""


class Keys(anywidget.AnyWidget):
    """Call an action for a key. actions: {key: function without arguments}; the key `writes` goes to the box's text area."""

    _esm = SCRIPT
    _css = STYLE
    heard = traitlets.List(traitlets.Unicode()).tag(sync=True)
    writes = traitlets.Unicode().tag(sync=True)

    def __init__(self, actions: Mapping[str, Callable[[], None]], writes: str = "") -> None:
        super().__init__(heard=list(actions), writes=writes)
        self.on_msg(lambda _, message, buffers: actions[message["key"]]())


def keyed(box: Box, actions: Mapping[str, Callable[[], None]], writes: str = "") -> Box:
    """Give a box its keys, as `Keys` takes them, and return it."""
    box.children = (*box.children, Keys(actions, writes))
    box.add_class(BOX)
    return box
