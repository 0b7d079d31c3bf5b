"""The order of samples at scale: building an epoch's order, its memory, and entering it in the middle.

Run: python -m effnet_cluster.benchmarks.order

Measured in CPU seconds of one core, Python 3.11, numpy 2.4; the peaks are of 1,281 shards:

         samples  block  build s  peak MB  seek ms
       1,281,000    all     0.26       41     0.18
       1,281,000     16     0.13       21     0.16
      14,197,000    all     4.77
"""

import time
import tracemalloc

from ..datasets import BatchLayout, EpochOrder

SIZES = {"ImageNet-1k": 1281, "ImageNet-21k": 14_197}
SAMPLES_PER_SHARD = 1000
GLOBAL_BATCH = 1024


def measure(shards: int, block: int | None) -> tuple[float, float, float]:
    """(s to build an epoch's order, best of three; peak MB meanwhile; ms to find a batch in its middle afterwards)."""
    order = EpochOrder((SAMPLES_PER_SHARD,) * shards, 0, block)
    times = []
    for epoch in (2, 1, 0):
        start = time.process_time()
        order.sample_ids(epoch)
        times.append(time.process_time() - start)
    start = time.process_time()
    ids = order.sample_ids(0)
    layout = BatchLayout(len(ids), GLOBAL_BATCH)
    ids[layout.positions(layout.batches // 2)]
    sought = time.process_time() - start
    tracemalloc.start()
    order.sample_ids(1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return min(times), peak / 1e6, sought * 1e3


def main() -> None:
    """Print one row per dataset size and block size."""
    print(f"{'samples':>12} {'block':>6} {'build s':>8} {'peak MB':>8} {'seek ms':>8}")
    for shards in SIZES.values():
        for block in (None, 16):
            built, peak, sought = measure(shards, block)
            print(f"{shards * SAMPLES_PER_SHARD:>12,} {block or 'all':>6} {built:>8.2f} {peak:>8.0f} {sought:>8.2f}")


if __name__ == "__main__":
    main()
