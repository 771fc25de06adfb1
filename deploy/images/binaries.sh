#!/usr/bin/env bash
# binaries.sh [ARCH...]: builds every service and `edge` as static binaries on musl, into dist/ARCH.
#
# ARCH is amd64, arm64 or armv7, as Docker names them; x86_64 and aarch64 are accepted too. The
# script selects one of two ways, which result in the same kind of binary, and logs which one:
# - with the standard library of rustup, if it is installed for the target (rustup target add);
# - else with the standard library built from source (component rust-src of rustup, or package
#   rust-web-src of Debian) and the C library of Debian's package for that architecture. The package
#   is unpacked below target/ and not installed.
#
# Variables:
#   WAY         rustup or source: uses only this way
#   BINARIES    names of the binaries to build, separated by spaces; default: all
#   FEATURES    features of Cargo to enable, for tests; default: none
#   TARGET_DIR  target directory of Cargo; default: target
#   DIST        output folder; default: dist
set -euo pipefail
root=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)
cd "$root"
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
export CARGO_TARGET_DIR=${TARGET_DIR:-$root/target}
dist=${DIST:-$root/dist}
# The versions in Debian 12. The checksums below belong to them.
readonly musl_version=1.2.3-1 libunwind_version=1:14.0.6-12
# Binaries in which a panic unwinds, so that it ends only one operation of a client:
# docs/decisions/0024-unwinding-endpoint.md.
readonly unwinding=(graphql-endpoint edge)

say() {
  printf 'binaries: %s\n' "$*" >&2
}

die() {
  say "$*"
  exit 1
}

# set_target ARCH: sets the names and the checksum for ARCH.
set_target() {
  case $1 in
    amd64 | x86_64)
      arch=amd64 target=x86_64-unknown-linux-musl deb=amd64 triplet=x86_64-linux-musl
      musl_sum=7c34f29a0c1aa12f6da1d25ed6de6fe6bbd9e048ee76b3dcb88c5e51fb65507f
      libunwind_sum=3cff492166222dc630ea7f1fb13db83b75a471ec7502edbe9a103e34011c5f05
      ;;
    arm64 | aarch64)
      arch=arm64 target=aarch64-unknown-linux-musl deb=arm64 triplet=aarch64-linux-musl
      musl_sum=55c2ca4bc3041c8ed8ac7dc3ef6080d9551a21650568b2fd7610b59eaf98a4f4
      libunwind_sum=3de509ff9daa814938b8ca6fb46d80895c29ad17a6621333375f966e516d1e3d
      ;;
    armv7)
      arch=armv7 target=armv7-unknown-linux-musleabihf deb=armhf triplet=arm-linux-musleabihf
      musl_sum=3a9dbb8ae66716f117dce87558fb47a161db0eebf0700cc6bf84ef6871ce7d38
      libunwind_sum=f11391f964f524362b1816cca66b65c0ee0c038d36f7cb340cbf1af62fc7067c
      ;;
    *) die "ARCH=$1: expected amd64, arm64 or armv7" ;;
  esac
}

# Prints the names of all binaries. The list of services is in Cargo.toml of edge.
binaries() {
  sed -n '/^\[dependencies\]/,/^$/s/^\([a-z-]*\)\.workspace.*/\1/p' services/edge/Cargo.toml
  echo edge
}

# rustup_has TARGET: succeeds if its standard library is installed. Does not change the toolchain of
# the machine.
rustup_has() {
  command -v rustc >/dev/null &&
    compgen -G "$(rustc --print target-libdir --target "$1" 2>/dev/null)/libstd-*.rlib" >/dev/null
}

