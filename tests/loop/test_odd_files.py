"""What people push in a spec's place that is no file at all, through real git."""

from __future__ import annotations

from pathlib import Path

from reconciler.core.entities import EventType, State
from reconciler.shell.source import GitSource
from tests.loop.world import World, spec
from tests.repositories import Repository, git


def pushed_submodule(repository: Repository, path: str) -> None:
    """Put a commit of a repository that nobody has where a spec belongs."""
    stream = (
        f"commit refs/heads/{repository.branch}\ncommitter Eve <eve@example.org> 1767225700 +0000\ndata 1\nx\n"
        f"from {repository.head()}\nM 160000 {'12' * 20} {path}\n"
    )
    git(repository.path, "fast-import", "--quiet", stdin=stream.encode())


def test_a_submodule_in_a_specs_place_holds_only_its_own_model(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "specs.git")
    repository.commit({"users/alice/qwen.yaml": spec("qwen").encode(), "users/bob/llama.yaml": spec("llama").encode()})
    world = World()
    world.source = GitSource(str(repository.path), home=tmp_path)  # type: ignore[assignment]  # the real one
    world.restart()
    world.settle()
    running = world.runtime.pids(world.key("bob", "llama"))
    assert running

    pushed_submodule(repository, "users/bob/llama.yaml")
    pushed_submodule(repository, "users/carl/new.yaml")
    world.settle()

    assert world.runtime.pids(world.key("bob", "llama")) == running
    held, new = world.record("bob", "llama"), world.record("carl", "new")
    assert (held.state, new.state) == (State.RUNNING, State.FAILED)
    for record in (held, new):
        assert record.error_summary is not None
        assert "git mode 160000" in record.error_summary
        assert EventType.SPEC_REJECTED in {event.event_type for event in world.events(record.identity.model_key)}

    repository.commit({"users/bob/llama.yaml": spec("llama", replicas=2).encode()})
    world.settle()
    assert world.record("bob", "llama").error_summary is None
    assert len(world.runtime.pids(world.key("bob", "llama"))) == 2


def test_a_file_that_only_changes_its_mode_is_refused_and_taken_again(tmp_path: Path) -> None:
    world = World()
    world.write("alice", "qwen", spec("qwen"))
    world.settle()
    content = {"users/alice/qwen.yaml": spec("qwen").encode()}
    world.source.commit(content, modes={"users/alice/qwen.yaml": "100755"})
    world.settle()
    assert world.record("alice", "qwen").rejection is not None
    world.source.commit(content)
    world.settle()
    assert world.record("alice", "qwen").rejection is None
    assert world.types(world.key("alice", "qwen")).count("SPEC_REJECTED") == 1
