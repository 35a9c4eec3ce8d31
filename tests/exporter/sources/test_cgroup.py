import pytest

from advisor.units import GIB
from exporter.sources.cgroup import CgroupSource, Mount, parse_membership, parse_mounts
from tests.advisor.examples import server

# Version 1: recorded on Linux with a limit of 96 MiB, of which a process took 80 and read a file.
V1_MOUNTINFO = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V1_MEMBERSHIP = """\
9:name=systemd:/
8:pids:/
4:memory:/headroom-record
2:cpuacct:/
1:cpu:/
0::/
"""
V1_STAT = """\
cache 14680064
rss 83881984
shmem 0
inactive_file 14680064
hierarchical_memory_limit 100663296
hierarchical_memsw_limit 9223372036854771712
total_cache 14680064
total_rss 83881984
total_inactive_anon 83881984
total_active_anon 0
total_inactive_file 14680064
total_active_file 0
total_unevictable 0
"""

# Version 2: in the form of the kernel's Documentation/admin-guide/cgroup-v2.rst.
V2_MOUNTINFO = "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
SERVICE = "/system.slice/vllm.service"


def write(root, path, text):
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def process(root, pid, membership):
    write(root, f"/proc/{pid}/cgroup", membership)


def v2_group(root, path, *, limit, current, stat="", kills=None):
    directory = f"/sys/fs/cgroup{path}"
    write(root, f"{directory}/memory.max", f"{limit}\n")
    write(root, f"{directory}/memory.current", f"{current}\n")
    write(root, f"{directory}/memory.stat", stat)
    if kills is not None:
        write(root, f"{directory}/memory.events", f"low 0\nhigh 0\nmax 12\noom {kills}\noom_kill {kills}\n")


@pytest.fixture
def v2(tmp_path):
    write(tmp_path, "/proc/self/mountinfo", V2_MOUNTINFO)
    process(tmp_path, 100, f"0::{SERVICE}\n")
    return tmp_path


def read(root, *pids):
    source = CgroupSource(root=root)
    source.want([server(pids=pids or (100,))])
    return source.read()


def test_what_the_kernel_can_take_back_is_not_in_use(v2):
    stat = f"anon {20 * GIB}\nfile {12 * GIB}\nshmem {2 * GIB}\ninactive_file {6 * GIB}\nactive_file {4 * GIB}\n"
    v2_group(v2, SERVICE, limit=64 * GIB, current=33 * GIB, stat=f"{stat}slab_reclaimable {GIB}\n", kills=2)
    (found,) = read(v2)
    assert (found.host, found.port) == ("127.0.0.1", 8000)
    assert (found.limit_bytes, found.used_bytes, found.oom_kills) == (64 * GIB, (33 - 6 - 4 - 1) * GIB, 2)
    assert found.used_ratio == 22 / 64


