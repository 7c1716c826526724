"""Results in a document: the part between two marks is generated, the rest is written by people."""

from pathlib import Path

BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"


def write_generated(path: Path, text: str) -> None:
    """Replace what stands between BEGIN and END in the document; a new file gets both marks and nothing else."""
    old = path.read_text(encoding="utf-8") if path.is_file() else f"{BEGIN}\n{END}\n"
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        before, after = old.rstrip("\n") + "\n\n", "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{before}{BEGIN}\n{text.strip()}\n{END}{after}", encoding="utf-8")
