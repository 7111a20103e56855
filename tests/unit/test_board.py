"""Boards are recognised by recorded trees of them; what a kernel writes may be missing or nonsense."""

from __future__ import annotations

import os
import platform
import re
import shutil
from pathlib import Path

import pytest

from edgeinfer.board import GENERIC, Profile, Roots, load_profiles, read_profile, recognise_board
from edgeinfer.errors import ConfigError

BOARDS = Path(__file__).parents[1] / "boards"
SHIPPED = Path(__file__).parents[2] / "devices"

# name of the tree: profile, cores, the fast ones, what the CPUs are, a feature they have, one they lack
EXPECTED = {
    "coral-dev-board": ("coral-dev-board", 4, 4, "4 x Cortex-A53", "asimd", "asimddp"),
    "coral-dev-board-mini": ("coral-dev-board-mini", 4, 4, "4 x Cortex-A35", "asimd", "asimddp"),
    "intel-n100": ("intel-n100", 4, 4, "Intel(R) N100", "avx_vnni", "avx512_vnni"),
    "intel-nuc": ("intel-nuc", 16, 8, "13th Gen Intel(R) Core(TM) i5-1340P", "avx2", "avx512f"),
    "jetson-agx-orin": ("jetson-agx-orin", 12, 12, "12 x Cortex-A78AE", "asimddp", "i8mm"),
    "jetson-nano": ("jetson-nano", 4, 4, "4 x Cortex-A57", "asimd", "asimdhp"),
    "jetson-orin-nano": ("jetson-orin-nano", 6, 6, "6 x Cortex-A78AE", "asimddp", "i8mm"),
    "raspberry-pi-4": ("raspberry-pi-4", 4, 4, "4 x Cortex-A72", "asimd", "asimddp"),
    "raspberry-pi-5": ("raspberry-pi-5", 4, 4, "4 x Cortex-A76", "asimddp", "i8mm"),
    "raspberry-pi-zero-2-w": ("raspberry-pi-zero-2-w", 4, 4, "4 x Cortex-A53", "asimd", "asimddp"),
    "rock-5b": ("rock-5", 8, 4, "4 x Cortex-A76 + 4 x Cortex-A55", "asimddp", "i8mm"),
    "rockpro64": (GENERIC, 6, 2, "2 x Cortex-A72 + 4 x Cortex-A53", "asimd", "asimddp"),
}


def roots_of(board: Path) -> Roots:
    return Roots(sys=board / "sys", proc=board / "proc", dev=board / "dev")


def recognise(board: Path, *folders: Path):
    return recognise_board(roots_of(board), [*folders, SHIPPED])


@pytest.fixture
def copy(tmp_path):
    """A recorded tree that a test may damage."""

    def copy_of(name: str) -> Path:
        return Path(shutil.copytree(BOARDS / name, tmp_path / name, symlinks=True))

    return copy_of


def profile_text(name: str, body: str) -> str:
    return f'schema = "edgeinfer.device/1"\nname = "{name}"\ntitle = "Ours"\n{body}\n'


