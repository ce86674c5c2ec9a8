"""Which model folders may be served: one suite over disk and memory, and then every rule on real folders with links."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.core.entities import Located, Unusable
from reconciler.ports import ModelFolders
from reconciler.shell import folders as rules
from reconciler.shell.folders import DiskModelFolders
from reconciler.spec import HubSource, LocalSource
from reconciler.testing import MemoryFolders

SHA = "0123456789abcdef" * 2 + "01234567"
CACHE = "models--org--name"
SNAPSHOT = f"/private/hf/hub/{CACHE}/snapshots/{SHA}"


def fill(folder: Path) -> Path:
    """Put a small model into `folder`: real enough for whoever does not open the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}))
    (folder / "generation_config.json").write_text("{}")
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"auto_map": 7}}}))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")
    return folder


def fill_hub(private: Path) -> Path:
    """Put a model into the hub cache as huggingface_hub does: a snapshot of links into `blobs`. Gives the snapshot."""
    cache = private / "hf" / "hub" / CACHE
    blobs = fill(cache / "blobs")
    snapshot = cache / "snapshots" / SHA
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(blobs.iterdir())):
        blob = file.rename(blobs / f"{number:064x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{blob.name}")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(SHA)
    return snapshot


@dataclass
class World:
    """A disk, real or not, with `/private/hf/demo`, `/private/users/{alice,bob}/mine` and the hub's `org/name@main`."""

    folders: ModelFolders


