# shellcheck shell=bash
# Checks that the machine has the required programs. As root on Debian, installs missing packages.
# Otherwise prints what to install.

# prerequisites [PURPOSE...]: checks what each purpose needs, by default servers, build, lint and
# test. Purposes: servers build lint test browser static images peers fuzz chaos.
prerequisites() {
  local purposes=("$@")
  [[ $# -gt 0 ]] || purposes=(servers build lint test)
  find_missing "${purposes[@]}"
  ((${#missing[@]} > 0)) || return 0
  if [[ $EUID == 0 && -f /etc/debian_version ]]; then
    install_missing "${purposes[@]}"
    ((${#missing[@]} > 0)) || return 0
  fi
  say "Missing on this machine:"
  printf '    %s\n' "${missing[@]}" >&2
  if [[ -f /etc/debian_version && $((${#packages[@]} + ${#extracted[@]})) -gt 0 ]]; then
    die "on Debian 12 this installs it: sudo $stack/stack.sh prerequisites"
  fi
  die "install it, then try again"
}

# The missing programs, and the Debian packages that contain them.
missing=()
packages=()
# Files of packages that would also start a server if they were installed: PACKAGE:FILE.
extracted=()

find_missing() {
  missing=()
  packages=()
  extracted=()
  local purpose
  for purpose in "$@"; do
    declare -F "find_missing_$purpose" >/dev/null ||
      usage_error "prerequisites: unknown purpose $purpose"
    "find_missing_$purpose"
  done
}

find_missing_servers() {
  java_fits || lacks "a Java runtime, 17 or later" default-jre-headless
  has mvn || lacks "Maven (mvn)" maven ca-certificates
  has_postgres ||
    lacks "PostgreSQL 14 or later (set POSTGRES_BIN to its folder if it is not found)" postgresql
}

find_missing_build() {
  cargo_fits ||
    lacks "Rust $(rust_version) or later (cargo, rustc)" rustc-web cargo-web ca-certificates
  has make || lacks "make" make
  has cc || lacks "a C compiler (cc), for Rust's linker" gcc libc6-dev
}

find_missing_lint() {
  cargo fmt --version &>/dev/null || lacks "rustfmt" rustfmt-web
  cargo clippy --version &>/dev/null || lacks "clippy" rust-web-clippy
  has shellcheck || lacks "shellcheck" shellcheck
  # The prose linter is a Python program that runs textlint and cspell.
  has python3 || lacks "Python 3" python3
  find_missing_node
  # textlint and cspell check the prose.
  has git || lacks "git" git
  has python3 || lacks "Python 3.10 or later" python3
  find_missing_node
  has promtool || [[ -x $root/target/tools/usr/bin/promtool ]] || {
    lacks "promtool, of Prometheus 2.42 or later"
    extracted+=(prometheus:usr/bin/promtool)
  }
}

find_missing_test() {
  # The tests run Confluent's Kafka client, which is written in Python.
  python3 -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' &>/dev/null ||
    lacks "Python 3.10 or later with venv" python3-venv
  # The tests connect through PgBouncer. Its folder is not in the PATH of every user.
  has pgbouncer || [[ -x /usr/sbin/pgbouncer ]] || lacks "PgBouncer" pgbouncer
  # The tests run GraphQL clients that are written in JavaScript.
  find_missing_node
}

find_missing_node() {
  { has npm && node -e 'process.exit(+(parseInt(process.versions.node) < 18))' &>/dev/null; } ||
    lacks "Node.js 18 or later with npm" nodejs npm
}

# The browser for the tests of the web pages.
find_missing_browser() {
  find_missing_node
  has "${CHROMIUM:-chromium}" ||
    lacks "Chromium (or set CHROMIUM to a browser based on it)" chromium
}

# For static binaries: rustup's musl target, or a way to build its standard library
# (deploy/images/binaries.sh).
find_missing_static() {
  find_missing_build
  has python3 || lacks "Python 3.11 or later" python3
  local musl sysroot targets
  musl=$(uname -m)-unknown-linux-musl
  targets=$(rustc --print target-libdir --target "$musl" 2>/dev/null || true)
  sysroot=$(rustc --print sysroot 2>/dev/null || true)
  compgen -G "$targets/libstd-*.rlib" >/dev/null ||
    compgen -G "$sysroot/lib/rustlib/src/rust/library/std" >/dev/null ||
    [[ -f /usr/lib/rustlib/src/rust/library/std/Cargo.toml && -x /usr/bin/cargo ]] ||
    lacks "rustup's musl target (rustup target add $musl)" rustc-web cargo-web rust-web-src
  compgen -G "$sysroot/lib/rustlib/*/bin/rust-lld" >/dev/null ||
    has ld.lld || has ld.lld-16 || lacks "LLVM's linker (ld.lld)" lld-16
}

# The other implementations of the command-handler: librdkafka in C, and one on the JVM.
find_missing_peers() {
  { has mvn && has jlink && has javac; } ||
    lacks "Maven and a JDK, 17 or later (mvn, javac, jlink)" \
      maven default-jdk-headless ca-certificates
  has c++ || lacks "a C++ compiler (c++), for librdkafka's build" g++
}

find_missing_fuzz() {
  has c++ || lacks "a C++ compiler (c++), for libFuzzer" g++
}

# The faults of `make chaos`: lost packets and wrong clocks.
find_missing_chaos() {
  has iptables || lacks "iptables" iptables
  compgen -G "/usr/lib/*/faketime/libfaketimeMT.so.1" >/dev/null || lacks "libfaketime" libfaketime
}

# The tests of images: a Docker engine and an emulator.
find_missing_images() {
  docker version &>/dev/null || has dockerd || lacks "a Docker engine" docker.io
  has qemu-aarch64-static || has qemu-aarch64 ||
    lacks "an emulator of arm64 (qemu-aarch64)" qemu-user-static
}

# lacks WORDS PACKAGE...
lacks() {
  missing+=("$1")
  packages+=("${@:2}")
}

has() {
  command -v "$1" >/dev/null
}

java_fits() {
  [[ $(java -version 2>&1) =~ version\ \"([0-9]+) ]] && ((BASH_REMATCH[1] >= 17))
}

cargo_fits() {
  local wanted
  wanted=$(rust_version)
  [[ $(cargo --version 2>&1) =~ ^cargo\ 1\.([0-9]+) ]] && ((BASH_REMATCH[1] >= ${wanted#1.}))
}

rust_version() {
  sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml"
}

# True if PostgreSQL's programs are in POSTGRES_BIN, in Debian's folder, or in PATH.
has_postgres() {
  local dir
  for dir in "${POSTGRES_BIN:-}" /usr/lib/postgresql/*/bin \
    "$(dirname "$(command -v postgres || echo none)")"; do
    [[ ! -x $dir/postgres || ! -x $dir/initdb || ! -x $dir/pg_isready ]] || return 0
  done
  return 1
}

# install_missing PURPOSE...: installs packages. One installation runs at a time, so the check is
# repeated after the wait for another one.
install_missing() {
  local log=$root/target/apt-get.log apt=(apt-get -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3)
  mkdir -p "$root/target"
  exec 8>"$root/target/prerequisites.lock"
  flock --timeout 1800 8 ||
    die "another installation has not ended after 30 minutes: stop it and try again"
  find_missing "$@"
  if ((${#missing[@]} > 0)); then
    say "Installing with apt-get: ${packages[*]} ${extracted[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # Keeps Debian's postgresql from creating and starting a cluster.
    local own=/etc/postgresql-common/createcluster.d/scratchbank.conf code=0
    mkdir -p "${own%/*}"
    echo "create_main_cluster = false" >"$own"
    timeout 600 "${apt[@]}" update >"$log" 2>&1 8>&- </dev/null &&
      timeout 1500 "${apt[@]}" install --yes --no-upgrade --no-install-recommends "${packages[@]}" \
        >>"$log" 2>&1 8>&- </dev/null &&
      extract_files >>"$log" 2>&1 8>&- </dev/null || code=$?
    rm "$own"
    if ((code != 0)); then
      say "The end of $log:"
      tail -n 15 "$log" | sed 's/^/    /' >&2
      die "apt-get exited with code $code (124 is a timeout)"
    fi
    find_missing "$@"
  fi
  exec 8>&-
}

# Extracts the files of `extracted` into target/tools.
extract_files() {
  local it archives
  archives=$(mktemp -d)
  mkdir -p "$root/target/tools"
  for it in "${extracted[@]}"; do
    (cd "$archives" && timeout 600 "${apt[@]}" download "${it%%:*}") &&
      dpkg --fsys-tarfile "$archives/${it%%:*}"_*.deb |
      tar --extract --directory "$root/target/tools" "./${it#*:}" || return 1
  done
  rm -r "$archives"
}
