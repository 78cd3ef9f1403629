#!/bin/bash
# Runs PROGRAM so that it can write ROOM_KIB KiB into one file. The write beyond that fails in the kernel, as on a full disk. The signal
# that comes with it would end the program before the write fails (setrlimit(2)).
set -eu
trap '' XFSZ
ulimit -S -f "$ROOM_KIB"
exec "$PROGRAM" "$@"
