"""The GPU simulator through its two surfaces: the command line and the NVML library that programs load."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[3] / "images" / "gpu-simulator"
SUCCESS, INVALID_ARGUMENT, NOT_SUPPORTED, DRIVER_NOT_LOADED, TIMEOUT, GPU_IS_LOST = 0, 2, 3, 9, 10, 15
XID_EVENT = 8
MIB = 1 << 20

Run = Callable[..., "subprocess.CompletedProcess[str]"]


class Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


class Utilization(ctypes.Structure):
    """nvmlUtilization_t."""

    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class Process(ctypes.Structure):
    """nvmlProcessInfo_t."""

    _fields_ = [
        ("pid", ctypes.c_uint),
        ("memory", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    ]


class Event(ctypes.Structure):
    """nvmlEventData_t."""

    _fields_ = [
        ("device", ctypes.c_void_p),
        ("type", ctypes.c_ulonglong),
        ("data", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    ]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulator as its own Makefile builds it."""
    build = tmp_path_factory.mktemp("gpu-simulator")
    subprocess.run(["make", "-s", "-C", SOURCE, f"BUILD={build}"], check=True)
    return build


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state file of this test alone."""
    path = tmp_path / "state" / "devices.conf"
    monkeypatch.setenv("GPU_SIMULATOR_STATE", str(path))
    return path


@pytest.fixture
def run(built: Path, state: Path) -> Run:
    """Calls one of the built programs."""

    def call(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "LD_LIBRARY_PATH": str(built)}
        return subprocess.run([built / program, *arguments], env=environment, text=True, capture_output=True)

    return call


@pytest.fixture
def simulator(run: Run) -> Run:
    """Calls `gpu-simulator`, which must succeed, on a node with four GPUs."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        result = run("gpu-simulator", *arguments)
        assert result.returncode == 0, result.stderr
        return result

    call("init", "--count", "4", "--name", "Test GPU", "--memory-mib", "1000")
    return call


