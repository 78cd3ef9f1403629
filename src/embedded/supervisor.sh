# Runs one PostgreSQL for an owner at the other end of standard input, and outlives that owner just long enough to clean up.
#
# Orders are lines on standard input: any line starts PostgreSQL, the next one names the signal that ends it, and so on.
# End of file means that the owner is gone, however it went: PostgreSQL gets the parting signal and the directories that
# must not stay are removed. Standard output tells the owner "running PID" and "ended STATUS".
#
# $1  the parting signal
# $2  a directory to remove at the end, or nothing
# $3  another one
# $4… the command that runs PostgreSQL in the foreground

# A terminal or an init system may signal everything it started, and the owner may have closed its end of standard output.
# Neither must stop the cleaning up.
trap '' HUP INT TERM PIPE

parting=$1
doomed=$2
doomed_too=$3
shift 3

# Commands in the background have no standard input in sh, but the watcher must read the orders.
exec 3<&0

while read -r _ <&3; do
    "$@" </dev/null >&2 3<&- &
    postgres=$!
    echo "running $postgres"

    # The signal is repeated because PostgreSQL ignores it in the first instants of its life.
    {
        trap - TERM
        read -r signal <&3 || signal=$parting
        while kill -s "$signal" "$postgres"; do sleep 1; done
    } >/dev/null 2>&1 &
    watcher=$!

    wait "$postgres"
    status=$?
    kill "$watcher" 2>/dev/null
    wait "$watcher" 2>/dev/null
    echo "ended $status" 2>/dev/null
done

rm -rf -- "$doomed" "$doomed_too"
