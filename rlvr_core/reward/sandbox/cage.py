"""What is taken from a process before it runs something that may be hostile. Linux; elsewhere only resource limits hold.

In this order: root's identity; namespaces of its own (user, network, processes, mounts, IPC) with an empty folder in memory and most of
the file system hidden; Landlock, so that of what is left only the interpreter's own files can be read and only the folder written;
capabilities; resources. Each measure that a system refuses is left out, and ``enter`` says which hold.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
import struct
import sys
from contextlib import suppress
from typing import Any

NOBODY = 65534
FOLDERS = ("/tmp", "/var/tmp", "/mnt", "/media")  # noqa: S108 - mount points, in a namespace of its own
"""Where the folder in memory is mounted: the first that exists and does not hold the interpreter."""
SHOWN = ("bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "sbin", "usr")
"""What stays of the root folder; the rest is covered by an empty file system, but for what holds the interpreter."""

_NEW_USER, _NEW_NS, _NEW_PID, _NEW_NET, _NEW_IPC, _NEW_UTS = 0x10000000, 0x20000, 0x20000000, 0x40000000, 0x8000000, 0x4000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 4, 8, 0x1000, 0x4000, 0x40000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38

_libc = ctypes.CDLL(None, use_errno=True)


def enter(limits: dict[str, Any], folder: str, keep: tuple[int, ...]) -> dict[str, bool]:
    """Give everything up; returns in the process that goes on. ``folder``: an empty one, used where no folder in memory can be had.

    ``keep``: file descriptors that stay open besides 0, 1 and 2. Returns which measures hold.
    """
    held = {"user": _become_nobody(folder), "namespaces": False, "memory_folder": False, "landlock": False}
    if sys.platform == "linux":
        held["namespaces"] = _own_namespaces()
        if held["namespaces"]:
            _first_of_its_processes(keep)
            folder, given = _own_file_system(limits, folder), folder
            held["memory_folder"] = folder != given
        _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        os.chdir(folder)
        nothing = os.open(os.devnull, os.O_RDWR)
        held["landlock"] = _landlock(folder)
        _drop_capabilities()
        _end_with_parent()
    else:
        os.chdir(folder)
        nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    _close_all_but({0, 1, 2, *keep})
    _limit(limits, held["namespaces"])
    return held


def _become_nobody(folder: str) -> bool:
    """Where we are root: nobody, if nobody can read the interpreter's files, or can be let to. True: not root now."""
    if os.getuid() != 0:
        return True
    barrier = _barrier(os.path.realpath(os.__file__))
    if barrier and not _uncover(barrier):
        return False
    with suppress(OSError):
        os.chown(folder, NOBODY, NOBODY)
    try:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    except OSError:
        return False
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # or the maps of a user namespace could not be written
    return True


def _barrier(file: str) -> str:
    """The outermost folder on the way to a file that only its owner may enter; empty where there is none."""
    steps = file.split("/")
    folders = ("/".join(steps[:depth]) for depth in range(2, len(steps)))
    return next((folder for folder in folders if not os.stat(folder).st_mode & 0o001), "")


