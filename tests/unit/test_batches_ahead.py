"""Batches that another thread takes are the stream's, and a run goes on from them exactly."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from saebook.data.store import BatchesAhead, BatchStream, Pairs
from saebook.data.store.orders import OrdersAhead
from saebook.errors import StoreError
from saebook.models import SAEConfig
from saebook.training.examples import Examples, fits_beside

X = torch.randint(0, 9, (50, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def plain(**settings) -> BatchStream:
    return BatchStream(X, 8, seed=3, **settings)


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
def test_positives_and_their_groups_come_along():
    def stream() -> BatchStream:
        return plain(pairs=Pairs([10] * 5, window=4))

    ahead, own = BatchesAhead(stream(), dtype=torch.float32), stream()
    for _ in range(9):
        batch, expected = ahead.next_batch(), own.next_batch()
        for name in ("x", "positive", "group", "paired"):
            one, other = getattr(batch, name), getattr(expected, name)
            assert (one is None) == (other is None)
            if one is not None:
                assert one.equal(other) and one.dtype == other.dtype
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


def test_on_a_cpu_no_thread_takes_batches():
    examples = Examples(X, "train", X)
    stream = examples.batches(8, 3, SAEConfig(d_in=3, d_sae=4, k=1))
    assert isinstance(stream, BatchStream)
    assert stream.next_batch().x.equal(plain().next_batch().x)
