"""doctor, links "permission" and "policy": what the kernel denies to this user or container."""

from conformance import needs
from conformance.harness import fake_host
from conformance.units.live.doctor.world import explain, problem

pytestmark = needs(root=True)


@problem(10)
@needs(pages={"2M": 1})
def test_mount_of_root(world):
    """A mount in which root alone may write; the chown that doctor gives lets the start succeed."""
    box = world.box(mounts=[("2M", "/run/hugepages/2M", "size=2M,mode=755")])
    target = world.target("-m", "2", box=box, as_user="nobody")

    said = target.doctor("permission")
    assert "may not make files" in said
    assert "chown " in said
    assert 10 in explain(target.refused())
    target.fix("permission")
    world.target("-m", "2", box=box, as_user="nobody").starts()


@problem(10)
@needs(pages={"2M": 1})
def test_mount_that_cannot_be_locked(world):
    """A mount that root alone may open."""
    box = world.box(mounts=[("2M", "/run/hugepages/2M", "size=2M,mode=700")])
    target = world.target("-m", "2", box=box, as_user="nobody")

    said = target.doctor("permission")
    assert "may not make files" in said
    assert "mode 0700" in said
    assert 10 in explain(target.refused())


@problem(10)
@needs(pages={"2M": 2})
def test_files_of_root_in_a_sticky_directory(world):
    """Page files of root under the target's names, which it may neither open nor remove.

    A name in each of the four lists, or EAL continues with the next.
    """
    box = world.box(mounts=[("2M", "/run/hugepages/2M", "size=4M,mode=1777")])
    for i in range(4):
        box.path(f"/run/hugepages/2M/eal_stickymap_{i * 8192}").touch(mode=0o600)
    target = world.target("-m", "2", box=box, as_user="nobody", prefix="eal_sticky")

    said = target.doctor("permission")
    assert "of user 0" in said
    assert "sticky" in said
    assert 10 in explain(target.refused())


@problem(10)
@needs(pages={"2M": 1})
def test_mount_read_only(world):
    """A mount with ro."""
    box = world.box(mounts=[("2M", "/run/hugepages/2M", "size=2M,ro")])
    target = world.target("-m", "2", box=box)

    said = target.doctor("permission")
    assert "read-only" in said
    assert "remount,rw" in said
    assert 10 in explain(target.refused())


@problem(10)
def test_runtime_directory_of_root(world):
    """XDG_RUNTIME_DIR is another user's."""
    box = world.box(mounts=[("tmpfs", "/run/closed", "mode=755")])
    target = world.target(
        "--no-huge", "-m", "4", box=box, as_user="nobody", env={"XDG_RUNTIME_DIR": "/run/closed"}
    )

    said = target.doctor("permission")
    assert "runtime directory" in said
    assert "export RUNTIME_DIRECTORY=" in said
    assert 10 in explain(target.refused())


@problem(28)
@needs(strace=True, pages={"2M": 2})
def test_memfd_denied(world):
    """A security module denies memfd_create."""
    target = world.target(
        "--in-memory",
        "-m",
        "4",
        box=world.box(lease={"2M": 2}),
        inject=["memfd_create:error=EACCES"],
    )

    assert "memfd_create" in target.doctor("permission")
    assert 28 in explain(target.refused())


@problem(7)
@needs(strace=True, pages={"2M": 2})
def test_mempolicy_denied(world):
    """A container's seccomp filter denies get_mempolicy."""
    target = world.target("-m", "4", box=world.box({"2M": 2}), inject=["get_mempolicy:error=EPERM"])

    said = target.doctor("policy")
    assert "get_mempolicy is forbidden" in said
    assert "SYS_NICE" in said
    assert 7 in explain(target.refused())


@problem(8)
@needs(pages={"2M": 2})
def test_node_that_is_not_allowed(world, tmp_path):
    """Memory is wanted on node 1, which this process may not use."""
    box = world.box({"2M": 2}, binds=fake_host.build(tmp_path, {"2M": [0, 2]}))
    target = world.target("--socket-mem", "0,4", box=box)

    said = target.doctor("policy")
    assert "node 1" in said
    assert "Mems_allowed" in said
    assert 8 in explain(target.refused())
