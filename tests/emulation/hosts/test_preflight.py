"""What is checked before anything starts, and the records and processes of a stack."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from apps.common.errors import UserError
from emulation.hosts import config, cpu, machine, preflight, processes, record
from emulation.hosts.record import StackRecord


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_taken_port_names_its_owner() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} is taken by .* \(process {os.getpid()}\).*--port"):
            preflight.check_port(port, "--port")
    preflight.check_port(port, "--port")


def test_too_little_memory_and_disk_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"2\.0 GiB of memory are available, but the stack needs 7 GiB"):
        preflight._check_memory(2 * 1024**3, needed=7 * 1024**3)
    with pytest.raises(UserError, match=r"0\.5 GiB of disk free"):
        preflight._check_disk(tmp_path, 512 * 1024**2)


def test_a_cpu_that_vllm_cannot_use_is_reported() -> None:
    with pytest.raises(UserError, match="AVX2"):
        preflight._check_cpu("x86_64", {"sse4_2"})
    preflight._check_cpu("x86_64", {"avx2"})
    preflight._check_cpu("aarch64", set())


@pytest.mark.parametrize(
    ("system", "processor", "way"),
    [
        ("Darwin", "arm64", "a Linux virtual machine"),
        ("Windows", "AMD64", "use WSL 2"),
        ("Linux", "riscv64", "x86_64 or aarch64"),
    ],
)
def test_other_systems_are_named_with_what_to_do(system: str, processor: str, way: str) -> None:
    with pytest.raises(UserError, match=rf"{way}.*docs/laptop.md#other-systems"):
        preflight._check_platform(system, processor)
    preflight._check_platform("Linux", "aarch64")


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        (
            "0::/user/me",
            {
                "user/me/memory.max": "max",
                "user/memory.max": "4000000000",
                "user/memory.current": "3000000000",
                "user/memory.stat": "anon 1\ninactive_file 500000000",
                "user/me/cpu.max": "150000 100000",
            },
        ),
        (
            "5:cpu,cpuacct:/\n4:memory:/docker/a\n0::/",
            {
                "memory/memory.limit_in_bytes": "4000000000",
                "memory/memory.usage_in_bytes": "3000000000",
                "memory/memory.stat": "total_inactive_file 500000000",
                "cpu/cpu.cfs_quota_us": "150000",
                "cpu/cpu.cfs_period_us": "100000",
            },
        ),
    ],
    ids=["v2", "v1"],
)
def test_a_containers_limits_count(groups: str, files: dict[str, str], tmp_path: Path) -> None:
    tree = {"proc/self/cgroup": groups, "proc/meminfo": "MemAvailable: 16000000 kB"}
    for name, text in {**tree, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert machine.available_bytes(tmp_path) == 1_500_000_000
    assert machine.cores(tmp_path) == min(1.5, machine.cores())
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    assert machine.available_bytes(tmp_path) == 16_384_000_000


def test_bfloat16_only_where_it_is_not_emulated() -> None:
    assert cpu.best_dtype({"avx2"}, "x86_64") == "float32"
    assert cpu.best_dtype({"avx2", "avx512f"}, "x86_64") == "bfloat16"
    assert cpu.best_dtype(set(), "aarch64") == "bfloat16"


def test_free_ports_are_free_and_below_the_systems_own_range() -> None:
    ports = preflight.free_ports(20)
    assert ports == list(range(ports[0], ports[0] + 20))
    assert ports[-1] < 32_000
    for port in ports:
        preflight.check_port(port, "--port")
    assert not set(ports) & set(preflight.free_ports(20, avoid=ports))


def test_config_follows_port_and_model() -> None:
    changed = config.with_model(config.with_port(config.own(), 9123), "my", "/models/my", own_template=True)
    llm, chat = changed["applications"]
    assert changed["http_options"] == {"host": "127.0.0.1", "port": 9123}
    assert chat["args"]["api_url"] == "http://127.0.0.1:9123/v1"
    assert config.served_model(changed) == ("my", "/models/my")
    assert "chat_template" not in llm["args"]["llm_configs"][0]["engine_kwargs"]
    assert config.served_model(config.own()) == ("gemma-3-270m", "cache:gemma-3-270m")


def test_records_are_found_and_removed() -> None:
    stack = StackRecord(1, 9000, 9001, "m", "s", False, "/tmp/x", 20000, {"slice-a/0": 7})
    record.write_record(stack)
    assert record.all_records() == [stack]
    record.remove_record(9000)
    assert record.read_record(9000) is None


def test_two_commands_on_one_port_do_not_overlap() -> None:
    with record.exclusive(9000), pytest.raises(UserError, match="another command"), record.exclusive(9000):
        pass


def test_only_the_stacks_own_processes_end(tmp_path: Path) -> None:
    def sleeper(directory: Path, *, new_session: bool) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(60)"], cwd=directory, start_new_session=new_session
        )

    (tmp_path / "stack").mkdir()
    ours = sleeper(tmp_path / "stack", new_session=True)
    same_place = sleeper(tmp_path / "stack", new_session=True)  # a person who reads the logs
    elsewhere = sleeper(tmp_path, new_session=False)
    try:
        processes.stop_all([ours.pid], tmp_path / "stack")
        assert not psutil.pid_exists(ours.pid)
        assert psutil.pid_exists(same_place.pid)
        assert same_place.poll() is None
        assert elsewhere.poll() is None
    finally:
        for process in (ours, same_place, elsewhere):
            process.kill()
            process.wait()


def test_a_stack_lives_on_the_disk_that_the_user_names_if_sockets_fit_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for wanted, root in {"/scratch": "/scratch", "/scratch/somebody": "/tmp"}.items():
        monkeypatch.setattr("tempfile.tempdir", wanted)
        assert preflight.temp_root() == Path(root)
