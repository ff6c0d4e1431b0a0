"""Blocks: what is stored for one tensor's symbols, the cheapest of four modes.

``raw``       the symbols themselves, because coding would not shrink them
``constant``  one symbol, repeated
``coded``     one stream
``partial``   some chunks raw, the others in one stream: size traded for decoding speed

Partial coding cuts the symbols into blocks of c chunks and codes the last m chunks of each; what
is left behind the last whole block is coded too. With f = m/c the decoder has f of the work and
the tensor keeps 1 - f of its raw size.

Symbols below 16 may be packed, two a byte, before they are stored raw, coded or cut into chunks.

References: "When Compression Meets Model Compression", arXiv 2502.15443, figure 5.
Specification: docs/spec/tans.md, "Blocks".
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from refimpl.errors import Corrupt, InvalidArgument
from refimpl.tans.counts import check_table_log, stored_counts
from refimpl.tans.lanes import check_profile
from refimpl.tans.nibbles import unpack_nibbles
from refimpl.tans.stream import NUMPY, Kernels, Stream, decode_stream, encode_stream, repeat_symbol

MODES = ("raw", "constant", "coded", "partial")
CHUNK_SYMBOLS = 4096
MAX_CHUNKS = 16
PACK_SYMBOLS = 1 << 18  # fewer symbols do not pay for the longer table of bytes


@dataclass(frozen=True)
class Chunks:
    """How partial coding cuts a tensor; packed symbols count by the byte."""

    symbols: int  # per chunk
    per_block: int  # c
    coded: int  # m, the last m chunks of each block

    def fits(self, symbol_count: int) -> bool:
        """Whether a tensor of that many symbols can be cut so: into at least one whole block."""
        return self.symbols >= 1 and 1 <= self.coded < self.per_block and self.blocks(symbol_count) >= 1

    def blocks(self, symbol_count: int) -> int:
        """Whole blocks in a tensor of that many symbols."""
        return symbol_count // (self.symbols * self.per_block)

    def raw_count(self, symbol_count: int) -> int:
        """Symbols of such a tensor that are stored raw."""
        return self.blocks(symbol_count) * self.symbols * (self.per_block - self.coded)


@dataclass(frozen=True)
class Block:
    """One tensor's symbols, stored."""

    mode: str
    symbol_count: int
    raw: npt.NDArray[np.uint8]  # raw: all symbols; constant: one; partial: the uncoded chunks
    stream: Stream | None = None  # coded, partial
    chunks: Chunks | None = None  # partial
    packed: bool = False  # two symbols a byte; not in a constant block

    @property
    def unit_count(self) -> int:
        """Bytes of raw and coded symbols together: as many as there are symbols, or half of them."""
        return (self.symbol_count + 1) // 2 if self.packed else self.symbol_count

    @property
    def payload_bits(self) -> int:
        """Bits that carry symbols."""
        coded = 0 if self.stream is None else 32 * len(self.stream.words) - self.stream.side_bits
        return 8 * len(self.raw) + coded

    @property
    def side_bits(self) -> int:
        """Bits of start states, lane lengths, normalized counts and classes."""
        if self.stream is None:
            return 0
        model_bytes = stored_counts(self.stream.counts).nbytes + len(self.stream.classes)
        return self.stream.side_bits + 8 * model_bytes

    @property
    def stored_bits(self) -> int:
        """All bits of the block, headers of a container left out."""
        return self.payload_bits + self.side_bits


def encode_block(
    symbols: npt.NDArray[np.uint8],
    *,
    profile: str = "gpu",
    fraction: float = 1.0,
    table_log: int | None = None,
    lane_count: int | None = None,
    kernels: Kernels = NUMPY,
) -> Block:
    """Store symbols in the mode that takes the fewest bits.

    Parameters
    ----------
    symbols : uint8, any shape
    profile : {"gpu", "archive"}
    fraction : float
        Share f of the chunks to code, above 0 and up to 1; rounded to a fraction of at most 16 chunks.
    table_log, lane_count : int, optional
        Set instead of chosen.
    kernels : Kernels
        NumPy or a bit-exact twin.

    Raises
    ------
    InvalidArgument
        A parameter is out of range.

    Examples
    --------
    >>> block = encode_block(np.tile(np.array([0, 0, 0, 1], np.uint8), 1000))
    >>> block.mode, block.stored_bits < 8 * 4000 / 7
    ('coded', True)
    >>> encode_block(np.full(10**6, 7, np.uint8)).mode
    'constant'
    """
    symbols = np.ascontiguousarray(symbols).reshape(-1)
    count = len(symbols)
    check_profile(profile)
    choose_chunks(fraction, count)  # raises, whether or not the fraction is needed
    if table_log is not None:
        check_table_log(table_log)
    if count == 0:
        return Block("raw", 0, symbols)
    if is_constant(symbols):
        return Block("constant", count, symbols[:1])
    small = is_small(symbols)
    packed = kernels.pack_nibbles(symbols) if small else symbols
    raw = Block("raw", count, packed, packed=small)
    # One byte repeated takes no bits: nothing would limit what a forged count makes a decoder unpack.
    use_packed = small and count >= PACK_SYMBOLS and not is_constant(packed)
    units = packed if use_packed else symbols
    chunks = choose_chunks(fraction, len(units))
    kept, coded = (units[:0], units) if chunks is None else split_chunks(units, chunks)
    stream = encode_stream(
        coded, profile=profile, table_log=table_log, lane_count=lane_count, tensor_count=len(units), kernels=kernels
    )
    block = Block("coded" if chunks is None else "partial", count, kept, stream, chunks, use_packed)
    return block if block.stored_bits < raw.stored_bits else raw


