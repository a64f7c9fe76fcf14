"""Batches that another thread takes are the stream's, and a run goes on from them exactly."""

from __future__ import annotations

import gc
import threading
import time
from dataclasses import fields

import pytest
import torch

from saebook.data.store import (
    Batch,
    Batches,
    BatchesAhead,
    BatchStream,
    ExampleStore,
    Pairs,
    StoredExamples,
    StoreWriter,
    StreamedBatches,
)
from saebook.data.store.ahead import SLOTS
from saebook.data.store.orders import OrdersAhead, permutation
from saebook.errors import CheckpointError, DataError, StoreError
from saebook.models import SAEConfig
from saebook.training.examples import Examples, read_examples
from saebook.training.memory import fits_beside, free_memory

X = torch.randint(0, 9, (50, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


PAIRS = Pairs([10] * 5, window=4)
CONFIG = SAEConfig(d_in=3, d_sae=4, k=1)


def plain(**settings) -> BatchStream:
    return BatchStream(X, 8, seed=3, **settings)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ExampleStore:
    path = tmp_path_factory.mktemp("ahead") / "store"
    with StoreWriter(path, kind="counts", shard_rows=20) as writer:
        writer.add(X.numpy(), session="a", trial=torch.arange(50).numpy() // 10, split="train")
    return ExampleStore.open(path)


def from_disk(store: ExampleStore, **settings) -> StreamedBatches:
    stored = StoredExamples(store, within_trials=True)
    return StreamedBatches(stored, 8, seed=3, buffer_examples=20, chunk_examples=4, **settings)


def same(one: Batch, other: Batch) -> bool:
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in fields(Batch)]
    return all(
        a is b or (a is not None and b is not None and a.dtype == b.dtype and a.cpu().equal(b))
        for a, b in pairs
    )


@pytest.fixture
def no_thread_is_left():
    yield
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith(("saebook-batches", "saebook-order"))]


@pytest.mark.usefixtures("no_thread_is_left")
def test_they_are_those_of_the_stream():
    ahead, stream = BatchesAhead(plain()), plain()
    for _ in range(3 * stream.batches_per_epoch + 1):
        assert ahead.epoch == stream.epoch
        assert ahead.next_batch().x.equal(stream.next_batch().x)
        assert ahead.state_dict() == stream.state_dict()
    assert next(ahead).equal(next(stream))
    assert ahead.examples_at(5).equal(stream.examples_at(5))
    assert ahead.take(torch.tensor([4, 1])).equal(stream.take(torch.tensor([4, 1])))
    assert (ahead.n_examples, ahead.batch_size, ahead.seed) == (50, 8, 3)
    ahead.close()


@pytest.mark.usefixtures("no_thread_is_left")
def test_another_goes_on_where_one_was_used_not_where_it_had_read():
    ahead, stream = BatchesAhead(plain()), plain()
    for _ in range(4):
        ahead.next_batch()
        stream.next_batch()
    time.sleep(0.05)  # by now more has been read
    again = BatchesAhead(plain())
    again.next_batch()
    again.load_state_dict(ahead.state_dict())
    ahead.close()
    for _ in range(10):
        assert again.next_batch().x.equal(stream.next_batch().x)
    again.close()


@pytest.mark.usefixtures("no_thread_is_left")
def test_bytes_travel_as_bytes_and_become_floats_there():
    raw = plain(dtype=torch.uint8)
    assert raw.next_batch().x.dtype == torch.uint8
    ahead = BatchesAhead(plain(dtype=torch.uint8), dtype=torch.float32)
    batch = ahead.next_batch()
    assert batch.x.dtype == torch.float32
    assert batch.x.equal(plain().next_batch().x)
    ahead.close()


@pytest.mark.usefixtures("no_thread_is_left")
@pytest.mark.parametrize("pairs", [None, PAIRS])
@pytest.mark.parametrize("disk", [False, True])
def test_three_epochs_stay_what_they_were_handed_out_as(store, disk, pairs):
    def make(**settings) -> Batches:
        return from_disk(store, **settings) if disk else plain(**settings)

    ahead, stream = (
        BatchesAhead(make(dtype=torch.uint8, pairs=pairs), dtype=torch.float32),
        make(pairs=pairs),
    )
    n = 3 * stream.batches_per_epoch + 1
    # Compared when all of them are there: the memory that they came through has been used anew.
    handed_out = [ahead.next_batch() for _ in range(n)]
    assert all(same(batch, stream.next_batch()) for batch in handed_out)
    assert handed_out[0].x.dtype == torch.float32
    assert (handed_out[0].positive is None) == (handed_out[0].paired is None) == (pairs is None)
    assert ahead.state_dict() == stream.state_dict()
    ahead.close()
    stream.close()


@pytest.mark.usefixtures("no_thread_is_left")
@pytest.mark.parametrize("disk", [False, True])
def test_closed_in_the_middle_of_an_epoch_it_goes_on_where_it_was(store, disk):
    ahead = BatchesAhead(from_disk(store) if disk else plain())
    stream = from_disk(store) if disk else plain()
    for _ in range(4):
        for _ in range(3):
            assert same(ahead.next_batch(), stream.next_batch())
        ahead.close()
        assert ahead.state_dict() == stream.state_dict() and ahead.epoch == stream.epoch
    stream.close()


@pytest.mark.usefixtures("no_thread_is_left")
def test_a_state_of_another_stream_is_refused_and_changes_nothing():
    ahead, stream = BatchesAhead(plain()), plain()
    assert same(ahead.next_batch(), stream.next_batch())
    with pytest.raises(CheckpointError, match="seed=4, this one 3"):
        ahead.load_state_dict(stream.state_dict() | {"seed": 4})
    assert same(ahead.next_batch(), stream.next_batch())
    ahead.close()


@pytest.mark.usefixtures("no_thread_is_left")
def test_no_more_is_read_than_there_is_room_for():
    class Counting(BatchStream):
        n = 0

        def next_batch(self):
            self.n += 1
            return super().next_batch()

    stream = Counting(X, 8)
    ahead = BatchesAhead(stream)
    for taken in range(1, 4):
        ahead.next_batch()
        time.sleep(0.05)
        # The one in use has its room as well.
        assert stream.n == taken + SLOTS - 1
    ahead.close()


def test_its_thread_ends_though_nobody_closes_it():
    ahead = BatchesAhead(plain())
    ahead.next_batch()
    del ahead
    gc.collect()
    deadline = time.monotonic() + 10
    while any(t.name.startswith("saebook-batches") for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.usefixtures("no_thread_is_left")
def test_counts_that_would_lose_digits_are_refused_by_their_batch():
    wide = torch.tensor([[2**24 + 1]], dtype=torch.int32)
    ahead = BatchesAhead(BatchStream(wide, 1, dtype=torch.int32), dtype=torch.float32)
    with pytest.raises(DataError, match="data holds 16777217"):
        ahead.next_batch()
    with pytest.raises(DataError, match="data holds 16777217"):
        ahead.take(torch.tensor([0]))
    ahead.close()


@pytest.mark.usefixtures("no_thread_is_left")
@pytest.mark.parametrize("pairs", [None, PAIRS])
def test_a_stream_that_draws_on_a_device_is_taken_by_a_thread_too(pairs):
    # A device of tensors without values.
    stream = BatchStream(X, 8, seed=3, device="meta", pairs=pairs)
    ahead, expected = BatchesAhead(stream), plain(pairs=pairs)
    for _ in range(7):
        batch, other = ahead.next_batch(), expected.next_batch()
        for field in fields(Batch):
            one, two = getattr(batch, field.name), getattr(other, field.name)
            assert (one is None) == (two is None)
            if one is not None:
                assert one.device.type == "meta" == ahead.device.type
                assert one.shape == two.shape and one.dtype == two.dtype
        assert ahead.state_dict() == expected.state_dict()
    assert stream._ahead is not None  # orders are drawn ahead as well
    ahead.close()


@pytest.mark.usefixtures("no_thread_is_left")
def test_what_fails_while_reading_is_raised_at_its_batch_and_not_before():
    class Failing(BatchStream):
        n = 0

        def next_batch(self):
            self.n += 1
            if self.n == 3:
                raise StoreError("shard 2 is gone")
            return super().next_batch()

    ahead = BatchesAhead(Failing(X, 8, seed=3))
    first = [ahead.next_batch().x, ahead.next_batch().x]
    stream = plain()
    assert all(x.equal(stream.next_batch().x) for x in first)
    with pytest.raises(StoreError, match="shard 2 is gone"):
        ahead.next_batch()
    # Once it is mended, the batch that failed is the next.
    for _ in range(9):
        assert same(ahead.next_batch(), stream.next_batch())
    ahead.close()


@pytest.mark.usefixtures("no_thread_is_left")
def test_one_that_nobody_asks_any_more_can_be_closed():
    ahead = BatchesAhead(plain())
    ahead.next_batch()
    time.sleep(0.05)  # the thread waits for room
    ahead.close()
    BatchesAhead(plain()).close()  # never asked


@pytest.mark.usefixtures("no_thread_is_left")
def test_orders_are_drawn_before_they_are_asked_for():
    drawn = []
    asked = threading.Event()

    def draw(epoch: int) -> int:
        drawn.append((epoch, threading.current_thread() is threading.main_thread()))
        asked.set() if epoch == 1 else None
        return 10 * epoch

    orders = OrdersAhead(draw)
    assert orders.of(0) == 0 and asked.wait(5)
    assert orders.of(1) == 10 and orders.of(7) == 70
    orders.close()
    assert drawn[:2] == [(0, True), (1, False)] and (7, True) in drawn


def test_examples_live_on_the_device_where_they_leave_room():
    config = SAEConfig(d_in=100, d_sae=1000, k=4)
    model = 4 * 4 * 2 * 100 * 1000 + 6 * 4 * 512 * 1000
    for n_bytes, free, fits in (
        (8, model + 10, True),
        (9, model + 10, False),
        (0, model - 1, False),
    ):
        assert fits_beside(config, 512, n_bytes, free) == fits
    assert fits_beside(config, 512, 8, 3 * model + 10, n_models=3)
    assert not fits_beside(config, 512, 8, 3 * model + 9, n_models=3)


@pytest.mark.parametrize(("dtype", "travels"), [(torch.uint8,) * 2, (torch.float64, torch.float32)])
def test_examples_without_room_on_a_gpu_are_sent_ahead(monkeypatch, dtype, travels):
    asked = []
    monkeypatch.setattr(
        "saebook.training.examples.free_memory", lambda device: asked.append(device) or 0
    )
    gpu = torch.device("cuda:0")
    stream = Examples(X.to(dtype), "train", X).batches(8, 3, CONFIG, gpu)
    assert isinstance(stream, BatchesAhead) and stream.device == gpu == asked[0]
    assert stream._stream.next_batch().x.dtype == travels
    assert stream._dtype == torch.float32


def test_examples_on_disk_are_sent_ahead(store):
    examples = read_examples(store, None, CONFIG, resident_gb=1e-6, streamed=True)
    stream = examples.batches(2, 3, CONFIG, torch.device("cuda:0"))
    assert isinstance(stream, BatchesAhead) and stream._dtype == torch.float32
    assert isinstance(stream._stream, StreamedBatches)
    assert stream._stream.next_batch().x.dtype == torch.uint8
    stream.close()


def test_the_order_drawn_for_a_device_is_that_of_the_cpu():
    stream = BatchStream(X, 8, seed=3, device="meta", pairs=PAIRS)
    for epoch in (0, 1, 2, 7, 1):
        assert stream._order_of(epoch).equal(permutation(50, 3, epoch))
    stream.close()


def test_on_a_cpu_no_thread_takes_batches():
    examples = Examples(X, "train", X)
    before = threading.active_count()
    stream = examples.batches(8, 3, CONFIG)
    assert isinstance(stream, BatchStream)
    assert stream.next_batch().x.equal(plain().next_batch().x)
    assert threading.active_count() <= before


# --- on a GPU -------------------------------------------------------------------------------

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def on_gpu(kind: str, store: ExampleStore, pairs: Pairs | None, **settings) -> Batches:
    """Batches as a run on a GPU is given them: drawn there, or sent there ahead."""
    if kind == "there":
        stream = plain(device="cuda", pairs=pairs)
        return stream if pairs is None else BatchesAhead(stream)
    settings = {"dtype": torch.uint8, "pairs": pairs}
    stream = from_disk(store, **settings) if kind == "disk" else plain(**settings)
    return BatchesAhead(stream, "cuda", torch.float32)


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.usefixtures("no_thread_is_left")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")
@pytest.mark.parametrize("pairs", [None, PAIRS])
@pytest.mark.parametrize("kind", ["there", "memory", "disk"])
def test_batches_on_a_gpu_are_those_of_the_cpu_and_wait_for_nothing(store, kind, pairs):
    stream = on_gpu(kind, store, pairs)
    expected = from_disk(store, pairs=pairs) if kind == "disk" else plain(pairs=pairs)
    n = 5 * stream.batches_per_epoch + 1
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = [stream.next_batch() for _ in range(n)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(batch.x.is_cuda and same(batch, expected.next_batch()) for batch in batches)
    again = on_gpu(kind, store, pairs)
    again.load_state_dict(stream.state_dict())
    assert same(again.next_batch(), expected.next_batch())
    for opened in (stream, expected, again):
        opened.close()


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.usefixtures("no_thread_is_left")
def test_a_gpu_that_is_behind_reads_each_batch_before_its_memory_is_used_anew():
    x = torch.randint(0, 200, (4096, 512), generator=torch.Generator().manual_seed(0)).byte()
    stream = BatchesAhead(BatchStream(x, 256, dtype=torch.uint8), "cuda", torch.float32)
    expected = BatchStream(x, 256)
    busy, sums = torch.rand(4096, 4096, device="cuda"), []
    for _ in range(60):
        batch = stream.next_batch().x
        for _ in range(4):
            busy = torch.nn.functional.normalize(busy @ busy)
        sums.append(batch.sum(dim=0))
    stream.close()
    assert all(own.cpu().equal(next(expected).sum(dim=0)) for own in sums)


@pytest.mark.gpu
@on_a_gpu
def test_what_pytorch_keeps_unused_counts_as_free():
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    held = torch.empty(2**28, dtype=torch.uint8, device=device)
    taken = free_memory(device)
    del held
    assert free_memory(device) - taken >= 2**28