def test_every_recorded_tree_is_expected():
    assert {path.name for path in BOARDS.iterdir() if path.is_dir()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_recorded_board_is_recognised(name):
    profile, cores, big, cpu, has, lacks = EXPECTED[name]
    board = recognise(BOARDS / name)
    assert (board.profile.name, board.cores, board.cpu) == (profile, cores, cpu)
    assert sum(len(cluster.cpus) for cluster in board.clusters if cluster.big) == big
    assert has in board.features
    assert lacks not in board.features
    assert board.architecture == ("x86_64" if name.startswith("intel") else "aarch64")
    assert (board.recognised_by is None) == (profile == GENERIC)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_recorded_board_agrees_with_its_profile(name):
    board = recognise(BOARDS / name)
    profile = board.profile
    assert profile.architecture in (None, board.architecture)
    assert profile.cpu.cores in (None, board.cores)
    known = {(cluster.core, cluster.cpus, cluster.big) for cluster in profile.cpu.clusters}
    found = {(cluster.core, cluster.cpus, cluster.big) for cluster in board.clusters}
    assert not known or known == found
    if profile.name != GENERIC:
        assert {zone.type for zone in board.thermal} <= {zone.type for zone in profile.thermal}


def test_clusters_say_which_cpus_are_fast_and_how_fast():
    board = recognise(BOARDS / "rock-5b")
    assert [(c.core, c.cpus, c.big, c.capacity, c.max_mhz) for c in board.clusters] == [
        ("Cortex-A55", (0, 1, 2, 3), False, 414, 1800),
        ("Cortex-A76", (4, 5), True, 1024, 2400),
        # Of two alike one is clocked lower, and is still a fast one.
        ("Cortex-A76", (6, 7), True, 983, 2304),
    ]


def test_without_capacities_the_slower_kind_is_not_fast(copy):
    tree = copy("rock-5b")
    for path in tree.glob("sys/devices/system/cpu/cpu*/cpu_capacity"):
        path.unlink()
    assert [cluster.big for cluster in recognise(tree).clusters] == [False, True, True]
    for path in tree.glob("sys/devices/system/cpu/cpu*/cpufreq/cpuinfo_max_freq"):
        path.unlink()
    assert [cluster.big for cluster in recognise(tree).clusters] == [False, True, True]


def test_cpus_that_a_power_mode_switched_off_are_not_counted(copy):
    tree = copy("jetson-orin-nano")
    (tree / "sys/devices/system/cpu/online").write_text("0-3\n")
    board = recognise(tree)
    assert (board.cores, board.clusters[0].cpus) == (4, (0, 1, 2, 3))


def test_a_feature_counts_only_where_every_cpu_has_it(copy):
    tree = copy("rock-5b")
    cpuinfo = tree / "proc/cpuinfo"
    cpuinfo.write_text(cpuinfo.read_text().replace(" asimddp", "", 1))
    assert "asimddp" not in recognise(tree).features


def test_limits_of_temperature_are_the_kernels_then_the_profiles():
    nano = {zone.type: zone for zone in recognise(BOARDS / "jetson-nano").thermal}
    assert (nano["CPU-therm"].throttle_c, nano["CPU-therm"].critical_c) == (97.0, 102.0)
    assert nano["CPU-therm"].now_c == 33.5
    pi = recognise(BOARDS / "raspberry-pi-4").thermal
    assert [(zone.type, zone.throttle_c, zone.critical_c) for zone in pi] == [("cpu-thermal", 80.0, None)]


def test_the_kernels_limit_beats_the_profiles(copy):
    tree = copy("raspberry-pi-zero-2-w")
    zone = tree / "sys/class/thermal/thermal_zone0"
    (zone / "trip_point_0_type").write_text("critical\n")
    (zone / "trip_point_0_temp").write_text("110000\n")
    (zone / "trip_point_1_type").write_text("passive\n")
    (zone / "trip_point_1_temp").write_text("70000\n")
    found = recognise(tree).thermal[0]
    assert (found.throttle_c, found.critical_c) == (70.0, 110.0)


def test_a_limit_that_is_switched_off_is_none(copy):
    tree = copy("raspberry-pi-4")
    zone = tree / "sys/class/thermal/thermal_zone0"
    (zone / "trip_point_0_type").write_text("critical\n")
    (zone / "trip_point_0_temp").write_text("-274000\n")
    assert recognise(tree).thermal[0].critical_c is None


def test_memory_is_what_the_kernel_says():
    assert recognise(BOARDS / "raspberry-pi-zero-2-w").memory_bytes == 426332 * 1024


# Recognition.


def test_the_board_itself_comes_before_its_chip(tmp_path):
    (tmp_path / "chip.toml").write_text(profile_text("chip", 'match.compatible = ["brcm,bcm2712"]'))
    assert recognise(BOARDS / "raspberry-pi-5", tmp_path).profile.name == "raspberry-pi-5"


def test_a_new_board_with_a_known_chip_is_taken_for_its_sisters(copy):
    tree = copy("raspberry-pi-5")
    (tree / "proc/device-tree/compatible").write_bytes(b"raspberrypi,5-next\0brcm,bcm2712\0")
    board = recognise(tree)
    assert (board.profile.name, board.recognised_by) == ("raspberry-pi-5", "device tree: brcm,bcm2712")


def test_an_exact_name_comes_before_a_pattern(tmp_path):
    (tmp_path / "a.toml").write_text(profile_text("a", 'match.compatible = ["raspberrypi,5-model-?"]'))
    (tmp_path / "b.toml").write_text(profile_text("b", 'match.compatible = ["raspberrypi,5-model-b"]'))
    assert recognise(BOARDS / "raspberry-pi-5", tmp_path).profile.name == "b"


def test_a_nuc_with_a_known_cpu_is_a_nuc(copy):
    tree = copy("intel-nuc")
    cpuinfo = tree / "proc/cpuinfo"
    cpuinfo.write_text(cpuinfo.read_text().replace("13th Gen Intel(R) Core(TM) i5-1340P", "Intel(R) N100"))
    assert recognise(tree).profile.name == "intel-nuc"


def test_of_two_that_fit_equally_the_users_wins(tmp_path):
    (tmp_path / "zz-ours.toml").write_text(profile_text("zz-ours", 'match.compatible = ["raspberrypi,5-model-b"]'))
    assert recognise(BOARDS / "raspberry-pi-5", tmp_path).profile.name == "zz-ours"


def test_a_users_profile_of_the_same_name_replaces_the_shipped_one(tmp_path):
    (tmp_path / "raspberry-pi-5.toml").write_text(
        profile_text("raspberry-pi-5", 'threads = 2\nmatch.compatible = ["raspberrypi,5-model-b"]')
    )
    profile = recognise(BOARDS / "raspberry-pi-5", tmp_path).profile
    assert (profile.title, profile.threads, profile.thermal) == ("Ours", 2, ())


def test_a_users_profile_makes_an_unknown_board_known(tmp_path):
    (tmp_path / "rockpro64.toml").write_text(profile_text("rockpro64", 'match.model = ["Pine64 RockPro64*"]'))
    board = recognise(BOARDS / "rockpro64", tmp_path)
    assert board.profile.name == "rockpro64"
    assert board.recognised_by == "device tree model: Pine64 RockPro64 v2.1"


def test_profiles_are_found_where_data_lie(monkeypatch, tmp_path):
    monkeypatch.setattr("edgeinfer.paths.SYSTEM_FOLDER", tmp_path / "etc")
    monkeypatch.setenv("EDGEINFER_STATE", str(tmp_path / "state"))
    (tmp_path / "etc/devices").mkdir(parents=True)
    (tmp_path / "etc/devices/generic.toml").write_text(profile_text(GENERIC, "threads = 3"))
    assert load_profiles()[GENERIC].threads == 3
    assert "raspberry-pi-5" in load_profiles()


# Profiles.


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_a_shipped_profile_is_valid_and_says_where_its_figures_are_from(path):
    profile = read_profile(path)
    given = {
        "match": bool(profile.match.compatible or profile.match.model or profile.match.dmi),
        "cpu": profile.cpu.cores is not None or bool(profile.cpu.clusters),
        "threads": profile.threads is not None,
        "ladder": bool(profile.ladder.tflite and profile.ladder.onnx and profile.ladder.edgetpu),
        "thermal": bool(profile.thermal),
        "camera": profile.camera.source is not None,
        "udev": bool(profile.udev),
        "traps": bool(profile.traps),
    }
    assert {key for key, has in given.items() if has} == {key for key in given if getattr(profile.sources, key)}
    assert {"ladder", "camera", "traps"} <= {key for key, has in given.items() if has}


def test_the_boards_that_were_asked_for_have_profiles():
    assert {path.stem for path in SHIPPED.glob("*.toml")} == {
        *(profile for profile, *_ in EXPECTED.values()),
    }


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("thread = 2\nmatch.model=['x']", "thread: unknown key; did you mean 'threads'?"),
        ("match.compatibel = ['x']", "match.compatibel: unknown key; did you mean 'compatible'?"),
        ("threads = 0\nmatch.model=['x']", "threads:"),
        (
            "ladder.tflite = ['litert:gpuu']\nmatch.model=['x']",
            "ladder.tflite[0]: unknown device 'litert:gpuu': did you",
        ),
        ("ladder.tflite = ['fake']\nmatch.model=['x']", "ladder.tflite[0]: unknown device 'fake'"),
        ("title = ", "is not valid TOML"),
        ("", "match: says nothing"),
        ("match.dmi = [{}]", "match.dmi[0]: is empty"),
        ("match.model=['x']\n[cpu]\ncores=3\nclusters=[{core='a',cpus=[0,1],big=true}]", "cpu.clusters: hold 2 CPUs"),
        ("match.model=['x']\n[cpu]\nclusters=[{core='a',cpus=[0,0],big=true}]", "cpu.clusters: a CPU stands in two"),
        ("match.model=['x']\nthermal=[{type='z',throttle_c=90,critical_c=80}]", "thermal[0].throttle_c: is 90, above"),
        ("match.model=['x']\ncamera.pixel_format='mjpeg'", "camera.pixel_format:"),
        ("match.model=['x']\nsources.thermals=['x']", "sources.thermals: unknown key; did you mean 'thermal'?"),
    ],
)
def test_a_broken_profile_is_one_line_with_the_key(tmp_path, body, said):
    path = tmp_path / "ours.toml"
    path.write_text(profile_text("ours", body))
    with pytest.raises(ConfigError) as refused:
        recognise(BOARDS / "raspberry-pi-5", tmp_path)
    assert str(refused.value).startswith(str(path))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_profile_is_called_as_its_file(tmp_path):
    (tmp_path / "mine.toml").write_text(profile_text("yours", "match.model = ['x']"))
    with pytest.raises(ConfigError, match=r"mine\.toml: name: is 'yours'.*call it 'mine'"):
        load_profiles([tmp_path, SHIPPED])


