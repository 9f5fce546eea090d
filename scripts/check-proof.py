#!/usr/bin/env python3
"""Checks a proof of `pgsteward audit prove` against a head that was kept outside the database.

usage: check-proof.py PROOF.json NUMBER:HASH

It needs nothing of pgsteward's: SHA-256, and the bytes that ARCHITECTURE.md describes.
"""
import hashlib, json, struct, sys

def sha(data): return hashlib.sha256(data).digest()

def fields(values):
    parts = (b"\xff\xff\xff\xff" if v is None else struct.pack(">I", len(v.encode())) + v.encode() for v in values)
    return b"".join(parts)

def root(leaf, index, size, path):  # RFC 9162, section 2.1.3.2
    if index >= size: sys.exit("there is no such place in the tree")
    at, last, found = index, size - 1, leaf
    for step in map(bytes.fromhex, path):
        if last == 0: sys.exit("the path is too long")
        if at & 1 or at == last:
            found = sha(b"\x01" + step + found)
            while not at & 1 and at: at, last = at >> 1, last >> 1
        else:
            found = sha(b"\x01" + found + step)
        at, last = at >> 1, last >> 1
    if last: sys.exit("the path is too short")
    return found

if len(sys.argv) != 3 or ":" not in sys.argv[2]: sys.exit("usage: check-proof.py PROOF.json NUMBER:HASH")
proof = json.load(sys.stdin if sys.argv[1] == "-" else open(sys.argv[1]))
number, head = sys.argv[2].split(":")
found = root(sha(b"\x00" + fields(proof["row"])), proof["index"], proof["size"], proof["path"])
entry = proof["entry"]  # fields 2, 9, 12 and 14: number, row_count, root, previous
if entry[9] != str(proof["size"]) or entry[12] != found.hex(): sys.exit("the row is not under the entry's root")
chain = [entry] + [link["entry"] for link in proof["then"]]
for entry in chain:
    current = sha(b"\x02" + fields(entry)).hex()
    if entry[2] == number:
        sys.exit(0 if current == head else "the entry's head is another one")
    following = chain[chain.index(entry) + 1 :]
    if not following or following[0][14] != current: sys.exit("the entries do not lead to that head")
