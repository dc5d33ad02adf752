"""A file that is too large for one transfer: cut into parts where there is a network, and joined where it is used."""

from pathlib import Path

PART_BYTES = 45_000_000


def cut(file: Path, folder: Path, part_bytes: int = PART_BYTES) -> list[Path]:
    """Write the file's parts to a folder as <its name>.part0, .part1 …; return their paths. The file itself stays."""
    parts = []
    with open(file, "rb") as whole:
        while piece := whole.read(part_bytes):
            parts.append(folder / f"{file.name}.part{len(parts)}")
            parts[-1].write_bytes(piece)
    return parts


def join(folder: Path, target: Path) -> list[Path]:
    """Write each file whose parts lie in a folder, whole, to another folder; return their paths."""
    names = sorted({part.name.rpartition(".part")[0] for part in folder.glob("*.part*")})
    for name in names:
        parts = sorted(folder.glob(f"{name}.part*"), key=lambda part: int(part.name.rpartition(".part")[2]))
        with open(target / name, "wb") as whole:
            for part in parts:
                whole.write(part.read_bytes())
    return [target / name for name in names]