# find_source: sets rustc and cargo to a toolchain that has the source of the standard library.
find_source() {
  for rustc in rustc /usr/bin/rustc; do
    rustc=$(command -v "$rustc") || continue
    cargo=${rustc%/*}/cargo
    local source
    source=$("$rustc" --print sysroot)/lib/rustlib/src/rust/library/std/Cargo.toml
    if [[ -x $cargo && -f $source ]]; then
      return
    fi
  done
  return 1
}

# find_linker: sets linker to an LLD, which can link for every architecture.
find_linker() {
  local sysroot host
  for sysroot in "$("$rustc" --print sysroot)" "$(rustc --print sysroot 2>/dev/null)"; do
    host=$("$rustc" -vV | sed -n 's/^host: //p')
    linker=$sysroot/lib/rustlib/$host/bin/rust-lld
    [[ ! -x $linker ]] || return 0
  done
  # rustc detects LLD by these names.
  linker=$(command -v ld.lld) || linker=$(compgen -c ld.lld- | sort -V | tail -n 1)
  linker=$(command -v "$linker")
}

# get_sysroot: sets sysroot to a folder with the C library, the start files and the unwinder of the
# target.
get_sysroot() {
  sysroot=$root/target/musl/$arch-$musl_version-${libunwind_version#*:}
  [[ ! -f $sysroot/complete ]] || return 0
  command -v apt-get >/dev/null ||
    die "no C library for $target: install the target with rustup, or build on Debian"
  rm -rf "$sysroot"
  mkdir -p "$sysroot"/{work/lists/partial,abort,unwind}
  # With separate package lists, so that the lists of the machine do not change. Mirrors may lack
  # some lists of other architectures, so a failed update is not an error.
  local options=(-qq -o "APT::Architecture=$deb" -o "APT::Architectures=$deb"
    -o "Dir::State::lists=$sysroot/work/lists" -o "Dir::Cache=$sysroot/work"
    -o APT::Sandbox::User=root)
  (
    cd "$sysroot/work"
    apt-get "${options[@]}" update 2>update.log || true
    unpack musl-dev "$musl_version" "$musl_sum"
    unpack libunwind-14-dev "$libunwind_version" "$libunwind_sum"
    # LLVM's unwinder names the last two libraries as dependencies. They are empty in musl.
    cp "usr/lib/$triplet"/{libc.a,crt1.o,crti.o,crtn.o,libdl.a,libpthread.a} ..
    cp usr/lib/llvm-14/lib/libunwind.a ../unwind/
  )
  rm -r "$sysroot/work"
  # If a panic aborts, the stack is never unwound. A crate that requests a backtrace, such as
  # anyhow, gets one without frames: _Unwind_Backtrace does nothing, and the other functions are
  # never called.
  cat >"$sysroot/abort/libunwind.a" <<'END'
EXTERN(getpid abort)
_Unwind_Backtrace = getpid;
_Unwind_GetIP = abort;
_Unwind_VRS_Get = abort;
_Unwind_GetCFA = abort;
_Unwind_FindEnclosingFunction = abort;
END
  touch "$sysroot/complete"
}

# unpack PACKAGE VERSION CHECKSUM: downloads a package of Debian for $deb and extracts it into the
# current folder. Requires `options` of apt-get.
unpack() {
  say "fetching $1 $2 for $deb"
  apt-get "${options[@]}" download "$1=$2" || {
    cat update.log >&2
    die "apt-get could not download $1=$2 for $deb"
  }
  mv "$1"_*.deb "$1.deb"
  sha256sum --quiet --check <<<"$3  $1.deb"
  dpkg-deb -x "$1.deb" .
}

# build_with_rustup PANIC and build_from_source PANIC run cargo build with `options`. PANIC is abort
# or unwind.
build_with_rustup() {
  local linker=
  # The C compiler of the machine cannot link for another architecture. rustup includes a linker and
  # the files of musl.
  [[ $target == "$(uname -m)"-* ]] || linker=rust-lld
  env "CARGO_TARGET_${TARGET}_RUSTFLAGS=$remap" ${linker:+"CARGO_TARGET_${TARGET}_LINKER=$linker"} \
    cargo build "${options[@]}"
}

build_from_source() {
  local features='' arg flags
  flags="-C linker-flavor=ld.lld -C link-self-contained=no -C relocation-model=static"
  flags+=" -L native=$sysroot -L native=$sysroot/$1 $remap"
  case $1 in
    abort) flags+=" -C force-unwind-tables=no" ;;
    unwind)
      # For size: the tables describe the stack at calls only, where a panic begins. With frame
      # pointers they are shorter. A panic of a destructor ends the process, so calls of
      # destructors need no landing pads.
      flags+=" -Z use-sync-unwind=yes -C force-frame-pointers=yes -Z panic-in-drop=abort"
      flags+=" -C link-arg=--eh-frame-hdr"
      # The unwinder was compiled with glibc's headers, which rename a function. See below.
      flags+=" -C link-arg=--defsym=__fprintf_chk=abort"
      features=optimize_for_size
      ;;
  esac
  # printf takes 10 kB. Only two functions could call it: the unwinder before it aborts, and the one
  # that names another thread, which nothing calls.
  for arg in "$sysroot"/crt{1,i,n}.o --icf=all --build-id=none --defsym=vfprintf=abort; do
    flags+=" -C link-arg=$arg"
  done
  env RUSTC_BOOTSTRAP=1 RUSTC="$rustc" "CARGO_TARGET_${TARGET}_LINKER=$linker" \
    "CARGO_TARGET_${TARGET}_RUSTFLAGS=$flags" \
    "$cargo" build "${options[@]}" -Z "build-std=std,panic_$1" \
    -Z "build-std-features=$features"
}

# build_profile PROFILE PANIC WAY NAME...: builds these binaries into dist.
build_profile() {
  local profile=$1 panic=$2 way=$3 name
  shift 3
  [[ $# -gt 0 ]] || return 0
  local options=(--locked --profile "$profile" --target "$target")
  for name in "$@"; do
    options+=(-p "$name")
  done
  [[ -z ${FEATURES:-} ]] || options+=(--features "$FEATURES")
  "build_$way" "$panic"
  for name in "$@"; do
    install -m 755 "$CARGO_TARGET_DIR/$target/$profile/$name" "$dist/$arch/$name"
  done
}

build() {
  set_target "$1"
  TARGET=${target^^}
  TARGET=${TARGET//-/_}
  local names name way aborting=() unwinding_names=() others started=$SECONDS
  mapfile -t names < <(tr ' ' '\n' <<<"${BINARIES:-$(binaries)}")
  for name in "${names[@]}"; do
    if [[ " ${unwinding[*]} " == *" $name "* ]]; then
      unwinding_names+=("$name")
    else
      aborting+=("$name")
    fi
  done
  # Panic messages contain source paths. Paths of this machine would make builds of two machines
  # differ.
  local remap="--remap-path-prefix=$root=. --remap-path-prefix=/usr/src/=" registry
  cargo fetch --locked --quiet
  for registry in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/; do
    remap+=" --remap-path-prefix=$registry="
  done
  # Each of these variables would override the flags for the target.
  unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
  if [[ ${WAY:-rustup} == rustup ]] && rustup_has "$target"; then
    say "$arch: building with the standard library of rustup for $target, $(rustc --version)"
    way=with_rustup
    others=("rust-std=$(rustc --version | cut -d' ' -f2)")
  elif [[ ${WAY:-source} == source ]] && find_source && find_linker; then
    say "$arch: building the standard library from source for $target, $("$rustc" --version)"
    get_sysroot
    way=from_source
    others=("rust-std=$("$rustc" --version | cut -d' ' -f2)" "musl=$musl_version")
    [[ ${#unwinding_names[@]} == 0 ]] || others+=("libunwind=$libunwind_version")
  else
    die "no toolchain for $target. With rustup: rustup target add $target. On Debian 12:" \
      "apt-get install rustc-web cargo-web rust-web-src lld-16"
  fi
  mkdir -p "$dist/$arch"
  build_profile image abort $way "${aborting[@]}"
  build_profile image-unwinding unwind $way "${unwinding_names[@]}"
  (cd "$dist/$arch" && sha256sum "${names[@]}" >SHA256SUMS)
  deploy/images/sbom.py "$target" "${names[@]}" --also "${others[@]}" >"$dist/$arch/sbom.cdx.json"
  say "$arch: ${#names[@]} binaries in ${dist#"$root"/}/$arch, built in $((SECONDS - started)) s"
}

for arch in "${@:-amd64}"; do
  build "$arch"
done