def _uncover(barrier: str) -> bool:
    """In a mount namespace of our own, put an empty folder that all may enter over ``barrier``, and the interpreter's library in it."""
    library = os.path.dirname(os.path.realpath(os.__file__))
    if sys.platform != "linux" or library == barrier or _libc.unshare(_NEW_NS) != 0:
        return False
    fd = os.open(library, os.O_PATH)
    try:
        if _mount("none", "/", None, _MS_REC | _MS_PRIVATE, None) != 0:
            return False
        if _mount("tmpfs", barrier, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=64k,mode=755") != 0:
            return False
        os.makedirs(library, 0o755)
        return _mount(f"/proc/self/fd/{fd}", library, None, _MS_BIND, None) == 0
    except OSError:
        return False
    finally:
        os.close(fd)


def _own_namespaces() -> bool:
    uid, gid = os.getuid(), os.getgid()
    if _libc.unshare(_NEW_USER | _NEW_NS | _NEW_PID | _NEW_NET | _NEW_IPC | _NEW_UTS) != 0:
        return False
    try:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
    except OSError:
        return False
    with suppress(OSError):
        _write("/proc/sys/user/max_user_namespaces", "0")  # in this namespace: no further ones, and no privileges in them
    return True


def _first_of_its_processes(keep: tuple[int, ...]) -> None:
    """Go on as the first process of the new namespace: when it ends, by itself or with us, the system kills every other in it."""
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _end_with_parent()
        return
    _end_with_parent()
    for fd in keep:
        os.close(fd)
    with suppress(OSError):
        os.waitpid(child, 0)
    assert os.getpid() == parent
    os._exit(0)


def _end_with_parent() -> None:
    """To be said again after each change of identity, which makes the system forget it."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _own_file_system(limits: dict[str, Any], folder: str) -> str:
    """Hide what is not needed, and mount a folder in memory. Returns its path, or ``folder`` where that was refused."""
    if _mount("none", "/", None, _MS_REC | _MS_PRIVATE, None) != 0:
        return folder
    prefixes = tuple(os.path.realpath(path) + "/" for path in (sys.base_prefix, os.__file__))
    others = ["/" + name for name in os.listdir("/") if name not in SHOWN]
    free = [path for path in dict.fromkeys((*FOLDERS, *others, "/dev/shm")) if os.path.isdir(path) and not _holds(path, prefixes)]  # noqa: S108
    chosen = next((path for path in FOLDERS if path in free), None)
    size = f"size={limits['folder_mb']}m,nr_inodes=1000,mode=700"
    if chosen is None or _mount("tmpfs", chosen, "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, size) != 0:
        return folder
    for path in free:
        if path != chosen and not chosen.startswith(path + "/"):
            _mount("tmpfs", path, "tmpfs", _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, "size=4k,nr_inodes=1,mode=755")
    return chosen


def _holds(path: str, prefixes: tuple[str, ...]) -> bool:
    real = os.path.realpath(path) + "/"
    return any(prefix.startswith(real) for prefix in prefixes)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None) -> int:
    texts = [None if text is None else text.encode() for text in (source, target, kind, data)]
    return int(_libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]))


_READ_FILE, _READ_DIR, _WRITE_FILE, _TRUNCATE = 1 << 2, 1 << 3, 1 << 1, 1 << 14
_FS_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
"""All rights on files that a version of Landlock knows, by version."""
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446


def _landlock(folder: str) -> bool:
    """Read the interpreter's and the system's libraries, read and write the folder, execute nothing, connect to nothing."""
    version = _libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    every = _FS_RIGHTS[min(version, 5)]
    attributes = struct.pack("QQQ", every, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = _libc.syscall(_CREATE_RULESET, attributes, size, 0)
    if ruleset < 0:
        return False
    library = os.path.dirname(os.__file__)
    readable = (
        library,
        sys.base_prefix + "/lib",
        "/lib",
        "/lib64",
        "/usr/lib",
        "/usr/lib64",
        "/usr/share/zoneinfo",
        "/etc/ld.so.cache",
    )
    for path in readable:
        _allow(ruleset, path, _READ_FILE | _READ_DIR)
    _allow(ruleset, os.devnull, (_READ_FILE | _WRITE_FILE | _TRUNCATE) & every)
    _allow(ruleset, "/dev/urandom", _READ_FILE)
    _allow(ruleset, folder, every & ~1)
    done = _libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return bool(done)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    if not os.path.isdir(path):
        rights &= _READ_FILE | _WRITE_FILE | _TRUNCATE
    _libc.syscall(_ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, fd), 0)
    os.close(fd)


def _drop_capabilities() -> None:
    """Those that the first process of a user namespace has in it."""
    _libc.capset(struct.pack("Ii", 0x20080522, 0), struct.pack("6I", 0, 0, 0, 0, 0, 0))


def _close_all_but(keep: set[int]) -> None:
    top = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 65_536)
    start = 0
    for fd in sorted(keep):
        if start < fd:  # an empty range at 0 closes everything (CPython 3.11)
            os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, top)


def _limit(limits: dict[str, Any], counted_apart: bool) -> None:
    """Resources of this process and each that it starts. ``counted_apart``: the namespace's processes are counted by themselves."""
    megabyte = 1 << 20
    seconds = math.ceil(limits["cpu_seconds"])
    own = 2 if counted_apart else 0
    for name, value in (
        ("CPU", seconds), ("AS", limits["memory_mb"] * megabyte), ("FSIZE", limits["folder_mb"] * megabyte), ("CORE", 0), ("NOFILE", 64),
        ("NPROC", own + limits["processes"]), ("MSGQUEUE", 0),
    ):  # fmt: skip
        which = getattr(resource, f"RLIMIT_{name}", None)
        if which is not None:
            with suppress(OSError, ValueError):
                resource.setrlimit(which, (value, value))


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