class Nvml:
    """The library as a program sees it; every call is checked unless told otherwise."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))

    def call(self, name: str, *arguments: object, expect: int = SUCCESS) -> None:
        """Calls one function and compares its return code."""
        assert getattr(self.library, name)(*arguments) == expect, name

    def device(self, index: int) -> ctypes.c_void_p:
        """The handle of one GPU."""
        handle = ctypes.c_void_p()
        self.call("nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(handle))
        return handle

    def number(self, name: str, *arguments: object) -> int:
        """The one number that a function gives out by its last argument."""
        value = ctypes.c_uint()
        self.call(name, *arguments, ctypes.byref(value))
        return value.value

    def text(self, name: str, *arguments: object) -> str:
        """The text that a function writes into its last but one argument."""
        buffer = ctypes.create_string_buffer(96)
        self.call(name, *arguments, buffer, len(buffer))
        return buffer.value.decode()

    def listen(self, *indexes: int) -> ctypes.c_void_p:
        """An event set that waits for Xids of these GPUs."""
        events = ctypes.c_void_p()
        self.call("nvmlEventSetCreate", ctypes.byref(events))
        for index in indexes:
            self.call("nvmlDeviceRegisterEvents", self.device(index), ctypes.c_ulonglong(XID_EVENT), events)
        return events

    def wait(self, events: ctypes.c_void_p, milliseconds: int = 2000, expect: int = SUCCESS) -> Event:
        """The next event."""
        event = Event()
        self.call("nvmlEventSetWait_v2", events, ctypes.byref(event), milliseconds, expect=expect)
        return event


@pytest.fixture
def nvml(built: Path, simulator: Run) -> Nvml:
    """The initialised library, on four healthy GPUs."""
    library = Nvml(built / "libnvidia-ml.so.1")
    library.call("nvmlInit_v2")
    return library


def test_init_twice_keeps_the_same_gpus(run: Run, state: Path) -> None:
    assert run("gpu-simulator", "init", "--count", "2").stdout.startswith("created: 2 GPUs")
    before = state.read_text()
    assert run("gpu-simulator", "init", "--count", "2").stdout.startswith("unchanged")
    assert state.read_text() == before


def test_growing_keeps_the_uuids_of_the_first_gpus(run: Run, state: Path) -> None:
    def uuids() -> list[str]:
        return [line for line in state.read_text().splitlines() if line.startswith("uuid")]

    run("gpu-simulator", "init", "--count", "2")
    first = uuids()
    assert run("gpu-simulator", "init", "--count", "3").stdout.startswith("updated: 3 GPUs")
    assert uuids()[:2] == first
    assert len(set(uuids())) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("set", "0", "utilization=101"), 2, "utilization: expected a whole number from 0 to 100, got '101'"),
        (("set", "0", "colour=red"), 2, "unknown key 'colour'"),
        (("set", "0", "lost=maybe"), 2, "lost: expected yes or no"),
        (("set", "0", "processes=12"), 2, "expected PID:MIB"),
        (("set", "0", "memory_used_mib=1001"), 2, "memory_used_mib 1001 is more than memory_total_mib 1000"),
        (("set", "0", "utilization"), 2, "expected KEY=VALUE"),
        (("set", "7", "utilization=1"), 4, "no GPU '7'; this node has 4"),
        (("xid", "0", "x"), 2, "xid: expected a whole number"),
        (("init", "--count", "17"), 2, "--count: expected a whole number from 0 to 16"),
        (("init", "--size", "1"), 2, "unknown option '--size'"),
        (("break",), 2, "Usage:"),
    ],
)
def test_bad_input_gets_one_clear_line_and_changes_nothing(
    simulator: Run, run: Run, state: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    before = state.read_text()
    result = run("gpu-simulator", *arguments)
    assert (result.returncode, state.read_text()) == (code, before)
    assert message in result.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[gpu 0]\nname = A\n", "[gpu 0] has no uuid"),
        ("[gpu 1]\n", "line 1: sections must count up from [gpu 0]"),
        ("driver = 1\n[gpu 0]\nnonsense\n", "line 3: expected key = value, got 'nonsense'"),
        ("[gpu 0]\nuuid = GPU-1\n", "line 2: uuid: expected GPU-xxxxxxxx"),
    ],
)
def test_a_damaged_state_file_is_named_with_its_line(run: Run, state: Path, text: str, message: str) -> None:
    state.parent.mkdir()
    state.write_text(text)
    for program, argument in (("gpu-simulator", "list"), ("nvidia-smi", "-L")):
        result = run(program, argument)
        assert result.returncode != 0
        assert message in result.stderr
        assert str(state) in result.stderr


def test_no_state_says_how_to_make_it(run: Run) -> None:
    result = run("gpu-simulator", "list")
    assert result.returncode == 4
    assert "gpu-simulator init --count N" in result.stderr


def test_nvidia_smi_lists_gpus_as_the_original_does(simulator: Run, run: Run) -> None:
    lines = run("nvidia-smi", "-L").stdout.splitlines()
    assert len(lines) == 4
    assert lines[3].startswith("GPU 3: Test GPU (UUID: GPU-")
    simulator("set", "1", "memory_used_mib=250", "power_watts=412")
    query = run("nvidia-smi", "--query-gpu=index,memory.used,power.draw", "--format=csv,noheader")
    assert query.stdout.splitlines()[1] == "1, 250 MiB, 412.00 W"
    assert run("nvidia-smi").stdout.splitlines()[1] == "1, Test GPU, 34, 412.00 W, 250 MiB, 1000 MiB, 0 %"
    assert "'-x': this stand-in knows" in run("nvidia-smi", "-x").stderr


def test_readings_follow_the_state_file(nvml: Nvml, simulator: Run) -> None:
    gpu = nvml.device(2)
    assert nvml.number("nvmlDeviceGetCount_v2") == 4
    assert nvml.text("nvmlDeviceGetName", gpu) == "Test GPU"
    simulator(
        "set", "2", "utilization=90", "memory_utilization=40", "memory_used_mib=600", "temperature=71",
        "power_watts=555", "processes=41:500 42:100",
    )  # fmt: skip
    use, memory, count, processes = Utilization(), Memory(), ctypes.c_uint(8), (Process * 8)()
    nvml.call("nvmlDeviceGetUtilizationRates", gpu, ctypes.byref(use))
    nvml.call("nvmlDeviceGetMemoryInfo", gpu, ctypes.byref(memory))
    nvml.call("nvmlDeviceGetComputeRunningProcesses_v3", gpu, ctypes.byref(count), processes)
    assert (use.gpu, use.memory) == (90, 40)
    assert (memory.total, memory.used, memory.free) == (1000 * MIB, 600 * MIB, 400 * MIB)
    assert nvml.number("nvmlDeviceGetTemperature", gpu, 0) == 71
    assert nvml.number("nvmlDeviceGetPowerUsage", gpu) == 555_000
    assert [(p.pid, p.memory // MIB) for p in processes[: count.value]] == [(41, 500), (42, 100)]


def test_a_uuid_finds_its_gpu(nvml: Nvml) -> None:
    uuid = nvml.text("nvmlDeviceGetUUID", nvml.device(3))
    handle = ctypes.c_void_p()
    nvml.call("nvmlDeviceGetHandleByUUID", uuid.encode(), ctypes.byref(handle))
    assert nvml.number("nvmlDeviceGetIndex", handle) == 3


def test_an_xid_reaches_a_listener_for_that_gpu(nvml: Nvml, simulator: Run) -> None:
    simulator("xid", "1", "48")  # before anybody listened: not delivered
    events = nvml.listen(0, 1)
    simulator("xid", "3", "79")  # a GPU that nobody asked about
    simulator("xid", "1", "94")
    event = nvml.wait(events)
    assert (event.type, event.data, event.gpu_instance) == (XID_EVENT, 94, 0xFFFFFFFF)
    assert nvml.number("nvmlDeviceGetIndex", ctypes.c_void_p(event.device)) == 1
    nvml.wait(events, 10, expect=TIMEOUT)


def test_a_lost_gpu_fails_its_readings_but_is_still_known(nvml: Nvml, simulator: Run, run: Run) -> None:
    gpu, events = nvml.device(2), nvml.listen(2)
    simulator("lost", "2")
    event = nvml.wait(events)
    assert event.data == 79
    assert nvml.number("nvmlDeviceGetIndex", ctypes.c_void_p(event.device)) == 2
    nvml.call("nvmlDeviceGetPowerUsage", gpu, ctypes.byref(ctypes.c_uint()), expect=GPU_IS_LOST)
    nvml.call("nvmlDeviceGetHandleByIndex_v2", 2, ctypes.byref(ctypes.c_void_p()), expect=GPU_IS_LOST)
    listing = run("nvidia-smi", "-L")
    assert len(listing.stdout.splitlines()) == 3
    assert "GPU2: GPU is lost" in listing.stderr
    simulator("heal", "all")
    assert nvml.number("nvmlDeviceGetPowerUsage", gpu) == 70_000


def test_wrong_arguments_and_missing_features_are_refused(nvml: Nvml) -> None:
    handle = ctypes.c_void_p()
    nvml.call("nvmlDeviceGetHandleByIndex_v2", 4, ctypes.byref(handle), expect=INVALID_ARGUMENT)
    nvml.call("nvmlDeviceGetName", ctypes.c_void_p(8), b"", 0, expect=INVALID_ARGUMENT)
    nvml.call("nvmlDeviceGetNvLinkState", nvml.device(0), 0, ctypes.byref(handle), expect=NOT_SUPPORTED)


def test_without_state_only_the_device_nodes_count(built: Path, state: Path) -> None:
    nvml = SUCCESS if list(Path("/dev").glob("nvidia[0-9]*")) else DRIVER_NOT_LOADED
    program = f"""
        import ctypes
        print(ctypes.CDLL({str(built / "libnvidia-ml.so.1")!r}).nvmlInit_v2())
        cuda = ctypes.CDLL({str(built / "libcuda.so.1")!r})
        print(cuda.cuInit(0))
    """
    output = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], text=True, capture_output=True, check=True
    )
    assert output.stdout.split() == [str(nvml), "100"]
