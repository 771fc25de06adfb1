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
#   TARGET_DIR  target directory of Cargo; default: target
#   DIST        output folder; default: dist
set -euo pipefail
root=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)
cd "$root"
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
export CARGO_TARGET_DIR=${TARGET_DIR:-$root/target}
dist=${DIST:-$root/dist}
# The version in Debian 12. The checksums below belong to it.
readonly musl_version=1.2.3-1

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
      ;;
    arm64 | aarch64)
      arch=arm64 target=aarch64-unknown-linux-musl deb=arm64 triplet=aarch64-linux-musl
      musl_sum=55c2ca4bc3041c8ed8ac7dc3ef6080d9551a21650568b2fd7610b59eaf98a4f4
      ;;
    armv7)
      arch=armv7 target=armv7-unknown-linux-musleabihf deb=armhf triplet=arm-linux-musleabihf
      musl_sum=3a9dbb8ae66716f117dce87558fb47a161db0eebf0700cc6bf84ef6871ce7d38
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

# get_sysroot: sets sysroot to a folder with the C library and start files of the target.
get_sysroot() {
  sysroot=$root/target/musl/$arch-$musl_version
  [[ ! -f $sysroot/complete ]] || return 0
  command -v apt-get >/dev/null ||
    die "no C library for $target: install the target with rustup, or build on Debian"
  say "fetching musl $musl_version for $deb"
  rm -rf "$sysroot"
  mkdir -p "$sysroot/work/lists/partial"
  # With separate package lists, so that the lists of the machine do not change. Mirrors may lack
  # some lists of other architectures, so a failed update is not an error.
  local options=(-qq -o "APT::Architecture=$deb" -o "APT::Architectures=$deb"
    -o "Dir::State::lists=$sysroot/work/lists" -o "Dir::Cache=$sysroot/work"
    -o APT::Sandbox::User=root)
  (
    cd "$sysroot/work"
    apt-get "${options[@]}" update 2>update.log || true
    apt-get "${options[@]}" download "musl-dev=$musl_version" || {
      cat update.log >&2
      die "apt-get could not download musl-dev=$musl_version for $deb"
    }
    mv musl-dev_*.deb musl.deb
    sha256sum --quiet --check <<<"$musl_sum  musl.deb"
    dpkg-deb -x musl.deb musl
    cp "musl/usr/lib/$triplet"/{libc.a,crt1.o,crti.o,crtn.o} ..
  )
  rm -r "$sysroot/work"
  # A panic aborts, so the stack is never unwound. A crate that requests a backtrace, such as
  # anyhow, gets one without frames: _Unwind_Backtrace does nothing, and the other functions are
  # never called.
  cat >"$sysroot/libunwind.a" <<'END'
EXTERN(getpid abort)
_Unwind_Backtrace = getpid;
_Unwind_GetIP = abort;
_Unwind_VRS_Get = abort;
_Unwind_GetCFA = abort;
_Unwind_FindEnclosingFunction = abort;
END
  touch "$sysroot/complete"
}

# build_with_rustup and build_from_source run cargo build with `options`.
build_with_rustup() {
  local linker=
  # The C compiler of the machine cannot link for another architecture. rustup includes a linker and
  # the files of musl.
  [[ $target == "$(uname -m)"-* ]] || linker=rust-lld
  env "CARGO_TARGET_${TARGET}_RUSTFLAGS=$remap" ${linker:+"CARGO_TARGET_${TARGET}_LINKER=$linker"} \
    cargo build "${options[@]}"
}

build_from_source() {
  local flags="-C linker-flavor=ld.lld -C link-self-contained=no -C relocation-model=static"
  flags+=" -C force-unwind-tables=no -L native=$sysroot $remap"
  local arg
  for arg in "$sysroot"/crt{1,i,n}.o --icf=all --build-id=none; do
    flags+=" -C link-arg=$arg"
  done
  env RUSTC_BOOTSTRAP=1 RUSTC="$rustc" "CARGO_TARGET_${TARGET}_LINKER=$linker" \
    "CARGO_TARGET_${TARGET}_RUSTFLAGS=$flags" \
    "$cargo" build "${options[@]}" -Z build-std=std,panic_abort -Z build-std-features=
}

build() {
  set_target "$1"
  TARGET=${target^^}
  TARGET=${TARGET//-/_}
  local options=(--locked --profile image --target "$target") name names others started=$SECONDS
  mapfile -t names < <(tr ' ' '\n' <<<"${BINARIES:-$(binaries)}")
  for name in "${names[@]}"; do
    options+=(-p "$name")
  done
  # Panic messages contain source paths. Paths of this machine would make builds of two machines
  # differ.
  local remap="--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/registry/src="
  remap+=" --remap-path-prefix=$root=. --remap-path-prefix=/usr/src/="
  # Each of these variables would override the flags for the target.
  unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
  if [[ ${WAY:-rustup} == rustup ]] && rustup_has "$target"; then
    say "$arch: building with the standard library of rustup for $target, $(rustc --version)"
    build_with_rustup
    others=("rust-std=$(rustc --version | cut -d' ' -f2)")
  elif [[ ${WAY:-source} == source ]] && find_source && find_linker; then
    say "$arch: building the standard library from source for $target, $("$rustc" --version)"
    get_sysroot
    build_from_source
    others=("rust-std=$("$rustc" --version | cut -d' ' -f2)" "musl=$musl_version")
  else
    die "no toolchain for $target. With rustup: rustup target add $target. On Debian 12:" \
      "apt-get install rustc-web cargo-web rust-web-src lld-16"
  fi
  mkdir -p "$dist/$arch"
  for name in "${names[@]}"; do
    install -m 755 "$CARGO_TARGET_DIR/$target/image/$name" "$dist/$arch/$name"
  done
  (cd "$dist/$arch" && sha256sum "${names[@]}" >SHA256SUMS)
  deploy/images/sbom.py "$target" "${names[@]}" --also "${others[@]}" >"$dist/$arch/sbom.cdx.json"
  say "$arch: ${#names[@]} binaries in ${dist#"$root"/}/$arch, built in $((SECONDS - started)) s"
}

for arch in "${@:-amd64}"; do
  build "$arch"
done
