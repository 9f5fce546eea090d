#!/usr/bin/env python3
"""Checks a proof of `pgsteward audit prove` against a head that was kept outside the database.

usage: check-proof.py PROOF.json NUMBER:HASH

PROOF.json may be `-` for standard input. The script prints nothing and exits with 0 if the proof
holds. It shares no code with pgsteward: it needs only SHA-256 and the description of the hashed
bytes in src/audit/leaf.rs, merkle.rs and chain.rs.
"""
import hashlib
import json
import struct
import sys

# Indexes of the fields of an entry.
NUMBER, ROW_COUNT, ROOT, PREVIOUS = 2, 9, 12, 14


def sha256(data):
    return hashlib.sha256(data).digest()


def encode(fields):
    """Each field as its length in 4 bytes and its UTF-8 text, or FF FF FF FF for null."""
    data = b""
    for text in fields:
        if text is None:
            data += b"\xff\xff\xff\xff"
        else:
            data += struct.pack(">I", len(text.encode())) + text.encode()
    return data


def root_of_path(leaf, index, size, path):
    """The root to which the path leads from a leaf (RFC 9162, section 2.1.3.2)."""
    if index >= size:
        sys.exit("expected an index below the size of the tree")
    at, last, node = index, size - 1, leaf
    for step in map(bytes.fromhex, path):
        if last == 0:
            sys.exit("the path is too long")
        if at & 1 or at == last:
            node = sha256(b"\x01" + step + node)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            node = sha256(b"\x01" + node + step)
        at, last = at >> 1, last >> 1
    if last:
        sys.exit("the path is too short")
    return node


if len(sys.argv) != 3 or ":" not in sys.argv[2]:
    sys.exit("usage: check-proof.py PROOF.json NUMBER:HASH")
proof = json.load(sys.stdin if sys.argv[1] == "-" else open(sys.argv[1]))
number, head = sys.argv[2].split(":")

leaf = sha256(b"\x00" + encode(proof["row"]))
root = root_of_path(leaf, proof["index"], proof["size"], proof["path"])
entry = proof["entry"]
if entry[ROW_COUNT] != str(proof["size"]) or entry[ROOT] != root.hex():
    sys.exit("the row is not under the root of the entry")

# Each entry contains the head of the one before. The last one must have the given head.
current = None
for entry in [entry] + [link["entry"] for link in proof["then"]]:
    if current is not None and entry[PREVIOUS] != current:
        break
    current = sha256(b"\x02" + encode(entry)).hex()
    if entry[NUMBER] == number:
        sys.exit(0 if current == head else "the head of the entry differs from the given head")
sys.exit("the entries of the proof do not lead to the given head")
