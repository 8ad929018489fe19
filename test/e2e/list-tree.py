#!/usr/bin/env python3
"""Lists a mounted tree as JSON lines, one object a path, sorted by path bytes: what the kernel says of it.

Paths and link targets are bytes shown as latin-1, xattr values hex, mtime in nanoseconds as a string: the
same form as test/fixtures/erofs/tree.jsonl. Needs nothing of this project.
"""
import hashlib, json, os, stat, sys

root = os.fsencode(sys.argv[1])
contents = "--no-contents" not in sys.argv[2:]


def entry(path, shown):
    info = os.lstat(path)
    out = {
        "path": shown.decode("latin-1"),
        "mode": "0o%o" % info.st_mode,
        "uid": info.st_uid,
        "gid": info.st_gid,
        "mtime_ns": str(info.st_mtime_ns),
        "nlink": info.st_nlink,
    }
    kind = stat.S_IFMT(info.st_mode)
    if kind == stat.S_IFREG:
        out["size"] = info.st_size
        if contents:
            digest = hashlib.sha256()
            with open(path, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            out["sha256"] = digest.hexdigest()
    elif kind == stat.S_IFLNK:
        out["target"] = os.readlink(path).decode("latin-1")
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        out["rdev"] = [os.major(info.st_rdev), os.minor(info.st_rdev)]
    names = os.listxattr(path, follow_symlinks=False)
    if names:
        out["xattrs"] = {n: os.getxattr(path, n, follow_symlinks=False).hex() for n in sorted(names)}
    return out, kind == stat.S_IFDIR


def walk(path, shown, rows):
    row, directory = entry(path, shown or b"/")
    rows.append((shown or b"/", row))
    if directory:
        for name in os.listdir(path):
            walk(path + b"/" + name, shown + b"/" + name, rows)


sys.setrecursionlimit(10000)
rows = []
walk(root, b"", rows)
for _, row in sorted(rows, key=lambda r: r[0]):
    print(json.dumps(row, sort_keys=True))
