"""Checks what is in the server's image: properties.py ROOT SIZE REVISION, with the image's configuration in JSON as standard input.

ROOT is a folder with its files, SIZE its size in bytes, REVISION the commit that it must name. Prints one line.
"""

import json, os, sys, zlib

PROGRAMS = ["bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin"]


def crates(program):
    """The list that `cargo auditable` has written into the program: a section of JSON, compressed by zlib."""
    at = -1
    while (at := program.find(b"\x78\x9c", at + 1)) >= 0:
        try:
            return {crate["name"] for crate in json.loads(zlib.decompressobj().decompress(program[at:]))["packages"]}
        except (zlib.error, ValueError, TypeError, KeyError):
            continue
    sys.exit("the program has no list of its crates")


root, size, revision = sys.argv[1], int(sys.argv[2]), sys.argv[3]
config = json.load(sys.stdin)
labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
programs = {name for folder in PROGRAMS if os.path.isdir(f"{root}/{folder}") for name in os.listdir(f"{root}/{folder}")}
packages = os.listdir(f"{root}/var/lib/dpkg/status.d")
with open(f"{root}/usr/local/bin/catbird-server", "rb") as file:
    program = file.read()

assert config["User"] == "10001:10001", config["User"]
assert config["Healthcheck"]["Test"] == ["CMD", "catbird-server", "health"], config["Healthcheck"]
assert labels["revision"] == revision and labels["version"][0].isdigit() and labels["licenses"] == "MIT", labels
assert programs == {"catbird-server", "env"}, programs
assert {"catbird-server", "rustls", "tokio-postgres"} <= crates(program)
print(f"{size / 1e6:.1f} MB, of which the program {len(program) / 1e6:.1f} MB; lists {len(crates(program))} crates and "
      f"{len(packages)} packages; version {labels['version']}, revision {labels['revision'][:12]}")
