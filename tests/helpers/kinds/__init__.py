"""A source of every kind, made from the demo corpus, beside the same audio as loose files."""

from helpers.kinds import (
    archives,
    audios_json,
    data_folders,
    folders,
    lhotse_manifests,
    parquets,
    plain,
    tables,
)

MAKERS = {
    **plain.MAKERS,
    **folders.MAKERS,
    **tables.MAKERS,
    **data_folders.MAKERS,
    **lhotse_manifests.MAKERS,
    **audios_json.MAKERS,
    **archives.MAKERS,
    **parquets.MAKERS,
}
"""A function of an empty folder for each kind, and for each form that a kind has."""
