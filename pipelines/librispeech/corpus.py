"""LibriSpeech as it is unpacked: its subsets, and the manifest lines of their utterances.

LibriSpeech/train-clean-100/19/198/19-198-0000.flac
LibriSpeech/train-clean-100/19/198/19-198.trans.txt
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gmmpipe.errors import ManifestError
from gmmpipe.files import write_atomic
from gmmpipe.sources.plain_line import plain_line
from gmmpipe.sources.walk import audio_files


def find_subsets(corpus: Path, names: list[str] | None, beginning: str) -> list[str]:
    """The subsets of these names, or all whose names begin so.

    Raises:
        ManifestError: one of them is not there.
    """
    if names is None:
        return sorted(path.name for path in corpus.glob(f"{beginning}*") if path.is_dir())
    for name in names:
        if not (corpus / name).is_dir():
            there = ", ".join(sorted(path.name for path in corpus.iterdir() if path.is_dir()))
            raise ManifestError(f"{corpus}: no subset {name}; there are: {there or 'none'}")
    return names


def write_manifest(corpus: Path, subsets: list[str], path: Path) -> None:
    """Write the manifest of some subsets, with paths below `corpus`; an equal one is left alone.

    Raises:
        ManifestError: the subsets hold no audio, or a folder or a transcript cannot be read.
    """
    data = b"".join(line for subset in subsets for line in _lines(corpus, subset))
    if not data:
        raise ManifestError(f"{corpus}: no audio in {', '.join(subsets) or 'it'}")
    if not path.exists() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)


def _lines(corpus: Path, subset: str) -> Iterator[bytes]:
    """A line of each utterance: path, id, subset, speaker and, where there is one, its text."""
    chapter, texts = Path(), dict[str, str]()
    for name in audio_files((corpus / subset).absolute(), Counter()):
        below = Path(subset, name)
        if below.parent != chapter:
            chapter, texts = below.parent, _transcripts(corpus / below.parent)
        yield plain_line(
            {
                "wav_path": str(below),
                "id": below.stem,
                "subset": subset,
                "speaker": below.stem.split("-")[0],
                "text": texts.get(below.stem),
            }
        )


def _transcripts(chapter: Path) -> dict[str, str]:
    """Texts of a chapter's utterances by their ids."""
    found: dict[str, str] = {}
    for path in sorted(chapter.glob("*.trans.txt")):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise ManifestError(f"{path}: cannot be read: {error}") from error
        found.update(line.split(" ", 1) for line in lines if " " in line)
    return found
