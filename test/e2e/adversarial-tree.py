#!/usr/bin/env python3
"""Makes the tree that no archive likes: every type, odd names, many of everything. Run as root.

    adversarial-tree.py DIRECTORY ENTRIES_IN_ONE_DIRECTORY HARD_LINKS
"""
import os, socket, stat, sys

root, entries, links = os.fsencode(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
os.makedirs(root, exist_ok=True)
os.chdir(root)


def write(path, data=b""):
    with open(path, "wb") as file:
        file.write(data)


def at(path, seconds, nanoseconds=0):
    total = seconds * 1_000_000_000 + nanoseconds
    os.utime(path, ns=(total, total), follow_symlinks=False)


# types
os.mkfifo("fifo", 0o640)
os.mknod("character", stat.S_IFCHR | 0o660, os.makedev(300, 70000))
os.mknod("block", stat.S_IFBLK | 0o660, os.makedev(8, 1))
server = socket.socket(socket.AF_UNIX)
server.bind("socket")
server.close()
os.mkdir("empty directory")
write("empty file")
os.symlink("nowhere/at all", "dangling")
os.symlink("x" * 4095, "long link")

# names
os.mkdir("names")
for name in [b"n" * 255, b"\xff\xfe\x80 invalid", b"new\nline", b"-rf", b" ", b"...", b"\\", b"*", b"!first", b"\xc3\xa9", b"%2F", b".wh.whiteout", b"\x01", b"tab\t", b"~", b"#comment"]:
    write(b"names/" + name, b"content of " + name)
os.mkdir(b"names/" + b"\xf0\x28" * 100)
write(b"names/" + b"\xf0\x28" * 100 + b"/" + b"\xee" * 255, b"deep")

# many
os.mkdir("many")
for number in range(entries):
    write("many/%d-%s" % (number, "y" * (number % 40)), b"%d" % number if number % 7 else b"")
path = "levels"
for level in range(60):
    os.mkdir(path)
    write(path + "/file", b"level %d" % level)
    path += "/" + "l%d" % level

# contents
with open("sparse", "wb") as file:
    file.truncate(100 * 1024 * 1024)
    for offset in (0, 4095, 70_000, 50 * 1024 * 1024 + 1, 100 * 1024 * 1024 - 1):
        file.seek(offset)
        file.write(b"not zero"[: 100 * 1024 * 1024 - offset])
with open("all hole", "wb") as file:
    file.truncate(10_000_000)
block = os.urandom(65536)
write("repeats", block * 40 + b"tail")
write("zeros between", block + bytes(300_000) + block)
for size in (1, 511, 1023, 1024, 1025, 4095, 4096, 4097, 65535, 65536, 65537, 131072, 1_000_001):
    write("size %d" % size, (block * (size // 65536 + 1))[:size])

# links
write("linked", b"one inode")
os.mkdir("links")
for number in range(links):
    os.link("linked", "links/%d" % number)
os.symlink("target", "symlink linked")
os.link("symlink linked", "links/symlink", follow_symlinks=False)

# attributes
write("large value")
os.setxattr("large value", "user.large", os.urandom(3000))
write("forty")
for number in range(40):
    os.setxattr("forty", "user.number%d" % number, b"\x00\xff\n=%d" % number)
for number in range(50):
    write("common %d" % number, b"%d" % number)
    os.setxattr("common %d" % number, "user.common", b"the same value in all of them")
    os.setxattr("common %d" % number, "trusted.own", b"%d" % number)
os.setxattr("empty directory", "user.empty", b"")
os.setxattr("dangling", "trusted.of-link", b"value", follow_symlinks=False)
os.setxattr("fifo", "security.of-fifo", b"value")
os.setxattr("forty", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
# access control lists as the kernel stores them: version 2; user::rw-, user:1234:r--, group::r--, mask::r--, other::---
acl = bytes.fromhex("02000000" "01000600ffffffff" "02000400d2040000" "04000400ffffffff" "10000400ffffffff" "20000000ffffffff")
os.setxattr("size 4096", "system.posix_acl_access", acl)
os.setxattr("empty directory", "system.posix_acl_default", acl)

# owners, modes, times
for number, uid in enumerate((1, 65535, 65536, 70_000, 2_147_483_648, 4_000_000_000)):
    write("owned %d" % number)
    os.chown("owned %d" % number, uid, uid - 1)
os.chown("dangling", 4_000_000_000, 5, follow_symlinks=False)
for mode in (0, 0o7777, 0o4711, 0o2755, 0o1777, 0o444):
    write("mode %o" % mode)
    os.chmod("mode %o" % mode, mode)
os.mkdir("sticky")
os.chmod("sticky", 0o1777)
for name, seconds, nanoseconds in (("epoch", 0, 0), ("before", -100_000, 999_999_999), ("first ns", 1, 1), ("after 2038", 2_200_000_000, 123_456_789), ("after 2106", 4_500_000_000, 5)):
    write(name)
    at(name, seconds, nanoseconds)
at("dangling", 1_000_000_000, 7)
at("empty directory", 2_200_000_000, 1)
os.chmod(".", 0o751)
at(".", 1_234_567_890, 987_654_321)
