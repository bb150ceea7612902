"""`export`: labels in the forms that other trainers read, in manifest order."""

import hashlib
import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gmmpipe.apply.export_formats import FORMATS, Facts
from gmmpipe.apply.export_order import find_order, in_order, metadata_shards
from gmmpipe.apply.options import ExportOptions
from gmmpipe.claim import claim_folder
from gmmpipe.errors import StoreError
from gmmpipe.files import atomic_file
from gmmpipe.run.progress import Progress
from gmmpipe.store.documents import FORMAT_VERSION, read_document, write_document
from gmmpipe.store.feature_store import FeatureStore
from gmmpipe.store.label_store import LabelStore
from gmmpipe.store.names import STORE_FILE

log = logging.getLogger(__name__)


def export(options: ExportOptions) -> Path:
    """Write the labels of a store as the files of one format.

    All files are written whole before the first one appears; ``{format}.json`` comes last.

    Returns:
        ``{format}.json``: what was exported, frames a second, number of classes.

    Raises:
        GmmpipeError: the labels cannot be exported; see `gmmpipe.errors`.
    """
    labels = LabelStore.open(options.labels)
    source = None if options.data_dir is None else FeatureStore.open(options.data_dir)
    shards = metadata_shards(labels, source)
    made, done = _identity(options), options.output_dir / f"{options.format}.json"
    with claim_folder(options.output_dir.absolute(), "", "gmmpipe export", alone=True) as claim:
        if _is_finished(done, made, options):
            log.info("%s is finished already: nothing to do", done)
            return done
        claim.tidy()
        features = labels.plan.features or (source.features if source else None)
        assert features is not None, "labels without features are refused without a source"
        order = find_order(shards)
        facts = Facts(
            labels.plan.K,
            features.frame_rate,
            labels.plan.top_k,
            None if options.base_path is None else options.base_path.absolute(),
            order.only_absolute,
        )
        form = FORMATS[options.format]
        with ExitStack() as published:
            paths = {name: options.output_dir / name for name in form.names}
            files = {n: published.enter_context(atomic_file(p)) for n, p in paths.items()}
            writer = form(files, facts)
            with Progress("export", "utterances", total=len(labels)) as progress:
                columns = list(form.columns)
                for utterance in in_order(labels, shards, order, columns, done):
                    writer.write(utterance)
                    progress.advance(1)
            writer.end()
            # From here on the files are this command's, should a kill come between their renames.
            write_document(_plan(options), {"format_version": FORMAT_VERSION, **made})
            done.unlink(missing_ok=True)
        totals = {"utterances": len(labels), "frames": labels.num_frames}
        stated = {
            "num_classes": facts.num_classes,
            "frame_rate": facts.frame_rate,
            "top_k": facts.top_k,
            "temperature": labels.plan.temperature,
        }
        write_document(done, {"format_version": FORMAT_VERSION, **made, **stated, **totals})
        _plan(options).unlink(missing_ok=True)
    if writer.not_files:
        log.warning(
            "warning: %d of %d utterances are only a part of the file that their path names (a "
            "segment, a window, a channel, a member of an archive); cut those out into files of "
            "their own for a trainer that reads whole files, or use --format units or parquet",
            writer.not_files,
            len(labels),
        )
    log.info("%s: %d utterances, %d frames", done.parent, len(labels), labels.num_frames)
    return done


def _identity(options: ExportOptions) -> dict[str, Any]:
    """What decides the bytes of an export."""
    content = (options.labels / STORE_FILE).read_bytes()
    return {
        "kind": "export",
        "format": options.format,
        "labels_sha256": hashlib.sha256(content).hexdigest(),
        "base_path": None if options.base_path is None else str(options.base_path),
    }


def _plan(options: ExportOptions) -> Path:
    """Says that the files of a format here are an export's that has not ended."""
    return options.output_dir / f".{options.format}.json"


def _is_finished(done: Path, made: dict[str, Any], options: ExportOptions) -> bool:
    """Whether the same export is here, to be kept; StoreError where something else is."""
    here = [done.parent / name for name in FORMATS[options.format].names]
    here = [path for path in here if path.exists()]
    if _plan(options).exists() or (options.overwrite and done.exists()):
        return False
    if done.exists():
        there = read_document(done)
        differing = [name for name in made if there.get(name) != made[name]]
        if differing:
            raise StoreError(
                f"{done}: another export is here ({', '.join(differing)} differ); use another "
                "--output_dir, or --overwrite"
            )
        return len(here) == len(FORMATS[options.format].names)
    if here:
        raise StoreError(f"{here[0]}: in the way, and nothing says that an export made it")
    return False
