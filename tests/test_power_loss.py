"""The power goes at every moment of a save, and the disk keeps of what was not synced whatever it
likes: a model of a file system follows the save, and every state that it allows is looked at."""

import contextlib
import io
import itertools
import os
import shutil
from pathlib import Path

import pytest
from test_checkpoint import SPENT, hold_what_was_saved, save, states

from minilm import checkpoint, durable


class Inode:
    """A file or a folder: what is there, and what would be there after a power loss."""

    def __init__(self, is_folder=False):
        self.now, self.durable = ({}, {}) if is_folder else (b"", b"")
        self.pending = []  # of a folder: changes of names since it was last synced


class PowerLoss(Exception):
    """The machine stops here."""


class Journal:
    """A file system that keeps for itself what was not synced: the operations of a save on a real
    folder are followed in a model of it."""

    def __init__(self, root):
        self.root, self.nodes = root, {root: Inode(is_folder=True)}

    def node(self, path):
        return self.nodes[Path(path)]

    def change(self, folder, **names):
        """Names in a folder that come to stand for other nodes (None: for nothing)."""
        node = self.node(folder)
        node.pending.append(names)
        node.now |= names

    def settle(self):
        """All that is there is durable."""
        for node in self.nodes.values():
            node.pending, node.durable = (
                [],
                node.now.copy() if isinstance(node.now, dict) else node.now,
            )

    def begin_with(self, folder):
        for path in sorted(folder.rglob("*")):
            self.create(path, is_folder=path.is_dir())
            if path.is_file():
                self.nodes[path].now = path.read_bytes()
        self.settle()

    def create(self, path, is_folder=False):
        path = Path(path)
        self.nodes[path] = Inode(is_folder)
        self.change(path.parent, **{path.name: self.nodes[path]})

    def rename(self, old, new):
        old, new = Path(old), Path(new)
        node = self.node(old)
        moved = {new / path.relative_to(old): n for path, n in self.nodes.items()
                 if path == old or old in path.parents}  # fmt: skip
        self.nodes = {p: n for p, n in self.nodes.items() if p != old and old not in p.parents}
        self.nodes |= moved
        self.change(new.parent, **{old.name: None, new.name: node})

    def remove(self, path):
        path = Path(path)
        del self.nodes[path]
        self.change(path.parent, **{path.name: None})

    def sync(self, node):
        node.pending = []
        node.durable = node.now.copy() if isinstance(node.now, dict) else node.now

    def states(self):
        """What may be found after a power loss now: file contents and names that were not synced
        are there or not, in several ways."""
        contents = [lambda node, share=share: node.now[: int(share * len(node.now))]
                    for share in (0, 0.5, 0.999, 1)]  # fmt: skip
        contents.append(lambda node: bytes(len(node.now)))
        changes = {id(change) for node in self.nodes.values() for change in node.pending}
        few = [set(chosen) for n in (0, 1, 2) for chosen in itertools.combinations(changes, n)]
        all_synced = all(isinstance(node.now, dict) or node.now == node.durable
                         for node in self.nodes.values())  # fmt: skip
        for content in contents[:1] if all_synced else contents:
            for chosen in few:
                yield self.tree(self.nodes[self.root], content, chosen)
                yield self.tree(self.nodes[self.root], content, changes - chosen)

    def tree(self, node, content, chosen):
        if isinstance(node.now, bytes):
            return node.now if node.now == node.durable else content(node)
        names = dict(node.durable)
        for change in node.pending:
            if id(change) in chosen:
                names |= change
        return {k: self.tree(n, content, chosen) for k, n in names.items() if n is not None}


def write_tree(folder, tree):
    folder.mkdir()
    for name, value in tree.items():
        if isinstance(value, bytes):
            (folder / name).write_bytes(value)
        else:
            write_tree(folder / name, value)


@contextlib.contextmanager
def followed(journal, monkeypatch, after_each):
    """Every file operation of a save is done in the journal, too; after_each() follows."""
    handles = {}

    class File(io.FileIO):
        def __init__(self, path, mode):
            super().__init__(path, mode)
            journal.create(path)
            handles[self.fileno()] = journal.node(path)

        def write(self, content):
            handles[self.fileno()].now += bytes(content)
            after_each()
            return super().write(content)

    def also(owner, name, follow):
        function = getattr(owner, name)

        def call(*args, **options):
            result = function(*args, **options)
            follow(result, *args)
            after_each()
            return result

        monkeypatch.setattr(owner, name, call)

    def opened(handle, path, *_):
        if Path(path) in journal.nodes:
            handles[handle] = journal.node(path)

    def discard(path, **_):  # shutil.rmtree works by handles: here by names, in the same order
        for child in sorted(Path(path).rglob("*"), reverse=True):
            child.rmdir() if child.is_dir() else child.unlink()
            journal.remove(child)
            after_each()
        if Path(path).exists():
            Path(path).rmdir()
            journal.remove(path)
            after_each()

    with monkeypatch.context() as patch:
        monkeypatch = patch
        patch.setattr(durable, "open", File, raising=False)
        patch.setattr(shutil, "rmtree", discard)
        also(os, "open", opened)
        also(os, "fsync", lambda _, handle: handle in handles and journal.sync(handles[handle]))
        also(os, "replace", lambda _, old, new: journal.rename(old, new))
        also(Path, "mkdir", lambda _, path, *__: journal.create(path, is_folder=True))
        yield


@pytest.mark.parametrize("before", ["nothing", "three", "damage", "a crash"])
def test_after_a_power_loss_at_any_moment_a_whole_checkpoint_is_found(
    tmp_path, monkeypatch, before
):
    run = tmp_path / "run"
    run.mkdir()
    if before != "nothing":
        save(run, 1, 2, 3)
    if before == "damage":
        shutil.copytree(run / "step-00000003", run / "step-00000004")
    if before == "a crash":
        shutil.copytree(run / "step-00000003", run / "step-00000009.part")
    journal, found = Journal(run), []
    journal.begin_with(run)
    done = 0  # 1: save has returned; 2: rate has

    def look():
        found.extend((done, tree) for tree in journal.states())

    with followed(journal, monkeypatch, look):
        checkpoint.save(run, 4, SPENT, **states(4))
        done = 1
        look()
        checkpoint.rate(run, 4, 0.5)
        done = 2
        look()
    different = {(done, repr(tree)): tree for done, tree in found}
    for i, ((done, _), tree) in enumerate(different.items()):
        lost = tmp_path / str(i)
        write_tree(lost, tree)
        whole = checkpoint.checkpoints(lost)
        assert all(hold_what_was_saved(one) for one in whole)
        possible = {4} if done else {None, 4} if before == "nothing" else {3, 4}
        assert (whole[-1].step if whole else None) in possible
        if done == 2:
            assert checkpoint.best(lost).score == 0.5
        shutil.rmtree(lost)
    assert len(different) >= 65  # in each of four situations
