"""Which kind a source of frames is, by what lies there."""

import logging
from collections.abc import Sequence
from pathlib import Path

from gmmpipe.errors import ManifestError
from gmmpipe.importing.fairseq import FairseqDumps
from gmmpipe.importing.kaldi import SCP, KaldiArchives, KaldiScript
from gmmpipe.importing.npy_folder import NpyFolder
from gmmpipe.importing.source import Source
from gmmpipe.sources.patterns import named_paths

log = logging.getLogger(__name__)
_KINDS = "a folder of .npy, fairseq's .npy with .len, Kaldi's feats.scp or .ark"


def open_source(text: str, output: Path) -> Source:
    """The source that a path, or a pattern of paths, names.

    Args:
        text: the path or pattern, as the user gave it.
        output: the output folder, absolute.

    Raises:
        ManifestError: nothing is there, it holds no frames, or is of two kinds, or the output
            folder is in it.
        OptionError: a library that the kind needs is not installed.
    """
    paths = [path.absolute() for _, found in named_paths(text) for path in found]
    if any(path.is_dir() and output.is_relative_to(path) for path in paths):
        raise ManifestError(f"{output}: lies in the source; use another --output_dir")
    if len(paths) == 1 and paths[0].is_dir():
        source = _in_folder(text, paths[0])
    else:
        source = _of_files(text, paths)
    if not len(source):
        raise ManifestError(f"{text}: no frames: a source is {_KINDS}")
    log.info("%s: %d utterances in %d files", text, len(source), source.num_files)
    return source


def _in_folder(text: str, folder: Path) -> Source:
    kinds = {
        "kaldi": [*folder.glob(SCP)] or sorted(folder.glob("*.ark")),
        "fairseq": sorted(folder.glob("*.len")),
        "npy": [path for path in folder.glob("*.npy") if not path.with_suffix(".len").exists()],
    }
    found = {kind: paths for kind, paths in kinds.items() if paths}
    if len(found) > 1:
        seen = " or ".join(f"{kind} by its {paths[0].name}" for kind, paths in found.items())
        raise ManifestError(f"{text}: of kind {seen}; name the files of one kind")
    if "kaldi" in found or "fairseq" in found:
        return _of_files(text, [path for paths in found.values() for path in paths])
    source = NpyFolder(folder)
    if source.passed_over:
        log.info("%s: %d other files are passed over", text, source.passed_over)
    return source


def _of_files(text: str, paths: Sequence[Path]) -> Source:
    endings = {path.suffix for path in paths}
    if endings == {".scp"} and len(paths) == 1:
        return KaldiScript(paths[0])
    if endings == {".ark"}:
        return KaldiArchives(paths)
    if endings <= {".npy", ".len"} and len({path.parent for path in paths}) == 1:
        stems = {path.stem for path in paths}
        folder = paths[0].parent
        if lacking := sorted(stem for stem in stems if not (folder / f"{stem}.len").exists()):
            raise ManifestError(
                f"{folder / lacking[0]}.npy: no {lacking[0]}.len beside it, as fairseq has; of "
                "files with an utterance each, name the folder"
            )
        return FairseqDumps(folder, stems)
    raise ManifestError(f"{text}: not one source of frames: that is {_KINDS}")
