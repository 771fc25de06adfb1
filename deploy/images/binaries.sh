#!/usr/bin/env bash
# binaries.sh [ARCH...]: builds every service and `edge` as static binaries on musl into dist/ARCH, ARCH being amd64, arm64 or armv7
# (Docker's names; x86_64 and aarch64 mean the first two). Two ways give the same kind of binary, and it says which one it took:
#   rustup's standard library for the target, where it is installed (rustup target add);
#   else the standard library built from source, as rustc's rust-src component or Debian's rust-web-src has it, with the
#   C library out of Debian's package for that architecture, taken apart below target/.
# WAY=rustup or WAY=source insists on one. BINARIES names some instead of all.
# TARGET_DIR is where Cargo builds; DIST is the folder for dist.
set -euo pipefail
root=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)
cd "$root"
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
export CARGO_TARGET_DIR=${TARGET_DIR:-$root/target}
dist=${DIST:-$root/dist}
# Of Debian 12. The checksums below are of this version.
readonly musl_version=1.2.3-1

say() {
  printf 'binaries: %s\n' "$*" >&2
}

die() {
  say "$*"
  exit 1
}

# about ARCH: sets what is known about it.
about() {
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

# The services, and edge: one list, which stands in edge's Cargo.toml.
binaries() {
  sed -n '/^\[dependencies\]/,/^$/s/^\([a-z-]*\)\.workspace.*/\1/p' services/edge/Cargo.toml
  echo edge
}

# rustup_has TARGET: its standard library is installed. Nothing is added to the toolchain of the machine.
rustup_has() {
  command -v rustc >/dev/null &&
    compgen -G "$(rustc --print target-libdir --target "$1" 2>/dev/null)/libstd-*.rlib" >/dev/null
}

# find_source: sets rustc and cargo to ones that the standard library's source is installed for.
find_source() {
  for rustc in rustc /usr/bin/rustc; do
    rustc=$(command -v "$rustc") || continue
    cargo=${rustc%/*}/cargo
    if [[ -x $cargo && -f $("$rustc" --print sysroot)/lib/rustlib/src/rust/library/std/Cargo.toml ]]; then
      return
    fi
  done
  return 1
}

# find_linker: sets linker to an LLD, which links for every architecture.
find_linker() {
  local sysroot host
  for sysroot in "$("$rustc" --print sysroot)" "$(rustc --print sysroot 2>/dev/null)"; do
    host=$("$rustc" -vV | sed -n 's/^host: //p')
    linker=$sysroot/lib/rustlib/$host/bin/rust-lld
    [[ ! -x $linker ]] || return 0
  done
  # rustc tells LLD by these names.
  linker=$(command -v ld.lld) || linker=$(compgen -c ld.lld- | sort -V | tail -n 1)
  linker=$(command -v "$linker")
}

# get_sysroot: C library and start files of the target, in the folder that sysroot is set to.
get_sysroot() {
  sysroot=$root/target/musl/$arch-$musl_version
  [[ ! -f $sysroot/complete ]] || return 0
  command -v apt-get >/dev/null || die "neither rustup has $target nor is this Debian, which has the C library for it"
  say "fetching musl $musl_version for $deb"
  rm -rf "$sysroot"
  mkdir -p "$sysroot/work/lists/partial"
  # Lists of its own: the machine's stay those of its own architecture. Some lists of foreign ones are missing on mirrors.
  local options=(-qq -o "APT::Architecture=$deb" -o "APT::Architectures=$deb" -o "Dir::State::lists=$sysroot/work/lists"
    -o "Dir::Cache=$sysroot/work" -o APT::Sandbox::User=root)
  (
    cd "$sysroot/work"
    apt-get "${options[@]}" update 2>update.log || true
    apt-get "${options[@]}" download "musl-dev=$musl_version" || {
      cat update.log >&2
      die "apt-get could not download it"
    }
    mv musl-dev_*.deb musl.deb
    sha256sum --quiet --check <<<"$musl_sum  musl.deb"
    dpkg-deb -x musl.deb musl
    cp "musl/usr/lib/$triplet"/{libc.a,crt1.o,crti.o,crtn.o} ..
  )
  rm -r "$sysroot/work"
  # A panic aborts, so that nothing unwinds. Who asks for a backtrace nevertheless, as the crate anyhow, gets one without frames:
  # the function that would tell them does nothing, and those that look at a frame are never called.
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

# build_with_rustup / build_from_source: cargo build with `options`.
build_with_rustup() {
  local linker=
  # Elsewhere the C compiler of the machine can't link for the target; rustup brings a linker and musl's files.
  [[ $target == "$(uname -m)"-* ]] || linker=rust-lld
  env "CARGO_TARGET_${TARGET}_RUSTFLAGS=$remap" ${linker:+"CARGO_TARGET_${TARGET}_LINKER=$linker"} \
    cargo build "${options[@]}"
}

build_from_source() {
  local flags="-C linker-flavor=ld.lld -C link-self-contained=no -C relocation-model=static -C force-unwind-tables=no -L native=$sysroot $remap"
  local arg
  for arg in "$sysroot"/crt{1,i,n}.o --icf=all --build-id=none; do
    flags+=" -C link-arg=$arg"
  done
  env RUSTC_BOOTSTRAP=1 RUSTC="$rustc" "CARGO_TARGET_${TARGET}_LINKER=$linker" "CARGO_TARGET_${TARGET}_RUSTFLAGS=$flags" \
    "$cargo" build "${options[@]}" -Z build-std=std,panic_abort -Z build-std-features=
}

build() {
  about "$1"
  TARGET=${target^^}
  TARGET=${TARGET//-/_}
  local options=(--locked --profile image --target "$target") name names others started=$SECONDS
  mapfile -t names < <(tr ' ' '\n' <<<"${BINARIES:-$(binaries)}")
  for name in "${names[@]}"; do
    options+=(-p "$name")
  done
  # Paths of this machine would stand in panic messages, and make two machines' builds differ.
  local remap="--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/registry/src= --remap-path-prefix=$root=. --remap-path-prefix=/usr/src/="
  # Either would take the place of the flags for the target.
  unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
  if [[ ${WAY:-rustup} == rustup ]] && rustup_has "$target"; then
    say "$arch: with rustup's standard library for $target, $(rustc --version)"
    build_with_rustup
    others=("rust-std=$(rustc --version | cut -d' ' -f2)")
  elif [[ ${WAY:-source} == source ]] && find_source && find_linker; then
    say "$arch: standard library from source for $target, $("$rustc" --version)"
    get_sysroot
    build_from_source
    others=("rust-std=$("$rustc" --version | cut -d' ' -f2)" "musl=$musl_version")
  else
    die "no way to build for $target. With rustup: rustup target add $target. On Debian 12: apt-get install rustc-web cargo-web rust-web-src lld-16"
  fi
  mkdir -p "$dist/$arch"
  for name in "${names[@]}"; do
    install -m 755 "$CARGO_TARGET_DIR/$target/image/$name" "$dist/$arch/$name"
  done
  (cd "$dist/$arch" && sha256sum "${names[@]}" >SHA256SUMS)
  deploy/images/sbom.py "$target" "${names[@]}" --also "${others[@]}" >"$dist/$arch/sbom.cdx.json"
  say "$arch: ${#names[@]} binaries in ${dist#"$root"/}/$arch after $((SECONDS - started)) s"
}

for arch in "${@:-amd64}"; do
  build "$arch"
done