def is_constant(symbols: npt.NDArray[np.uint8]) -> bool:
    """Whether one symbol is repeated; the first few nearly always tell.

    Examples
    --------
    >>> is_constant(np.array([7, 7, 7], np.uint8)), is_constant(np.array([7, 7, 8], np.uint8))
    (True, False)
    """
    return bool((symbols[:64] == symbols[0]).all() and (symbols == symbols[0]).all())


def is_small(symbols: npt.NDArray[np.uint8]) -> bool:
    """Whether all symbols are below 16; the first few often tell.

    Examples
    --------
    >>> is_small(np.array([0, 15], np.uint8)), is_small(np.array([0, 16], np.uint8))
    (True, False)
    """
    return bool(symbols[:64].max() < 16 and symbols.max() < 16)


def decode_block(block: Block, *, kernels: Kernels = NUMPY) -> npt.NDArray[np.uint8]:
    """Get a block's symbols back.

    Returns
    -------
    uint8, shape (symbol_count,)
        Read-only where nothing had to be computed.

    Raises
    ------
    StreamError
        The block contradicts itself or its stream cannot be decoded.
    """
    units = coded_count = block.unit_count
    chunks = block.chunks if block.mode == "partial" else None
    if block.mode == "raw":
        expected = units
    elif block.mode == "constant" and not block.packed:
        expected = 1
    elif block.mode == "coded":
        expected = 0
    elif chunks is not None:
        if not chunks.fits(units):
            raise Corrupt(f"{units} symbols cannot be cut into {chunks}")
        expected = chunks.raw_count(units)
        coded_count -= expected
    else:
        raise Corrupt(f"block mode is {block.mode!r}, allowed are {', '.join(MODES)}, packed ones not constant")
    if len(block.raw) != expected:
        raise Corrupt(f"{len(block.raw)} raw symbols in a {block.mode} block, expected {expected}")
    if block.mode == "raw":
        return unpack_nibbles(block.raw)[: block.symbol_count] if block.packed else block.raw
    if block.mode == "constant":
        return repeat_symbol(int(block.raw[0]), block.symbol_count)
    if block.stream is None or block.stream.symbol_count != coded_count:
        raise Corrupt(f"the stream does not hold the {coded_count} symbols of its block")
    if chunks is None:
        return decode_stream(block.stream, packed=block.packed, kernels=kernels)[: block.symbol_count]
    merged = merge_chunks(block.raw, decode_stream(block.stream, kernels=kernels), chunks)
    return unpack_nibbles(merged)[: block.symbol_count] if block.packed else merged


def choose_chunks(fraction: float, symbol_count: int) -> Chunks | None:
    """How to cut a tensor so that about ``fraction`` of it is coded; None to code it whole.

    Raises
    ------
    InvalidArgument
        The fraction is not above 0 and at most 1.

    Examples
    --------
    >>> choose_chunks(0.75, 10**6)
    Chunks(symbols=4096, per_block=4, coded=3)
    """
    if not 0 < fraction <= 1:
        raise InvalidArgument(f"fraction is {fraction}, allowed are numbers above 0 up to 1")
    if fraction == 1:
        return None
    share = Fraction(fraction).limit_denominator(MAX_CHUNKS)
    share = max(share, Fraction(1, MAX_CHUNKS))
    if share == 1:
        return None
    # Small tensors take smaller chunks, so that they hold at least eight blocks.
    symbols = CHUNK_SYMBOLS
    while symbols > 64 and symbols * share.denominator * 8 > symbol_count:
        symbols //= 2
    chunks = Chunks(symbols, share.denominator, share.numerator)
    return chunks if chunks.blocks(symbol_count) else None


def split_chunks(symbols: npt.NDArray[np.uint8], chunks: Chunks) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """(raw, coded) symbols of a tensor.

    Examples
    --------
    >>> raw, coded = split_chunks(np.arange(10, dtype=np.uint8), Chunks(2, 2, 1))
    >>> raw.tolist(), coded.tolist()
    ([0, 1, 4, 5], [2, 3, 6, 7, 8, 9])
    """
    whole = chunks.blocks(len(symbols)) * chunks.per_block * chunks.symbols
    blocks = symbols[:whole].reshape(-1, chunks.per_block, chunks.symbols)
    first_coded = chunks.per_block - chunks.coded
    coded = np.concatenate([blocks[:, first_coded:].reshape(-1), symbols[whole:]])
    return blocks[:, :first_coded].reshape(-1), coded


def merge_chunks(raw: npt.NDArray[np.uint8], coded: npt.NDArray[np.uint8], chunks: Chunks) -> npt.NDArray[np.uint8]:
    """Undo `split_chunks`.

    Examples
    --------
    >>> symbols = np.arange(10, dtype=np.uint8)
    >>> merge_chunks(*split_chunks(symbols, Chunks(2, 2, 1)), Chunks(2, 2, 1)).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    count = chunks.blocks(len(raw) + len(coded))
    first_coded = chunks.per_block - chunks.coded
    in_blocks = count * chunks.coded * chunks.symbols
    blocks = np.concatenate(
        [
            raw.reshape(count, first_coded, chunks.symbols),
            coded[:in_blocks].reshape(count, chunks.coded, chunks.symbols),
        ],
        axis=1,
    )
    return np.concatenate([blocks.reshape(-1), coded[in_blocks:]])
