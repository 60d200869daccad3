#!/bin/sh
# Makes this machine able to build, start and test the project. npm start and npm test call it first; when everything is
# there it takes a fraction of a second. Debian packages by name, then npm's, then the native parts. `machine.sh test` adds what
# only tests need: a browser, and a font for it; a PKCS#11 proxy, and a card service with a virtual reader; applications that use PKCS#11; the token of NSS.
set -eu
cd "$(dirname "$0")/.."

packages="
build-essential gcc-12 g++-12 binutils xz-utils
libtss2-dev libssl-dev
erofs-utils e2fsprogs cryptsetup-bin dosfstools mtools
qemu-system-x86 ovmf swtpm swtpm-tools
softhsm2 opensc p11-kit p11-kit-modules libengine-pkcs11-openssl openssl
tpm2-tools osslsigncode debian-archive-keyring
strace libtpm2-pkcs11-1 libpcsclite1 openssh-client
"
if [ "${1:-}" = test ]; then
  packages="$packages chromium-headless-shell fonts-dejavu-core
    caml-crush-server caml-crush-clients pcscd vsmartcard-vpcd
    gnutls-bin openssh-client default-jdk-headless systemd libnss3"
fi

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "machine.sh: this is not Debian; install by hand:" $packages >&2
  exit 4
fi
if [ "$(uname -m)" != x86_64 ]; then
  echo "machine.sh: machine: expected x86_64, got $(uname -m)" >&2
  exit 4
fi

# One query for all; a package that dpkg never heard of is simply not among the answers.
installed=$(dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' $packages 2>/dev/null | sed -n 's/^ii *//p' || true)
missing=""
for package in $packages; do # each on a line of its own in the answer
  case "
$installed
" in
    *"
$package
"*) ;;
    *) missing="$missing $package" ;;
  esac
done
if [ -n "$missing" ]; then
  as_root=""
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
      echo "machine.sh: no sudo; as root run: apt-get install$missing" >&2
      exit 4
    fi
    as_root=sudo
  fi
  $as_root apt-get update -q
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $missing
fi

# No `node` may run before this point: the shell would remember the machine's own one.
stamp=node_modules/.lock-of-this-install
if ! cmp -s package-lock.json "$stamp"; then
  npm ci
  cp package-lock.json "$stamp"
fi

PATH="$PWD/node_modules/.bin:$PATH"
export PATH
node vm-images/native.ts
