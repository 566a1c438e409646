"""CFG: the shared config file."""
from conformance import modes, needs, requirement


@requirement("CFG-003")
@needs(pages={"2M": 4})
@modes("dynmem", "single-file", "legacy", "no-huge")
def test_config_is_25344_private_bytes_mapped_shared(start, evidence):
    """RUN/config: mode 0600, the same size in every release, mapped read-write."""
    eal = start("-m", "4")
    st = (eal.run / "config").stat()
    mapped = next(m for m in eal.maps() if m.path.endswith("/config"))
    evidence(f"{st.st_size} bytes, mode {st.st_mode & 0o777:o}, mapped {mapped.perms}")

    assert st.st_size == 25344
    assert st.st_mode & 0o777 == 0o600
    assert mapped.perms == "rw-s"
