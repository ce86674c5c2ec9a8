"""Model folders in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reconciler.core.entities import Located, Unusable
from reconciler.spec import HubSource, LocalSource


class MemoryFolders:
    """`ports.ModelFolders` in memory.

    `folders` holds the paths that can be served, `hub` the snapshot (a commit id) that each `org/name@revision` stands
    for, `broken` what is wrong with a path that exists. All three may be changed at any time; `asked` grows with each
    call.
    """

    def __init__(self, folders: Iterable[str] = (), hub: Mapping[str, str] | None = None) -> None:
        """Begin with these folders and hub names."""
        self.folders = set(folders)
        self.hub = dict(hub or {})
        self.broken: dict[str, str] = {}
        self.asked: list[tuple[LocalSource | HubSource, str]] = []

    def locate(self, source: LocalSource | HubSource, owner: str) -> Located | Unusable:
        """Keep `ports.ModelFolders.locate`."""
        self.asked.append((source, owner))
        if isinstance(source, HubSource):
            name = f"{source.repo}@{source.revision or 'main'}"
            if name not in self.hub:
                return Unusable(f"{name} isn't in the shared cache /private/hf/hub, and nothing is downloaded")
            path = f"/private/hf/hub/models--{source.repo.replace('/', '--')}/snapshots/{self.hub[name]}"
        else:
            path = source.path
            if not path.startswith(("/private/hf/", f"/private/users/{owner}/")) or ".." in path.split("/"):
                return Unusable(f"{path}: right would be a folder in /private/hf/... or /private/users/{owner}/...")
            if path not in self.folders:
                return Unusable(self.broken.get(path) or f"{path} does not exist")
        return Unusable(self.broken[path]) if path in self.broken else Located(path)
