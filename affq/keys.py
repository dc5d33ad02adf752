"""Keys that a box of widgets answers to while it has the focus; JupyterLab's own shortcuts stay what they are elsewhere."""

import anywidget
import traitlets

BOX = "affq-keyed"  # the CSS class of a box with keys

# The window hears a key before JupyterLab does. Where something is typed, and with a modifier, a key is what it always was.
SCRIPT = """
function render({ model, el }) {
  const typing = "input, textarea, [contenteditable=true]";
  const hear = (event) => {
    const box = el.closest(".affq-keyed");
    if (!box || !box.contains(event.target) || event.target.matches(typing)) return;
    if (event.ctrlKey || event.metaKey || event.altKey || !model.get("heard").includes(event.key)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (!event.repeat) model.send({ key: event.key });
  };
  const focusable = () => {  // the box is put around this element after it was made
    const box = el.closest(".affq-keyed");
    if (box) box.tabIndex = 0;
    else if (!gone) requestAnimationFrame(focusable);
  };
  let gone = false;
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
    """Call an action for a key. actions: {key: function without arguments}, a key as KeyboardEvent.key names it."""

    _esm = SCRIPT
    _css = STYLE
    heard = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(self, actions):
        super().__init__(heard=list(actions))
        self.on_msg(lambda _, message, buffers: actions[message["key"]]())


def keyed(box, actions):
    """Give a box its keys: {key: function without arguments}."""
    box.children = (*box.children, Keys(actions))
    box.add_class(BOX)
    return box
