# shellcheck shell=bash
# Sourced by demo, bench, test and check: finds a Python, makes the virtual environment, installs once.
#
#   prepare_environment LEVEL [PYTHON_VERSION [EXTRA]]
#
# LEVEL is `runtime`, `bench`, `test` or `dev`; each holds the ones before it. Afterwards $python is the environment's
# interpreter. A level that is installed leaves a stamp in the environment, written last, so that a broken-off
# installation is taken up again and a finished one costs some milliseconds.

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
readonly root
readonly levels=(runtime bench test dev)
readonly oldest_minor=10 newest_minor=14

# uv may use the Pythons that are here; it never fetches one.
export UV_PYTHON_DOWNLOADS=never

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "error: $*"
    exit 1
}

prepare_environment() {
    local level=$1 version=${2:-}
    extra=${3:-}
    venv=$root/.venv${version:+-$version}${extra:+-$extra}
    python=$venv/bin/python
    if is_installed "$level"; then
        return
    fi
    is_sound "$version" || make_venv "$version"
    install_level "$level"
}

# The stamp of this level, or of one that holds it, says what is to be installed now.
is_installed() {
    local wanted level
    wanted=$(fingerprint) || return 1
    for level in $(levels_from "$1"); do
        if [[ -r $venv/installed-$level && $(<"$venv/installed-$level") == "$wanted" ]]; then
            return 0
        fi
    done
    return 1
}

levels_from() {
    local level seen=
    for level in "${levels[@]}"; do
        [[ $level == "$1" ]] && seen=yes
        [[ -z $seen ]] || printf '%s\n' "$level"
    done
}

# What an installation depends on: the place (scripts hold it), the Python, and what pyproject.toml asks for.
fingerprint() {
    local minor sum
    minor=$(minor_version "$python") || return 1
    sum=$(sha256sum <"$root/pyproject.toml") || return 1
    printf '%s 3.%s %s\n' "$root" "$minor" "$sum"
}

# 11 for Python 3.11. Runs the interpreter: a shim or a link may be there and lead nowhere.
minor_version() {
    local version
    version=$("$1" -I -S -c 'import sys; print(*sys.version_info[:2])' 2>/dev/null) || return 1
    [[ $version == "3 "* ]] || return 1
    printf '%s\n' "${version#3 }"
}

# The environment belongs here (a moved checkout has old paths in it) and its Python is still the one it was made with.
is_sound() {
    local minor
    minor=$(minor_version "$python") || return 1
    [[ -d $venv/lib/python3.$minor && (-z $1 || $1 == "3.$minor") ]] || return 1
    [[ -r $venv/bin/activate && $(<"$venv/bin/activate") == *"$venv"* ]] || return 1
    have_uv || "$python" -c 'import pip' 2>/dev/null
}

make_venv() {
    local base log
    # To clear it would empty a folder that lies elsewhere, and that others may use.
    [[ ! -L $venv ]] || fail "$venv is a link to $(readlink -f -- "$venv"), an environment of another checkout; remove the link"
    base=$(find_python "$1")
    say "making ${venv##*/} with $base"
    if have_uv; then
        log=$(uv venv --quiet --clear --python "$base" "$venv" 2>&1) || fail "uv cannot make $venv: $(last_line "$log")"
        return
    fi
    "$base" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$base has no venv module; sudo apt install python3-venv (or python3.$(minor_version "$base")-venv)"
    log=$("$base" -m venv --clear "$venv" 2>&1) || fail "$base cannot make $venv: $(last_line "$log")"
}

# The path of a Python that runs: of the version given, else python3, else the newest that fits.
find_python() {
    local wanted=$1 name path minor
    local -a names=("python$wanted")
    if [[ -z $wanted ]]; then
        names=(python3)
        for ((minor = newest_minor; minor >= oldest_minor; minor--)); do names+=("python3.$minor"); done
    fi
    for name in "${names[@]}"; do
        while read -r path; do
            minor=$(minor_version "$path") || continue
            ((minor >= oldest_minor && minor <= newest_minor)) || continue
            [[ -z $wanted || $wanted == "3.$minor" ]] || continue
            # Behind a shim lies the interpreter itself.
            "$path" -c 'import sys; print(sys.executable)'
            return
        done < <(candidates "$name")
    done
    if [[ -n $wanted ]]; then
        fail "no python$wanted here; install it, or take another --python"
    fi
    fail "Python 3.$oldest_minor to 3.$newest_minor is needed, python3 here is $(python3 --version 2>/dev/null || echo missing)"
}

# Where a Python of that name may be: on the PATH, among pyenv's (whose shims serve only the chosen one), with uv.
candidates() {
    local path
    type -aP "$1" || true
    for path in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/"$1"; do
        [[ ! -x $path ]] || printf '%s\n' "$path"
    done
    if have_uv; then
        uv python find "${1#python}" 2>/dev/null || true
    fi
}

# Found, runs (pyenv's shim may not), and is new enough (0.8) to know dependency groups and --clear.
have_uv() {
    if [[ -z ${uv_answer:-} ]]; then
        uv_answer=no
        if [[ $(uv venv --help 2>/dev/null) == *--clear* ]]; then uv_answer=yes; fi
    fi
    [[ $uv_answer == yes ]]
}

install_level() {
    local level=$1
    local -a what=(--editable "$root${extra:+[$extra]}") pip=("$python" -m pip)
    [[ $level == runtime ]] || what+=(--group "$root/pyproject.toml:$level")
    log=$venv/install.log
    : >"$log"
    rm -f -- "$venv/installed-$level"
    say "installing edgeinfer and what it needs (${level}) into ${venv##*/}; once, this may take minutes"
    if have_uv; then
        pip=(uv pip)
        what=(--python "$python" "${what[@]}")
    elif [[ $level != runtime ]]; then
        # Dependency groups came with pip 25.1; Debian's venv has 23.
        logged "${pip[@]}" install --upgrade 'pip>=25.1' || explain_failure
    fi
    logged "${pip[@]}" install "${what[@]}" || explain_failure
    fingerprint >"$venv/stamp"
    mv -- "$venv/stamp" "$venv/installed-$level"
}

# On a terminal the installer is seen at work; elsewhere only its log knows.
logged() {
    if [[ -t 2 ]]; then
        "$@" 2>&1 | tee -a -- "$log" >&2
    else
        "$@" >>"$log" 2>&1
    fi
}

explain_failure() {
    local text
    text=$(<"$log")
    case $text in
        *"Operation cancelled by user"*) fail "interrupted; run this again to go on" ;;
        *"name resolution"* | *"resolve host"* | *"dns error"* | *NewConnectionError* | *ConnectTimeout* | \
            *"onnection refused"* | *"etwork is unreachable"* | *"error sending request"* | *ProxyError*)
            fail "no network: the package index cannot be reached; connect and run this again (log: $log)" ;;
        *"No space left"*) fail "the disk is full; some 600 MB are needed in $root (log: $log)" ;;
        *) fail "the installation failed: $(last_line "$text") (log: $log)" ;;
    esac
}

last_line() {
    local text=${1%"${1##*[![:space:]]}"}
    printf '%s\n' "${text##*$'\n'}"
}
