# shellcheck shell=bash
# Functions for the scripts in ops/: settings, and the programs that they need, installed where no confirmation is required.

# Prints to standard error. Standard output belongs to the programs that the scripts run.
say() { printf '%s\n' "$*" >&2; }

fail() {
    say "$0: $*"
    exit 1
}

# setting NAME DEFAULT: the value from the environment, else the first one in .env, else the default, as in the server.
setting() {
    local value=${!1:-}
    if [[ -z $value && -f .env ]]; then
        value=$(sed -n "s/^[[:space:]]*\(export[[:space:]]\{1,\}\)\{0,1\}$1=//p" .env | head -n 1)
        value=${value%$'\r'}
        value=${value#[\"\']}
        value=${value%[\"\']}
    fi
    printf '%s' "${value:-$2}"
}

# Rust is not installed automatically: the user chooses how, by rustup or from a package.
need_rust() {
    command -v cargo >/dev/null || fail "Rust is missing; install it from https://rustup.rs"
}

# Succeeds if the server will find PostgreSQL's programs. The server searches more directories; these are those of packages.
has_postgres() {
    local place bin_dir
    bin_dir=$(setting PG_BIN_DIR '')
    command -v initdb >/dev/null && return
    for place in ${bin_dir:+"$bin_dir"} /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/libexec/postgresql* \
        /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin /home/linuxbrew/.linuxbrew/opt/postgresql@*/bin \
        /Applications/Postgres.app/Contents/Versions/*/bin /usr/local/pgsql/bin; do
        [[ -x $place/initdb ]] && return
    done
    return 1
}

has_redis() { command -v redis-server >/dev/null || command -v valkey-server >/dev/null; }

# Debian installs it in /usr/sbin, which only root has in its PATH.
has_pgbouncer() { command -v pgbouncer >/dev/null || [[ -x /usr/sbin/pgbouncer ]]; }

# In /usr/sbin too.
has_haproxy() { command -v haproxy >/dev/null || [[ -x /usr/sbin/haproxy ]]; }

has_nginx() { command -v nginx >/dev/null || [[ -x /usr/sbin/nginx ]]; }

has_compiler() { command -v cc >/dev/null; }

has_ps() { command -v ps >/dev/null; }

# The JavaScript clients of the tests need Node 20.
has_node() { command -v node >/dev/null && node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 20 ? 1 : 0)'; }

has_npm() { command -v npm >/dev/null; }

has_curl() { command -v curl >/dev/null; }

# Checks the rules and the alerts, and the page of metrics.
has_promtool() { command -v promtool >/dev/null; }

has_docker() { command -v docker >/dev/null; }

# As a plugin of docker, or Debian's docker-compose.
has_compose() { docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null; }

compose() { if docker compose version >/dev/null 2>&1; then docker compose "$@"; else docker-compose "$@"; fi; }

# In /usr/sbin too.
has_debootstrap() { command -v debootstrap >/dev/null || [[ -x /usr/sbin/debootstrap ]]; }

has_chromium() { command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; }

# With the modules for virtual environments, which Debian has in a separate package.
has_python() { python3 -c 'import ensurepip, venv' 2>/dev/null; }

# package THING MANAGER: the name of the package for THING.
package() {
    case $1/$2 in
        postgres/apt-get | postgres/apk | postgres/pacman) echo postgresql ;;
        postgres/dnf) echo postgresql-server postgresql-contrib ;;
        postgres/brew) echo postgresql@17 ;;
        redis/apt-get) echo redis-server ;;
        redis/pacman) echo valkey ;;
        compiler/apt-get) echo build-essential ;;
        compiler/apk) echo build-base ;;
        compiler/pacman) echo base-devel ;;
        compiler/brew | compiler/dnf) echo gcc ;;
        ps/dnf | ps/pacman) echo procps-ng ;;
        ps/*) echo procps ;;
        node/apt-get | node/apk | node/pacman | node/dnf) echo nodejs ;;
        promtool/apt-get | promtool/brew | promtool/apk | promtool/pacman) echo prometheus ;;
        promtool/dnf) echo golang-github-prometheus ;;
        docker/apt-get) echo docker.io ;;
        compose/*) echo docker-compose ;;
        npm/brew) echo node ;;
        python/apt-get) echo python3-venv ;;
        python/pacman) echo python ;;
        python/*) echo python3 ;;
        *) echo "$1" ;;
    esac
}

# need THING…: checks for each program. Installs missing ones on Debian and Ubuntu, and prints what to install elsewhere.
need() {
    local thing manager missing=() packages=()
    for thing; do
        "has_$thing" || missing+=("$thing")
    done
    ((${#missing[@]})) || return 0

    for manager in apt-get dnf apk pacman brew none; do
        command -v "$manager" >/dev/null && break
    done
    for thing in "${missing[@]}"; do
        # Some programs come in several packages.
        # shellcheck disable=SC2207
        packages+=($(package "$thing" "$manager"))
    done
    case $manager in
        apt-get) apt_install "${packages[@]}" ;;
        dnf | brew) fail "please run: $manager install ${packages[*]}" ;;
        apk) fail "please run: apk add ${packages[*]}" ;;
        pacman) fail "please run: pacman -S ${packages[*]}" ;;
        none) fail "please install ${missing[*]} (PostgreSQL must be 14 or newer)" ;;
    esac
    for thing in "${missing[@]}"; do
        "has_$thing" || fail "$thing was installed but cannot be found"
    done
}

# Installs packages without starting their services: the server and the tests start their own processes, and a system service
# would occupy the default ports. The two files that prevent the start are removed afterwards.
apt_install() {
    local as_root=() no_start=/usr/sbin/policy-rc.d no_cluster=/etc/postgresql-common/createcluster.d/catbird.conf
    if ((EUID != 0)); then
        command -v sudo >/dev/null || fail "please run as root: apt-get install $*"
        as_root=(sudo)
    fi
    say "installing $*"
    # Root's shell expands the quoted script.
    # shellcheck disable=SC2016
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive no_start="$no_start" no_cluster="$no_cluster" bash -euc '
        trap "rm -f \$ours" EXIT
        ours=""
        if [[ ! -e $no_start ]]; then
            ours=$no_start
            printf "#!/bin/sh\nexit 101\n" >"$no_start"
            chmod 755 "$no_start"
        fi
        mkdir -p "${no_cluster%/*}"
        ours="$ours $no_cluster"
        echo "create_main_cluster = false" >"$no_cluster"
        apt-get -qq -o DPkg::Lock::Timeout=120 update
        apt-get -qq -y --no-install-recommends -o DPkg::Lock::Timeout=120 install "$@"
    ' install "$@" >&2
}

# stage NAME COMMAND…: runs the command, and prints its name before and its time after.
stage() {
    local name=$1 start=$SECONDS
    shift
    say "==> $name"
    if ! "$@"; then
        say "==> $name: FAILED after $((SECONDS - start)) s"
        exit 1
    fi
    say "==> $name: ok, $((SECONDS - start)) s"
}

# The minimal profile of rustup lacks rustfmt and clippy.
rust_tools() {
    cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
    cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
}

# Writes the list of crates into the program. The Dockerfile has the version.
need_auditable() { cargo auditable --version >/dev/null 2>&1 || cargo install --locked "$(grep -o 'cargo-auditable@[0-9.]*' Dockerfile)"; }

# Puts the first docker in front of PATH that can use BuildKit: one with buildx, or an old one that has it built in.
use_buildkit() {
    local cli
    export DOCKER_BUILDKIT=1 COMPOSE_DOCKER_CLI_BUILD=1
    # `type` names only the place that the shell remembers, if docker has already run.
    hash -r
    for cli in $(type -aP docker); do
        if "$cli" buildx version >/dev/null 2>&1 || [[ $("$cli" --version) =~ version\ (19|20)\. ]]; then
            export PATH=${cli%/docker}:$PATH
            return
        fi
    done
    fail "docker cannot use BuildKit; please install buildx"
}

# cargo fmt does not see the modules that a macro declares.
format() { cargo fmt --all --check && rustfmt --check --edition 2024 src/api/*/*.rs; }

# Minimum of free memory in KiB with which the tests keep their throw-away clusters of PostgreSQL there.
ROOM=$((6 << 20))

# Prints the directory for the throw-away clusters of the tests: in memory if there is room. Each test has a database of its own. On a
# disk, even without fsync, its creation and deletion cost several times as much processor time.
clusters() {
    local free
    free=$({ df --output=avail /dev/shm | tail -n 1 && sed -n 's/^MemAvailable: *\([0-9]*\) kB$/\1/p' /proc/meminfo; } 2>/dev/null | sort -n | head -n 1)
    if [[ -z ${TMPDIR:-} && -w /dev/shm ]] && ((free >= ROOM)); then
        printf /dev/shm
    else
        printf '%s' "${TMPDIR:-/tmp}"
    fi
}

# tests ARGUMENTS…: cargo test, with the time of each target and the sum of all at the end.
tests() {
    TMPDIR=$(clusters) cargo test --no-fail-fast "$@" 2>&1 | summary
    return "${PIPESTATUS[0]}"
}

# Prints its input, then the seconds that each target of cargo took, longest first, and the sum of their results.
summary() {
    local line target='' start=$SECONDS passed=0 failed=0 ignored=0 times=()
    while IFS= read -r line; do
        printf '%s\n' "$line"
        if [[ $line =~ ^\ +Running\ (unittests\ )?([^\ ]+)\ \( || $line =~ ^\ +(Doc-tests)\ (.+) || $line =~ ^error: ]]; then
            [[ -z $target ]] || times+=("$((SECONDS - start)) $target")
            target=${BASH_REMATCH[2]:-} start=$SECONDS
        elif [[ $line =~ ^test\ result:\ .*\ ([0-9]+)\ passed\;\ ([0-9]+)\ failed\;\ ([0-9]+)\ ignored ]]; then
            passed=$((passed + BASH_REMATCH[1])) failed=$((failed + BASH_REMATCH[2])) ignored=$((ignored + BASH_REMATCH[3]))
        fi
    done
    [[ -z $target ]] || times+=("$((SECONDS - start)) $target")
    printf '\n'
    ((${#times[@]} == 0)) || printf '%s\n' "${times[@]}" | sort -rn | while read -r start target; do printf '%5d s  %s\n' "$start" "$target"; done
    printf 'all targets: %d passed; %d failed; %d ignored\n' "$passed" "$failed" "$ignored"
}

# Tests wait for time-outs, for PostgreSQL and for streams. With three a core they use all cores; with more, requests wait for a core as long as
# for a slow database.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((3 * $(nproc)))}