def test_words_of_other_packages_and_external_delegates_may_stand_in_a_ladder(tmp_path):
    words = "['hailo:0', 'litert:delegate=/usr/lib/libx.so', 'litert:cpu']"
    (tmp_path / "ours.toml").write_text(profile_text("ours", f"match.model=['x']\nladder.tflite = {words}"))
    assert len(read_profile(tmp_path / "ours.toml").ladder.tflite) == 3


def test_the_profile_in_the_documentation_is_valid(tmp_path):
    sample = re.search(r"```toml\n(.*?)```", (SHIPPED.parent / "docs/devices.md").read_text(), re.DOTALL)
    (tmp_path / "my-board.toml").write_text(sample[1])
    profile = read_profile(tmp_path / "my-board.toml")
    for key in Profile.__struct_fields__:
        assert f"\n{key}" in sample[0] or f"[{key}]" in sample[0], key
    assert profile.cpu.cores == 8


def test_without_the_generic_profile_it_is_said_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match=r"no profile 'generic'.*install edgeinfer again"):
        load_profiles([tmp_path])


# What a kernel writes may be missing or nonsense.


def test_an_empty_tree_is_a_generic_board_of_one_core(tmp_path):
    board = recognise(tmp_path)
    assert (board.profile.name, board.model, board.cores, board.memory_bytes) == (GENERIC, "unknown", 1, None)
    assert (board.architecture, board.features, board.thermal) == ("unknown", (), ())


