"""The forms there are; a new one is a module and a line here."""

from gmmpipe.exporting.fairseq_km import write_km
from gmmpipe.exporting.form import Form
from gmmpipe.exporting.kaldi_text import write_kaldi
from gmmpipe.exporting.lhotse_cuts import write_cuts
from gmmpipe.exporting.options import ExportFormat
from gmmpipe.exporting.parquet_rows import write_parquet
from gmmpipe.exporting.units import write_units

FORMS: dict[ExportFormat, Form] = {
    "km": Form(("labels.km", "labels.tsv", "dict.km.txt"), write_km),
    "kaldi": Form(("text", "utt2num_frames"), write_kaldi, is_word=True),
    "units": Form(("units.jsonl",), write_units),
    "lhotse": Form(("cuts.jsonl.gz",), write_cuts),
    "parquet": Form(("labels.parquet",), write_parquet, with_top_k=True),
}
