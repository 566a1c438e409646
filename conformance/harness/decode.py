"""Shared files read by fixtures/abi/layouts.json alone, so that pyeal is not its own judge."""

from __future__ import annotations

import json
from functools import cache

from conformance import FIXTURES

LAYOUTS = FIXTURES / "abi/layouts.json"
BUILDS = {"ppc64le": "ppc64el"}  # what uname says -> build, where they differ
ARM64, OTHER = FIXTURES / "abi/layouts-arm64.json", FIXTURES / "abi/layouts-other.json"


class Struct(dict):
    """A decoded structure: members as keys and attributes; anonymous ones are flattened."""

    __getattr__ = dict.__getitem__


@cache
def layouts(build="x86_64"):
    """Return release -> its block of a build: x86_64, aarch64, ppc64el, riscv64, arm64 bluefield.

    A block with `like` has only the differences from that one.
    """
    with open({"x86_64": LAYOUTS, "aarch64": ARM64}.get(build, OTHER)) as f:
        found = json.load(f)["releases"]
    if build not in ("x86_64", "aarch64"):
        names = (n.partition(" ") for n in found)
        found = {r: found[f"{r} {build}"] for r, _, b in names if b == build}
    for name, block in found.items():
        if "like" in block:
            found[name] = _over(found[block["like"]], block)
    return found


def _over(base, change):
    """A block with what another says put over it; lists are replaced as a whole."""
    both = {k: _over(base[k], v) for k, v in change.items() if isinstance(v, dict) and k in base}
    return base | change | both


@cache
def release(name, build="x86_64"):
    """Return the decoder of a release, or of its line (24.11.4 -> 24.11.6).

    A release between two lines, a candidate and main are read as the nearest older line.
    """
    known = layouts(build)
    if name in known:
        return Decoder(name, build)
    older = [r for r in known if _line(r) <= _line(name)]
    if not older:
        raise LookupError(f"no layouts of release {name}; known: {', '.join(known)}")
    return Decoder(max(older, key=_line), build)


def _line(name):
    return [int(n) for n in name.partition("-")[0].split(".")[:2]]


class Decoder:
    def __init__(self, name, build="x86_64"):
        self.name, self._abi = name, layouts(build)[name]
        self.structs, self.constants = self._abi["structs"], self._abi["constants"]
        self.files, self.wire = self._abi["files"], self._abi["wire"]
        self._readers = {}

    def sizeof(self, struct):
        return self.structs[struct]["size"]

    def member(self, struct, *names):
        """A member's record: offset (from the struct), size, type, dims."""
        offset, members = 0, self.structs[struct]["members"]
        for n in names:
            m = next(m for m in _flat(members) if m["name"] == n)
            offset += m["offset"]
            members = m.get("members") or self.structs.get(_struct(m["type"]), {}).get("members")
        return m | {"offset": offset}

    def offsetof(self, struct, *names):
        return self.member(struct, *names)["offset"]

    def name_at(self, struct, at):
        """Return the name of the field at an offset of a structure: memsegs[0].version"""
        return self._name_at(self.structs[struct]["members"], at)

    def _name_at(self, members, at):
        m = next((m for m in _flat(members) if m["offset"] <= at < m["offset"] + m["size"]), None)
        if m is None:
            return "padding"
        name, at = m["name"], at - m["offset"]
        if m.get("dims") and m["type"] != "char":
            name, at = f"{name}[{at // m['elem_size']}]", at % m["elem_size"]
        sub = m.get("members") or self.structs.get(_struct(m["type"]), {}).get("members")
        return f"{name}.{self._name_at(sub, at)}" if sub else name

    def struct(self, name, data, offset=0):
        """Decode one structure at an offset of a buffer."""
        if len(data) - offset < self.sizeof(name):
            raise ValueError(f"{name} needs {self.sizeof(name)} bytes, found {len(data) - offset}")
        return self._members(self.structs[name]["members"])(memoryview(data), offset)

    def records(self, name, data):
        """A file that is an array of one structure."""
        n = self.sizeof(name)
        return [self.struct(name, data, i) for i in range(0, len(data) - n + 1, n)]

    def _reader(self, m):
        """What reads a member at an address: read(data, at)."""
        size = m["size"]
        if m.get("dims"):
            if m["type"] == "char":
                return lambda d, at: (
                    bytes(d[at : at + size]).split(b"\0")[0].decode(errors="replace")
                )
            step = m["elem_size"]
            one = self._reader({k: v for k, v in m.items() if k != "dims"} | {"size": step})
            return lambda d, at: [one(d, at + i) for i in range(0, size // step * step, step)]
        if m.get("kind") != "union" and (sub := m.get("members")):
            return self._members(sub)
        if sub := self.structs.get(_struct(m["type"]), {}).get("members"):
            return self._members(sub)
        kind = m.get("base_type", m["type"]).replace("volatile ", "").replace("const ", "")
        signed = kind in ("int", "long int", "short int", "signed char", "long long int", "char")
        return lambda d, at: int.from_bytes(d[at : at + size], "little", signed=signed)

    def _members(self, members):
        """What reads these members as a Struct; made once."""
        if read := self._readers.get(id(members)):
            return read
        parts = [
            (m["name"], m["offset"], self._reader(m))
            for m in _flat(members)
            if m["name"] and not m.get("flexible")
        ]
        read = self._readers[id(members)] = lambda d, at: Struct(
            (name, part(d, at + offset)) for name, offset, part in parts
        )
        return read

    def config(self, data):
        """RUN/config"""
        return self.struct("rte_mem_config", data)

    def fbarray(self, data, elt_sz, length):
        return Fbarray(self, bytes(data), elt_sz, length)


class Fbarray:
    """A file-backed array: elements, then the mask of used ones."""

    def __init__(self, decoder, data, elt_sz, length):
        self._d, self.data, self.elt_sz, self.len = decoder, data, elt_sz, length
        at = elt_sz * length
        self.n_masks = int.from_bytes(data[at : at + 4], "little")
        at += decoder.offsetof("used_mask", "data")
        self.masks = [
            int.from_bytes(data[at + 8 * i : at + 8 * i + 8], "little")
            for i in range(-(-length // 64))
        ]
        self.tail = data[at + 8 * len(self.masks) :]

    @property
    def used(self):
        """Indices of used entries, ascending."""
        return [
            64 * w + b
            for w, mask in enumerate(self.masks)
            if mask
            for b in range(64)
            if mask >> b & 1
        ]

    def raw(self, i):
        return self.data[i * self.elt_sz : (i + 1) * self.elt_sz]

    def __getitem__(self, i):
        """Entry i as a memseg; `raw` for arrays of something else."""
        return self._d.struct("rte_memseg", self.data, i * self.elt_sz)


def _struct(type):
    return type.replace("volatile ", "").replace("const ", "").removeprefix("struct ")


def _flat(members):
    """Members with those of anonymous structs and unions in their place."""
    for m in members:
        if m["name"] is None:
            for sub in _flat(m["members"]):
                yield sub | {"offset": m["offset"] + sub["offset"]}
        else:
            yield m