def test_a_recorded_cgroup_of_version_1(tmp_path):
    write(tmp_path, "/proc/self/mountinfo", V1_MOUNTINFO)
    process(tmp_path, 100, V1_MEMBERSHIP)
    group = "/sys/fs/cgroup/memory/headroom-record"
    write(tmp_path, f"{group}/memory.limit_in_bytes", "100663296\n")
    write(tmp_path, f"{group}/memory.usage_in_bytes", "99090432\n")
    write(tmp_path, f"{group}/memory.stat", V1_STAT)
    write(tmp_path, f"{group}/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    # The topmost group's "no limit", as recorded, and the second hierarchy beside it tell nothing.
    write(tmp_path, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    write(tmp_path, "/sys/fs/cgroup/memory/memory.usage_in_bytes", "5000000000\n")
    (found,) = read(tmp_path)
    assert (found.limit_bytes, found.used_bytes, found.oom_kills) == (96 * 1024**2, 99_090_432 - 14_680_064, 1)


def test_a_limit_above_the_service_binds_it_too(v2):
    v2_group(v2, SERVICE, limit="max", current=20 * GIB)
    v2_group(v2, "/system.slice", limit=40 * GIB, current=36 * GIB)
    (found,) = read(v2)
    assert (found.limit_bytes, found.used_bytes, found.oom_kills) == (40 * GIB, 36 * GIB, None)


def test_of_several_limits_the_tightest_is_told(v2):
    v2_group(v2, SERVICE, limit=64 * GIB, current=20 * GIB)
    v2_group(v2, "/system.slice", limit=100 * GIB, current=90 * GIB)
    process(v2, 101, "0::/system.slice/worker.service\n")
    v2_group(v2, "/system.slice/worker.service", limit=10 * GIB, current=int(9.5 * GIB))
    (found,) = read(v2, 100, 101)
    assert found.limit_bytes == 10 * GIB


def test_in_a_container_of_its_own_the_mount_is_the_containers_cgroup(tmp_path):
    write(tmp_path, "/proc/self/mountinfo", V1_MOUNTINFO.replace("0:32 /", "0:32 /docker/4f1c"))
    process(tmp_path, 100, "4:memory:/docker/4f1c\n")
    write(tmp_path, "/sys/fs/cgroup/memory/memory.limit_in_bytes", f"{8 * GIB}\n")
    write(tmp_path, "/sys/fs/cgroup/memory/memory.usage_in_bytes", f"{GIB}\n")
    (found,) = read(tmp_path)
    assert (found.limit_bytes, found.used_bytes) == (8 * GIB, GIB)


@pytest.mark.parametrize("membership", ["0::/../other.scope\n", "", "nonsense\n", "0::\n"])
def test_a_cgroup_of_another_namespace_tells_nothing(v2, membership):
    process(v2, 100, membership)
    assert read(v2) == ()


def test_version_1_spells_no_limit_as_a_number(tmp_path):
    write(tmp_path, "/proc/self/mountinfo", V1_MOUNTINFO)
    process(tmp_path, 100, V1_MEMBERSHIP)
    write(tmp_path, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    write(tmp_path, "/sys/fs/cgroup/memory/memory.usage_in_bytes", "5000000000\n")
    assert read(tmp_path) == ()


def test_without_a_limit_nothing_is_told(v2):
    v2_group(v2, SERVICE, limit="max", current=20 * GIB)
    assert read(v2) == ()


def test_a_server_that_has_just_ended_and_files_that_may_not_be_read_tell_nothing(v2):
    v2_group(v2, SERVICE, limit=64 * GIB, current=33 * GIB)
    assert read(v2, 999) == ()
    (v2 / "sys/fs/cgroup/system.slice/vllm.service/memory.current").unlink()
    assert read(v2) == ()


def test_a_file_without_sense_is_no_limit(v2):
    v2_group(v2, SERVICE, limit="lots", current=33 * GIB)
    assert read(v2) == ()
    v2_group(v2, SERVICE, limit=0, current=33 * GIB)
    assert read(v2) == ()


def test_nothing_is_opened_where_no_server_is_wanted(tmp_path):
    source = CgroupSource(root=tmp_path)
    assert source.read() == ()
    source.close()


def test_mounts_are_those_with_a_memory_controller():
    assert parse_mounts(V1_MOUNTINFO) == (
        Mount(version=1, root="/", point="/sys/fs/cgroup/memory"),
        Mount(version=2, root="/", point="/sys/fs/cgroup/unified"),
    )
    assert parse_mounts("broken line\n1 2 3 - cgroup2\n") == ()


def test_membership_names_the_memory_controller_alone():
    assert parse_membership(V1_MEMBERSHIP) == ((1, "/headroom-record"), (2, "/"))


def test_servers_below_one_limit_are_each_told_of_it(v2):
    v2_group(v2, "/system.slice", limit=40 * GIB, current=36 * GIB)
    process(v2, 101, "0::/system.slice/other.service\n")
    v2_group(v2, "/system.slice/other.service", limit=10 * GIB, current=int(9.5 * GIB))
    source = CgroupSource(root=v2)
    source.want([server(pids=(100,), port=8000), server(pids=(101,), port=8001)])
    assert [(each.port, each.limit_bytes) for each in source.read()] == [(8000, 40 * GIB), (8001, 10 * GIB)]
    v2_group(v2, "/system.slice", limit=40 * GIB, current=37 * GIB)
    assert source.read()[0].used_bytes == 37 * GIB