@pytest.mark.parametrize("name", sorted(EXPECTED))
@pytest.mark.parametrize(
    "nonsense", [b"", b"\xff\xfe\0" * 50, b"-" * 300, b"\n\n:\n9" * 40, b"99999999999999999999999"]
)
def test_nonsense_in_every_file_is_survived(copy, name, nonsense):
    tree = copy(name)
    for path in tree.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.write_bytes(nonsense)
    board = recognise(tree)
    assert board.profile.name == GENERIC
    assert board.cores >= 1


def test_what_is_shown_cannot_steer_a_terminal(copy):
    tree = copy("raspberry-pi-5")
    (tree / "proc/device-tree/model").write_bytes(b"Pi\x1b[2J\r\n5\0junk")
    assert recognise(tree).model == "Pi[2J5"


def test_only_so_much_of_a_file_is_read(copy):
    tree = copy("raspberry-pi-5")
    for name in ("proc/cpuinfo", "proc/meminfo", "proc/device-tree/compatible", "sys/class/thermal/thermal_zone0/type"):
        with (tree / name).open("ab") as file:
            file.truncate(1 << 40)  # Sparse: read as a whole it would need a terabyte.
    board = recognise(tree)
    assert (board.profile.name, board.memory_bytes) == ("raspberry-pi-5", 8255632 * 1024)


def test_a_pipe_in_a_tree_does_not_stop_us(copy):
    tree = copy("raspberry-pi-5")
    (tree / "proc/meminfo").unlink()
    os.mkfifo(tree / "proc/meminfo")
    assert recognise(tree).memory_bytes is None


def test_a_folder_of_many_names_is_bounded(tmp_path):
    cpus = tmp_path / "sys/devices/system/cpu"
    cpus.mkdir(parents=True)
    for number in range(5000):
        (cpus / f"cpu{number}").touch()
    assert recognise(tmp_path).cores == 4096


# This machine.


def test_of_this_machine_it_tells_the_truth():
    board = recognise_board(folders=[SHIPPED])
    online = os.sysconf("SC_NPROCESSORS_ONLN")
    assert board.cores == online
    assert sorted(cpu for cluster in board.clusters for cpu in cluster.cpus)[-1] < os.sysconf("SC_NPROCESSORS_CONF")
    assert board.architecture == platform.machine()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert board.memory_bytes == pages