@pytest.fixture(params=["memory", "disk"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """Each kind in turn."""
    known = ["hf/demo", "users/alice/mine", "users/bob/mine"]
    if request.param == "memory":
        return World(
            MemoryFolders([f"/private/{name}" for name in known], {"org/name@main": SHA, f"org/name@{SHA}": SHA})
        )
    for name in known:
        fill(tmp_path / name)
    fill_hub(tmp_path)
    return World(DiskModelFolders(tmp_path))


def reason(found: Located | Unusable) -> str:
    """Give why a folder may not be served."""
    assert isinstance(found, Unusable), found
    return found.reason


class TestEveryDisk:
    """The port's promises."""

    @pytest.mark.parametrize("path", ["/private/hf/demo", "/private/users/alice/mine"])
    def test_shared_folders_and_ones_own_are_found(self, world: World, path: str) -> None:
        assert world.folders.locate(LocalSource(path), "alice") == Located(path)

    def test_the_folder_of_another_user_is_not(self, world: World) -> None:
        assert "/private/users/alice/..." in reason(
            world.folders.locate(LocalSource("/private/users/bob/mine"), "alice")
        )

    @pytest.mark.parametrize(
        "path",
        [
            "/private/users/alice/../bob/mine",
            "/private/hf/../users/bob/mine",
            "/private/users/alicefake/mine",
            "/private/datasets/x",
            "/private/users/alice",
            "/private",
            "/etc",
            "hf/demo",
            "",
        ],
    )
    def test_nothing_else_is(self, world: World, path: str) -> None:
        assert "right would be a folder in" in reason(world.folders.locate(LocalSource(path), "alice"))

    def test_a_folder_that_is_not_there_is_named(self, world: World) -> None:
        found = world.folders.locate(LocalSource("/private/hf/absent"), "alice")
        assert reason(found).startswith("/private/hf/absent does not exist")

    @pytest.mark.parametrize("revision", ["main", SHA])
    def test_a_hub_name_is_pinned_to_its_snapshot(self, world: World, revision: str) -> None:
        assert world.folders.locate(HubSource("org/name", revision), "alice") == Located(SNAPSHOT)

    @pytest.mark.parametrize(("repo", "revision"), [("org/absent", "main"), ("org/name", "v2"), ("org/name", "f" * 40)])
    def test_a_hub_name_that_is_not_in_the_cache_is_not_downloaded(
        self, world: World, repo: str, revision: str
    ) -> None:
        said = reason(world.folders.locate(HubSource(repo, revision), "alice"))
        assert said.startswith(
            f"{repo}@{revision} isn't in the shared cache /private/hf/hub, and nothing is downloaded"
        )


Locate = Callable[[], Located | Unusable]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Alice's model on the disk."""
    return fill(tmp_path / "private" / "users" / "alice" / "mine")


@pytest.fixture
def locate(tmp_path: Path) -> Locate:
    """Look for alice's model. What is said never gives away where /private lies."""

    def look() -> Located | Unusable:
        found = DiskModelFolders(tmp_path / "private").locate(LocalSource("/private/users/alice/mine"), "alice")
        assert str(tmp_path) not in str(found)
        return found

    return look


MINE = "/private/users/alice/mine"


class TestRoots:
    """Where a path may lead."""

    def test_a_link_to_the_folder_is_resolved(self, tmp_path: Path, model: Path) -> None:
        (model.parent / "current").symlink_to("mine")
        found = DiskModelFolders(tmp_path / "private").locate(LocalSource("/private/users/alice/current"), "alice")
        assert found == Located(MINE)

    def test_a_link_from_ones_own_folder_to_the_shared_one_is_fine(self, tmp_path: Path, model: Path) -> None:
        fill(tmp_path / "private" / "hf" / "demo")
        (model.parent / "link").symlink_to("/private-does-not-matter")
        (model.parent / "link").unlink()
        (model.parent / "link").symlink_to(tmp_path / "private" / "hf" / "demo")
        found = DiskModelFolders(tmp_path / "private").locate(LocalSource("/private/users/alice/link"), "alice")
        assert found == Located("/private/hf/demo")

    @pytest.mark.parametrize("there", [True, False])
    def test_a_link_to_another_users_folder_is_refused_whether_that_exists_or_not(
        self, tmp_path: Path, model: Path, there: bool
    ) -> None:
        if there:
            fill(tmp_path / "private" / "users" / "bob" / "secret")
        (model.parent / "link").symlink_to("../bob/secret")
        said = reason(DiskModelFolders(tmp_path / "private").locate(LocalSource("/private/users/alice/link"), "alice"))
        assert said == (
            "/private/users/alice/link is, or leads through, a link out of /private/hf/... or "
            "/private/users/alice/...; put the files themselves there"
        )

    def test_a_folder_in_the_middle_that_leads_out_is_refused(self, tmp_path: Path, model: Path) -> None:
        fill(tmp_path / "outside" / "m")
        (model.parent / "way").symlink_to(tmp_path / "outside")
        said = reason(DiskModelFolders(tmp_path / "private").locate(LocalSource("/private/users/alice/way/m"), "alice"))
        assert "a link out of" in said
        assert "outside" not in said

    def test_roots_that_are_links_themselves_are_followed(self, tmp_path: Path) -> None:
        fill(tmp_path / "nas" / "demo")
        (tmp_path / "private").mkdir()
        (tmp_path / "private" / "hf").symlink_to(tmp_path / "nas")
        (tmp_path / "elsewhere").symlink_to(tmp_path / "private")
        found = DiskModelFolders(tmp_path / "elsewhere").locate(LocalSource("/private/hf/demo"), "alice")
        assert found == Located("/private/hf/demo")

    @pytest.mark.parametrize("owner", ["", "..", "bob/../alice", "a\x00"])
    def test_an_owner_that_is_no_user_has_no_folders(self, tmp_path: Path, model: Path, owner: str) -> None:
        assert "no user" in reason(DiskModelFolders(tmp_path / "private").locate(LocalSource(MINE), owner))

    @pytest.mark.parametrize(
        "path", ["/private/hf/a\x00b", "/private/hf/" + "a" * 300, "/private/hf/" + "a/" * 4000, "/private/hf/\udcff"]
    )
    def test_a_path_that_no_disk_takes_is_unusable(self, tmp_path: Path, path: str) -> None:
        said = reason(DiskModelFolders(tmp_path).locate(LocalSource(path), "alice"))
        assert said.isprintable()
        assert len(said) <= 600

    def test_links_in_a_circle_are_unusable(self, tmp_path: Path, model: Path) -> None:
        (model.parent / "a").symlink_to("b")
        (model.parent / "b").symlink_to("a")
        said = reason(DiskModelFolders(tmp_path / "private").locate(LocalSource("/private/users/alice/a"), "alice"))
        assert said.startswith("/private/users/alice/")
        assert str(tmp_path) not in said


class TestHub:
    """The shared cache."""

    def locate(self, private: Path, revision: str = "main", repo: str = "org/name") -> Located | Unusable:
        found = DiskModelFolders(private).locate(HubSource(repo, revision), "alice")
        assert str(private) not in str(found)
        return found

    def test_links_into_the_caches_blobs_are_fine(self, tmp_path: Path) -> None:
        fill_hub(tmp_path)
        assert self.locate(tmp_path) == Located(SNAPSHOT)

    def test_a_reference_with_slashes_is_one(self, tmp_path: Path) -> None:
        fill_hub(tmp_path)
        (tmp_path / "hf" / "hub" / CACHE / "refs" / "refs" / "pr").mkdir(parents=True)
        (tmp_path / "hf" / "hub" / CACHE / "refs" / "refs" / "pr" / "1").write_text(f"{SHA}\n")
        assert self.locate(tmp_path, "refs/pr/1") == Located(SNAPSHOT)

    def test_a_reference_that_moves_gives_the_new_snapshot(self, tmp_path: Path) -> None:
        snapshot = fill_hub(tmp_path)
        newer = "f" * 40
        snapshot.rename(snapshot.parent / newer)
        (tmp_path / "hf" / "hub" / CACHE / "refs" / "main").write_text(newer)
        assert self.locate(tmp_path) == Located(SNAPSHOT.replace(SHA, newer))

    @pytest.mark.parametrize("content", ["", "../../../users/bob", "main", SHA + SHA, SHA.upper(), "\n" * 200])
    def test_a_reference_that_names_no_snapshot_is_refused(self, tmp_path: Path, content: str) -> None:
        fill_hub(tmp_path)
        (tmp_path / "hf" / "hub" / CACHE / "refs" / "main").write_text(content)
        assert f"/private/hf/hub/{CACHE}/refs/main" in reason(self.locate(tmp_path))

    def test_a_reference_to_a_snapshot_that_was_not_downloaded_is_refused(self, tmp_path: Path) -> None:
        fill_hub(tmp_path)
        (tmp_path / "hf" / "hub" / CACHE / "refs" / "v1").write_text("e" * 40)
        assert "org/name@v1 isn't in the shared cache" in reason(self.locate(tmp_path, "v1"))

    @pytest.mark.parametrize(
        ("repo", "revision"),
        [("org/name", "../main"), ("../name", "main"), ("org", "main"), ("org/name/x", "main"), ("org/name", "a\x00")],
    )
    def test_a_name_that_would_leave_the_cache_is_not_in_it(self, tmp_path: Path, repo: str, revision: str) -> None:
        fill_hub(tmp_path)
        assert "isn't in the shared cache" in reason(self.locate(tmp_path, revision, repo))

    def test_a_snapshot_that_links_out_of_the_shared_folder_is_refused(self, tmp_path: Path) -> None:
        snapshot = fill_hub(tmp_path)
        theirs = fill(tmp_path / "users" / "alice" / "mine")
        (snapshot / "extra.json").symlink_to(theirs / "config.json")
        assert f"{SNAPSHOT}/extra.json" in reason(self.locate(tmp_path))

    def test_a_file_that_was_not_downloaded_is_said(self, tmp_path: Path) -> None:
        snapshot = fill_hub(tmp_path)
        (snapshot / "model.safetensors").resolve().unlink()
        assert reason(self.locate(tmp_path)).startswith(f"{SNAPSHOT}/model.safetensors is a link to nothing")


class TestWhatAModelIs:
    """What must be there."""

    def test_a_model_as_save_pretrained_writes_it_is_fine(self, model: Path, locate: Locate) -> None:
        assert locate() == Located(MINE)

    def test_a_file_is_no_folder(self, tmp_path: Path, model: Path) -> None:
        source = LocalSource(f"{MINE}/config.json")
        assert "is not a folder" in reason(DiskModelFolders(tmp_path / "private").locate(source, "alice"))

    def test_without_config_json_it_is_no_model(self, model: Path, locate: Locate) -> None:
        (model / "config.json").rename(model / "Config.json")
        assert reason(locate()).startswith(f"{MINE} holds no config.json")

    def test_a_config_json_further_down_does_not_count(self, model: Path, locate: Locate) -> None:
        (model / "sub").mkdir()
        (model / "config.json").rename(model / "sub" / "config.json")
        assert reason(locate()).startswith(f"{MINE} holds no config.json")

    @pytest.mark.parametrize("content", [b"", b"{", b"not json", b"\xff\xfe{\x00}\x00", b'{"a": ' + b"9" * 5000 + b"}"])
    def test_a_config_json_that_is_no_json_is_refused(self, model: Path, locate: Locate, content: bytes) -> None:
        (model / "config.json").write_bytes(content)
        assert reason(locate()).startswith(f"{MINE}/config.json is not JSON")

    @pytest.mark.parametrize("content", ["[]", "null", '"auto"', "1"])
    def test_a_config_json_is_an_object(self, model: Path, locate: Locate, content: str) -> None:
        (model / "config.json").write_text(content)
        assert reason(locate()).startswith(f"{MINE}/config.json is not a JSON object")

    def test_a_config_json_that_is_a_folder_or_a_pipe_is_refused(self, model: Path, locate: Locate) -> None:
        (model / "config.json").unlink()
        (model / "config.json").mkdir()
        assert "holds no config.json" in reason(locate())
        (model / "config.json").rmdir()
        os.mkfifo(model / "config.json")
        assert reason(locate()).startswith(f"{MINE}/config.json is neither a file nor a folder")

    def test_without_safetensors_there_are_no_weights(self, model: Path, locate: Locate) -> None:
        (model / "model.safetensors").unlink()
        assert "at least one *.safetensors" in reason(locate())

    def test_empty_weights_are_none(self, model: Path, locate: Locate) -> None:
        (model / "model.safetensors").write_bytes(b"")
        assert "is empty" in reason(locate())


CODE = ["modeling.py", "x.pyc", "libcuda.so", "libcuda.so.12", "MODELING.PY", "x.dll"]
PICKLES = [
    "x.pkl",
    "x.pickle",
    "pytorch_model.bin",
    "x.pt",
    "consolidated.00.pth",
    "last.ckpt",
    "x.joblib",
    "training_args.bin",
]
OTHERS = ["tf_model.h5", "flax_model.msgpack", "model.onnx", "model-q4.gguf", "saved.keras"]


class TestCode:
    """What must not be there."""

    @pytest.mark.parametrize(
        ("name", "why"),
        [(name, "is code") for name in CODE]
        + [(name, "keep the weights as .safetensors") for name in PICKLES]
        + [(name, "is not what this platform serves") for name in OTHERS],
    )
    def test_code_pickles_and_other_weights_are_refused_by_name(
        self, model: Path, locate: Locate, name: str, why: str
    ) -> None:
        (model / name).write_bytes(b"")
        assert reason(locate()).startswith(f"{MINE}/{name} ")
        assert why in reason(locate())

    def test_so_they_are_further_down(self, model: Path, locate: Locate) -> None:
        (model / "a" / ".b").mkdir(parents=True)
        (model / "a" / ".b" / "x.py").touch()
        assert reason(locate()).startswith(f"{MINE}/a/.b/x.py is code")

    def test_so_is_a_link_of_such_a_name(self, model: Path, locate: Locate) -> None:
        (model / "modeling.py").symlink_to("config.json")
        assert reason(locate()).startswith(f"{MINE}/modeling.py is code")

    @pytest.mark.parametrize(
        "name", ["merges.txt", "README.md", "tokenizer.model", ".gitattributes", "pythonic.so-so", "a.bin.index.json"]
    )
    def test_other_files_are_fine(self, model: Path, locate: Locate, name: str) -> None:
        (model / name).write_text("{}")
        assert locate() == Located(MINE)

    @pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "deep/processor_config.json", "ANY.JSON"])
    @pytest.mark.parametrize(
        "content",
        [
            '{"auto_map": {"AutoModel": "modeling.M"}}',
            '{"a": [{"b": {"auto_map": null}}]}',
            '{"auto\\u005fmap": {}}',
            '{"a": {"auto_map": 1}, "a": 2}',
            '\ufeff{"auto_map": 1}',
        ],
    )
    def test_auto_map_is_refused_wherever_it_stands(self, model: Path, locate: Locate, name: str, content: str) -> None:
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text(content)
        assert reason(locate()).startswith(f"{MINE}/{name}: the key 'auto_map' names Python code")

    def test_a_config_that_makes_the_engine_load_another_model_is_refused(self, model: Path, locate: Locate) -> None:
        config = {"speculators_config": {"verifier": {"name_or_path": "/private/users/bob/secret"}}}
        (model / "config.json").write_text(json.dumps(config))
        assert "makes the engine load another model" in reason(locate())
        assert "bob" not in reason(locate())

    def test_a_token_of_that_name_is_no_configuration(self, model: Path, locate: Locate) -> None:
        for name in ("tokenizer.json", "vocab.json", "model.safetensors.index.json"):
            (model / name).write_text('{"auto_map": 1}')
        assert locate() == Located(MINE)

    def test_auto_map_as_a_mere_value_is_fine(self, model: Path, locate: Locate) -> None:
        (model / "config.json").write_text('{"note": "auto_map", "list": ["auto_map"]}')
        assert locate() == Located(MINE)

    def test_a_config_too_large_to_be_one_is_refused(self, model: Path, locate: Locate) -> None:
        (model / "tokenizer_config.json").write_bytes(b" " * (rules.MAX_JSON_BYTES + 1))
        assert reason(locate()).startswith(f"{MINE}/tokenizer_config.json is larger than")

    def test_many_large_configs_are_refused_before_they_are_parsed(self, model: Path, locate: Locate) -> None:
        for number in range(rules.MAX_ALL_JSON_BYTES // rules.MAX_JSON_BYTES + 1):
            with (model / f"c{number}.json").open("wb") as file:
                file.truncate(rules.MAX_JSON_BYTES)  # a hole: NULs, which would be "not JSON" if they were read
        assert reason(locate()).startswith(f"{MINE}: its JSON files hold more than 32 MiB together")

    def test_a_large_tokenizer_is_not_read(self, model: Path, locate: Locate) -> None:
        with (model / "tokenizer.json").open("wb") as file:
            file.truncate(500 * 1024 * 1024)
        assert locate() == Located(MINE)

    def test_json_nested_without_end_is_refused(self, model: Path, locate: Locate) -> None:
        (model / "config.json").write_text("[" * 1_000_000)
        assert reason(locate()).startswith(f"{MINE}/config.json is nested too deeply")


class TestLinksAndOtherThings:
    """What a folder may be made of."""

    def test_a_file_that_links_out_of_the_owners_roots_is_refused(
        self, tmp_path: Path, model: Path, locate: Locate
    ) -> None:
        secret = tmp_path / "private" / "users" / "bob" / "secret.json"
        secret.parent.mkdir()
        secret.write_text("{}")
        (model / "extra.json").symlink_to(secret)
        assert reason(locate()).startswith(f"{MINE}/extra.json is, or leads through, a link out of")

    def test_a_link_to_a_link_that_leads_out_is_refused(self, tmp_path: Path, model: Path, locate: Locate) -> None:
        (model.parent / "step").symlink_to("/etc/hostname")
        (model / "extra.txt").symlink_to("../step")
        assert "a link out of" in reason(locate())

    def test_a_file_that_links_to_the_shared_folder_is_fine(self, tmp_path: Path, model: Path, locate: Locate) -> None:
        base = fill(tmp_path / "private" / "hf" / "base")
        (model / "model.safetensors").unlink()
        (model / "model.safetensors").symlink_to(base / "model.safetensors")
        assert locate() == Located(MINE)

    def test_a_link_to_nothing_is_refused(self, model: Path, locate: Locate) -> None:
        (model / "extra.json").symlink_to("absent.json")
        assert reason(locate()).startswith(f"{MINE}/extra.json is a link to nothing")

    def test_a_link_to_a_folder_is_refused(self, model: Path, locate: Locate) -> None:
        (model / "again").symlink_to(".")
        assert reason(locate()).startswith(f"{MINE}/again is a link to a folder")

    def test_a_link_to_itself_is_refused(self, model: Path, locate: Locate) -> None:
        (model / "circle").symlink_to("circle")
        assert reason(locate()).startswith(f"{MINE}/circle is a link that leads in a circle")

    def test_pipes_and_sockets_are_refused(self, model: Path, locate: Locate, monkeypatch: pytest.MonkeyPatch) -> None:
        os.mkfifo(model / "pipe.json")
        assert reason(locate()).startswith(f"{MINE}/pipe.json is neither a file nor a folder")
        (model / "pipe.json").unlink()
        monkeypatch.chdir(model)  # a socket's address is at most 107 bytes long
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("s")
            assert reason(locate()).startswith(f"{MINE}/s is neither a file nor a folder")

    def test_a_folder_deeper_than_any_model_is_refused(self, model: Path, locate: Locate) -> None:
        (model / Path(*"abcdefg")).mkdir(parents=True)
        assert locate() == Located(MINE)
        (model / Path(*"abcdefgh")).mkdir(parents=True)
        assert "deeper than 8 folders" in reason(locate())

    def test_more_files_than_any_model_has_are_refused(
        self, model: Path, locate: Locate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rules, "MAX_ENTRIES", 50)
        for number in range(50):
            (model / f"{number}.txt").touch()
        assert reason(locate()).startswith(f"{MINE} holds more than 50 files")

    def test_a_name_made_to_mislead_is_shown_harmlessly(self, model: Path, locate: Locate) -> None:
        (model / "a\x1b[2J\n\u202eyp.py").touch()
        Path(os.fsdecode(os.fsencode(model) + b"/\xff.py")).touch()
        assert reason(locate()).isprintable()
        reason(locate()).encode("utf-8")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
    def test_what_the_platforms_account_may_not_read_is_named(self, model: Path, locate: Locate) -> None:
        (model / "config.json").chmod(0)
        assert reason(locate()).startswith(f"{MINE}/config.json cannot be read by the platform's account")

    def test_what_cannot_be_read_is_named(self, model: Path, locate: Locate, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(path: str, flags: int) -> int:
            raise PermissionError(13, "Permission denied", path)

        with monkeypatch.context() as patched:
            patched.setattr(os, "open", fail)
            found = locate()
        assert reason(found) == f"{MINE}/config.json cannot be read by the platform's account (Permission denied)"
