"""Data: recordings and activations in, example stores out.

Public names of `saebook.data.store`, `saebook.data.spikes`, `saebook.data.simulate` and
`saebook.data.archive`; each is imported when it is first asked for, so reading spikes needs no
torch and training no pynwb. `read_recording` is the one of `saebook.data.archive`, which reads a
file as `saebook.data.spikes` does and fetches a public recording first.

>>> from saebook.data import assign_splits
>>> assign_splits.__module__
'saebook.data.store.splits'
"""

from typing import TYPE_CHECKING

from saebook import import_when_asked

if TYPE_CHECKING:
    from saebook.data.archive import PublicRecording, fetch, read_recording, read_registry
    from saebook.data.simulate import (
        KnownExamples,
        simulate_counts,
        simulate_dataset,
        simulate_dictionary,
        simulate_session,
    )
    from saebook.data.spikes import (
        CountsWarning,
        GroundTruth,
        Interval,
        Recording,
        Series,
        UnitCriteria,
        bin_spikes,
        contamination_llobet,
        isi_violations_fraction,
        isi_violations_ratio,
        prepare,
        presence_ratio,
        read_phy,
        select_units,
    )
    from saebook.data.store import (
        SCHEMA_VERSION,
        SPLITS,
        Batch,
        Batches,
        BatchStream,
        ExampleStore,
        Pairs,
        PartitionedWriter,
        ResidentRows,
        RowSource,
        StoredExamples,
        StoreWriter,
        StreamedBatches,
        assign_splits,
        bins_of_ms,
        split_fractions,
        windows,
    )

__all__ = [
    "SCHEMA_VERSION",
    "SPLITS",
    "Batch",
    "BatchStream",
    "Batches",
    "CountsWarning",
    "ExampleStore",
    "GroundTruth",
    "Interval",
    "KnownExamples",
    "Pairs",
    "PartitionedWriter",
    "PublicRecording",
    "Recording",
    "ResidentRows",
    "RowSource",
    "Series",
    "StoreWriter",
    "StoredExamples",
    "StreamedBatches",
    "UnitCriteria",
    "assign_splits",
    "bin_spikes",
    "bins_of_ms",
    "contamination_llobet",
    "fetch",
    "isi_violations_fraction",
    "isi_violations_ratio",
    "prepare",
    "presence_ratio",
    "read_phy",
    "read_recording",
    "read_registry",
    "select_units",
    "simulate_counts",
    "simulate_dataset",
    "simulate_dictionary",
    "simulate_session",
    "split_fractions",
    "windows",
]

__getattr__, __dir__ = import_when_asked(
    __name__,
    {
        "archive": ("PublicRecording", "fetch", "read_recording", "read_registry"),
        "simulate": (
            "KnownExamples",
            "simulate_counts",
            "simulate_dataset",
            "simulate_dictionary",
            "simulate_session",
        ),
        "spikes": (
            "CountsWarning",
            "GroundTruth",
            "Interval",
            "Recording",
            "Series",
            "UnitCriteria",
            "bin_spikes",
            "contamination_llobet",
            "isi_violations_fraction",
            "isi_violations_ratio",
            "prepare",
            "presence_ratio",
            "read_phy",
            "select_units",
        ),
        "store": (
            "SCHEMA_VERSION",
            "SPLITS",
            "Batch",
            "BatchStream",
            "Batches",
            "ExampleStore",
            "Pairs",
            "PartitionedWriter",
            "ResidentRows",
            "RowSource",
            "StoreWriter",
            "StoredExamples",
            "StreamedBatches",
            "assign_splits",
            "bins_of_ms",
            "split_fractions",
            "windows",
        ),
    },
)
