"""Images that are streamed: worker processes decode the batches, and a thread brings them to the device.

A batch is the same function of (seed, step) as one of resident images, so that a run may go on either way.
Grain starts the workers, and hands their batches over in order.
"""

import itertools
import multiprocessing
import os
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from nag_optax.train.data.pictures import Pictures
from nag_optax.train.environment import num_cores
from nag_optax.train.errors import InputError, StreamError
from nag_optax.train.rows import Split

_AHEAD = 4
"""Each worker decodes so many batches ahead."""
_ON_DEVICE = 2
"""So many batches wait on the device."""


def default_workers() -> int:
    """All cores but one, which is left to the training."""
    return max(1, min(num_cores() - 1, 16))


def epoch_order(seed: int | list[int], epoch: int, num_examples: int, batch_size: int) -> np.ndarray:
    """Every example once, in an order of (seed, epoch). The first ones fill the last batch."""
    order = np.random.default_rng(np.hstack([seed, epoch])).permutation(num_examples)
    return np.resize(order, -(-num_examples // batch_size) * batch_size).astype(np.int32)


def grown_order(seed: int, epoch: int, num_examples: int, length: int, latest: tuple[int, int]) -> np.ndarray:
    """The rows of an epoch that keeps its length while the examples become more; a function of (seed, epoch).

    `latest` holds the epoch, counted from 0, in which the last examples came, and how many. That epoch
    takes all of them, if it can.
    """
    rng = np.random.default_rng([seed, epoch])
    rows = rng.permutation(num_examples)
    if epoch == latest[0]:
        rows = rows[np.argsort(rows < num_examples - latest[1], kind="stable")]
    return rng.permutation(np.resize(rows, length)).astype(np.int32)


def part_of_batches(
    order: Callable[[int], np.ndarray], part: int, parts: int, batch_size: int, epoch: int
) -> np.ndarray:
    """The rows of an epoch that one process decodes: one of the equal parts of each batch."""
    return order(epoch).reshape(-1, parts, batch_size // parts)[:, part].ravel()


class Stream:
    """The batches of a run, one step after the other."""

    def __init__(
        self,
        split: Split,
        order: Callable[[int], np.ndarray],
        batch_size: int,
        steps: range,
        num_workers: int,
        place: Callable[[Split], Split],
    ):
        self._place, self._labels, self._num_workers = place, split.labels, num_workers
        self._shape, self._dtype = (batch_size, *split.images.shape[1:]), split.images.dtype
        handle, name = tempfile.mkstemp(prefix="nag-optax-")
        os.close(handle)
        self._flag = Path(name)
        self._source = _Batches(split.images, order, batch_size, steps, name)
        # What Grain starts in this thread inherits that Ctrl-C is for the main process alone.
        self._thread = ThreadPoolExecutor(1, initializer=_ignore_interrupts)
        self._iterator = self._thread.submit(_iterator, self._source, num_workers).result()
        self._to_come = iter(steps)
        self._batches: deque[Future[Split]] = deque()

    def take(self) -> Split:
        """The batch of the next step, on the devices. A StreamError names a picture that is damaged."""
        for step in itertools.islice(self._to_come, 1 + _ON_DEVICE - len(self._batches)):
            self._batches.append(self._thread.submit(self._pull, step))
        return self._batches.popleft().result()

    def close(self) -> None:
        """Ends each worker after the batch that it decodes."""
        self._flag.unlink(missing_ok=True)
        self._thread.shutdown(cancel_futures=True)
        with suppress(Exception):  # A worker that ended may be the reason.
            # Grain waits for a worker whose batch nobody took. After one round of empty ones there is none.
            empty = 0
            while empty < self._num_workers:
                empty = 0 if next(self._iterator) else empty + 1
        self._iterator.close()

    def _pull(self, step: int) -> Split:
        try:
            content = next(self._iterator)
        except RuntimeError as error:
            raise StreamError(f"--data-workers {self._num_workers}: one of them ended ({error})") from None
        if isinstance(content, str):
            raise StreamError(content)
        images = np.frombuffer(content, self._dtype).reshape(self._shape)
        return self._place(Split(images, self._labels[self._source.rows(step)]))


class _Batches:
    """The images of each step as bytes: a data source for Grain, which copies it to every worker.

    A step with a wrong picture has the text of the error instead. Once the flag is gone, all are empty.
    """

    def __init__(
        self, images: Any, order: Callable[[int], np.ndarray], batch_size: int, steps: range, flag: str
    ):
        self._images, self._order, self._batch_size = images, order, batch_size
        self._steps, self._flag = steps, flag
        self._per_epoch = len(order(0)) // batch_size
        self._epoch = (-1, np.empty(0, np.int32))

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: Any) -> bytes | str:
        if not os.path.exists(self._flag):
            return b""
        images = self._images[self.rows(self._steps[int(index)])]
        try:
            pixels = images
            if isinstance(images, Pictures):
                pixels = np.stack([images.read(row) for row in range(len(images))])
        except InputError as error:
            return str(error)
        # Grain would leave arrays in shared memory that nobody frees.
        return np.ascontiguousarray(pixels).tobytes()

    def rows(self, step: int) -> np.ndarray:
        epoch, place = divmod(step, self._per_epoch)
        known, rows = self._epoch
        if known != epoch:
            rows = self._order(epoch)
            self._epoch = epoch, rows
        return rows[place * self._batch_size : (place + 1) * self._batch_size]


def _iterator(source: _Batches, num_workers: int) -> Any:
    # Imported here: it takes half a second, and resident images need none of it.
    import grain
    from absl import flags

    data = grain.MapDataset.source(source)
    if not num_workers:
        return iter(data.to_iter_dataset(grain.ReadOptions(num_cores(), prefetch_buffer_size=num_cores())))
    if not flags.FLAGS.is_parsed():  # Grain's own flags, which it reads for its workers.
        flags.FLAGS.mark_as_parsed()
    read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    workers = grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=_AHEAD)
    return iter(data.to_iter_dataset(read).mp_prefetch(workers, worker_init_fn=_end_with_parent))


def _ignore_interrupts() -> None:
    # The first one starts Python's resource tracker, which would take the mask away again.
    multiprocessing.get_context("spawn").Event()
    if hasattr(signal, "pthread_sigmask"):  # Not on Windows.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _end_with_parent(index: int, count: int) -> None:
    """Ends a worker with the main process. Grain's own would go on for ever if that is killed."""
    del index, count
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
