"""`export`: a label store to the files of one form, in the order of the manifests."""

import hashlib
import logging
import os
from pathlib import Path

from gmmpipe.claim import claim_folder
from gmmpipe.errors import StoreError
from gmmpipe.exporting.folder import ExportFolder, ExportInfo
from gmmpipe.exporting.form import Labels
from gmmpipe.exporting.forms import FORMS
from gmmpipe.exporting.gathered import gather
from gmmpipe.exporting.options import ExportOptions
from gmmpipe.files import scratch_file
from gmmpipe.store.documents import read_document_bytes
from gmmpipe.store.feature_store import FeatureStore
from gmmpipe.store.label_store import LabelStore
from gmmpipe.store.names import STORE_FILE

log = logging.getLogger(__name__)


def export(options: ExportOptions) -> ExportInfo:
    """Write the labels in the form that is asked for, unless they are there already.

    An export is made as a whole: one that was killed is made anew. Memory grows by some 40 bytes
    an utterance.

    Raises:
        GmmpipeError: see `gmmpipe.errors`; nothing of the export has its name then.
    """
    labels = LabelStore.open(options.labels)
    source = _source(labels, options)
    folder = _folder(options)
    if not options.overwrite and (finished := folder.find_finished()):
        log.info("%s is finished already: nothing to do", options.output_dir)
        return finished
    with claim_folder(folder.path, "", "gmmpipe export", alone=True):
        folder.refuse_strangers()
        info = _export(labels, source, folder, options)
    log.info(
        "%s: %d utterances, %d labels, %.1f MB",
        options.output_dir,
        info.utterances,
        info.frames,
        sum(info.files.values()) / 1e6,
    )
    return info


def _source(labels: LabelStore, options: ExportOptions) -> FeatureStore | None:
    """Where the utterances' JSON is; None where it is in the label store itself."""
    if options.data_dir is None:
        if labels.plan.features is None:
            raise StoreError(
                f"{options.labels}: labels of an earlier version, which do not say what their "
                "utterances are: name the feature store that they label with --data_dir"
            )
        return None
    store = FeatureStore.open(options.data_dir)
    labels.check_source(store)
    return None if labels.plan.has_json else store


def _folder(options: ExportOptions) -> ExportFolder:
    base_path = None if options.base_path is None else os.path.abspath(options.base_path)
    document = read_document_bytes(options.labels / STORE_FILE)
    wanted = {
        "format": options.format,
        "source_sha256": hashlib.sha256(document).hexdigest(),
        "base_path": base_path,
    }
    known = {name for form in FORMS.values() for name in form.files}
    return ExportFolder(options.output_dir.absolute(), wanted, FORMS[options.format].files, known)


def _export(
    labels: LabelStore, source: FeatureStore | None, folder: ExportFolder, options: ExportOptions
) -> ExportInfo:
    form, plan = FORMS[options.format], labels.plan
    features = plan.features if source is None else source.features
    assert features is not None
    with scratch_file(folder.path / "labels") as file:
        gathered = gather(labels, source, form.with_top_k, form.is_word, file)
        asked = Labels(
            gathered,
            plan.K,
            features.frame_rate,
            getattr(features, "sample_rate", None),
            plan.top_k,
            plan.temperature,
            None if options.base_path is None else Path(os.path.abspath(options.base_path)),
        )
        with folder.publishing() as files:
            form.write(asked, files)
    return folder.finish(
        {
            "frame_rate": features.frame_rate,
            "num_classes": plan.K,
            "utterances": len(gathered),
            "frames": gathered.num_frames,
            "top_k": plan.top_k,
            "temperature": plan.temperature,
        }
    )
