"""A source of every kind, made from the demo corpus, beside the same audio as loose files."""

from helpers.kinds import audios_json, data_folders, folders, lhotse_manifests, plain, tables

MAKERS = {
    **plain.MAKERS,
    **folders.MAKERS,
    **tables.MAKERS,
    **lhotse_manifests.MAKERS,
    **audios_json.MAKERS,
    **data_folders.MAKERS,
}
"""A function of an empty folder for each kind, and for each form that a kind has."""
