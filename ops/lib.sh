# shellcheck shell=bash
# What ops/run and ops/test share: settings, and the programs they need, installed where that can be done unasked.

# Says something on standard error, since the output belongs to the programs that are run.
say() { printf '%s\n' "$*" >&2; }

fail() {
    say "$0: $*"
    exit 1
}

# setting NAME DEFAULT: the environment's value, else the first one in .env, else the default, as the server itself does it.
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

# Rust cannot be installed unasked: how depends on what the user wants to keep.
need_rust() {
    command -v cargo >/dev/null || fail "Rust is missing; install it from https://rustup.rs"
}

# Whether the server would find PostgreSQL's programs. It looks in more places; these are the ones where packages put them.
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

# Debian keeps it where only root's search path leads.
has_pgbouncer() { command -v pgbouncer >/dev/null || [[ -x /usr/sbin/pgbouncer ]]; }

has_compiler() { command -v cc >/dev/null; }

has_ps() { command -v ps >/dev/null; }

# The clients of the tests need Node 20.
has_node() { command -v node >/dev/null && node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 20 ? 1 : 0)'; }

has_npm() { command -v npm >/dev/null; }

has_chromium() { command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; }

# With what it needs to make an environment of its own, which Debian keeps in a package apart.
has_python() { python3 -c 'import ensurepip, venv' 2>/dev/null; }

# package THING MANAGER: what the package manager calls it.
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
        npm/brew) echo node ;;
        python/apt-get) echo python3-venv ;;
        python/pacman) echo python ;;
        python/*) echo python3 ;;
        *) echo "$1" ;;
    esac
}

# need THING…: makes sure of each, installing on Debian and Ubuntu, and saying what to install anywhere else.
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
        # Some things are several packages.
        # shellcheck disable=SC2207
        packages+=($(package "$thing" "$manager"))
    done
    case $manager in
        apt-get) apt_install "${packages[@]}" ;;
        dnf | brew) fail "please run: $manager install ${packages[*]}" ;;
        apk) fail "please run: apk add ${packages[*]}" ;;
        pacman) fail "please run: pacman -S ${packages[*]}" ;;
        none) fail "please install ${missing[*]} (PostgreSQL has to be 14 or newer)" ;;
    esac
    for thing in "${missing[@]}"; do
        "has_$thing" || fail "$thing is still missing after its installation"
    done
}

# Installs packages without starting what they contain: the server and the tests start what they need themselves, and a system
# service would only occupy the usual ports. The two files that see to that are gone afterwards.
apt_install() {
    local as_root=() no_start=/usr/sbin/policy-rc.d no_cluster=/etc/postgresql-common/createcluster.d/catbird.conf
    if ((EUID != 0)); then
        command -v sudo >/dev/null || fail "please run as root: apt-get install $*"
        as_root=(sudo)
    fi
    say "installing $*"
    # The quoted script is expanded by the shell that root runs.
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
