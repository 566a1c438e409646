"""FBA: searching a file-backed array."""
from conformance import requirement


@requirement("FBA-017")
def test_biggest_run_is_the_lowest_of_equals(eal, evidence):
    """Two free runs of 61 entries: the search answers the lower one and clears rte_errno.

    mask 0 [0 ......... 60 | 61 #]   mask 1 [64 # | 65 ........ 125 | 126 #]
    """
    a = eal.fbarray(length=128, elt_sz=4)
    a.set_used(61, 62, 63, 64, 126, 127)
    assert a.find_next_free(128) == -1 and a.errno

    found = a.find_biggest_free(0)
    evidence(f"two free runs of 61 entries, at 0 and 65: found {found}")

    assert (found, a.errno) == (0, 0)
