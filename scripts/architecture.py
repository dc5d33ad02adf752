"""Write docs/architecture.md: the rooms of the package and what lies in each, from docstrings and head comments alone.

python scripts/architecture.py
"""

import ast
import subprocess
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
HEAD = """# The house

<!-- Made by scripts/architecture.py from docstrings and head comments: change those, then run it. -->

A study file goes in on one side and a report comes out on the other. Rooms are the folders of the package, the highest first.
A room imports from the rooms below it and from the ground, never from one above: `make lint` holds that (import-linter, in
`pyproject.toml`). Other rooms use a room's public names alone, which its `__init__.pyi` lists; each is imported when it is first
used, so that `import affq` loads no torch.

```
study file → runner → 1_generate (study, models, inference → results) → 2_score (scoring → results)
                    → 3_summary (results, analysis, stats → report) → reports/
```
"""


def first_sentence(path: Path) -> str:
    """Return what a file says of itself: the first line of its docstring, or its first line where that is a comment."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        said = ast.get_docstring(ast.parse(text)) or ""
    elif path.suffix == ".ipynb":
        said = "".join(yaml.safe_load(text)["cells"][0]["source"])
    elif path.suffix == ".md":
        said = next((line for line in text.splitlines() if line.startswith("# ")), "")
    else:
        said = text.removeprefix("{#-") if text.startswith(("#", "{#-", "/*")) else ""
    return said.strip().split("\n")[0].strip("#/*{}-% ").strip()


def rooms() -> list[str]:
    """Return the rooms from the highest down, as import-linter's layers name them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return next(contract["layers"] for contract in contracts if contract["type"] == "layers")


def tree(paths: list[Path]) -> list[str]:
    """Return a list of Markdown lines, one a file, with what each says of itself."""
    return [f"- `{path.name}`" + (f": {said}" if (said := first_sentence(path)) else "") for path in paths]


def page() -> str:
    """Return the whole page."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    tracked = sorted(path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file())
    lines = [HEAD]
    for room in rooms():
        if (module := ROOT / "affq" / f"{room}.py").is_file():
            lines.append(f"## `{module.name}`\n\n{first_sentence(module)}\n")
            continue
        folder = ROOT / "affq" / room
        said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
        what, _, may = said.partition("\n\n")
        lines.append(f"## `{room}/`\n\n{' '.join(what.split())} *{' '.join(may.split('. ')[0].split())}.*\n")
        inside = [path for path in tracked if path.parent == folder and path.name not in ("__init__.py", "__init__.pyi")]
        lines += [*tree(inside), *data(folder, tracked), ""]
    lines.append("## Beside the package\n")
    for name in ("notebooks", "scripts", "tests/bench", "tests/gpu"):
        lines += [f"`{name}/`\n", *tree([path for path in tracked if path.parent == ROOT / name]), ""]
    return "\n".join(lines).rstrip() + "\n"


def data(folder: Path, tracked: list[Path]) -> list[str]:
    """Return a line for each folder in a room: its modules where it has any, else its files."""
    inside: dict[Path, list[Path]] = {}
    for path in tracked:
        if folder in path.parents and path.parent != folder:
            inside.setdefault(folder / path.relative_to(folder).parts[0], []).append(path)
    lines = []
    for place, paths in inside.items():
        modules = [path for path in paths if path.suffix == ".py" and path.name != "__init__.py"]
        if modules:
            lines.append(f"- `{place.name}/`: {first_sentence(place / '__init__.py')}")
            lines += [f"  {line}" for line in tree(modules)]
        else:
            lines.append(f"- `{place.name}/`: {', '.join(f'`{path.relative_to(place).as_posix()}`' for path in paths)}")
    return lines


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
