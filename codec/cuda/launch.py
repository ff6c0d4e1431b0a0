"""Launch geometry of the decode kernels: how many warps share how much shared memory.

Whatever it says, the result is the same. One block a multiprocessor is launched, with just so many warps that all
multiprocessors get as many tiles of 32 lanes, in as few rounds as their shared memory allows.
"""

from dataclasses import dataclass

TILE = 32  # lanes of a warp
MAX_WARPS = 32  # of a block
FEW_WARPS = 8  # fewer cannot hide the latency of shared memory: then lanes are read from global memory
STAGE_SLACK = 16  # words of a stage besides those of the lanes
CLASS_WORDS = 256
SCAN_LANES = 4096  # lanes of a block that sums lengths
SCAN_THREADS = 1024


@dataclass(frozen=True)
class Geometry:
    """Of one launch of a decode kernel."""

    blocks: int
    warps: int  # of a block
    stage_words: int  # of each warp; 0: all is read from global memory
    table_words: int

    @property
    def threads(self) -> int:
        """Of a block."""
        return TILE * self.warps

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block: classes, table, and every warp's stage."""
        return 4 * (CLASS_WORDS + self.table_words + self.warps * self.stage_words)


def decode_geometry(
    lane_count: int, table_log: int, most_words: int, average_words: float, multiprocessors: int, shared_bytes: int
) -> Geometry:
    """Geometry for a stream.

    Parameters
    ----------
    lane_count, table_log : int
    most_words, average_words : int, float
        Words of a tile's lanes, as far as they are known.
    multiprocessors, shared_bytes : int
        Of the device; bytes of shared memory that a block can have.

    Examples
    --------
    >>> geometry = decode_geometry(65536, 12, 1200, 1120, multiprocessors=132, shared_bytes=232448)
    >>> geometry.blocks, geometry.warps, geometry.stage_words, geometry.shared_bytes
    (128, 16, 1216, 95232)
    >>> decode_geometry(10, 5, 10**6, 10**6, multiprocessors=132, shared_bytes=232448)
    Geometry(blocks=1, warps=1, stage_words=0, table_words=32)
    """
    tiles = -(-lane_count // TILE)
    table_words = 1 << table_log
    stage_words = (min(most_words, int(1.25 * average_words)) + STAGE_SLACK) // 4 * 4  # copied in fours
    most = min(MAX_WARPS, (shared_bytes // 4 - CLASS_WORDS - table_words) // stage_words)
    if most < min(FEW_WARPS, tiles):
        stage_words, most = 0, MAX_WARPS
    rounds = -(-tiles // (multiprocessors * most))
    warps = -(-tiles // (multiprocessors * rounds))
    return Geometry(min(multiprocessors, -(-tiles // warps)), warps, stage_words, table_words)
