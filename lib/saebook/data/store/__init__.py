"""One store for both worlds: examples, their index, splits, windows and batches.

Importing this package needs neither torch nor pynwb; torch is imported when a tensor or a batch
is first asked for.
"""

from saebook.data.store.ahead import BatchesAhead
from saebook.data.store.batches import Batch, Batches, BatchStream
from saebook.data.store.growing import GrowingStore
from saebook.data.store.layout import SCHEMA_VERSION, SPLITS
from saebook.data.store.pairs import Pairs, bins_of_ms
from saebook.data.store.partitions import PartitionedWriter
from saebook.data.store.resident import ResidentRows, RowSource
from saebook.data.store.splits import assign_splits, split_fractions
from saebook.data.store.store import ExampleStore
from saebook.data.store.stored import StoredExamples
from saebook.data.store.streaming import StreamedBatches
from saebook.data.store.unfinished import settle, unfinished_folder
from saebook.data.store.windowing import windows
from saebook.data.store.writer import StoreWriter

__all__ = [
    "SCHEMA_VERSION",
    "SPLITS",
    "Batch",
    "BatchStream",
    "Batches",
    "BatchesAhead",
    "ExampleStore",
    "GrowingStore",
    "Pairs",
    "PartitionedWriter",
    "ResidentRows",
    "RowSource",
    "StoreWriter",
    "StoredExamples",
    "StreamedBatches",
    "assign_splits",
    "bins_of_ms",
    "settle",
    "split_fractions",
    "unfinished_folder",
    "windows",
]
