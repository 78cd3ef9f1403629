#!/bin/sh
# archive.sh SEGMENT COPY: copies a segment of the write-ahead log into the archive, for archive_command. PostgreSQL repeats it until it
# succeeds. A copy is complete and on the disk before it gets its name. A repetition succeeds if the copy is the same, and fails if a
# segment of another history has its name.
set -eu

segment=$1 copy=$2

if [ -e "$copy" ]; then
    exec cmp -s "$segment" "$copy"
fi
cp "$segment" "$copy.new"
sync "$copy.new"
mv "$copy.new" "$copy"
sync "${copy%/*}"
