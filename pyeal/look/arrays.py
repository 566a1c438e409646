"""Arrays of other processes, read from the bytes of their files or mappings."""

from __future__ import annotations

from pyeal.fbarray import file_size, n_words, runs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

KERNEL_PAGES = 4096, 16384, 65536  # of the kernels on which EAL runs


def shape(data: bytes, sizes: Collection[int]) -> tuple[int, int]:
    """Return (bytes of an element, elements) of an array by its content alone; ValueError.

    Of the given sizes it is the one with which the count of mask words is in its place; of the
    pages of a kernel, the smallest with which the file is rounded up to its size.
    """
    for page in (p for p in KERNEL_PAGES if len(data) % p == 0):
        for elt_sz in sizes:
            # file = elements, 8, 8 a mask word, rounded up to a page: that leaves a few lengths
            most = (len(data) - 16) // elt_sz
            least = max((len(data) - page - 16) * 64 // (64 * elt_sz + 8), 1)
            for length in range(min(most, least + page // elt_sz + 64), least - 1, -1):
                at = length * elt_sz
                words = n_words(length).to_bytes(8, "little")
                if data[at : at + 8] == words and file_size(length, elt_sz, page) == len(data):
                    return elt_sz, length
    raise ValueError(f"array: expected elements of {sizes} bytes, found a file of {len(data)}")


class ArrayContent:
    """The content of an array's file or mapping, written by any process.

    length, elt_sz: as its descriptor has them, which may be wrong: the bytes decide what is there.
    used: the mask as one number. ValueError if the bytes end before the mask does.
    """

    def __init__(self, data: bytes, length: int, elt_sz: int) -> None:
        at = length * elt_sz + 8
        end = at + 8 * n_words(length)
        if length < 1 or elt_sz < 1 or len(data) < end:
            raise ValueError(
                f"{len(data)} bytes found, too short for {length} elements of {elt_sz} bytes"
            )
        self.data, self.length, self.elt_sz = data, length, elt_sz
        self.mask_at = at
        self.used = int.from_bytes(data[at:end], "little") & (1 << length) - 1

    def runs(self) -> list[tuple[int, int]]:
        """Return the runs of used elements as (start, n), ascending."""
        return runs(self.used)

    def element(self, i: int) -> bytes:
        """Return the bytes of an element, b"" for an index that the array does not have."""
        if not 0 <= i < self.length:
            return b""
        return self.data[i * self.elt_sz : (i + 1) * self.elt_sz]
