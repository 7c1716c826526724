"""Results in a document: the part between two marks is generated, the rest is written by people."""

from pathlib import Path

from sem_depth_training.whole_file import write_whole

BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"


def write_generated(path: Path, text: str) -> None:
    """Replace what stands between BEGIN and END in the document; a new file gets both marks and nothing else.

    Raises OSError naming the file where it cannot be written; what people wrote in it stays.
    """
    old = path.read_text(encoding="utf-8") if path.is_file() else f"{BEGIN}\n{END}\n"
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        before, after = old.rstrip("\n") + "\n\n", "\n"
    write_whole(path, f"{before}{BEGIN}\n{text.strip()}\n{END}{after}")
